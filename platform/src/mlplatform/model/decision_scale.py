"""What a model can decide: its outcomes in order, which are alerts, and from which score on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    import numpy as np

Decision = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,30}\Z")]
"""One of a model's outcomes, by the name that answers, records and metrics show."""
MOST_DECISIONS: Final = 20


class DecisionScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcomes of one model.

    Args:
        names: from the lowest score to the highest, which is the strongest.
        alerts: the last of them, which somebody is told of or that turn the request away. Each
            comes with reasons.
    """

    names: tuple[str, ...]
    alerts: tuple[str, ...]

    @property
    def first_alert(self) -> int:
        """The place among the names from which on an outcome is an alert."""
        return len(self.names) - len(self.alerts)

    def alerting(self, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Which outcomes are alerts, by their places among the names."""
        found: np.ndarray[Any, Any] = places >= self.first_alert
        return found

    def begins(self, thresholds: Mapping[str, float]) -> tuple[float, ...]:
        """The thresholds in the order of the names; the first outcome has none.

        Raises:
            KeyError: an outcome has no threshold.
        """
        return tuple(thresholds[name] for name in self.names[1:])

    def places_of(self, other: DecisionScale, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Outcomes by their places on another scale, by their places on this one, in int8; -1 for
        one that this scale lacks."""
        import numpy as np

        known = {name: place for place, name in enumerate(self.names)}
        mine = np.array([known.get(name, -1) for name in other.names], np.int8)
        found: np.ndarray[Any, Any] = mine[places]
        return found


class CutOffs:
    """From scores to outcomes: each begins at its own score and ends where the next one begins.

    Attributes:
        one: gives the outcome for one score. It stands in the path of every request: a function
            with the table at hand takes two thirds of the time of a method that bisects it, as most
            scores are below the first of few thresholds.
        alerts: the outcomes that are alerts.
    """

    __slots__ = ("_begins", "alerts", "one")

    def __init__(self, scale: DecisionScale, thresholds: Mapping[str, float]) -> None:
        first, begins = scale.names[0], scale.begins(thresholds)
        others = tuple(zip(begins, scale.names[1:], strict=True))

        def one(score: float) -> Decision:
            found = first
            for begin, name in others:
                if score < begin:
                    return found
                found = name
            return found

        self._begins, self.one, self.alerts = begins, one, frozenset(scale.alerts)

    def many(self, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Outcomes as their places among the names, from 0, in int8."""
        import numpy as np

        places = np.zeros(np.shape(scores), np.int8)
        for begin in self._begins:
            places += scores >= begin
        return places


EARLIER: Final = DecisionScale(("approve", "review", "decline"), ("review", "decline"))
"""Of bundles and evidence that name none: they were made before model.yaml said it."""
EARLIER_HIDE: Final = ("decline",)
EARLIER_SAFE: Final = "review"


def renewed(section: Any) -> Any:
    """The `decision` section of a model.yaml as earlier releases read it, in today's form; any
    other as it is, for the check of its shape to speak of."""
    if not isinstance(section, dict) or not {"review_share", "decline_share"} <= set(section):
        return section
    if {"outcomes", "thresholds"} & set(section):
        return section
    kept = dict(section)
    shares = {name: kept.pop(f"{name}_share") for name in EARLIER.alerts}
    limit = kept.get("limit")
    if isinstance(limit, dict) and "decline_share" in limit:
        rest = {key: value for key, value in limit.items() if key != "decline_share"}
        kept["limit"] = {"shares": {"decline": limit["decline_share"]}} | rest
    return {
        "outcomes": list(EARLIER.names),
        "alerts": list(EARLIER.alerts),
        "hides_outcome": list(EARLIER_HIDE),
        "safe": EARLIER_SAFE,
        "thresholds": {"shares": shares},
    } | kept
