"""One gate: its limits, and its verdict in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mlplatform.model.policies.decision_scale import Task
from mlplatform.rollouts.journal.evidence import Verdict
from mlplatform.rollouts.verdicts.statistics import (
    SHRINKAGE_HITS,
    ClusterSums,
    Difference,
    change_of_champion,
)
from mlplatform.runtime.figures import percent

NEARLY_CERTAIN = 0.001
"""An error below this is written as "more than 99.9 % certain"; more digits tell a reader
nothing."""
EXPECTED: Final = "the number expected"
NOT_ASKED: Final = "This step has no tolerance, so nothing more has to be shown."
"""A sentence about a gate that a step asks for nothing but its limit."""
LEAST_IN_TWO_PLACES = 0.001
"""A share below this is written with more than two decimal places."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One question and its answer, with the numbers behind it.

    Args:
        holds: whether the rollout waits while the gate is inconclusive. An unhealthy gate always
            stops it.
    """

    name: str
    verdict: Verdict
    reason: str
    values: dict[str, float | int | None]
    holds: bool = True

    @property
    def headline(self) -> str:
        """The first sentence of the reason: the verdict in plain words."""
        sentence = self.reason.partition(". ")[0].rstrip(".")
        return f"{sentence[:1].upper()}{sentence[1:]}."


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture of a gate's interval over time, by names of values in its evidence.

    Args:
        axis: label of the vertical axis.
        unit: unit of the harm.
        harm: side on which values are harm: `more`; `either`; `fewer`, below `band_low`; `slower`,
            over the allowed ratio.
        stops: whether the value `stop` is a line above which the challenger is stopped.
        arms: words for the two arms' own numbers; empty if they need none.
        of_arms: names of the challenger's and the champion's value.
        arm_unit: unit of these two values; `ms` for values in microseconds.
    """

    axis: str
    unit: Literal["percent", "points"]
    harm: Literal["more", "either", "fewer", "slower"]
    stops: bool = False
    arms: str = ""
    of_arms: tuple[str, str] = ("challenger", "champion")
    arm_unit: Literal["percent", "ms"] = "percent"


@dataclass(frozen=True, slots=True)
class PairWords:
    """The words for pairs that the arms decided differently, by a model's task."""

    topic: str
    lacking: str
    counted: str


PAIRS: Final = "requests"
"""Name of the number of compared requests in the values of the gate on disagreement."""
BY_ALERTS: Final = PairWords(
    "alerts",
    "neither arm raised an alert on a request that both decided",
    "Only one of the arms raised an alert on {only:,} of the {either:,} requests with an alert",
)
"""The words where a prediction of an earlier release counts only alerts of one arm alone."""
PAIR_WORDS: Final[Mapping[Task, PairWords]] = {
    "binary": PairWords("alerts",
        "neither arm raised an alert on a request that both decided",
        "Of the {either:,} requests with an alert of either arm, the arms decided {only:,} "
        "differently"),
    "classes": PairWords("classes", "no request was decided by both arms",
        "The arms decided different classes for {only:,} of {either:,} requests"),
    "real": PairWords("numbers", "no request got a number from both arms",
        "The arms' numbers lie further apart than the tolerance for {only:,} of {either:,} "
        "requests"),
}  # fmt: skip


def number_of(value: float) -> float | None:
    """The number, rounded so that it is the same on every machine; None if it is not finite."""
    return round(value, 9) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Errors:
    """The error rates of a gate, at one side of one step.

    Args:
        stop: probability of stopping a challenger that is at the limit.
        missed: probability of passing a challenger whose harm is at the tolerance.
        parts: gate → number of times that it has `stop`, where that is more than once.
    """

    stop: float
    missed: float
    parts: Mapping[str, int] = field(default_factory=dict)

    def of(self, gate: str) -> Errors:
        """The errors of one gate."""
        return Errors(self.stop * self.parts.get(gate, 1), self.missed)


@dataclass(frozen=True, slots=True)
class Bound:
    """The two bounds of a gate: a challenger is stopped above the limit and passes below the
    tolerance.

    Args:
        tolerance: harm below which it passes; None if the step does not ask, and then only proven
            harm is reported.
    """

    limit: float
    tolerance: float | None

    def verdict(self, stop_low: float, pass_high: float, counted: float = 0.0) -> Verdict:
        """The verdict on harm between `stop_low` and `pass_high`; NaN proves nothing.

        Args:
            counted: harm by what was counted; while it is above the limit, the step waits.
        """
        if stop_low > self.limit:
            return "UNHEALTHY"
        if self.tolerance is None or (pass_high <= self.tolerance and counted <= self.limit):
            return "HEALTHY"
        return "INCONCLUSIVE"


