"""The slow gate: matured labels of two arms that decided the same requests.

In shadow every request has a score of both arms, so both can be held to the same outcomes. Far
fewer positives are enough than between arms that answered different customers. A request that the
champion stopped has no outcome, unless it was let through to learn of it; bounds leave that open
(`hidden`). Labels come days later, so a promotion is provisional until they have come.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.journal.evidence import Verdict
from mlplatform.rollouts.verdicts.delays import ArrivedShare
from mlplatform.rollouts.verdicts.facts import Flags
from mlplatform.rollouts.verdicts.hidden_outcomes import (
    MetricBounds,
    PartialOutcomes,
    interval,
    precision,
    recall,
    recall_difference,
)
from mlplatform.rollouts.verdicts.statistics import (
    ClusterSums,
    rise_of_mean,
    share_difference,
)
from mlplatform.rollouts.verdicts.verdict import (
    Bound,
    Errors,
    Gate,
    Harm,
    allowed_text,
    certainty_text,
    difference_values,
    harm_gate,
    in_percent,
    number_of,
    points,
    points_fewer,
)
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.units import DAY_MS

NAME = "recall"
ACCURACY = "accuracy"
ERROR = "error"
_REQUESTS: Final = "of the requests than the version before it"
POSITIVES = "positives"
LABELS = ("negative", "positive")
"""Names of the labels 0 and 1 in a gate's values."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Requests of one shadow generation that both arms scored.

    Arrays may leave out requests that are known to be negative and that neither arm ranks among its
    highest; only their number is needed.

    Args:
        requests: outcomes by the last label that has arrived; outcomes of stopped requests are not
            seen.
        challenger, champion: scores of each arm, one for each request.
        immature: number of requests without a label that may still get one; the arrays leave them
            out.
        silent: no label of any decision has arrived since the generation's last request.
        arrived_shares: shares of the labels that have come: of positives, and of negatives if
            anybody reports them.
        others: number of requests that are in no array.
    """

    requests: PartialOutcomes
    challenger: npt.NDArray[np.float64]
    champion: npt.NDArray[np.float64]
    immature: int
    silent: bool
    arrived_shares: Mapping[str, ArrivedShare]
    others: int = 0

    def __len__(self) -> int:
        return len(self.requests.unit) + self.others

    @property
    def hidden(self) -> int:
        """The number of requests that were stopped and have no label; nobody can know their
        outcome."""
        return int((~self.requests.seen).sum())


@dataclass(frozen=True, slots=True, eq=False)
class LabelledClasses:
    """How often each arm's class was not that of the label, on the labelled requests of one shadow
    generation.

    Args:
        wrong: sums over customers; a hit is a request for which an arm decided another class.
        immature: number of requests without a label that may still get one.
        silent: as in `Outcomes`.
    """

    wrong: ClusterSums
    immature: int
    silent: bool

    def __len__(self) -> int:
        return self.wrong.challenger_trials


@dataclass(frozen=True, slots=True, eq=False)
class LabelledNumbers:
    """Labelled requests of one shadow generation that both arms gave numbers for.

    Args:
        challenger, champion, labels: numbers of each arm and of the labels, one for each request.
        immature, silent: as in `LabelledClasses`.
    """

    unit: npt.NDArray[np.int64]
    challenger: npt.NDArray[np.float64]
    champion: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    immature: int
    silent: bool

    def __len__(self) -> int:
        return len(self.unit)


def accuracy_gate(seen: LabelledClasses, bound: Bound, errors: Errors) -> Gate:
    """Whether the new version decides the right class less often than the one before it, on the
    same labelled requests; inconclusive where `outcome_gate` is."""
    if (lacking := _no_verdict(len(seen), seen.immature, is_silent=seen.silent)) is not None:
        return dataclasses.replace(lacking, name=ACCURACY)
    found = share_difference([seen.wrong], stop_error=errors.stop, pass_error=errors.missed)
    most = points(min(max(found.pass_high, 0.0), 1.0))
    wrong = (seen.wrong.challenger_hits, seen.wrong.champion_hits)
    mine, other = (len(seen) - number for number in wrong)
    harm = Harm(
        proven=f"The new version decides the right class for at least {points(found.stop_low)} "
        f"fewer {_REQUESTS}",
        excluded=f"The new version decides the right class for at most {most} fewer {_REQUESTS}",
        still_open=f"The new version may decide the right class for up to {most} fewer {_REQUESTS}",
        figures=(
            f"The new version decided {mine:,} of {len(seen):,} labelled requests right; the "
            f"version before it decided {other:,} of them right."
        ),
        stop_low=found.stop_low,
        pass_high=found.pass_high,
        unit=points_fewer,
    )
    values = difference_values(found) | {"right": mine, "champion_right": other}
    return harm_gate(ACCURACY, harm, bound, errors, values)


def error_gate(seen: LabelledNumbers, bound: Bound, errors: Errors) -> Gate:
    """Whether the numbers of the new version lie further from their labels than those of the one
    before it, on the same labelled requests; inconclusive where `outcome_gate` is.

    The harm is the rise of the mean absolute error, as a share of the one before it. No error is
    assumed to be larger than the largest seen error of a customer; rarer, larger errors are not
    excluded.
    """
    if (lacking := _no_verdict(len(seen), seen.immature, is_silent=seen.silent)) is not None:
        return dataclasses.replace(lacking, name=ERROR)
    mine, other = (np.abs(arm - seen.labels) for arm in (seen.challenger, seen.champion))
    if not other.any():
        reason = (
            "There is nothing to compare with: the version before it made no error that a rise "
            "could be measured against."
        )
        return Gate(ERROR, "INCONCLUSIVE", reason, {"requests": len(seen)})
    found = rise_of_mean(seen.unit, mine, other, stop_error=errors.stop, pass_error=errors.missed)
    error, before = float(mine.mean()), float(other.mean())
    most, than = in_percent(max(found.pass_high, 0.0)), "larger than that of the version before it"
    shift = float((seen.challenger - seen.champion).mean())
    side = "lower" if shift < 0 else "higher"
    harm = Harm(
        proven="The new version's mean absolute error is at least "
        f"{in_percent(found.stop_low)} {than}",
        excluded=f"The new version's mean absolute error is at most {most} {than}",
        still_open=f"The new version's mean absolute error may be up to {most} {than}",
        figures=(
            f"The mean absolute error is {error:.4g} on {len(seen):,} labelled requests; that of "
            f"the version before it is {before:.4g}. The new version's numbers are "
            f"{abs(shift):.4g} {side} on average."
        ),
        stop_low=found.stop_low,
        pass_high=found.pass_high,
        unit=lambda share: f"{in_percent(share)} larger",
    )
    more = {"error": number_of(error), "champion_error": number_of(before), "shift": shift}
    return harm_gate(ERROR, harm, bound, errors, difference_values(found) | more)


@dataclass(frozen=True, slots=True)
class ArmRecall:
    """Recall and precision of one arm, each bound with the error of missed harm.

    Args:
        caught: number of known positives among the arm's first `alerts` requests.
    """

    caught: int
    recall: MetricBounds
    precision: MetricBounds


@dataclass(frozen=True, slots=True)
class Recall:
    """Positives among the requests that each arm ranks highest, as many as people can look at.

    Args:
        positives: number of positives that were seen.
        known: share of the positives that the challenger finds more than the champion, with bounds
            at the error of missed harm.
        proven: the same with bounds at the error of a stop.
    """

    positives: int
    alerts: int
    challenger: ArmRecall
    champion: ArmRecall
    known: MetricBounds
    proven: MetricBounds


def recall_at_capacity(seen: Outcomes, *, capacity: float, errors: Errors) -> Recall:
    """Recall of both arms at the same number of alerts, so that neither is better for raising more.

    Args:
        capacity: share (0-1) of the requests that may be alerts.
    """
    alerts, requests = round(capacity * len(seen)), seen.requests
    mine, other = (_highest(scores, alerts) for scores in (seen.challenger, seen.champion))
    more = recall_difference(mine, other)

    def arm(flagged: Flags) -> ArmRecall:
        return ArmRecall(
            int((requests.positive & flagged).sum()),
            interval(recall(flagged), requests, errors.missed),
            interval(precision(flagged), requests, errors.missed),
        )

    return Recall(
        positives=int(requests.positive.sum()),
        alerts=alerts,
        challenger=arm(mine),
        champion=arm(other),
        known=interval(more, requests, errors.missed),
        proven=interval(more, requests, errors.stop),
    )


def outcome_gate(seen: Outcomes, bound: Bound, errors: Errors, *, capacity: float) -> Gate:
    """The gate on recall: whether the new version finds fewer of the positives than the one before
    it.

    It is INCONCLUSIVE while requests have no mature label, and while labels have stopped coming:
    then no label does not mean negative.
    """
    if (lacking := _no_verdict(len(seen), seen.immature, is_silent=seen.silent)) is not None:
        return lacking
    found = recall_at_capacity(seen, capacity=capacity, errors=errors)
    worst, least = -found.known.low, -found.proven.high
    counted = -found.known.value
    verdict = bound.verdict(least, worst, 0.0 if math.isnan(counted) else counted)
    asked = _allowed_text(verdict, bound, counted)
    parts = (_result(verdict, least, worst, errors), _counted_text(seen, found), asked,
             *_unknown(seen, found), *_to_come(seen))  # fmt: skip
    return Gate(NAME, verdict, " ".join(filter(None, parts)), _values(seen, found, bound))


def _no_verdict(requests: int, immature: int, *, is_silent: bool) -> Gate | None:
    """The gate that says why labels allow no verdict yet; None if they allow one."""
    if not requests and not immature:
        return Gate(
            NAME,
            "INCONCLUSIVE",
            "There is nothing to check: the log holds no request that both versions scored.",
            {},
        )
    if immature:
        reason = (
            f"Labels are waited for: {immature:,} requests of the shadow phase have no mature "
            "label yet."
        )
        return Gate(NAME, "INCONCLUSIVE", reason, {"immature": immature})
    if is_silent:
        reason = "Labels have stopped coming: none has arrived since the shadow phase."
        return Gate(NAME, "INCONCLUSIVE", reason, {})
    return None


def _result(verdict: Verdict, least: float, worst: float, errors: Errors) -> str:
    than = "of the positives than the version before it"
    if verdict == "UNHEALTHY":
        certain = certainty_text(errors.stop)
        return f"The new version finds at least {points_fewer(least)} {than} ({certain})."
    if math.isnan(worst):
        return "The share of the positives that the new version finds is not known."
    most, certain = points(max(worst, 0.0)), certainty_text(errors.missed)
    if verdict == "INCONCLUSIVE":
        return f"The new version may find up to {most} fewer {than} ({certain})."
    fewer = f"at most {most} fewer" if worst > 0 else "no fewer"
    return f"The new version finds {fewer} {than} ({certain})."


def _allowed_text(verdict: Verdict, bound: Bound, counted: float) -> str:
    if verdict == "UNHEALTHY":
        return f"The limit is {points_fewer(bound.limit)}."
    if bound.tolerance is None:
        return ""
    return allowed_text(points_fewer, bound.tolerance, bound.limit, counted)


def _counted_text(seen: Outcomes, found: Recall) -> str:
    if not found.positives:
        return f"None of {len(seen):,} requests is known to be positive."
    return (
        f"The new version's {found.alerts:,} highest scores held {found.challenger.caught:,} of "
        f"{found.positives:,} positives; those of the version before it held "
        f"{found.champion.caught:,} of them."
    )


def _unknown(seen: Outcomes, found: Recall) -> Iterator[str]:
    """Sentences on the outcomes that the platform's own decisions hide."""
    requests = seen.requests
    drawn = requests.is_drawn
    never = int((~requests.seen & ~drawn).sum())
    if drawn.any():
        through = int((drawn & requests.seen).sum())
        yield (
            f"{through:,} of the {int(drawn.sum()):,} requests that could be let through at random "
            "were let through; they represent all of these."
        )
    if never:
        yield f"The outcomes of {never:,} requests can't be known, because decisions stopped them."
        ends = [(a.recall.lowest, a.recall.highest) for a in (found.challenger, found.champion)]
        if all(math.isfinite(end) for pair in ends for end in pair):
            mine, other = (span(low, high) for low, high in ends)
            yield (
                f"Whatever their outcomes were, the new version finds {mine} of the positives; the "
                f"version before it finds {other}."
            )


