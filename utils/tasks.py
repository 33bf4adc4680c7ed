"""Tasks: what a row means to a model, and what the model's numbers mean to a person.

A `Task` is the one door between text and tensors. `training.finetune` knows nothing about labels;
it asks the task to encode rows, to collate a batch, for the loss, for the metrics and to decode the
outputs. A new kind of task is a new class here with the same members, and an entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch

from utils import metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100  # a label that carries no loss, as in torch and transformers
Example = dict[str, object]
Batch = dict[str, torch.Tensor]


class Task(Protocol):
    """What `training` asks of every kind of task."""

    kind: str  # the name in `KINDS`, stored with a saved model
    auto_class: str  # the `transformers` class that adds the head
    score: str  # the metric by which the best epoch is chosen; larger is better
    labels: tuple[str, ...]

    @property
    def head(self) -> dict[str, object]:
        """Settings of the head, given to `auto_class`."""

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: pd.DataFrame, max_length: int
    ) -> list[Example]:
        """Rows to token numbers, one example a row, not padded; `labels` where rows have them."""

    def collate(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Batch:
        """Examples to one padded batch."""

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Summed negative log-likelihood in nats over the labels that count; scalar."""

    def supervised(self, labels: torch.Tensor) -> int:
        """How many labels of a batch carry loss."""

    def metrics(self, logits: np.ndarray, rows: pd.DataFrame) -> dict[str, float]:
        """Metrics of the logits of all rows."""

    def decode(self, logits: np.ndarray) -> list[dict[str, object]]:
        """What a person reads, one item a row."""


@dataclass(frozen=True)
class SequenceClassification:
    """One label for a whole text.

    Attributes:
        labels: every label, in the order of the model's output columns.
    """

    labels: tuple[str, ...]
    kind: ClassVar[str] = "sequence"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    score: ClassVar[str] = "accuracy"

    @property
    def head(self) -> dict[str, object]:
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: number for number, label in enumerate(self.labels)},
        }

    def encode(self, tokenizer, rows, max_length):
        """Token numbers of every text, cut at `max_length` tokens, special tokens included.

        Args:
            rows: `text`, and `label` where the loss or the metrics are wanted.

        Raises:
            ValueError: a label that the task does not have.
        """
        encoded = tokenizer(list(rows["text"]), truncation=True, max_length=max_length)["input_ids"]
        examples: list[Example] = [{"input_ids": numbers} for numbers in encoded]
        if "label" in rows:
            for example, number in zip(examples, self.numbers(rows["label"]), strict=True):
                example["labels"] = number
        return examples

    def numbers(self, labels: Sequence[str]) -> list[int]:
        """Labels to column numbers."""
        known = {label: number for number, label in enumerate(self.labels)}
        unknown = sorted({str(label) for label in labels} - set(known))
        if unknown:
            raise ValueError(f"labels {unknown} are not among the task's {list(self.labels)}.")
        return [known[label] for label in labels]

    def collate(self, tokenizer, examples):
        """Pad to the longest of the batch.

        Returns:
            `input_ids` and `attention_mask`, int64 (B, T), the mask 1 on tokens and 0 on padding;
            `labels`, int64 (B,), where the examples have them.
        """
        ids = [{"input_ids": example["input_ids"]} for example in examples]
        batch = dict(tokenizer.pad(ids, return_tensors="pt"))
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def loss(self, logits, labels, label_smoothing=0.0):
        """Cross-entropy summed over the rows.

        Args:
            logits: float (B, C).
            labels: int64 (B,); `IGNORE_INDEX` carries no loss.
            label_smoothing: probability taken from the true label and spread over all of them
                (Szegedy et al., 2016, "Rethinking the Inception Architecture", section 7).
        """
        return torch.nn.functional.cross_entropy(
            logits.float(),
            labels,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=label_smoothing,
        )

    def supervised(self, labels):
        return int((labels != IGNORE_INDEX).sum())

    def metrics(self, logits, rows):
        """Accuracy and macro-F1 of the most probable labels.

        Args:
            logits: float (rows, C).
        """
        return metrics.classification_metrics(logits.argmax(-1), self.numbers(rows["label"]))

    def decode(self, logits):
        """The most probable label and its probability, for every row of logits (rows, C)."""
        probabilities = softmax(logits)
        best = probabilities.argmax(-1)
        return [
            {"label": self.labels[column], "probability": float(row[column])}
            for row, column in zip(probabilities, best, strict=True)
        ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (…, C) in float64, the largest subtracted first so none overflows.

    >>> softmax(np.array([[0.0, np.log(3.0)]])).round(2).tolist()
    [[0.25, 0.75]]
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


KINDS: dict[str, type] = {"sequence": SequenceClassification}


def make_task(kind: str, labels: Sequence[str]) -> Task:
    """The task of a kind, over these labels.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"task kind {kind!r}; expected one of {', '.join(KINDS)}.")
    return KINDS[kind](labels=tuple(labels))
