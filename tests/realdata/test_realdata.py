"""Against real data, where the folder `../shared/data` is: nothing copied, and it can be read."""

import json
import re

import pytest

from utils.data import EMBEDDED, load_data, load_split
from utils.notebooks import PROJECT

REAL = PROJECT.parent / "shared" / "data"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data are not here: no folder {REAL}"),
]


def fold(text):
    return " ".join(re.findall(r"\w+", text.lower()))


def strings(value):
    """Every string in a JSON value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def embedded_texts():
    found = {}
    for file in sorted(EMBEDDED.glob("*/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["text"]
            found[fold(text)] = f"{file.parent.name}/{file.name}: {text}"
    return found


def test_no_embedded_text_is_a_row_of_the_real_data():
    ours, copies, seen = embedded_texts(), [], 0
    assert len(ours) >= 800
    for file in sorted(REAL.glob("*/*.jsonl")):
        if file.name not in {"train.jsonl", "test.jsonl"}:
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            for text in strings(json.loads(line)):
                seen += 1
                if fold(text) in ours:
                    copies.append(f"{ours[fold(text)]} is in {file.relative_to(REAL)}")
    assert copies == []
    assert seen > 100_000


def test_the_copy_check_sees_a_copy():
    line = (REAL / "sentiment-en-mr" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    text = json.loads(line)["text"]
    assert fold(f"  {text.upper()}!") in {fold(one) for one in strings(json.loads(line))}


def test_film_reviews_are_read_with_the_label_column_of_the_readers_choice():
    source = str(REAL / "sentiment-en-mr")
    found = load_data(source, label_column="label_name")
    assert found.name == "sentiment-en-mr"
    assert found.labels == ("negative", "positive")
    assert found.rows["test"] == 1000
    assert found.rows["train"] + found.rows["validation"] <= 4000
    assert found.rows["train"] + found.rows["validation"] >= 3900
    numbers = load_data(source)
    assert numbers.labels == ("0", "1")
    assert numbers.train["text"].tolist() == found.train["text"].tolist()
    assert len(load_split(source, label_column="label_name")) == 1000
