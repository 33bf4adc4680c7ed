"""Data: what is read, how it is split, and what each bad input is told."""

import json
import re
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pytest

from utils import data
from utils.data import DataError, load_data, load_split

TWELVE = [(f"text number {n}", "ab"[n % 2]) for n in range(12)]


def csv_of(rows, separator=",", header=("text", "label")):
    return "".join(separator.join(row) + "\n" for row in [header, *rows])


def jsonl_of(rows):
    return "".join(
        json.dumps(dict(zip(("text", "label"), row, strict=True))) + "\n" for row in rows
    )


def all_rows(found):
    """Texts and labels of all three splits, sorted."""
    frames = [found.train, found.validation, found.test]
    return sorted(tuple(row) for frame in frames for row in frame[["text", "label"]].to_numpy())


# ------------------------------------------------------------------------------- what can be read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", csv_of(TWELVE)),
        ("a.CSV", csv_of(TWELVE)),
        ("a.tsv", csv_of(TWELVE, "\t")),
        ("a.jsonl", jsonl_of(TWELVE)),
        ("a.json", jsonl_of(TWELVE)),
        ("crlf.csv", csv_of(TWELVE).replace("\n", "\r\n")),
        ("blank.csv", "\n" + csv_of(TWELVE).replace("number 3,", "number 3,") + "\n\n"),
        ("blank.jsonl", "\n" + jsonl_of(TWELVE) + "\n\n"),
        ("bom.csv", b"\xef\xbb\xbf" + csv_of(TWELVE).encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + jsonl_of(TWELVE).encode()),
    ],
)
def test_one_file_is_read_and_split(write, name, content):
    found = load_data(str(write(name, content)))
    assert all_rows(found) == sorted(TWELVE)
    assert found.name == name
    assert found.labels == ("a", "b")
    assert sum(found.rows.values()) == 12
    assert found.rows == {"train": 8, "validation": 2, "test": 2}
    assert "No test file: 2 rows were drawn" in found.notes[0]


def test_folder_keeps_its_splits(write, tmp_path):
    write("set/train.jsonl", jsonl_of(TWELVE))
    write("set/validation.csv", csv_of([("held out one", "a"), ("held out two", "b")]))
    write("set/test.tsv", csv_of([("to measure", "a")], "\t"))
    found = load_data(str(tmp_path / "set"))
    assert found.name == "set"
    assert list(zip(found.train["text"], found.train["label"], strict=True)) == TWELVE
    assert found.validation["text"].tolist() == ["held out one", "held out two"]
    assert found.test["text"].tolist() == ["to measure"]
    assert found.notes == ()


def test_own_column_names_and_extra_columns(write):
    lines = [f"{label},{n},{text},extra {n}" for n, (text, label) in enumerate(TWELVE)]
    path = write("a.csv", "\n".join(["sentiment,line,review,note", *lines]))
    found = load_data(str(path), text_column="review", label_column="sentiment")
    assert all_rows(found) == sorted(TWELVE)
    assert list(found.train.columns) == ["text", "label", "line", "note"]
    for _, row in found.train.iterrows():  # each row kept its own extras, "line" among them
        number = row["text"].removeprefix("text number ")
        assert (row["line"], row["note"]) == (number, f"extra {number}")


def test_any_number_of_labels_and_labels_that_are_numbers(write):
    rows = [{"text": f"t {n}", "label": n % 11} for n in range(110)]
    found = load_data(str(write("a.jsonl", "\n".join(map(json.dumps, rows)))))
    assert found.labels == tuple(sorted(str(n) for n in range(11)))
    assert set(found.test["label"]) == set(found.labels)


def test_embedded_set():
    found = load_data("embedded", embedded="sentiment")
    assert found.name == "embedded/sentiment"
    assert found.labels == ("negative", "positive")
    assert list(found.train.columns) == ["text", "label", "domain", "kind"]


def test_embedded_set_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(DataError, match=r"sentimnt.*sentiment"):
        load_data("embedded", embedded="sentimnt")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  two   words \n", "two words"),
        ("cafe\u0301", "café"),
        ("a\x00b\x1fc\x7fd", "a b c d"),
        ("no\u00a0break\u3000space", "no break space"),
        ("电影 很 好", "电影 很 好"),
        ("\t\n\x07", ""),
    ],
)
def test_clean_text(raw, clean):
    assert data.clean_text(raw) == clean
    assert data.clean_text(clean) == clean


