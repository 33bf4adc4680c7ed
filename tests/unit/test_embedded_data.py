"""The embedded set: balanced, free of copies, and not solved by counting words."""

import itertools
import json
import re

import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from utils.data import EMBEDDED, near_duplicates

DOMAINS = {"films", "books", "food", "hotels", "devices", "apps"}
# A reader's first idea of a lexicon.
POSITIVE = """
    good great excellent amazing wonderful fantastic love loved lovely best perfect brilliant
    superb enjoyable delightful beautiful charming fun funny happy pleasant impressive recommend
    masterpiece favorite favourite comfortable delicious friendly helpful reliable fast easy
    intuitive quick clean fresh tasty gripping moving clever warm smooth sharp bright generous
    outstanding terrific fine nice
"""
NEGATIVE = """
    bad terrible awful horrible worst boring dull poor hate hated disappointing disappointed
    disappointment mediocre slow bland cold rude dirty broken useless annoying waste wasted weak
    flat forgettable tedious lazy noisy stale clumsy cheap confusing predictable ugly buggy crash
    crashes mess unwatchable unbearable tasteless overpriced painful fails failed dreadful
    shallow pointless ridiculous
"""


def read(split):
    lines = (EMBEDDED / "sentiment" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def train():
    return read("train")


@pytest.fixture(scope="module")
def held_out():
    return read("test")


@pytest.fixture(scope="module")
def texts(train, held_out):
    return [row["text"] for row in train + held_out]


def fold(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def test_there_are_enough_rows_and_labels_are_balanced(train, held_out):
    for rows, least in ((train, 600), (held_out, 200)):
        labels = [row["label"] for row in rows]
        assert len(rows) >= least
        assert set(labels) == {"positive", "negative"}
        assert labels.count("positive") == labels.count("negative")


def test_every_row_has_the_same_columns_and_a_known_domain(train, held_out):
    for row in train + held_out:
        assert list(row) == ["text", "label", "domain", "kind"]
        assert all(isinstance(value, str) and value for value in row.values())
    for rows in (train, held_out):
        assert {row["domain"] for row in rows} == DOMAINS


def test_kinds_are_the_same_in_both_splits(train, held_out):
    assert {row["kind"] for row in train} == {row["kind"] for row in held_out}


def test_every_text_is_ascii_clean_and_of_fair_length(texts):
    for text in texts:
        assert text.isascii(), text
        assert text == " ".join(text.split()), text
        assert 3 <= len(text.split()) <= 60, text


def test_no_text_occurs_twice(texts):
    folded = [fold(text) for text in texts]
    assert sorted(text for text in set(folded) if folded.count(text) > 1) == []


def test_no_two_texts_share_half_of_their_characters(texts):
    assert near_duplicates(texts, threshold=0.5, size=5) == []


def word_overlap(texts, size):
    """The largest Jaccard index of the word n-grams of any two texts, and the two."""
    grams = []
    for text in texts:
        words = fold(text).split()
        grams.append({tuple(words[n : n + size]) for n in range(len(words) - size + 1)})
    places = {}
    for place, found in enumerate(grams):
        for gram in found:
            places.setdefault(gram, []).append(place)
    pairs = {pair for held in places.values() for pair in itertools.combinations(held, 2)}
    indices = ((len(grams[i] & grams[j]) / len(grams[i] | grams[j]), i, j) for i, j in pairs)
    return max(indices, default=(0.0, -1, -1))


def test_no_two_texts_share_half_of_their_word_5_grams(texts):
    assert word_overlap(["one two three four five six", "one two three four five!"], 5)[0] == 0.5
    index, first, second = word_overlap(texts, 5)
    assert index < 0.5, (texts[first], texts[second])


@pytest.mark.parametrize("model", [MultinomialNB(), LogisticRegression(max_iter=1000)])
@pytest.mark.parametrize(
    "words",
    [CountVectorizer(), CountVectorizer(binary=True), TfidfVectorizer(ngram_range=(1, 2))],
    ids=["counts", "presence", "tfidf of pairs"],
)
def test_counting_words_does_not_solve_it(train, held_out, model, words):
    pipeline = make_pipeline(words, model)
    pipeline.fit([row["text"] for row in train], [row["label"] for row in train])
    share = pipeline.score([row["text"] for row in held_out], [row["label"] for row in held_out])
    assert 0.6 < share < 0.85  # there is something to learn, and it is not the words alone


def lexicon_accuracy(rows):
    """Share of rows that a list of opinion words gets right; a tie counts half."""
    hits = 0.0
    for row in rows:
        words = fold(row["text"]).split()
        balance = sum((word in POSITIVE.split()) - (word in NEGATIVE.split()) for word in words)
        if row["label"] == "negative":
            balance = -balance
        hits += 1.0 if balance > 0 else 0.5 if balance == 0 else 0.0
    return hits / len(rows)


def test_a_list_of_opinion_words_does_not_solve_it(train, held_out):
    plain = [{"text": "A great film", "label": "positive"}, {"text": "dull", "label": "negative"}]
    assert lexicon_accuracy(plain) == 1.0  # the list can win
    for rows in (train, held_out):
        assert 0.5 < lexicon_accuracy(rows) < 0.85


def test_label_does_not_follow_from_domain_kind_or_length(train, held_out):
    for rows in (train, held_out):
        for column in ("domain", "kind"):
            for value in {row[column] for row in rows}:
                held = [row["label"] for row in rows if row[column] == value]
                assert 0.25 < held.count("positive") / len(held) < 0.75, (column, value)
        lengths = sorted(rows, key=lambda row: len(row["text"]))
        half = [row["label"] for row in lengths[: len(rows) // 2]]
        assert 0.35 < half.count("positive") / len(half) < 0.65
