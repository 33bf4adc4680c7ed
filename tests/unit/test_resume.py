"""Checkpoints: an interrupted run that goes on ends where a whole one does, bit for bit."""

import json
import shutil
from collections import namedtuple

import pytest
import torch

from utils import training
from utils.checkpoints import CheckpointError, checkpoint_folders, save_checkpoint
from utils.tasks import make_task
from utils.training import FinetuneConfig, TrainingError, finetune, trainable_state

TASK = make_task("sequence", ["negative", "positive"])
CONFIG = FinetuneConfig(
    device="cpu", precision="fp32", epochs=3, patience=3, batch_size=8, accumulation_steps=2,
    max_length=16, learning_rate=5e-3, save_steps=1,
)  # fmt: skip


class Interrupted(Exception):
    """What stands for a killed process."""


def run(data, base, folder, *, config=CONFIG, after=None, monkeypatch=None, report=None):
    """Train; with `after`, stop in the middle of the step that follows so many steps."""
    if after is not None:
        step, done = training.train_step, []

        def interrupted(*words):
            if len(done) == after:
                raise Interrupted
            done.append(1)
            return step(*words)

        monkeypatch.setattr(training, "train_step", interrupted)
    try:
        return finetune(TASK, data, config, model=str(base), checkpoints=folder, report=report)
    finally:
        if after is not None:
            monkeypatch.setattr(training, "train_step", step)


def same(one, other) -> bool:
    mine, theirs = trainable_state(one.model), trainable_state(other.model)
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def base(make_bert, tmp_path_factory):
    """A tiny BERT with dropout, so that the random state matters."""
    return make_bert(tmp_path_factory.mktemp("base") / "bert", dropout=0.1)


@pytest.fixture(scope="module")
def whole(base, tiny_data, tmp_path_factory):
    return run(tiny_data, base, tmp_path_factory.mktemp("whole"))


def test_checkpoints_change_nothing(base, tiny_data, whole):
    assert same(run(tiny_data, base, None), whole)


def test_resumed_equals_uninterrupted_at_every_step(base, tiny_data, whole, tmp_path, monkeypatch):
    for after in range(len(whole.steps)):
        folder = tmp_path / str(after)
        with pytest.raises(Interrupted):
            run(tiny_data, base, folder, after=after, monkeypatch=monkeypatch)
        lines = []
        resumed = run(tiny_data, base, folder, report=lines.append)
        assert same(resumed, whole), f"interrupted after step {after}"
        assert resumed.steps == whole.steps
        assert resumed.best_epoch == whole.best_epoch
        assert any(line.startswith(f"going on after step {after} ") for line in lines) == (
            after > 0
        )


@pytest.mark.parametrize("method", ["lora", "frozen"])
def test_the_other_methods_resume_too(base, tiny_data, tmp_path, monkeypatch, method):
    config = CONFIG.replace(method=method)
    uninterrupted = run(tiny_data, base, None, config=config)
    with pytest.raises(Interrupted):
        run(tiny_data, base, tmp_path, config=config, after=4, monkeypatch=monkeypatch)
    assert same(run(tiny_data, base, tmp_path, config=config), uninterrupted)


def test_a_finished_run_is_not_trained_again(base, tiny_data, tmp_path, whole, monkeypatch):
    run(tiny_data, base, tmp_path)
    again = run(tiny_data, base, tmp_path, after=0, monkeypatch=monkeypatch)
    assert same(again, whole)


def test_old_checkpoints_are_removed(base, tiny_data, tmp_path, whole):
    run(tiny_data, base, tmp_path)
    kept = [folder.name for folder in checkpoint_folders(tmp_path)]
    last = len(whole.steps)
    assert kept == [f"step-{last - 1:08d}", f"step-{last:08d}"]


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES = {
    "a flipped bit of the tensors": lambda c: flip(c / "tensors.safetensors"),
    "a flipped bit of the state": lambda c: flip(c / "state.json"),
    "a flipped bit of the manifest": lambda c: flip(c / "manifest.json"),
    "tensors cut short": lambda c: (c / "tensors.safetensors").write_bytes(b"short"),
    "an empty state": lambda c: (c / "state.json").write_bytes(b""),
    "tensors missing": lambda c: (c / "tensors.safetensors").unlink(),
    "state missing": lambda c: (c / "state.json").unlink(),
    "manifest missing": lambda c: (c / "manifest.json").unlink(),
    "state longer": lambda c: (c / "state.json").open("a").write(" "),
    "files of another step": lambda c: [
        shutil.copy(sorted(c.parent.glob("step-*"))[0] / name, c / name)
        for name in ("tensors.safetensors", "state.json")
    ],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(
    base, tiny_data, whole, tmp_path, monkeypatch, damage
):
    with pytest.raises(Interrupted):
        run(tiny_data, base, tmp_path, after=4, monkeypatch=monkeypatch)
    DAMAGES[damage](checkpoint_folders(tmp_path)[-1])
    lines = []
    resumed = run(tiny_data, base, tmp_path, report=lines.append)
    assert same(resumed, whole)
    assert any("passed over a damaged checkpoint" in line for line in lines), lines
    assert any(line.startswith("going on after step 3 ") for line in lines), lines


def test_checkpoints_of_another_run_are_refused(base, tiny_data, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run(tiny_data, base, tmp_path, after=2, monkeypatch=monkeypatch)
    other = CONFIG.replace(learning_rate=1e-3)
    with pytest.raises(CheckpointError, match=r"learning_rate was 0\.005 and is 0\.001"):
        run(tiny_data, base, tmp_path, config=other)
    rows = tiny_data.head(16)
    with pytest.raises(CheckpointError, match="data was"):
        run(rows, base, tmp_path)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(CheckpointError, match="needs 1 MB and 0 MB are free"):
        save_checkpoint(tmp_path / "run", 1, {"weight": torch.zeros(4)}, {})
    assert checkpoint_folders(tmp_path / "run") == []


def test_floats_come_back_as_they_were():
    value = 0.1 + 0.2
    assert json.loads(json.dumps(value)) == value


def test_a_gradient_that_is_not_finite_names_the_rows_and_saves_nothing(
    base, tiny_data, tmp_path, monkeypatch
):
    loss = TASK.loss
    calls = []

    def broken(self, logits, labels, label_smoothing=0.0):
        calls.append(1)
        value = loss(logits, labels, label_smoothing)
        return value * float("inf") if len(calls) == 3 else value

    monkeypatch.setattr(type(TASK), "loss", broken)
    with pytest.raises(TrainingError, match=r"the loss became inf .* training rows \[\d+, "):
        run(tiny_data, base, tmp_path)
    saved = checkpoint_folders(tmp_path)
    assert [folder.name for folder in saved] == ["step-00000001"]