Effect = TypeVar("Effect", float, npt.NDArray[np.float64])
ASSUMED_HITS = 2
"""Hits, and as many others, assumed beside those that a replay counted."""


def _effect(known: float, hits: float, assumed: Effect) -> Effect:
    """A design effect known from so many hits, and the assumed one as `SHRINKAGE_HITS` more."""
    return (hits * known + SHRINKAGE_HITS * assumed) / (hits + SHRINKAGE_HITS)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of a replay of recent requests through both bundles.

    Args:
        alert_ratio: challenger's share of alerts divided by the champion's.
        alert_share: challenger's share of alerts among all requests; None if its report does not
            say.
        replayed: whether both versions were replayed. If not, the other numbers describe arms that
            decide alike, and a disagreement proves nothing.
        disagreement: share of the requests with an alert of either arm that the arms decide
            differently.
        requests: number of requests that both versions decided; 0 if it is not known, and then the
            other numbers count as exact.
        design_effect, flip_design_effect: of the difference between the arms' alerts in the replay,
            and of the requests that they decide differently; None if its report does not say.
        alone: share of the requests with an alert of either arm on which only one arm raises it;
            None if its report says nothing else, so that `disagreement` is this share.
    """

    alert_ratio: float
    disagreement: float
    alert_share: float | None = None
    replayed: bool = True
    requests: int = 0
    design_effect: float | None = None
    flip_design_effect: float | None = None
    alone: float | None = None

    @property
    def by_decision(self) -> bool:
        """Whether requests with an alert of both arms, but with another decision, count as
        disagreement."""
        return self.alone is not None

    def pair_words(self, task: Task) -> PairWords:
        """The words for pairs that the arms decided differently."""
        return BY_ALERTS if task == "binary" and not self.by_decision else PAIR_WORDS[task]

    @property
    def one_sided(self) -> float:
        """The share of the requests with an alert of either arm on which only one arm raises it."""
        return self.disagreement if self.alone is None else self.alone

    def ratio_variance(self, assumed_effect: Effect) -> Effect:
        """The ratio's variance, as a share of the ratio. It grows with the alerts that only one arm
        raised, and with how these cluster by customer.

        Few such alerts show little: two more of them are assumed, and the assumed effect counts
        too.

        Args:
            assumed_effect: design effect where the replay's report does not say.
        """
        if not self.requests or not self.alert_share or not self.alert_ratio:
            return 0.0 * assumed_effect
        own, other = self.alert_share, self.alert_share / self.alert_ratio
        alone = max(own + other - 2 * self._both(own, other), 0.0)
        plain = 1 / (own * other * self.requests)
        if self.design_effect is None:  # as before reports said it
            return alone * plain * assumed_effect
        effect = _effect(self.design_effect, alone * self.requests, assumed_effect)
        return (alone + ASSUMED_HITS / self.requests) * plain * effect

    def disagreement_variance(self, assumed_effect: Effect) -> Effect:
        """The variance of the share on which the arms disagree, as a replay of so few tells it; 0
        where its report does not say how such requests cluster.

        Source: Agresti and Coull (1998), Approximate is better than exact: two hits and two others
        are added.
        """
        if not self.requests or self.flip_design_effect is None:
            return 0.0 * assumed_effect
        trials = float(self.requests)
        if self.alert_share and self.alert_ratio:
            own, other = self.alert_share, self.alert_share / self.alert_ratio
            trials *= own + other - self._both(own, other)
        hits, added = self.disagreement * trials, trials + 2 * ASSUMED_HITS
        share = (hits + ASSUMED_HITS) / added
        return share * (1 - share) / added * _effect(self.flip_design_effect, hits, assumed_effect)

    def _both(self, own: float, other: float) -> float:
        return (own + other) * (1 - self.one_sided) / (2 - self.one_sided)

    def champion_change(self, view: ClusterSums) -> float:
        """The distance of the champion's share of alerts from that in replay, in standard errors;
        infinite without a replay."""
        if not self.requests or not self.alert_share or not self.alert_ratio:
            return math.inf
        return abs(change_of_champion(view, self.alert_share / self.alert_ratio, self.requests))


ALIKE = Prediction(alert_ratio=1.0, disagreement=0.0, replayed=False)
"""The prediction if nothing is known of this pair of versions: both raise as many alerts."""


@dataclass(frozen=True, slots=True)
class Harm:
    """The harm of the challenger, between two bounds.

    Args:
        proven: text of the lower bound, as a clause.
        excluded: text of the upper bound, as a clause.
        still_open: text of an upper bound that is too high, as a clause.
        figures: what was counted, in sentences.
        stop_low, pass_high: the two bounds; NaN if nothing can be said.
        unit: writes a harm as text, with what it is a share of.
        counted: harm by what was counted. A step does not pass while it is above the limit.
    """

    proven: str
    excluded: str
    still_open: str
    figures: str
    stop_low: float
    pass_high: float
    unit: Callable[[float], str]
    counted: float = 0.0


def harm_gate(
    name: str, harm: Harm, bound: Bound, errors: Errors, values: dict[str, float | int | None]
) -> Gate:
    """The gate on a harm, in three sentences: the verdict, the figures, and the requirement."""
    verdict = bound.verdict(harm.stop_low, harm.pass_high, harm.counted)
    if verdict == "UNHEALTHY":
        sentence = f"{harm.proven} ({certainty_text(errors.stop)})."
        asked = f"The limit is {harm.unit(bound.limit)}."
    elif bound.tolerance is None:
        sentence = (
            "No harm beyond the limit is proven. "
            f"{harm.still_open} ({certainty_text(errors.missed)})."
        )
        asked = f"The limit is {harm.unit(bound.limit)}. {NOT_ASKED}"
    else:
        shown = harm.excluded if verdict == "HEALTHY" else harm.still_open
        sentence = f"{shown} ({certainty_text(errors.missed)})."
        asked = allowed_text(harm.unit, bound.tolerance, bound.limit, harm.counted)
    held_to = {
        "stop": bound.limit, "limit": bound.tolerance, "proven": number_of(harm.stop_low)
    }  # fmt: skip
    return Gate(name, verdict, f"{sentence} {harm.figures} {asked}", values | held_to)


def allowed_text(
    unit: Callable[[float], str], tolerance: float, limit: float, counted: float
) -> str:
    """The sentences on what a step allows and on whether what was counted keeps it waiting."""
    allowed = f"This step allows up to {unit(tolerance)}."
    if counted > limit:
        return f"{allowed} What was counted is beyond the limit of {unit(limit)}."
    return allowed


def difference_values(found: Difference) -> dict[str, float | int | None]:
    """A difference of two arms in the form of evidence."""
    return {
        "share": number_of(found.value),
        "low": number_of(found.pass_low),
        "high": number_of(found.pass_high),
        "challenger": number_of(found.challenger),
        "champion": number_of(found.champion),
        "expected": number_of(found.expected),
        "trials": found.trials,
    }


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    written = rounded(100 * share)
    return f"{written} percentage point{'' if written == '1' else 's'}"


def points_fewer(share: float) -> str:
    """A loss in percentage points, in words."""
    return f"{points(share)} fewer"


def rounded(value: float) -> str:
    """A number to two significant digits, or as a whole number if it has more digits before the
    point."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"


