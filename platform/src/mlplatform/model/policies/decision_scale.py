"""The possible decisions of a model: its outcomes in order, which of them are alerts, and where
each begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from mlplatform.model.policies.segments import MOST_SEGMENTS, Segment
from mlplatform.model.policies.values import Positive, Text
from mlplatform.runtime.units import DAY_S

Task = Literal["binary", "classes", "real"]
"""The kind of labels: 0 and 1, a class, or a number."""
Decision = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,30}\Z")]
"""One of a model's outcomes, by the name that answers, records and metrics show."""
SCORE_WORDS: Final[Mapping[Task, str]] = {
    "binary": "score",
    "classes": "probability",
    "real": "number",
}
"""How people call what a model gives beside its decision; of classes that of the decided one."""
MOST_DECISIONS: Final = 20
PartShare = Annotated[float, Meta(gt=0, lt=1)]
_Score = Annotated[float, Meta(ge=0, le=1)]


class Quantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The number that a model gives, and that its labels are.

    Args:
        unit: unit of the numbers and labels, as people write it: `EUR`, `days`.
        tolerance: two numbers count as equal if they differ by at most this, in the unit.
        minimum, maximum: end of the range of answers and labels; a number of the graph outside is
            set to the nearer end. None: no end.
    """

    unit: Text
    tolerance: Positive
    minimum: float | None = None
    maximum: float | None = None

    def clamped(self, raw: float) -> float:
        """A graph's number, limited to the range.

        Raises:
            ValueError: the number is NaN or infinite.
        """
        if not math.isfinite(raw):
            raise ValueError(f"the number is {raw}")
        least = raw if self.minimum is None else max(raw, self.minimum)
        return least if self.maximum is None else min(least, self.maximum)

    def clamped_many(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An array of a graph's numbers, limited to the range, in float64; NaN where a number is
        not finite."""
        raw = np.asarray(raw, np.float64)
        least = -math.inf if self.minimum is None else self.minimum
        most = math.inf if self.maximum is None else self.maximum
        return np.where(np.isfinite(raw), np.clip(raw, least, most), np.nan)

    def ends(self, width: float) -> tuple[float, float]:
        """The ends of the range; an undeclared end lies `width` from the other, or from 0."""
        least, most = self.minimum, self.maximum
        if least is None:
            least = 0.0 if most is None else most - width
        return least, least + width if most is None else most

    @property
    def span(self) -> str:
        """The ends of the range, in words."""
        parts = ((self.minimum, "{:g} or more"), (self.maximum, "{:g} or less"))
        ends = [words.format(end) for end, words in parts if end is not None]
        return " and ".join(ends) or "any finite number"

    def admits(self, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Whether each number may be a label."""
        inside: np.ndarray[Any, Any] = self.clamped_many(numbers) == numbers
        return inside


class DecisionScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The outcomes of one model.

    Args:
        names: names of the outcomes, from the lowest score to the highest; for classes, in the
            order of their probabilities.
        alerts: the outcomes that people look at or that refuse the request, and that come with
            reasons: the last of `names`; for classes any of them, or none.
        by_class: whether the outcomes are classes, of which the most probable one is decided;
            otherwise each outcome begins at a score.
        number: the unit and range of a model whose scores are numbers; None if they are
            probabilities. Such a model may have a single outcome, and then gives only its number.
    """

    names: tuple[str, ...]
    alerts: tuple[str, ...]
    by_class: bool = False
    number: Quantity | None = None

    @property
    def task(self) -> Task:
        """The kind of labels of such a model."""
        if self.by_class:
            return "classes"
        return "binary" if self.number is None else "real"

    @property
    def score_word(self) -> str:
        """How people call what such a model gives beside its decision."""
        return SCORE_WORDS[self.task]

    @property
    def can_decide(self) -> bool:
        """Whether the scale can decide: it has two or more outcomes, the last of them alerts; for
        classes, any alerts; for numbers, one or more outcomes, with or without alerts."""
        names, alerts = self.names, self.alerts
        outcomes, flagged = (2, 1) if self.number is None else (1, 0)
        differ = outcomes <= len(set(names)) == len(names)
        if self.by_class:
            return differ and len(set(alerts)) == len(alerts) and set(alerts) <= set(names)
        last = names[self.first_alert :] == alerts
        return differ and flagged <= len(alerts) < len(names) and last

    @property
    def first_alert(self) -> int:
        """The place of the first alert among the names; later outcomes are alerts too."""
        return len(self.names) - len(self.alerts)

    def alerting(self, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Whether each outcome is an alert, by its place among the names."""
        if self.by_class:
            return np.isin(places, [self.names.index(name) for name in self.alerts])
        found: np.ndarray[Any, Any] = places >= self.first_alert
        return found

    def begins(self, thresholds: Mapping[str, float]) -> tuple[float, ...]:
        """The thresholds in the order of the names; the first outcome has none.

        Raises:
            KeyError: an outcome has no threshold.
        """
        return tuple(thresholds[name] for name in self.names[1:])

    def places_of(self, other: DecisionScale, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Places of outcomes on another scale, from their places on this one, in int8; -1 for an
        outcome that the other scale lacks."""
        known = {name: place for place, name in enumerate(self.names)}
        mine = np.array([known.get(name, -1) for name in other.names], np.int8)
        found: np.ndarray[Any, Any] = mine[places]
        return found


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class VolumeLimit(_Strict, frozen=True):
    """The share of customers for whom a bundle may decide an alert before a gateway stops asking
    it.

    Args:
        shares: alert → largest share of the customers for whom it is decided; an alert without an
            entry counts only in `alert_share`.
        alert_share: largest share of the customers for whom any alert is decided.
        once_per_s: seconds within which a customer counts once.
        decisions_per_false_stop: least average number of counted decisions between two stops of a
            bundle that keeps to its limits.
    """

    alert_share: PartShare
    once_per_s: Annotated[float, Meta(gt=0, le=DAY_S)]
    decisions_per_false_stop: Annotated[int, Meta(ge=1_000, le=1_000_000_000_000)]
    shares: dict[Decision, PartShare] = {}


class LabelCosts(_Strict, frozen=True):
    """The cost of one outcome, by the label that the request gets in the end; a gain is
    negative.

    Args:
        negative: cost of a request whose label is 0, in the currency of `thresholds`.
        positive: cost of a request whose label is 1, in the same currency.
    """

    negative: float
    positive: float


class ThresholdSegment(Segment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A segment of the requests with thresholds of its own, by one of the three ways.

    Args:
        input: name of an input that is one number; either this or `field` is given.
        field: name of a request field that an input reads as it is; either this or `input` is
            given. Texts are words that `vocabularies`, or `values` of the field, declare.
        shares: outcome → share of the segment's requests that get it.
        scores: outcome → calibrated score at which it begins; the scores must not fall.
        costs: outcome, the first one included → cost of a request of the segment by its label, in
            `currency`.
    """

    shares: dict[Decision, float] | None = None
    scores: dict[Decision, _Score] | None = None
    costs: dict[Decision, LabelCosts] | None = None


class ThresholdPolicy(_Strict, frozen=True):
    """The score from which each outcome but the first is given, by one of three ways.

    Args:
        shares: outcome → share of all requests that get it; the highest scores get the last
            outcome.
        scores: outcome → calibrated score at which it begins; the scores must not fall.
        costs: outcome, the first one included → cost of a request by its label. Thresholds are
            chosen so that the held-out requests cost least.
        currency: currency of all costs, as an ISO 4217 code.
        segments: segments of the requests with thresholds of their own. The first in which a
            request lies counts; a request in none of them has the thresholds above.
    """

    shares: dict[Decision, float] | None = None
    scores: dict[Decision, _Score] | None = None
    costs: dict[Decision, LabelCosts] | None = None
    currency: Annotated[str, Meta(pattern=r"\A[A-Z]{3}\Z")] | None = None
    segments: Annotated[tuple[ThresholdSegment, ...], Meta(max_length=MOST_SEGMENTS)] = ()


class DecisionPolicy(_Strict, frozen=True):
    """The decisions of the model, their thresholds, and the limit at which a bundle is stopped.

    Args:
        outcomes: names of the outcomes, from the lowest score to the highest. A name must keep its
            meaning as long as the model exists, because records hold it.
        alerts: the outcomes that are alerts: the last of `outcomes`.
        hides_outcome: outcomes after which no label can arrive: nobody can report how a refused
            request would have ended. Without a label, such a request is unknown and not negative.
        safe: the outcome if nothing can decide.
        thresholds: from which score on each outcome but the first is given.
        capacity: share of requests for which people have time as alerts; None: the shares of
            `thresholds`, where these have no segments.
        limit: the share of alerts at which gateways stop asking a bundle; None: there is no limit.
    """

    by_class: ClassVar[bool] = False
    """Whether the outcomes are classes (`policies.classes`)."""

    outcomes: Annotated[tuple[Decision, ...], Meta(min_length=2, max_length=MOST_DECISIONS)]
    alerts: tuple[Decision, ...]
    hides_outcome: tuple[Decision, ...]
    safe: Decision
    thresholds: ThresholdPolicy
    capacity: PartShare | None = None
    limit: VolumeLimit | None = None

    @property
    def scale(self) -> DecisionScale:
        """The outcomes and alerts, as a bundle carries them."""
        return DecisionScale(self.outcomes, self.alerts, by_class=self.by_class)

    @property
    def alert_share(self) -> float:
        """The share of requests that may be alerts: as many as people can look at."""
        shares = self.thresholds.shares or {}
        planned = sum(shares.get(name, 0.0) for name in self.alerts)
        return planned if self.capacity is None else self.capacity


class ReviewPolicy(_Strict, frozen=True):
    """The decisions that analysts review, and the rule by which their opinions become a label.

    Args:
        outcomes: decisions that are reviewed; empty: alerts, and decisions that hide their outcome.
        shows: request fields that the page shows with score and reasons; a field that identifies a
            person is not allowed.
        four_eyes: whether a label needs the same answer of two people.
        days: days of event time for which a decision waits for review.
    """

    outcomes: tuple[Decision, ...] = ()
    shows: tuple[str, ...] = ()
    four_eyes: bool = False
    days: Annotated[int, Meta(ge=1, le=366)] = 30

    def reviewed(self, decision: DecisionPolicy) -> tuple[Decision, ...]:
        """The outcomes that are reviewed, in the order of the model's scale; empty if labels are
        not 0 and 1."""
        if decision.scale.task != "binary":
            return ()
        wanted = set(self.outcomes) or {*decision.alerts, *decision.hides_outcome}
        return tuple(name for name in decision.outcomes if name in wanted)


EARLIER: Final = DecisionScale(("approve", "review", "decline"), ("review", "decline"))
"""The scale of bundles and evidence without a scale, from before model.yaml declared it."""
EARLIER_HIDE: Final = ("decline",)
EARLIER_SAFE: Final = "review"


def renewed(section: Any) -> Any:
    """The `decision` section of an earlier release's model.yaml in today's form; any other section
    unchanged, for the check of its shape to report."""
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
