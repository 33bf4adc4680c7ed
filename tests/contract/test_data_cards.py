"""The card of every embedded set says what is in it."""

import json

import pytest

from utils.data import EMBEDDED

SETS = sorted(folder.name for folder in EMBEDDED.iterdir() if folder.is_dir())


def test_there_are_sets():
    assert "sentiment" in SETS


@pytest.mark.parametrize("name", SETS)
def test_card_counts_rows_and_labels_as_they_are(name):
    card = (EMBEDDED / name / "README.md").read_text(encoding="utf-8")
    header = next(line for line in card.splitlines() if line.startswith("| split | rows |"))
    labels = [cell.strip() for cell in header.strip("|").split("|")][2:]
    for split in ("train", "test"):
        content = (EMBEDDED / name / f"{split}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in content.splitlines()]
        counts = [sum(row["label"] == label for row in rows) for label in labels]
        assert sum(counts) == len(rows)
        cells = " | ".join(str(number) for number in [len(rows), *counts])
        assert f"| {split} | {cells} |" in card


@pytest.mark.parametrize("name", SETS)
def test_card_has_the_sections_a_reader_looks_for(name):
    card = (EMBEDDED / name / "README.md").read_text(encoding="utf-8")
    for heading in ("## Rows", "## How it was written", "## Known limits"):
        assert heading in card
