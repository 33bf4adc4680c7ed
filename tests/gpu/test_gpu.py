"""On a CUDA device: fine-tuning in bfloat16, its memory, and both devices in one process."""

import pandas as pd
import pytest
import torch

from utils.tasks import make_task
from utils.training import FinetuneConfig, choose_device, finetune, load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
TASK = make_task("sequence", ["negative", "positive"])
CONFIG = FinetuneConfig(
    device="cuda", precision="bf16", learning_rate=1e-2, epochs=6, patience=6, max_length=16
)


def run(config, data, model):
    return finetune(TASK, data, config, model=str(model), report=None)


def test_learns_in_bf16_and_counts_the_memory_of_the_device(tiny_bert, tiny_data):
    tuned = run(CONFIG, tiny_data, tiny_bert)
    assert next(tuned.model.parameters()).device.type == "cuda"
    assert next(tuned.model.parameters()).dtype == torch.float32
    assert tuned.history[-1]["train_loss"] < 0.5 * tuned.history[0]["train_loss"]
    assert tuned.evaluate(tiny_data.test)["accuracy"] >= 0.95
    assert 0 < tuned.peak_bytes < 1e9


def test_auto_takes_the_device(tiny_bert, tiny_data):
    assert choose_device("auto").type == "cuda"
    tuned = run(CONFIG.replace(device="auto", epochs=1), tiny_data, tiny_bert)
    assert next(tuned.model.parameters()).device.type == "cuda"


@pytest.mark.parametrize("order", [("cpu", "cuda"), ("cuda", "cpu")])
def test_both_devices_can_be_used_one_after_the_other(tiny_bert, tiny_data, order):
    for device in order:
        tuned = run(CONFIG.replace(device=device, precision="fp32", epochs=1), tiny_data, tiny_bert)
        assert next(tuned.model.parameters()).device.type == device


def test_saved_on_the_device_and_loaded_on_the_cpu(tiny_bert, tiny_data, tmp_path):
    tuned = run(CONFIG.replace(precision="fp32"), tiny_data, tiny_bert)
    tuned.save(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    texts = pd.DataFrame({"text": ["the film was good", "the meal was bad"]})
    assert [row["label"] for row in again.predict(texts)] == ["positive", "negative"]
    assert abs(again.logits(texts) - tuned.logits(texts)).max() < 1e-2
