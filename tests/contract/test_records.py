"""Committed records are whole, and show what the pages say they show."""

import pytest

from utils import notebooks, runs
from utils.models import EMBEDDED_SHA256

PAGES = [page for page in notebooks.pages() if (notebooks.RECORDS / page).is_dir()]
SENTIMENT = "04_practice/sentiment"


@pytest.mark.parametrize("page", PAGES)
def test_records_are_whole(page):
    for entry in runs.read_records(page):
        assert {"data", "model", "method", "seed", "config", "metrics", "baselines"} <= set(entry)
        assert {"seconds", "peak_bytes", "device", "versions", "commit"} <= set(entry)
        assert not entry["commit"].endswith("+"), "a record comes from a committed state"
        assert entry["command"].startswith(f"python -m utils run {page}")
        for metric in entry["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]


def records_on(name: str) -> list[dict]:
    found = [entry for entry in runs.read_records(SENTIMENT) if entry["data"]["name"] == name]
    assert sorted(entry["seed"] for entry in found) == [0, 1, 2]
    assert {entry["model"]["digest"] for entry in found} == {EMBEDDED_SHA256}
    return found


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def test_real_reviews_full_fine_tuning_reaches_its_mark_and_beats_every_baseline():
    found = records_on("sentiment-en-mr")
    assert mean(entry["metrics"]["accuracy"]["value"] for entry in found) >= 0.83
    for entry in found:
        for way, baseline in entry["baselines"].items():
            if way != "lora":  # a way of fine-tuning, not a baseline
                assert entry["metrics"]["accuracy"]["value"] > baseline["accuracy"]["value"], way


def test_a_model_of_the_embedded_rows_carries_over_to_real_reviews():
    found = records_on("embedded/sentiment")
    transfers = [entry["transfer"] for entry in found]
    assert {transfer["name"] for transfer in transfers} == {"sentiment-en-mr"}
    assert mean(transfer["metrics"]["accuracy"]["value"] for transfer in transfers) >= 0.74


def test_the_published_run_beats_its_baselines(glued_values):
    values = glued_values(SENTIMENT)
    assert values["full_accuracy"] > values["tfidf_accuracy"] > values["majority_accuracy"]
    assert values["full_accuracy_low"] < values["full_accuracy"] < values["full_accuracy_high"]
    assert values["lora_trainable"] < 0.05 * values["full_trainable"]
