"""How good predictions are: metrics as local `evaluate` modules, and their uncertainty.

The metrics are `evaluate.Metric` classes that live here, so that nothing is fetched from a hub,
and that carry their own formula, so that a reader can check them; the tests hold each against
scikit-learn. `bootstrap` gives any of them a 95 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import datasets
import evaluate
import numpy as np

Interval = dict[str, float]  # value, low, high


def confusion(predictions: Sequence[int], references: Sequence[int], classes: int) -> np.ndarray:
    """Count of rows by true class (row) and predicted class (column); int64, (classes, classes).

    >>> confusion([0, 1, 1], [0, 0, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (np.asarray(references, int), np.asarray(predictions, int)), 1)
    return table


def f1_by_class(table: np.ndarray) -> np.ndarray:
    """F1 of each class from a confusion table; float64, (classes,).

    F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall (van Rijsbergen, 1979,
    Information Retrieval, ch. 7). A class that is neither present nor predicted counts 0.

    >>> f1_by_class(np.array([[1, 1], [0, 1]])).round(3).tolist()
    [0.667, 0.667]
    """
    hits = np.diag(table).astype(np.float64)
    either = table.sum(axis=0) + table.sum(axis=1)
    return np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)


_CLASS_FEATURES = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}


def _info(description: str, features: Mapping[str, object], citation: str = "") -> object:
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=", ".join(features),
        features=datasets.Features(features),
    )


class Accuracy(evaluate.Metric):
    """Share of rows whose predicted class is the true one."""

    def _info(self):
        return _info(self.__doc__, _CLASS_FEATURES)

    def _compute(self, predictions, references):
        return {"accuracy": accuracy(np.asarray(predictions), np.asarray(references))}


class MacroF1(evaluate.Metric):
    """Mean over the classes of their F1, every class counting the same whatever its size.

    The mean is over the classes that occur among references or predictions, as scikit-learn's
    `f1_score(average="macro")` has it.
    """

    def _info(self):
        return _info(self.__doc__, _CLASS_FEATURES)

    def _compute(self, predictions, references):
        return {"macro_f1": macro_f1(np.asarray(predictions), np.asarray(references))}


class CalibrationError(evaluate.Metric):
    """Expected calibration error: how far stated confidence is from the share that was right.

    Rows are put into `bins` equal-width bins of confidence; the error is the mean over rows of
    |accuracy - confidence| of their bin (Guo et al., 2017, "On Calibration of Modern Neural
    Networks", section 2).
    """

    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
        return _info(self.__doc__, features)

    def _compute(self, predictions, references, bins: int = 10):
        rows = reliability(predictions, references, bins=bins)
        total = sum(row["rows"] for row in rows)
        gaps = (row["rows"] * abs(row["accuracy"] - row["confidence"]) for row in rows)
        return {"calibration_error": float(sum(gaps) / total)}


def reliability(
    confidences: Sequence[float], correct: Sequence[int], *, bins: int = 10
) -> list[dict[str, float]]:
    """Accuracy and mean confidence of the rows in each bin of confidence that is not empty.

    Args:
        confidences: probability given to the predicted class, in [0, 1], one a row.
        correct: 1 where the prediction was right, else 0.
        bins: number of equal-width bins over [0, 1].

    >>> for row in reliability([0.9, 0.8, 0.3], [1, 0, 0], bins=2):
    ...     print(row)
    {'rows': 1, 'confidence': 0.3, 'accuracy': 0.0}
    {'rows': 2, 'confidence': 0.85, 'accuracy': 0.5}
    """
    confidences, correct = np.asarray(confidences, float), np.asarray(correct, float)
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    return [
        {
            "rows": int((places == place).sum()),
            "confidence": float(confidences[places == place].mean().round(12)),
            "accuracy": float(correct[places == place].mean()),
        }
        for place in np.unique(places)
    ]


def classification_metrics(
    predictions: Sequence[int], references: Sequence[int]
) -> dict[str, float]:
    """Accuracy and macro-F1 of class numbers, the pair that every classification page reports."""
    values: dict[str, float] = {}
    for metric in (Accuracy(keep_in_memory=True), MacroF1(keep_in_memory=True)):
        values |= metric.compute(predictions=list(predictions), references=list(references))
    return values


def bootstrap(
    metric: Callable[[np.ndarray, np.ndarray], float],
    predictions: Sequence,
    references: Sequence,
    *,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A metric on the rows, with a percentile bootstrap interval.

    The rows are drawn again with replacement `repeats` times and the metric computed on each
    draw; the interval holds the central `level` of the results (Efron and Tibshirani, 1993, An
    Introduction to the Bootstrap, ch. 13). It tells how much the choice of test rows matters;
    it does not contain what another seed of training would change.

    Args:
        metric: `(predictions, references) -> float`, called on NumPy arrays.

    Returns:
        `{"value", "low", "high"}`.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if len(predictions) != len(references) or len(predictions) == 0:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; "
            "give one each, and at least one."
        )
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(references), size=(repeats, len(references)))
    values = [metric(predictions[draw], references[draw]) for draw in draws]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return {
        "value": float(metric(predictions, references)),
        "low": float(low),
        "high": float(high),
    }


def in_words(interval: Interval) -> str:
    """A value and its interval as they stand in tables.

    >>> in_words({"value": 0.5, "low": 0.25, "high": 0.75})
    '0.500 [0.250, 0.750]'
    """
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """`Accuracy` without the module around it, quick enough to be called a thousand times."""
    return float(np.mean(predictions == references))


def macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """`MacroF1` without the module around it, quick enough to be called a thousand times."""
    names, codes = np.unique(np.concatenate([predictions, references]), return_inverse=True)
    table = confusion(codes[: len(predictions)], codes[len(predictions) :], len(names))
    return float(f1_by_class(table).mean())
