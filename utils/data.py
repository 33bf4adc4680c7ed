"""Rows of text and labels: read, checked, split and named by their digest.

One door, `load_data`, for the three places that data come from: the sets written for this book
(`"embedded"`), the reader's own CSV or JSON Lines files, and the `datasets` hub. Whatever the
source, the result is the same: a `Data` with three pandas frames that hold the columns `text` and
`label` (both strings) first and any other column after them.

Nothing is dropped in silence: a row that cannot be used is an error with its file, line and
column, and a row that leaks from the test set into the training set is taken out of the training
set and listed in `Data.notes`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

EMBEDDED = Path(__file__).resolve().parents[1] / "notebooks" / "data"
SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".json": None}
SPLITS = ("train", "validation", "test")
LINE = "\0line"  # column that holds the line of a row until the row is checked
# What a hub calls its validation split, in the order of preference.
VALIDATION_NAMES = ("validation", "valid", "dev")
VALIDATION_SHARE = 0.1  # share of the training rows kept aside to choose the epoch
TEST_SHARE = 0.2  # share of the rows of a single file kept aside to measure
HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(:[\w.-]+)?$")


class DataError(ValueError):
    """A data source that cannot be used; the message names the place and the remedy."""


@dataclass(frozen=True)
class Data:
    """Three splits of labelled text.

    Attributes:
        name: what the source is called in records: `embedded/sentiment`, a file or folder name, a
            hub id.
        train, validation, test: frames with the string columns `text` and `label` first.
        digest: sha256 (first 16 hex digits) over every split's texts and labels, in order.
        notes: what was done to the rows that a reader should know, one sentence each.
    """

    name: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels of the training rows, sorted."""
        return tuple(sorted(self.train["label"].unique()))

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows of each split."""
        return {split: len(getattr(self, split)) for split in SPLITS}

    def head(self, rows: int, *, seed: int = 0) -> Data:
        """The same data with at most `rows` rows a split, drawn evenly over the labels.

        Args:
            rows: rows to keep of each split; 0 keeps all.
            seed: which rows.
        """
        if rows == 0:
            return self
        kept = {split: sample_rows(getattr(self, split), rows, seed=seed) for split in SPLITS}
        return replace(self, **kept, digest=digest_rows(kept.values()))


def load_data(
    source: str,
    *,
    embedded: str = "",
    text_column: str = "text",
    label_column: str = "label",
    seed: int = 0,
) -> Data:
    """Read labelled text from wherever it is, check it, and split it.

    Args:
        source: `"embedded"`; the path of a `.csv`, `.tsv`, `.jsonl` or `.json` file (JSON files
            hold one object a line); a folder with `train` and, if there are any, `validation` and
            `test` files of these kinds; or a hub id, `owner/name`, with `:config` after it where
            the set has configurations.
        embedded: which set under `notebooks/data` the word `"embedded"` means.
        text_column: column that holds the text.
        label_column: column that holds the label; any number of classes, read as strings.
        seed: chooses the validation rows, and the test rows where the source has none.

    Raises:
        DataError: the source is missing, unreadable, has a bad row or cannot be learnt from.
    """
    if source == "embedded":
        if not (EMBEDDED / embedded / "train.jsonl").exists() or not embedded:
            sets = ", ".join(sorted(folder.name for folder in EMBEDDED.iterdir()))
            raise DataError(f"embedded={embedded!r}: name an embedded set, one of: {sets}.")
        name, found = f"embedded/{embedded}", _read_folder(EMBEDDED / embedded)
    elif _is_path(source):
        path = Path(source).expanduser()
        name, found = path.name or str(path), _read_path(path)
    elif HUB_ID.match(source):
        name, found = source, _read_hub(source)
    else:
        raise DataError(
            f"data {source!r} is neither 'embedded', a path ending in {', '.join(SUFFIXES)}, "
            "a folder, nor a hub id such as 'owner/name'."
        )
    splits = {
        split: _check_split(frame, where=where, text_column=text_column, label_column=label_column)
        for split, (where, frame) in found.items()
    }
    return _finish(name, splits, seed=seed)


def load_split(
    source: str, *, text_column: str = "text", label_column: str = "label"
) -> pd.DataFrame:
    """Read one file of labelled text (or the `test` file of a folder), only to be measured on.

    Raises:
        DataError: as `load_data`.
    """
    found = _read_path(Path(source).expanduser())
    where, frame = found.get("test") or found["train"]
    return _check_split(frame, where=where, text_column=text_column, label_column=label_column)


# ----------------------------------------------------------------------------- cleaning and splits


def clean_text(text: str) -> str:
    r"""Bring text to one form: Unicode NFC, no control characters, single spaces, no outer space.

    >>> clean_text("  cafe\u0301\t\x07 noir ")
    'café noir'
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join(text.split())