def change_text(share: float) -> str:
    """A change in words: percent above or below, or from twice as many on, how many times."""
    if share >= 1:
        return f"{rounded(1 + share)} times"
    return f"{in_percent(-share)} below" if share < 0 else f"{in_percent(share)} above"


def deviation_text(share: float) -> str:
    """A deviation to either side of the number expected; from a whole on there is none below."""
    change = f"{in_percent(share)} above or below" if share < 1 else change_text(share)
    return f"{change} {EXPECTED}"


def fraction(hits: int, trials: int, what: str) -> str:
    """Hits among trials in words, with their share if there are any trials."""
    if not trials:
        return f"{hits:,} of {trials:,} {what}"
    share = hits / trials
    few = 0 < share < LEAST_IN_TWO_PLACES
    return f"{hits:,} of {trials:,} {what} ({in_percent(share) if few else percent(share)})"


def in_percent(share: float) -> str:
    """A bound in percent, rounded as by `rounded`."""
    return f"{rounded(100 * share)} %"


def certainty_text(error_share: float) -> str:
    """The certainty of a bound, in words."""
    if error_share < NEARLY_CERTAIN:
        return f"more than {100 * (1 - NEARLY_CERTAIN):g} % certain"
    return f"{100 * (1 - error_share):.3g} % certain"
