"""Curves of a run as pictures for MLflow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlplatform.learning.training.curves import CalibrationBins

DPI: Final = 100
COLOURS: Final = ("#1f5fa8", "#c26a1a")
"""Colours of the candidate and of the champion, which people who see no red or green can tell
apart."""
DASHES: Final = ("-", "--")
MARKS: Final = ("o", "s")


def precision_recall_picture(curves: Mapping[str, NDArray[np.float64]]) -> bytes:
    """A PNG of curves by arm, each recall and precision [points, 2]."""
    axes = _axes("Precision and recall on the held-out days", "recall", "precision")
    for (arm, curve), colour, dashes in zip(curves.items(), COLOURS, DASHES, strict=False):
        axes.plot(curve[:, 0], curve[:, 1], dashes, color=colour, label=arm)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _png(axes)


def calibration_picture(bins: Mapping[str, CalibrationBins]) -> bytes:
    """A PNG of mean score against share of positives by arm, on logarithmic scales."""
    axes = _axes("Calibration on the days of the gates", "mean score", "share of positives")
    for (arm, found), colour, mark in zip(bins.items(), COLOURS, MARKS, strict=False):
        axes.plot(found.predicted, found.actual, mark, color=colour, label=arm, fillstyle="none")
    axes.axline((0, 0), slope=1, color="#888888", linewidth=1)
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return _png(axes)


def histogram_picture(counts: NDArray[np.int64], thresholds: Mapping[str, float]) -> bytes:
    """A PNG of the candidate's scores, negatives and positives [bins, 2], and its thresholds."""
    axes = _axes("Scores on the days of the gates", "score", "requests")
    edges = np.linspace(0, 1, len(counts) + 1)
    for column, label in enumerate(("negative", "positive")):
        axes.stairs(counts[:, column], edges, color=COLOURS[column], label=label, fill=False)
    for name, begin in thresholds.items():
        axes.axvline(begin, color="#888888", linestyle="--", linewidth=1)
        axes.annotate(name, (begin, 1), xycoords=("data", "axes fraction"), rotation=90, va="top")
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlim=(0, 1))
    return _png(axes)


def importances_picture(names: Sequence[str], lost: Sequence[float]) -> bytes:
    """A PNG of the inputs by importance, the first one on top."""
    return _bars("Average precision lost with an input shuffled", "loss", names, lost)


def parameters_picture(shares: Mapping[str, float]) -> bytes:
    """A PNG of hyper-parameters by their importance for the best tenth of trials."""
    title = "What matters for the best tenth of the trials (PED-ANOVA)"
    return _bars(title, "share", list(shares), list(shares.values()))


def _bars(title: str, x: str, names: Sequence[str], values: Sequence[float]) -> bytes:
    axes = _axes(title, x, "")
    axes.barh(range(len(names)), values, color=COLOURS[0])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    return _png(axes)


def _axes(title: str, x: str, y: str) -> Axes:
    figure = Figure(figsize=(6.4, 4.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def _png(axes: Axes) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure: Any = axes.figure
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