def test_texts_are_cleaned_when_read(write):
    rows = [("  cafe\u0301   noir ", "a"), *TWELVE]
    found = load_data(str(write("a.jsonl", jsonl_of(rows))))
    assert ("café noir", "a") in all_rows(found)


def test_quoted_line_breaks_commas_and_quotes(write):
    content = 'text,label\n"one, with\na break and ""quotes""",a\n' + csv_of(TWELVE[:-1])[11:]
    found = load_data(str(write("a.csv", content)))
    assert ('one, with a break and "quotes"', "a") in all_rows(found)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_characters_that_only_python_takes_for_line_breaks_stay_in_their_text(write, separator):
    content = csv_of([(f"one{separator}two", "a"), *TWELVE])
    found = load_data(str(write("a.csv", content)))
    assert ("one two", "a") in all_rows(found)


def test_load_split_reads_one_file_or_the_test_file_of_a_folder(write, tmp_path):
    path = write("set/train.jsonl", jsonl_of(TWELVE))
    assert load_split(str(path))["text"].tolist() == [text for text, _ in TWELVE]
    assert len(load_split(str(tmp_path / "set"))) == 12
    write("set/test.csv", "review,mark\ngood,a\n")
    found = load_split(str(tmp_path / "set"), text_column="review", label_column="mark")
    assert found.to_dict("list") == {"text": ["good"], "label": ["a"]}


# -------------------------------------------------------------------------------------- bad inputs

BAD_FILES = {
    "no such file": (
        "a.csv",
        None,
        r"a\.csv: no such file \(looked from .*\)\. Check the path",
    ),
    "wrong encoding": (
        "a.csv",
        "text,label\ngood,a\n电影很好,b\n".encode("gb18030"),
        r"a\.csv, line 3: byte 0xb5 is not UTF-8\..* iconv -f GB18030 -t UTF-8 a\.csv",
    ),
    "too many fields": (
        "a.csv",
        "text,label\ngood,a\nwell, fine,b\n",
        r"a\.csv, line 3: 3 fields where the header has 2 \(text, label\)\..*double quotes",
    ),
    "too few fields after a quoted line break": (
        "a.csv",
        'text,label\n"one\ntwo\nthree",a\nalone\n',
        r"a\.csv, line 5: 1 fields where the header has 2",
    ),
    "unclosed quote": (
        "a.csv",
        'text,label\ngood,a\n"never closed,b\nmore,b\n',
        r"a\.csv, line 3: unexpected end of data\. Quotes inside a quoted text are doubled",
    ),
    "text after a closing quote": (
        "a.csv",
        'text,label\n"good" indeed,a\n',
        r"a\.csv, line 2: ',' expected after '\"'",
    ),
    "not JSON": (
        "a.jsonl",
        '{"text": "good", "label": "a"}\n{"text": "bad" "label": "b"}\n',
        r"a\.jsonl, line 2, column 16: not JSON .*one object a line, like",
    ),
    "a JSON line that is no object": (
        "a.jsonl",
        '{"text": "good", "label": "a"}\n\n["bad", "b"]\n',
        r"a\.jsonl, line 3: a list where one object a line is expected",
    ),
    "unknown text column": (
        "a.csv",
        "review,label\ngood,a\n",
        r"a\.csv: no column 'text'; the columns are review, label\..*text_column",
    ),
    "unknown label column": (
        "a.jsonl",
        '{"text": "good", "mark": "a"}\n',
        r"a\.jsonl: no column 'label'; the columns are text, mark\..*label_column",
    ),
    "empty text": (
        "a.csv",
        'text,label\n"two\nlines",a\n"  ",b\n',
        r"a\.csv, line 4, column 'text': the text is empty\. Fill it in or delete the row",
    ),
    "empty label": (
        "a.tsv",
        "text\tlabel\ngood\t\n",
        r"a\.tsv, line 2, column 'label': the label is empty",
    ),
    "label null": (
        "a.jsonl",
        '{"text": "good", "label": "a"}\n{"text": "bad", "label": null}\n',
        r"a\.jsonl, line 2, column 'label': the label is empty",
    ),
    "label missing in one object": (
        "a.jsonl",
        '{"text": "good", "label": 1}\n{"text": "bad"}\n',
        r"a\.jsonl, line 2, column 'label': the label is empty",
    ),
    "empty file": ("a.csv", "", r"a\.csv: the file has no rows"),
    "header only": ("a.csv", "text,label\n", r"a\.csv: the file has no rows"),
    "empty JSON": ("a.jsonl", "\n\n", r"a\.jsonl: the file has no rows"),
    "unsupported kind": (
        "a.xlsx",
        "x",
        r"a\.xlsx: files of kind '\.xlsx' are not read; give one of \.csv, \.tsv, \.jsonl, \.json",
    ),
    "one label only": (
        "a.csv",
        csv_of([(text, "a") for text, _ in TWELVE]),
        r"a\.csv: every training row has the label 'a'\..*at least two labels",
    ),
    "a rare label": (
        "a.csv",
        csv_of([*TWELVE, ("odd", "c"), ("odder", "c")]),
        r"a\.csv: fewer than 3 training rows have the labels 'c'.*Add rows, or join",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_named_with_place_and_remedy(write, tmp_path, case):
    name, content, message = BAD_FILES[case]
    path = tmp_path / name if content is None else write(name, content)
    with pytest.raises(DataError, match=message) as refusal:
        load_data(str(path))
    if case not in {"one label only", "a rare label"}:
        assert str(refusal.value).startswith(str(path))


def test_many_rare_labels_are_not_all_listed(write):
    rows = [(f"t {n}", f"label {n:02d}") for n in range(30)]
    with pytest.raises(DataError, match=r"'label 07' and 22 more, too few"):
        load_data(str(write("a.csv", csv_of(rows))))


def test_label_that_only_the_test_file_has(write, tmp_path):
    write("set/train.csv", csv_of(TWELVE))
    write("set/test.csv", csv_of([("x y z", "a"), ("q r s", "B")]))
    message = r"set: the test rows have the labels 'B', which no training row has \(they have 'a', "
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "set"))


