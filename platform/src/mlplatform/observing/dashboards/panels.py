"""The content of dashboards as values: rows of panels, their queries, units and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from mlplatform.runtime.telemetry import signals

Kind = Literal["stat", "lines", "stacked", "bars", "heat", "states", "logs", "traces"]
Store = Literal["prometheus", "loki", "tempo"]
Colour = Literal["green", "yellow", "orange", "red", "blue", "text"]
Words = Mapping[str, tuple[str, Colour]]

WIDTH: Final = 24
"""Number of columns of Grafana's grid."""
HEIGHTS: Final[dict[Kind, int]] = {
    "stat": 4, "lines": 8, "stacked": 8, "bars": 8, "heat": 8, "states": 6, "logs": 8, "traces": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """A query to a store.

    Args:
        legend: name of each series; `{{}}` encloses a label.
        exemplars: whether to ask also for exemplars, the points that lead to traces.
    """

    text: str
    legend: str = ""
    exemplars: bool = False


def requests(which: str) -> Query:
    """Spans of requests by TraceQL, with the ids of their decisions.

    Args:
        which: TraceQL condition on a span.
    """
    return Query(f"{{ {which} }} | select(span.{signals.DECISION_ID.name})")


@dataclass(frozen=True, slots=True)
class PanelLimits:
    """Colours of values: `first`, then another colour from each value on."""

    first: Colour
    then: tuple[tuple[float, Colour], ...] = ()


NO_LIMITS: Final = PanelLimits("text")


def at_most(*limits: float) -> PanelLimits:
    """Green up to the first limit, yellow over it, red over the last of several."""
    colours: tuple[Colour, ...] = ("red",) if len(limits) == 1 else ("yellow", "red")
    return PanelLimits("green", tuple(zip(limits, colours, strict=True)))


def at_least(limit: float) -> PanelLimits:
    return PanelLimits("red", ((limit, "green"),))


@dataclass(frozen=True, slots=True)
class Link:
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        what: what the panel shows and what to conclude from it; shown at a question mark on the
            panel.
        unit: one of Grafana's units.
        words: value → text that is shown instead, with its colour.
        empty: text that is shown if there is no data.
        links: links from each value to further information.
    """

    kind: Kind
    title: str
    what: str
    queries: tuple[Query, ...]
    unit: str = "short"
    limits: PanelLimits = NO_LIMITS
    width: int = 8
    store: Store = "prometheus"
    words: Words = field(default_factory=dict)
    empty: str = ""
    named: bool = False
    links: tuple[Link, ...] = ()
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; its file and its address are named after `name`.

    Args:
        of_model: whether it shows one model, which the reader chooses at the top.
    """

    name: str
    title: str
    what: str
    rows: tuple[Row, ...]
    of_model: bool = True
    links: tuple[Link, ...] = ()
    window: str = "now-6h"


@dataclass(frozen=True, slots=True)
class GridPosition:
    x: int
    y: int
    width: int
    height: int


def places(row: Row, top: int) -> list[GridPosition]:
    """Positions of a row's panels, from left to right and then below; `top` is the first line."""
    found, x, y, tallest = [], 0, top, 0
    for panel in row.panels:
        if x + panel.width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        height = HEIGHTS[panel.kind]
        found.append(GridPosition(x, y, panel.width, height))
        x, tallest = x + panel.width, max(tallest, height)
    return found