def _to_come(seen: Outcomes) -> Iterator[str]:
    if (arrived := seen.arrived_shares.get(LABELS[1])) is not None:
        yield (
            f"{percent(arrived.share)} of the labels of positives that come within "
            f"{arrived.within_ms / DAY_MS:.3g} days have arrived (interval "
            f"{span(arrived.low, arrived.high)})."
        )


def _values(seen: Outcomes, found: Recall, bound: Bound) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {
        "share": number_of(found.known.value),
        "low": number_of(found.known.low),
        "high": number_of(found.known.high),
        "lowest": number_of(found.known.lowest),
        "highest": number_of(found.known.highest),
        "proven": number_of(-found.proven.high),
        "band_low": None if bound.tolerance is None else -bound.tolerance,
        POSITIVES: found.positives,
        "alerts": found.alerts,
        "caught": found.challenger.caught,
        "champion_caught": found.champion.caught,
        "hidden": seen.hidden,
        "let_through": int((seen.requests.is_drawn & seen.requests.seen).sum()),
    }
    for name, arm in (("challenger", found.challenger), ("champion", found.champion)):
        for what, known in (("recall", arm.recall), ("precision", arm.precision)):
            for end in ("value", "low", "high", "lowest", "highest"):
                values[f"{name}_{what}_{end}"] = number_of(getattr(known, end))
    for name, arrived in seen.arrived_shares.items():
        values |= {
            f"{name}_labels_share": number_of(arrived.share),
            f"{name}_labels_low": number_of(arrived.low),
            f"{name}_labels_high": number_of(arrived.high),
            f"{name}_labels_within_days": number_of(arrived.within_ms / DAY_MS),
        }
    return values


def _highest(scores: npt.NDArray[np.float64], count: int) -> Flags:
    flags = np.zeros(len(scores), dtype=bool)
    flags[np.argsort(-scores, kind="stable")[:count]] = True
    return flags