def test_label_that_only_the_validation_file_has(write, tmp_path):
    write("set/train.csv", csv_of(TWELVE))
    write("set/validation.csv", csv_of([("x y z", "c")]))
    with pytest.raises(DataError, match="the validation rows have the labels 'c'"):
        load_data(str(tmp_path / "set"))


def test_folder_without_a_train_file(write, tmp_path):
    write("set/test.csv", csv_of(TWELVE))
    with pytest.raises(DataError, match=r"set: the folder has no train file; .* train\.jsonl"):
        load_data(str(tmp_path / "set"))


def test_folder_that_does_not_exist(tmp_path):
    message = r"nowhere: the folder does not exist; it should hold train\.jsonl"
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "nowhere"))


def test_file_without_a_suffix(write):
    with pytest.raises(DataError, match="files of kind 'none' are not read"):
        load_data(str(write("rows", csv_of(TWELVE))))


def test_folder_with_two_train_files(write, tmp_path):
    write("set/train.csv", csv_of(TWELVE))
    write("set/train.jsonl", jsonl_of(TWELVE))
    with pytest.raises(DataError, match=r"both train\.csv and train\.jsonl are here; keep one"):
        load_data(str(tmp_path / "set"))


def test_bad_row_in_a_test_file_names_that_file(write, tmp_path):
    write("set/train.csv", csv_of(TWELVE))
    write("set/test.csv", "text,label\nfine,a\n,b\n")
    with pytest.raises(DataError, match=r"set/test\.csv, line 3, column 'text'"):
        load_data(str(tmp_path / "set"))


def test_source_that_is_nothing_known():
    with pytest.raises(DataError, match=r"data 'what\?' is neither 'embedded', a path ending in"):
        load_data("what?")


def test_hub_id_without_network_names_the_mirror_variable():
    code = (
        "from utils.data import load_data, DataError\n"
        "try:\n"
        "    load_data('nobody-here/no-such-set')\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "data 'nobody-here/no-such-set': no such file here" in done.stdout
    assert "use 'embedded' or a file" in done.stdout
    assert "HF_ENDPOINT" in done.stdout


# -------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub(monkeypatch):
    """`hub(train=[…], dev=[…])`: what the hub gives; returns the list of what was asked for."""
    asked = []

    def give(**splits):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        )
        made = {
            name: datasets.Dataset.from_dict(
                {"text": [text for text, _ in rows], "label": [label for _, label in rows]},
                features=features,
            )
            for name, rows in splits.items()
        }

        def load_dataset(*words):
            asked.append(words)
            return datasets.DatasetDict(made)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return give


HUB_ROWS = [(f"text {n}", n % 2) for n in range(20)]


