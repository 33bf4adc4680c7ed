"""Metrics: each against scikit-learn or by hand, and the bootstrap against the exact binomial."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from utils import metrics


def random_labels(classes, rows=200, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, classes, rows)
    predictions = np.where(rng.random(rows) < 0.6, references, rng.integers(0, classes, rows))
    return predictions, references


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_accuracy_f1_and_confusion_are_those_of_scikit_learn(classes):
    predictions, references = random_labels(classes)
    found = metrics.classification_metrics(predictions, references)
    assert found == {
        "accuracy": pytest.approx(accuracy_score(references, predictions), abs=1e-12),
        "macro_f1": pytest.approx(f1_score(references, predictions, average="macro"), abs=1e-12),
    }
    table = metrics.confusion(predictions, references, classes)
    assert table.tolist() == confusion_matrix(references, predictions).tolist()
    by_class = f1_score(references, predictions, average=None)
    np.testing.assert_allclose(metrics.f1_by_class(table), by_class, atol=1e-12)


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([0, 0, 0, 0], [0, 0, 2, 2]),  # class 1 nowhere, class 2 never predicted
        ([0, 1, 1, 3], [0, 0, 1, 1]),  # class 3 predicted and never true
        ([5, 5], [5, 5]),
        ([0, 0], [1, 1]),
    ],
)
def test_macro_f1_with_absent_classes_is_that_of_scikit_learn(predictions, references):
    expected = f1_score(references, predictions, average="macro", zero_division=0)
    found = metrics.macro_f1(np.array(predictions), np.array(references))
    assert found == pytest.approx(expected, abs=1e-12)
    assert metrics.classification_metrics(predictions, references)["macro_f1"] == found


def test_metrics_take_labels_that_are_text():
    predictions, references = np.array(["a", "b", "b"]), np.array(["a", "b", "a"])
    assert metrics.accuracy(predictions, references) == pytest.approx(2 / 3)
    assert metrics.macro_f1(predictions, references) == pytest.approx(2 / 3)


def test_confusion_by_hand_true_classes_down():
    table = metrics.confusion([1, 1, 0], [0, 1, 2], 3)
    assert table.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert table.dtype == np.int64


def test_f1_of_a_class_that_is_nowhere_is_zero():
    assert metrics.f1_by_class(np.array([[2, 0], [0, 0]])).tolist() == [1.0, 0.0]


def test_calibration_error_by_hand():
    # Bins of width 0.5: {0.3} right 0 of 1, gap 0.3; {0.8, 0.9, 1.0} right 2 of 3,
    # gap |2/3 - 0.9|. Weighted by rows: (0.3 + 3 * (0.9 - 2/3)) / 4 = 0.25.
    confidences, correct = [0.9, 0.3, 0.8, 1.0], [1, 0, 0, 1]
    metric = metrics.CalibrationError(keep_in_memory=True)
    found = metric.compute(predictions=confidences, references=correct, bins=2)
    assert found == {"calibration_error": pytest.approx(0.25, abs=1e-12)}


def test_calibration_error_is_zero_where_confidence_is_right():
    metric = metrics.CalibrationError(keep_in_memory=True)
    found = metric.compute(predictions=[0.75] * 4, references=[1, 1, 1, 0])
    assert found == {"calibration_error": pytest.approx(0.0, abs=1e-12)}


def test_reliability_puts_full_confidence_into_the_last_bin():
    rows = metrics.reliability([1.0, 0.95, 0.05], [1, 0, 1], bins=10)
    assert [(row["rows"], row["accuracy"]) for row in rows] == [(1, 1.0), (2, 0.5)]
    assert [row["confidence"] for row in rows] == pytest.approx([0.05, 0.975])


def half_right(rows):
    predictions = np.zeros(rows, int)
    return predictions, np.arange(rows) % 2


def test_bootstrap_interval_contains_its_value_and_repeats_itself():
    predictions, references = random_labels(3, rows=150)
    for metric in (metrics.accuracy, metrics.macro_f1):
        found = metrics.bootstrap(metric, predictions, references)
        assert found["low"] < found["value"] < found["high"]
        assert found["value"] == metric(predictions, references)
        assert metrics.bootstrap(metric, predictions, references) == found
    other_draws = metrics.bootstrap(metrics.macro_f1, predictions, references, seed=1)
    assert other_draws != found


def test_bootstrap_agrees_with_the_exact_binomial_standard_error():
    rows = 400
    found = metrics.bootstrap(metrics.accuracy, *half_right(rows), repeats=4000)
    standard_error = math.sqrt(0.5 * 0.5 / rows)
    assert found["value"] == 0.5
    assert (found["high"] - found["low"]) / (2 * 1.96) == pytest.approx(standard_error, rel=0.08)


def test_bootstrap_width_shrinks_with_the_root_of_the_rows():
    def width(rows):
        found = metrics.bootstrap(metrics.accuracy, *half_right(rows), repeats=2000)
        return found["high"] - found["low"]

    assert width(100) / width(1600) == pytest.approx(4.0, rel=0.15)


def test_bootstrap_level_is_the_central_share():
    wide = metrics.bootstrap(metrics.accuracy, *half_right(200), level=0.99)
    narrow = metrics.bootstrap(metrics.accuracy, *half_right(200), level=0.5)
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_bootstrap_of_perfect_predictions_has_no_width():
    found = metrics.bootstrap(metrics.accuracy, [1, 0, 1], [1, 0, 1])
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize(("predictions", "references"), [([1], [1, 0]), ([], [])])
def test_bootstrap_refuses_unequal_and_empty_input(predictions, references):
    with pytest.raises(ValueError, match="give one each, and at least one"):
        metrics.bootstrap(metrics.accuracy, predictions, references)
