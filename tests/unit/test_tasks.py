"""Tasks: three rows followed by hand from text to loss and back."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from utils import models
from utils.tasks import IGNORE_INDEX, SequenceClassification, make_task, softmax

TASK = SequenceClassification(labels=("negative", "neutral", "positive"))
ROWS = pd.DataFrame(
    {
        "text": ["the film was good", "bad", "a book was so dull , unheard"],
        "label": ["positive", "negative", "neutral"],
    }
)
# The three rows in the pieces of the tiny vocabulary.
PIECES = [
    ["[CLS]", "the", "film", "was", "good", "[SEP]"],
    ["[CLS]", "bad", "[SEP]"],
    ["[CLS]", "a", "book", "was", "so", "dull", ",", "[UNK]", "[SEP]"],
]
LOGITS = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0], [0.5, -0.5, 3.0]])
LABELS = torch.tensor([2, 0, 1])


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return models.load_tokenizer(tiny_bert)


def nll(row, label):
    """Cross-entropy of one row by its formula, in plain Python."""
    return math.log(sum(math.exp(z) for z in row)) - row[label]


def test_encode_gives_pieces_and_label_numbers(tokenizer):
    examples = TASK.encode(tokenizer, ROWS, max_length=16)
    pieces = [tokenizer.convert_ids_to_tokens(example["input_ids"]) for example in examples]
    assert pieces == PIECES
    assert [example["labels"] for example in examples] == [2, 0, 1]
    assert all(set(example) == {"input_ids", "labels"} for example in examples)


def test_encode_numbers_are_lines_of_the_vocabulary_file(tokenizer, tiny_bert):
    lines = (tiny_bert / "vocab.txt").read_text().split()
    example = TASK.encode(tokenizer, ROWS[:1], max_length=16)[0]
    assert example["input_ids"] == [lines.index(piece) for piece in PIECES[0]]


def test_encode_cuts_at_max_length_and_keeps_the_marks(tokenizer):
    example = TASK.encode(tokenizer, ROWS[:1], max_length=4)[0]
    assert tokenizer.convert_ids_to_tokens(example["input_ids"]) == [
        "[CLS]",
        "the",
        "film",
        "[SEP]",
    ]


def test_encode_without_labels(tokenizer):
    examples = TASK.encode(tokenizer, ROWS[["text"]], max_length=16)
    assert [set(example) for example in examples] == [{"input_ids"}] * 3
    assert "labels" not in TASK.collate(tokenizer, examples)


def test_collate_pads_to_the_longest_and_masks_the_padding(tokenizer):
    batch = TASK.collate(tokenizer, TASK.encode(tokenizer, ROWS, max_length=16))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 9)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batch["attention_mask"].tolist() == [
        [1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert batch["input_ids"][1, 3:].tolist() == [0] * 6  # [PAD] is the first line
    assert batch["labels"].tolist() == [2, 0, 1]


def test_unknown_label_is_refused(tokenizer):
    rows = pd.DataFrame({"text": ["good"], "label": ["POSITIVE"]})
    with pytest.raises(ValueError, match=r"labels \['POSITIVE'\] are not among .*'negative'"):
        TASK.encode(tokenizer, rows, max_length=8)


def test_loss_is_the_sum_of_the_formula_over_the_rows():
    rows = LOGITS.tolist()
    by_hand = nll(rows[0], 2) + nll(rows[1], 0) + nll(rows[2], 1)
    assert TASK.loss(LOGITS, LABELS).item() == pytest.approx(by_hand, abs=1e-6)
    assert TASK.loss(torch.zeros(3, 3), LABELS).item() == pytest.approx(3 * math.log(3), abs=1e-6)


def test_ignored_rows_carry_no_loss_and_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    labels = torch.tensor([2, IGNORE_INDEX, 1])
    loss = TASK.loss(logits, labels)
    loss.backward()
    rows = LOGITS.tolist()
    assert IGNORE_INDEX == -100
    assert loss.item() == pytest.approx(nll(rows[0], 2) + nll(rows[2], 1), abs=1e-6)
    assert logits.grad[1].tolist() == [0.0, 0.0, 0.0]
    assert logits.grad[0].abs().sum() > 0
    assert TASK.supervised(labels) == 2
    assert TASK.supervised(LABELS) == 3


def test_label_smoothing_is_its_formula():
    smoothing = 0.3
    by_hand = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        spread = sum(nll(row, other) for other in range(3)) / 3
        by_hand += (1 - smoothing) * nll(row, label) + smoothing * spread
    assert TASK.loss(LOGITS, LABELS, smoothing).item() == pytest.approx(by_hand, abs=1e-5)
    assert TASK.loss(LOGITS, LABELS, smoothing).item() != pytest.approx(
        TASK.loss(LOGITS, LABELS).item(), abs=1e-3
    )


def test_loss_of_half_precision_logits_is_computed_in_float32():
    loss = TASK.loss(LOGITS.bfloat16(), LABELS)
    assert loss.dtype == torch.float32


def test_decode_gives_the_most_probable_label_and_its_probability():
    decoded = TASK.decode(LOGITS.numpy())
    assert [row["label"] for row in decoded] == ["positive", "negative", "positive"]
    assert decoded[1]["probability"] == pytest.approx(math.e / (math.e + 2), abs=1e-9)
    assert all(type(row["probability"]) is float for row in decoded)


def test_metrics_of_logits():
    found = TASK.metrics(LOGITS.numpy(), ROWS)
    assert found["accuracy"] == pytest.approx(2 / 3)
    # negative 1, neutral 0, positive 2 * 1 / (2 + 1)
    assert found["macro_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)


def test_head_names_the_labels_both_ways():
    assert TASK.head == {
        "num_labels": 3,
        "id2label": {0: "negative", 1: "neutral", 2: "positive"},
        "label2id": {"negative": 0, "neutral": 1, "positive": 2},
    }


def test_softmax_does_not_overflow():
    found = softmax(np.array([[1e4, 1e4 - math.log(3)]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0.75, 0.25]], atol=1e-3)


def test_make_task():
    task = make_task("sequence", ["a", "b"])
    assert task == SequenceClassification(labels=("a", "b"))
    assert (task.kind, task.score) == ("sequence", "accuracy")
    with pytest.raises(ValueError, match="'tokenz'; expected one of sequence"):
        make_task("tokenz", ["a", "b"])