def split_rows(
    frame: pd.DataFrame, share: float, *, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split into `(rest, share)`, each label keeping its proportion (stratified), order kept.

    Every label with at least two rows has at least one in each part.

    >>> frame = pd.DataFrame({"text": list("abcdef"), "label": list("xxxyyy")})
    >>> rest, held_out = split_rows(frame, 0.34)
    >>> sorted(held_out["label"])
    ['x', 'y']
    """
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in sorted(frame["label"].unique()):
        places = np.flatnonzero(frame["label"] == label)
        count = min(max(1, round(share * len(places))), len(places) - 1)
        chosen.extend(rng.permutation(places)[:count])
    held_out = np.zeros(len(frame), dtype=bool)
    held_out[chosen] = True
    return frame[~held_out].reset_index(drop=True), frame[held_out].reset_index(drop=True)


def sample_rows(frame: pd.DataFrame, rows: int, *, seed: int = 0) -> pd.DataFrame:
    """At most `rows` rows, as evenly over the labels as they allow, in a random order.

    A smaller sample with the same seed is the beginning of a larger one, so that points of a
    learning curve differ by the rows added and by nothing else.
    """
    rng = np.random.default_rng(seed)
    queues = [
        list(rng.permutation(np.flatnonzero(frame["label"] == label)))
        for label in sorted(frame["label"].unique())
    ]
    order: list[int] = []
    while len(order) < rows and any(queues):
        for queue in queues:
            if queue and len(order) < rows:
                order.append(queue.pop())
    return frame.iloc[order].reset_index(drop=True)


def digest_rows(frames: Iterable[pd.DataFrame]) -> str:
    """First 16 hex digits of the sha256 over the texts and labels of the frames, in order."""
    digest = hashlib.sha256()
    for frame in frames:
        pairs = zip(frame["text"], frame["label"], strict=True)
        digest.update(json.dumps(list(pairs), ensure_ascii=False).encode())
    return digest.hexdigest()[:16]


def near_duplicates(
    texts: Sequence[str], *, threshold: float = 0.5, size: int = 5
) -> list[tuple[int, int, float]]:
    """Pairs of texts that share much of their wording.

    Compares the sets of character n-grams of the lower-cased texts by the Jaccard index, shared
    n-grams over all n-grams (Broder, 1997, "On the resemblance and containment of documents").

    Args:
        texts: n texts; memory grows with the number of pairs that share any n-gram.
        threshold: smallest index reported.
        size: characters in an n-gram.

    Returns:
        `(i, j, index)` with `i < j`, most alike first.

    >>> near_duplicates(["a fine, quiet room", "A fine quiet room", "no hot water"])
    [(0, 1, 0.5)]
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counts = CountVectorizer(analyzer="char", ngram_range=(size, size), binary=True)
    grams = counts.fit_transform(texts).astype(np.int32)
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    shared = (grams @ grams.T).tocoo()
    index = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    keep = (shared.row < shared.col) & (index >= threshold)
    found = zip(shared.row[keep], shared.col[keep], index[keep], strict=True)
    pairs = [(int(i), int(j), round(float(value), 2)) for i, j, value in found]
    return sorted(pairs, key=lambda pair: -pair[2])


# ------------------------------------------------------------------------------ reading, by source


def _is_path(source: str) -> bool:
    looks_like_one = source.startswith((".", "/", "~")) or "\\" in source
    return looks_like_one or Path(source).suffix.lower() in SUFFIXES or Path(source).exists()


def _read_path(path: Path) -> dict[str, tuple[str, pd.DataFrame]]:
    if path.is_dir() or not (path.suffix or path.exists()):
        return _read_folder(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: files of kind {path.suffix or 'none'!r} are not read; "
            f"give one of {', '.join(SUFFIXES)} or a folder with a train file."
        )
    return {"train": (str(path), _read_file(path))}


def _read_folder(folder: Path) -> dict[str, tuple[str, pd.DataFrame]]:
    found = {}
    for split in SPLITS:
        files = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
        files = [file for file in files if file.exists()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise DataError(f"{folder}: both {names} are here; keep one.")
        if files:
            found[split] = (str(files[0]), _read_file(files[0]))
    if "train" not in found:
        state = "has no train file" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder}: the folder {state}; it should hold train.jsonl (or .csv, .tsv, .json), "
            "and may hold validation and test files."
        )
    return found