@pytest.mark.parametrize("validation", ["validation", "valid", "dev"])
def test_hub_set_with_class_names_and_any_name_of_the_validation_split(hub, validation):
    asked = hub(
        train=HUB_ROWS,
        test=[("to measure", 1)],
        unsupervised=[],
        **{validation: [("chosen on", 0)]},
    )
    found = load_data("owner/name:plain")
    assert asked == [("owner/name", "plain")]
    assert found.name == "owner/name:plain"
    assert found.labels == ("neg", "pos")
    assert found.rows == {"train": 20, "validation": 1, "test": 1}
    assert found.test.to_dict("list") == {"text": ["to measure"], "label": ["pos"]}
    assert found.validation["text"].tolist() == ["chosen on"]


def test_hub_set_without_configuration(hub):
    asked = hub(train=HUB_ROWS, test=[("to measure", 1)])
    load_data("owner/name")
    assert asked == [("owner/name", None)]


def test_hub_rows_without_a_label_are_refused_by_split_and_row(hub):
    hub(train=HUB_ROWS, test=[("fine", 1), ("not labelled", -1)])
    with pytest.raises(DataError, match="owner/name, split test, line 2, column 'label'"):
        load_data("owner/name")


def test_hub_set_without_train(hub):
    hub(test=HUB_ROWS, other=HUB_ROWS)
    with pytest.raises(DataError, match="has the splits test, other, but no 'train'"):
        load_data("owner/name")


# ----------------------------------------------------------------------------------- leaks, splits


def test_rows_that_leak_from_test_or_validation_leave_the_training_rows(write, tmp_path):
    write("set/train.csv", 'text,label\n"LEAK, one",a\nleak two!,b\n' + csv_of(TWELVE)[11:])
    write("set/validation.csv", csv_of([("Leak  Two", "b"), ("new", "a")]))
    write("set/test.csv", csv_of([("leak one", "b"), ("newer", "a")]))
    found = load_data(str(tmp_path / "set"))
    assert found.train["text"].tolist() == [text for text, _ in TWELVE]
    assert found.rows == {"train": 12, "validation": 2, "test": 2}
    assert found.notes == (
        "2 training and 0 validation rows had the text of a row that is kept for measuring, and "
        "were taken out.",
    )


def test_test_file_that_repeats_the_train_file_is_refused(write, tmp_path):
    write("set/train.csv", csv_of(TWELVE))
    write("set/test.csv", csv_of(TWELVE))
    with pytest.raises(DataError, match="every training row has the text of a test"):
        load_data(str(tmp_path / "set"))


def frame_of(counts):
    rows = [(f"{label} {n}", label) for label, count in counts.items() for n in range(count)]
    return pd.DataFrame(rows, columns=["text", "label"])


def test_splits_are_stratified_disjoint_and_complete():
    frame = frame_of({"a": 100, "b": 40, "c": 10})
    rest, held_out = data.split_rows(frame, 0.2, seed=3)
    assert held_out["label"].value_counts().to_dict() == {"a": 20, "b": 8, "c": 2}
    assert set(rest["text"]) & set(held_out["text"]) == set()
    assert set(rest["text"]) | set(held_out["text"]) == set(frame["text"])
    kept = frame[frame["text"].isin(rest["text"])]["text"].tolist()
    assert rest["text"].tolist() == kept  # in their order


