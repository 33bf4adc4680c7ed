"""Figures that every page uses, in one style.

Each function takes plain numbers, draws with seaborn and shows the figure with an alt text made
from those numbers, so that a reader who cannot see it gets the same facts. Colours are seaborn's
colour-blind palette; markers and line styles repeat what colour says. Figures have a white ground;
the website inverts their lightness in its dark mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.figure import Figure

STYLE = {
    "figure.dpi": 144,
    "figure.figsize": (6.4, 3.6),
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "font.size": 10,
}
MARKERS = ["o", "s", "D", "^", "v", "P", "X"]


@contextmanager
def style():
    """The book's look, inside a `with` block only."""
    palette = sns.color_palette("colorblind")
    with (
        sns.axes_style("whitegrid"),
        plt.rc_context(STYLE),
        palette,
    ):
        yield palette


def show(figure: Figure, alt: str) -> None:
    """Show a figure in the notebook with an alt text, and close it."""
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def curves(history: Sequence[Mapping[str, float]], *, score: str, title: str) -> None:
    """Loss and score by epoch, with the best epoch marked.

    Args:
        history: `Finetuned.history`.
        score: name of the metric drawn on the right, `Task.score`.
    """
    frame = pd.DataFrame(history)
    best = frame.sort_values([score, "validation_loss"], ascending=[False, True]).iloc[0]
    with style() as palette:
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
        for place, part in enumerate(("train", "validation")):
            left.plot(
                frame["epoch"],
                frame[f"{part}_loss"],
                marker=MARKERS[place],
                color=palette[place],
                linestyle=("-", "--")[place],
                label=part,
            )
        left.set(title="Loss", xlabel="epoch", ylabel="nats a label", ylim=(0, None))
        left.legend()
        right.plot(frame["epoch"], frame[score], marker="s", color=palette[1], linestyle="--")
        right.axvline(best["epoch"], color="0.5", linewidth=1)
        # At least a tenth of height, so that a difference of one row does not look like a cliff.
        low, high = frame[score].min() - 0.05, frame[score].max() + 0.05
        right.set(title=f"Validation {score}", xlabel="epoch", ylabel=score, ylim=(low, high))
        for axes in (left, right):
            axes.set_xticks(frame["epoch"])
        figure.suptitle(title)
    by_epoch = "; ".join(
        f"epoch {row.epoch:.0f}: training loss {row.train_loss:.2f}, validation loss "
        f"{row.validation_loss:.2f}, {score} {getattr(row, score):.2f}"
        for row in frame.itertuples()
    )
    show(figure, f"{title}. Two line charts by epoch. {by_epoch}. Best: epoch {best['epoch']:.0f}.")


def confusion(table: np.ndarray, labels: Sequence[str], *, title: str) -> None:
    """A confusion table, true labels down, predicted labels across.

    Args:
        table: counts, (C, C), as `metrics.confusion` gives them.
    """
    with style():
        side = min(0.85 * len(labels), 9)
        figure, axes = plt.subplots(figsize=(1.9 + side, 1.5 + side))
        sns.heatmap(
            table, annot=True, fmt="d", cmap="crest", cbar=False, square=True, linewidths=1,
            xticklabels=labels, yticklabels=labels, ax=axes,
        )  # fmt: skip
        axes.set(title=title, xlabel="predicted", ylabel="true")
    rows = "; ".join(
        f"true {label}: " + ", ".join(f"{n} {other}" for n, other in zip(row, labels, strict=True))
        for label, row in zip(labels, table, strict=True)
    )
    show(figure, f"{title}. Confusion table. {rows}.")


def intervals(table: pd.DataFrame, *, title: str, xlabel: str) -> None:
    """A value with its interval for each row, best at the top.

    Args:
        table: index: names; columns `value`, `low`, `high`.
    """
    table = table.sort_values("value")
    with style() as palette:
        figure, axes = plt.subplots(figsize=(6.4, 1.2 + 0.4 * len(table)))
        places = np.arange(len(table))
        axes.hlines(places, table["low"], table["high"], color=palette[0], linewidth=3, alpha=0.5)
        axes.plot(table["value"], places, "o", color=palette[0])
        axes.set_yticks(places, table.index)
        axes.set(title=title, xlabel=xlabel, ylabel="", ylim=(-0.6, len(table) - 0.4))
    facts = "; ".join(
        f"{name} {row.value:.2f}, from {row.low:.2f} to {row.high:.2f}"
        for name, row in zip(table.index, table.itertuples(), strict=True)
    )
    show(figure, f"{title}. Points with 95 % intervals. {facts}.")


def calibration(bins: Mapping[str, Sequence[Mapping[str, float]]], *, title: str) -> None:
    """Accuracy against stated confidence; on the diagonal they are equal.

    Args:
        bins: model name to the rows of `metrics.reliability`.
    """
    with style() as palette:
        figure, axes = plt.subplots(figsize=(4.6, 4.2))
        axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":", label="calibrated")
        for place, (name, rows) in enumerate(bins.items()):
            frame = pd.DataFrame(rows)
            axes.plot(
                frame["confidence"],
                frame["accuracy"],
                marker=MARKERS[place],
                color=palette[place],
                label=name,
            )
        low = min(row["confidence"] for rows in bins.values() for row in rows)
        axes.set(title=title, xlabel="mean confidence of the bin", ylabel="accuracy of the bin")
        axes.set(xlim=(low - 0.05, 1.02), ylim=(-0.02, 1.02))
        axes.legend()
    facts = "; ".join(
        f"{name}: "
        + ", ".join(f"{row['accuracy']:.2f} at confidence {row['confidence']:.2f}" for row in rows)
        for name, rows in bins.items()
    )
    show(figure, f"{title}. Accuracy by confidence. {facts}.")


def by_size(frame: pd.DataFrame, *, title: str, ylabel: str) -> None:
    """A score by number of training rows, a line a method, with intervals.

    Args:
        frame: columns `method`, `rows`, `value`, `low`, `high`.
    """
    with style() as palette:
        figure, axes = plt.subplots()
        for place, (method, part) in enumerate(frame.groupby("method", sort=False)):
            axes.plot(
                part["rows"], part["value"], marker=MARKERS[place], color=palette[place],
                label=method,
            )  # fmt: skip
            axes.fill_between(
                part["rows"], part["low"], part["high"], color=palette[place], alpha=0.15
            )
        sizes = sorted(frame["rows"].unique())
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(title=title, xlabel="training rows (log scale)", ylabel=ylabel)
        axes.legend()
    facts = "; ".join(
        f"{method}: "
        + ", ".join(f"{row.value:.2f} at {row.rows} rows" for row in part.itertuples())
        for method, part in frame.groupby("method", sort=False)
    )
    show(figure, f"{title}. Lines with 95 % bands. {facts}.")