def _read_file(path: Path) -> pd.DataFrame:
    """Read a file of rows as strings, with the line of each row in the column `LINE`."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        here = Path.cwd()
        raise DataError(
            f"{path}: no such file (looked from {here}). Check the path and the working folder."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8. Save the "
            f"file as UTF-8, for example: iconv -f GB18030 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from None
    separator = SUFFIXES[path.suffix.lower()]
    rows = _json_rows(path, content) if separator is None else _csv_rows(path, content, separator)
    if not rows:
        raise DataError(f"{path}: the file has no rows.")
    return pd.DataFrame(rows)


def _csv_rows(path: Path, content: str, separator: str) -> list[dict[str, object]]:
    # StringIO breaks lines at \n and \r only; str.splitlines also at characters inside a text.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    rows: list[dict[str, object]] = []
    header: list[str] = []
    start = 1
    try:
        for values in reader:
            if not header:
                header = [name.strip() for name in values]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise DataError(f"{path}, line 1: two columns are called {_listed(twice)}.")
            elif values and len(values) != len(header):
                raise DataError(
                    f"{path}, line {start}: {len(values)} fields where the header has "
                    f"{len(header)} ({', '.join(header)}). A text that holds {separator!r} or a "
                    'line break must stand in double quotes, "…".'
                )
            elif values:
                rows.append(dict(zip(header, values, strict=True)) | {LINE: start})
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f'{path}, line {start}: {error}. Quotes inside a quoted text are doubled, "".'
        ) from None
    return rows


def _json_rows(path: Path, content: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}, column {error.colno}: not JSON ({error.msg}). The file "
                'must hold one object a line, like {"text": "…", "label": "…"}.'
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: a {type(row).__name__} where one object a line is "
                'expected, like {"text": "…", "label": "…"}.'
            )
        rows.append(row | {LINE: number})
    return rows


def _read_hub(source: str) -> dict[str, tuple[str, pd.DataFrame]]:
    import datasets

    repository, _, config = source.partition(":")
    try:
        loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # whatever the hub client raises, the reader needs the same facts
        raise DataError(
            f"data {source!r}: no such file here, and the hub did not give it "
            f"({type(error).__name__}: {error}). Without network, use 'embedded' or a file; behind "
            "a mirror, set the environment variable HF_ENDPOINT to its address."
        ) from error
    found = {}
    for split in SPLITS:
        names = VALIDATION_NAMES if split == "validation" else (split,)
        name = next((name for name in names if name in loaded), None)
        if name is None:
            continue
        part = loaded[name]
        frame = part.to_pandas()
        for column, feature in part.features.items():
            if isinstance(feature, datasets.ClassLabel):
                # -1 is the hub's mark for a row without a label.
                frame[column] = [feature.int2str(v) if v >= 0 else "" for v in frame[column]]
        found[split] = (f"{source}, split {name}", frame.assign(**{LINE: range(1, len(frame) + 1)}))
    if "train" not in found:
        raise DataError(f"data {source!r} has the splits {', '.join(loaded)}, but no 'train'.")
    return found


# ------------------------------------------------------------------------------ checks, and joints


def _check_split(
    frame: pd.DataFrame, *, where: str, text_column: str, label_column: str
) -> pd.DataFrame:
    """Return the frame with string columns `text` and `label` first, or say what is wrong."""
    for role, column in (("text", text_column), ("label", label_column)):
        if column not in frame.columns:
            have = ", ".join(str(name) for name in frame.columns if name != LINE)
            raise DataError(
                f"{where}: no column {column!r}; the columns are {have}. "
                f"Name the right one with {role}_column."
            )
    columns = {}
    for role, column in (("text", text_column), ("label", label_column)):
        values = [_as_text(value) for value in frame[column]]
        for value, line in zip(values, frame[LINE], strict=True):
            if not value:
                raise DataError(
                    f"{where}, line {line}, column {column!r}: the {role} is empty. "
                    "Fill it in or delete the row."
                )
        columns[role] = pd.array(values, dtype="str")
    rest = frame.drop(columns=[LINE, *{text_column, label_column, "text", "label"} & set(frame)])
    checked = pd.DataFrame(columns)
    for name in rest.columns:
        checked[name] = rest[name].to_numpy()
    return checked


def _as_text(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return clean_text(str(value))


def _finish(name: str, splits: dict[str, pd.DataFrame], *, seed: int) -> Data:
    """Make the missing splits, take leaks out of the training rows, and check the labels."""
    notes: list[str] = []
    train = splits["train"]
    _check_labels(name, train)
    if "test" not in splits:
        train, splits["test"] = split_rows(train, TEST_SHARE, seed=seed)
        notes.append(
            f"No test file: {len(splits['test'])} rows were drawn for it (seed {seed}, every "
            "label keeps its share)."
        )
    if "validation" not in splits:
        train, splits["validation"] = split_rows(train, VALIDATION_SHARE, seed=seed)
    test = _folded(splits["test"])
    validation, leaks = _without(splits["validation"], test)
    splits["validation"] = validation
    train, more = _without(train, test | _folded(validation))
    if leaks + more:
        notes.append(
            f"{more} training and {leaks} validation rows had the text of a row that is kept for "
            "measuring, and were taken out."
        )
        _check_labels(name, train, least=1)
        if validation.empty:
            raise DataError(f"{name}: every validation row has the text of a test row.")
    known = set(train["label"])
    for split in ("validation", "test"):
        unknown = sorted(set(splits[split]["label"]) - known)
        if unknown:
            raise DataError(
                f"{name}: the {split} rows have the labels {_listed(unknown)}, which no training "
                f"row has (they have {_listed(sorted(known))}). Correct the spelling, or add "
                "training rows with these labels."
            )
    frames = {"train": train, "validation": splits["validation"], "test": splits["test"]}
    return Data(name=name, **frames, digest=digest_rows(frames.values()), notes=tuple(notes))


def _folded(frame: pd.DataFrame) -> set[str]:
    """The texts without case, punctuation and spaces: what two copies of one text share."""
    return {_fold(text) for text in frame["text"]}


def _fold(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower() or text


def _without(frame: pd.DataFrame, folded: set[str]) -> tuple[pd.DataFrame, int]:
    """The rows whose text is not among the folded ones, and how many were."""
    leaks = np.array([_fold(text) in folded for text in frame["text"]], dtype=bool)
    return frame[~leaks].reset_index(drop=True), int(leaks.sum())


def _check_labels(name: str, train: pd.DataFrame, *, least: int = 3) -> None:
    counts = train["label"].value_counts()
    if len(counts) == 0:
        raise DataError(
            f"{name}: every training row has the text of a test or validation row, so none is left "
            "to train on. Give other rows to train on."
        )
    if len(counts) < 2:
        raise DataError(
            f"{name}: every training row has the label {counts.index[0]!r}. A classifier needs "
            "rows of at least two labels."
        )
    rare = sorted(counts.index[counts < least])
    if rare:
        raise DataError(
            f"{name}: fewer than {least} training rows have the labels {_listed(rare)}, too few to "
            "train, validate and test on. Add rows, or join these labels to others. If "
            "label_column is a column of free text or of numbers, name the right one."
        )


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
