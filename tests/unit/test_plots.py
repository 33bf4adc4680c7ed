"""Figures: each draws on small data and says its numbers in words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from utils import plots


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show: a list of `(figure, alt)`; every figure is really drawn."""
    found = []

    def display(figure, metadata):
        figure.canvas.draw()
        found.append((figure, metadata["image/png"]["alt"]))

    monkeypatch.setattr(plots, "display", display)
    yield found
    plt.close("all")


def the_one(shown):
    ((figure, alt),) = shown
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []  # shown once: closed, so no cell shows it again
    return figure, alt


HISTORY = [
    {"epoch": 1, "train_loss": 0.61, "validation_loss": 0.52, "accuracy": 0.71},
    {"epoch": 2, "train_loss": 0.33, "validation_loss": 0.41, "accuracy": 0.83},
    {"epoch": 3, "train_loss": 0.12, "validation_loss": 0.55, "accuracy": 0.83},
]


def test_curves(shown):
    plots.curves(HISTORY, score="accuracy", title="Full fine-tuning")
    figure, alt = the_one(shown)
    assert alt == (
        "Full fine-tuning. Two line charts by epoch. epoch 1: training loss 0.61, validation loss "
        "0.52, accuracy 0.71; epoch 2: training loss 0.33, validation loss 0.41, accuracy 0.83; "
        "epoch 3: training loss 0.12, validation loss 0.55, accuracy 0.83. Best: epoch 2."
    )
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines] == [
        [0.61, 0.33, 0.12],
        [0.52, 0.41, 0.55],
    ]
    assert right.lines[0].get_ydata().tolist() == [0.71, 0.83, 0.83]
    assert right.lines[1].get_xdata()[0] == 2  # the mark of the best epoch


def test_curves_of_one_epoch(shown):
    plots.curves(HISTORY[:1], score="accuracy", title="One")
    assert the_one(shown)[1].endswith("Best: epoch 1.")


def test_confusion(shown):
    plots.confusion(np.array([[5, 1], [2, 7]]), ["negative", "positive"], title="Test rows")
    figure, alt = the_one(shown)
    assert alt == (
        "Test rows. Confusion table. true negative: 5 negative, 1 positive; "
        "true positive: 2 negative, 7 positive."
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["5", "1", "2", "7"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_intervals(shown):
    table = pd.DataFrame(
        {"value": [0.91, 0.72], "low": [0.88, 0.66], "high": [0.94, 0.78]}, index=["full", "tfidf"]
    )
    plots.intervals(table, title="Accuracy", xlabel="accuracy")
    figure, alt = the_one(shown)
    assert "full 0.91, from 0.88 to 0.94" in alt
    assert "tfidf 0.72, from 0.66 to 0.78" in alt
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["tfidf", "full"]  # from below: the best at the top
    assert axes.lines[0].get_xdata().tolist() == [0.72, 0.91]


def test_calibration(shown):
    rows = [
        {"rows": 4, "confidence": 0.62, "accuracy": 0.5},
        {"rows": 9, "confidence": 0.97, "accuracy": 0.89},
    ]
    plots.calibration({"full": rows, "frozen": rows[:1]}, title="Calibration")
    figure, alt = the_one(shown)
    assert alt == (
        "Calibration. Accuracy by confidence. full: 0.50 at confidence 0.62, 0.89 at confidence "
        "0.97; frozen: 0.50 at confidence 0.62."
    )
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines[1:]] == [[0.5, 0.89], [0.5]]


def test_by_size(shown):
    points = [
        {"method": "full", "rows": 50, "value": 0.7, "low": 0.6, "high": 0.8},
        {"method": "full", "rows": 400, "value": 0.9, "low": 0.85, "high": 0.93},
        {"method": "tfidf", "rows": 50, "value": 0.55, "low": 0.45, "high": 0.64},
        {"method": "tfidf", "rows": 400, "value": 0.72, "low": 0.66, "high": 0.78},
    ]
    plots.by_size(pd.DataFrame(points), title="Learning curve", ylabel="accuracy")
    figure, alt = the_one(shown)
    assert "full: 0.70 at 50 rows, 0.90 at 400 rows" in alt
    assert "tfidf: 0.55 at 50 rows, 0.72 at 400 rows" in alt
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "400"]
    assert axes.get_ylabel() == "accuracy"


def test_figures_have_titles_and_axis_labels(shown):
    plots.confusion(np.eye(3, dtype=int), list("abc"), title="Three")
    plots.by_size(
        pd.DataFrame([{"method": "m", "rows": 5, "value": 0.5, "low": 0.4, "high": 0.6}]),
        title="One point",
        ylabel="accuracy",
    )
    for figure, _ in shown:
        for axes in figure.axes:
            assert axes.get_title()
            assert axes.get_xlabel()
            assert axes.get_ylabel()


def test_style_does_not_leak_out_of_its_block():
    before = dict(plt.rcParams)
    with plots.style():
        assert plt.rcParams["figure.dpi"] == 144
    assert dict(plt.rcParams) == before
