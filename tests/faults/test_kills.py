"""A training killed at random, again and again, always goes on, and ends where it should.

`make test` kills a fair number of times; `make faults` sets `KILLS` and kills a thousand. One warm
process imports torch and makes the tiny model, then forks a child for each life of a training; the
parent kills the child after a random time with SIGKILL, which no program can catch.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

KILLS = int(os.environ.get("KILLS", "40"))
HARNESS = """
import json, os, random, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)  # a forked child cannot use its parent's threads
from tests.conftest import save_bert
from utils.checkpoints import CheckpointError, checkpoint_folders, verify_folder
from utils.data import load_data
from utils.tasks import make_task
from utils.training import FinetuneConfig, finetune, trainable_state

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
base = save_bert(folder / "base", dropout=0.1)
data = load_data("embedded", embedded="sentiment").head(48)
task = make_task("sequence", data.labels)
config = FinetuneConfig(device="cpu", precision="fp32", epochs=2, batch_size=4, max_length=8,
                        save_steps=1, learning_rate=1e-3)


def train(place, report=None):
    return finetune(task, data, config, model=str(base), checkpoints=place, report=report)


def weights(tuned):
    return torch.cat([one.flatten() for one in trainable_state(tuned.model).values()])


expected = weights(train(folder / "whole"))
random.seed(0)
done = finished = unresumable = differing = passed_over = lives = 0
place = folder / "killed" / "0"
while done < kills:
    child = os.fork()
    if child == 0:
        try:
            train(place)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    lives += 1
    deadline = time.monotonic() + random.uniform(0.0, 0.5)
    status = 0
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        done += 1
    elif os.WEXITSTATUS(status) != 0:
        unresumable += 1
        place = folder / "killed" / str(lives)
    else:
        lines = []
        finished += 1
        differing += not torch.equal(weights(train(place, lines.append)), expected)
        passed_over += sum("passed over" in line for line in lines)
        place = folder / "killed" / str(lives)
lines = []
differing += not torch.equal(weights(train(place, lines.append)), expected)
print(json.dumps({"kills": done, "finished": finished + 1, "unresumable": unresumable,
                  "differing": differing, "passed_over": passed_over}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system has not")
def test_no_kill_leaves_a_training_that_cannot_go_on(tmp_path):
    project = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HARNESS), str(tmp_path), str(KILLS)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    print(counts)
    assert counts["kills"] == KILLS
    assert counts["finished"] > 0
    assert counts["unresumable"] == 0, done.stderr[-3000:]
    assert counts["differing"] == 0
