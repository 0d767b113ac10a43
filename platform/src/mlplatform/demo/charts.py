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

mpl.rcParams["svg.fonttype"] = "none"
PALETTE = ("#2f6690", "#d1495b", "#3a9679", "#edae49", "#7b5ea7", "#8c8c8c", "#00798c", "#b5651d")
PHASE_COLOURS = {
    "deploying": "#c9d6df",
    "shadow": "#7b5ea7",
    "awaiting_approval": "#edae49",
    "canary": "#2f6690",
    "promoted": "#3a9679",
    "confirmed": "#1f6b53",
    "rolled_back": "#d1495b",
}


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


def traffic_shares(
    hours_ms: np.ndarray, counts: Mapping[str, np.ndarray], marks: Sequence[Mark]
) -> str:
    """Which version answered: requests an hour, stacked. Shapes: hours [h], each count [h]."""
    figure, axes = _figure("Requests an hour, by the version that answered", "requests")
    x = _times(hours_ms)
    axes.stackplot(
        x, *counts.values(), labels=list(counts), colors=PALETTE[: len(counts)], linewidth=0
    )
    _legend(axes, len(counts))
    return _finish(figure, axes, marks)


def daily_lines(
    days_ms: np.ndarray,
    lines: Mapping[str, np.ndarray],
    marks: Sequence[Mark],
    title: str,
    unit: str,
) -> str:
    """Daily figures, one line a name; NaN leaves a gap. Shapes: days [d], each line [d]."""
    figure, axes = _figure(title, unit)
    x = _times(days_ms)
    for colour, (name, values) in zip(PALETTE, lines.items(), strict=False):
        axes.plot(x, values, marker="o", markersize=4, color=colour, label=name, linewidth=1.6)
    axes.set_ylim(bottom=0)
    _legend(axes, len(lines))
    return _finish(figure, axes, marks)


def score_histograms(scores: Mapping[str, np.ndarray]) -> str:
    """Distribution of calibrated scores by version, on a logarithmic count axis."""
    figure, axes = _figure("Scores, by version", "share of answers (log)")
    bins = np.linspace(0, 1, 41)
    for colour, (name, values) in zip(PALETTE, scores.items(), strict=False):
        counts, _ = np.histogram(values, bins=bins)
        share = counts / max(counts.sum(), 1)
        axes.stairs(np.maximum(share, 1e-5), bins, color=colour, label=name, linewidth=1.6)
    axes.set_yscale("log")
    axes.set_xlabel("calibrated score (0 to 1)")
    axes.legend(loc="upper right", frameon=False)
    return _svg(figure)


def phases(spans: Sequence[PhaseSpan], marks: Sequence[Mark]) -> str:
    """Each rollout's phases as a bar in event time."""
    rollouts = list(dict.fromkeys(s.rollout for s in spans))
    figure, axes = _figure("Rollouts, phase by phase", "", height=1.0 + 0.5 * len(rollouts))
    for span in spans:
        start, stop = _times(np.array([span.from_ms, span.to_ms]))
        colour = PHASE_COLOURS.get(span.phase.split(" ")[0], "#8c8c8c")
        axes.barh(
            rollouts.index(span.rollout), width=stop - start, left=start, height=0.6, color=colour
        )
    axes.set_yticks(range(len(rollouts)), rollouts)
    axes.invert_yaxis()
    seen = [p for p in PHASE_COLOURS if any(s.phase.startswith(p) for s in spans)]
    handles = [mpl.patches.Patch(color=PHASE_COLOURS[p], label=p.replace("_", " ")) for p in seen]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=7, frameon=False
    )
    return _finish(figure, axes, marks)


def _figure(title: str, unit: str, height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes, columns: int) -> None:
    """Beside the title, where no line can run through it."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=max(columns, 1), fontsize=9
    )


def _finish(figure: Figure, axes: Axes, marks: Sequence[Mark]) -> str:
    top = axes.get_ylim()[1]
    for mark in marks:
        x = _times(np.array([mark.event_ms]))[0]
        axes.axvline(x, color="#444444", linewidth=0.9, linestyle="--")
        axes.annotate(
            mark.text,
            (x, top),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7.5,
            color="#444444",
            xytext=(-2, -2),
            textcoords="offset points",
        )
    locator = mdates.AutoDateLocator(maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    return _svg(figure)


def _times(event_ms: np.ndarray) -> np.ndarray:
    moments = [datetime.fromtimestamp(ms / 1000, UTC) for ms in event_ms.tolist()]
    return np.asarray(mdates.date2num(moments))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