def test_splits_are_chosen_by_the_seed_alone():
    frame = frame_of({"a": 50, "b": 50})
    first, again, other = (data.split_rows(frame, 0.2, seed=seed)[1] for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert set(first["text"]) != set(other["text"])


def test_a_label_with_two_rows_has_one_in_each_part():
    rest, held_out = data.split_rows(frame_of({"a": 20, "b": 2}), 0.01)
    assert held_out["label"].value_counts().to_dict() == {"a": 1, "b": 1}
    assert rest["label"].value_counts().to_dict() == {"a": 19, "b": 1}


def test_three_rows_of_a_label_are_enough_for_all_splits(write):
    rows = [*TWELVE, ("odd", "c"), ("odder", "c"), ("oddest", "c")]
    found = load_data(str(write("a.csv", csv_of(rows))))
    for split in (found.train, found.validation, found.test):
        assert set(split["label"]) == {"a", "b", "c"}


def test_the_seed_of_load_data_chooses_the_rows(write):
    rows = [(f"text number {n}", "ab"[n % 2]) for n in range(60)]
    path = str(write("a.csv", csv_of(rows)))
    first, again, other = (load_data(path, seed=seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert all_rows(first) == all_rows(other)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one():
    frame = frame_of({"a": 30, "b": 8, "c": 3})
    large = data.sample_rows(frame, 25, seed=2)
    for rows in (1, 7, 12, 24):
        small = data.sample_rows(frame, rows, seed=2)
        pd.testing.assert_frame_equal(small, large[:rows])
    assert large[:9]["label"].value_counts().to_dict() == {"a": 3, "b": 3, "c": 3}
    assert large["label"].value_counts().to_dict() == {"a": 14, "b": 8, "c": 3}
    assert len(data.sample_rows(frame, 1000)) == 41
    assert large["text"].is_unique
    assert data.sample_rows(frame, 25, seed=3)["text"].tolist() != large["text"].tolist()


def test_head_keeps_at_most_that_many_rows_of_each_split(tiny_data):
    small = tiny_data.head(10)
    assert small.rows == {"train": 10, "validation": 10, "test": 10}
    assert small.train["label"].value_counts().to_dict() == {"negative": 5, "positive": 5}
    assert small.digest != tiny_data.digest
    assert tiny_data.head(0) is tiny_data


# ------------------------------------------------------------------------------ digest, duplicates


def test_digest_is_the_literal_one():
    frame = pd.DataFrame({"text": ["good", "böse"], "label": ["a", "b"]})
    assert data.digest_rows([frame]) == "b97288d468cc8fea"


def test_digest_changes_with_every_change():
    frame = frame_of({"a": 2, "b": 2})
    changed = [
        frame.assign(text=["A 0", *frame["text"][1:]]),
        frame.assign(label=["b", *frame["label"][1:]]),
        frame[::-1],
        frame[:-1],
    ]
    digests = {data.digest_rows([one]) for one in [frame, *changed]}
    digests.add(data.digest_rows([frame[:2], frame[2:]]))  # the split is part of it
    assert len(digests) == 6
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)


def test_digest_does_not_depend_on_the_type_of_column_or_on_other_columns():
    frame = frame_of({"a": 2, "b": 2})
    same = [
        frame.astype(object),
        frame.astype("str"),
        frame.astype({"label": "category"}),
        frame.assign(other=np.arange(4)),
        frame.set_index(np.arange(4, 8)),
    ]
    assert {data.digest_rows([one]) for one in same} == {data.digest_rows([frame])}


def test_digest_does_not_depend_on_the_file_format(write):
    digests = {
        load_data(str(write(name, content))).digest
        for name, content in [
            ("a.csv", csv_of(TWELVE)),
            ("a.tsv", csv_of(TWELVE, "\t")),
            ("a.jsonl", jsonl_of(TWELVE)),
        ]
    }
    assert len(digests) == 1


def test_near_duplicates_by_hand():
    # 2-grams: {ab, bc, cd}, {ab, bc, ce}, {xy, yz}, {ab, bc, cd}
    texts = ["abcd", "ABce", "xyz", "abcD"]
    assert data.near_duplicates(texts, threshold=0.5, size=2) == [
        (0, 3, 1.0),
        (0, 1, 0.5),
        (1, 3, 0.5),
    ]
    assert data.near_duplicates(texts, threshold=0.51, size=2) == [(0, 3, 1.0)]
    assert data.near_duplicates(["abcd", "wxyz"], threshold=0.1, size=2) == []


def test_texts_in_other_scripts_are_not_taken_for_copies_of_each_other(tmp_path):
    rows = [
        ("好看", "a"),
        ("难看", "b"),
        ("很好看", "a"),
        ("很难看", "b"),
        ("真好", "a"),
        ("真差", "b"),
    ]
    rows += [(f"第{number}部电影", "ab"[number % 2]) for number in range(20)]
    file = tmp_path / "zh.csv"
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = load_data(str(file))
    assert sum(data.rows.values()) == len(rows)
    assert len(data.notes) == 1


def test_two_columns_of_one_name_are_refused(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("text,label,text\nx,a,y\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: two columns are called 'text'"):
        load_data(str(file))


def test_a_validation_row_with_the_text_of_a_test_row_is_taken_out(tmp_path):
    def write(split, pairs):
        lines = ["text,label", *(f"{text},{label}" for text, label in pairs)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    write("train", [(f"row {number}", "ab"[number % 2]) for number in range(8)])
    write("validation", [("Seen twice!", "a"), ("fresh", "b")])
    write("test", [("seen twice", "a"), ("row 3", "b")])
    data = load_data(str(tmp_path))
    assert data.rows == {"train": 7, "validation": 1, "test": 2}
    assert data.notes[0].startswith("1 training and 1 validation rows")
