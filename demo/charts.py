"""The pictures of the demo's report: SVG text from plain arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import matplotlib as mpl
import numpy as np
from matplotlib import dates as mdates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

mpl.rcParams["svg.fonttype"] = "none"
PALETTE = ("#2f6690", "#e08e45", "#3a9679", "#7b5ea7", "#d1495b", "#8c8c8c", "#00798c", "#b5651d")
PHASES = {
    "deploying": ("deploying", "#c9d6df"),
    "shadow": ("shadow", "#7b5ea7"),
    "awaiting_approval": ("awaiting approval", "#edae49"),
    "canary": ("canary", "#2f6690"),
    "promoted": ("champion, provisionally", "#7cc4a8"),
    "confirmed": ("champion, confirmed", "#1f6b53"),
    "rolled_back": ("rolled back", "#d1495b"),
}
"""What a phase is called in the picture, and its colour."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an event time, drawn as a vertical line."""

    event_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One phase of one rollout, in event time."""

    rollout: str
    phase: str
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG with its title, and a sentence on how to read it."""

    title: str
    note: str
    svg: str


def traffic_shares(
    hours_ms: np.ndarray, counts: Mapping[str, np.ndarray], marks: Sequence[Mark]
) -> str:
    """Which version answered: requests an hour, stacked. Shapes: hours [h], each count [h]."""
    figure, axes = _figure("requests an hour")
    x = _times(hours_ms)
    colours = [_colour(i) for i in range(len(counts))]
    axes.stackplot(x, *counts.values(), labels=list(counts), colors=colours, linewidth=0)
    axes.set_xlim(x[0], x[-1])
    return _finish(figure, axes, marks)


def daily_lines(days_ms: np.ndarray, lines: Mapping[str, np.ndarray], marks: Sequence[Mark]) -> str:
    """Daily shares (0-1), one line a name; NaN leaves a gap. Shapes: days [d], each line [d]."""
    figure, axes = _figure("")
    x = _times(days_ms)
    for i, (name, values) in enumerate(lines.items()):
        axes.plot(x, values, marker="o", markersize=4, color=_colour(i), label=name, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    return _finish(figure, axes, marks)


def score_histograms(scores: Mapping[str, np.ndarray]) -> str:
    """Distribution of calibrated scores by version, on a logarithmic axis; empty bins are gaps."""
    figure, axes = _figure("share of answers (log)")
    bins = np.linspace(0, 1, 41)
    for i, (name, values) in enumerate(scores.items()):
        counts, _ = np.histogram(values, bins=bins)
        share = np.where(counts > 0, counts / max(counts.sum(), 1), np.nan)
        axes.stairs(share, bins, baseline=None, color=_colour(i), label=name, linewidth=1.6)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.set_xlabel("calibrated score: the chance of fraud, 0 to 1")
    _legend(figure)
    return _svg(figure)


def phases(spans: Sequence[PhaseSpan], marks: Sequence[Mark]) -> str:
    """Each rollout's phases as a bar in event time."""
    rollouts = list(dict.fromkeys(s.rollout for s in spans))
    figure, axes = _figure("", height=1.3 + 0.5 * len(rollouts))
    seen: dict[str, str] = {}
    for span in spans:
        start, stop = _times(np.array([span.from_ms, span.to_ms]))
        words, colour = PHASES.get(span.phase.split(" ")[0], (span.phase, "#8c8c8c"))
        seen[words] = colour
        place = rollouts.index(span.rollout)
        axes.barh(place, width=stop - start, left=start, height=0.6, color=colour)
    axes.set_yticks(range(len(rollouts)), rollouts)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    order = [words for words, _ in PHASES.values() if words in seen]
    handles = [mpl.patches.Patch(color=seen[words], label=words) for words in order]
    figure.legend(handles=handles, loc="outside lower left", ncols=7, frameon=False, fontsize=9)
    return _finish(figure, axes, marks, legend=False)


def _figure(unit: str, height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(10.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]


def _legend(figure: Figure) -> None:
    """Above everything, where neither a line nor a mark's text can run through it."""
    figure.legend(loc="outside upper right", frameon=False, ncols=8, fontsize=9)


def _finish(figure: Figure, axes: Axes, marks: Sequence[Mark], *, legend: bool = True) -> str:
    first, last = axes.get_xlim()
    for mark in marks:
        x = _times(np.array([mark.event_ms]))[0]
        axes.axvline(x, color="#1d2733", linewidth=0.9, linestyle="--")
        late = (x - first) > 0.8 * (last - first)
        axes.annotate(
            mark.text,
            (x, 1.0),
            xycoords=("data", "axes fraction"),
            ha="right" if late else "left",
            va="bottom",
            fontsize=9,
            color="#1d2733",
            xytext=(3 if late else -3, 3),
            textcoords="offset points",
        )
    if legend:
        _legend(figure)
    locator = mdates.AutoDateLocator(maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, show_offset=False))
    axes.xaxis.get_major_formatter().formats[2] = "%d %b"  # type: ignore[attr-defined]
    return _svg(figure)


def _times(event_ms: np.ndarray) -> np.ndarray:
    moments = [datetime.fromtimestamp(ms / 1000, UTC) for ms in event_ms.tolist()]
    return np.asarray(mdates.date2num(moments))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
