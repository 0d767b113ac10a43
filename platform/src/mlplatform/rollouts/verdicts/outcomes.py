"""What matured labels say about two arms that decided the same requests: the slow gate.

In shadow every request has a score of both arms, so both can be held to the same outcomes, and far
fewer positives tell than between arms that answered different customers. What the champion stopped
has no outcome, unless it was let through to learn of it: what that leaves open stays open
(`hidden`). Labels come days later, so a promotion is provisional until they have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlplatform.decisions.records.last_labels import dated_labels, in_order
from mlplatform.model.policies.decision_scale import EARLIER_HIDE
from mlplatform.rollouts.verdicts.delays import LabelsCome, delay_curve, labels_come
from mlplatform.rollouts.verdicts.facts import columns_of, scored_flags
from mlplatform.rollouts.verdicts.hidden import (
    Interval,
    PartlySeen,
    interval,
    precision,
    recall,
    recall_difference,
)
from mlplatform.rollouts.verdicts.verdict import (
    Bound,
    Errors,
    Gate,
    Verdict,
    number_of,
    points,
    sure,
)
from mlplatform.runtime.figures import percent, span

if TYPE_CHECKING:
    import pyarrow as pa

    from mlplatform.rollouts.verdicts.facts import Columns, Flags

NAME = "recall"
POSITIVES = "frauds"
LABELS = ("genuine", "fraud")
"""Of a gate's values, and of the labels 0 and 1 in them: journals hold these names."""
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Requests of one shadow generation that both arms scored.

    Args:
        requests: positive by the last label that has arrived; what was stopped is not seen.
        challenger: its scores, one for each request; champion: likewise.
        immature: requests without a label that may still get one; they are left out of the arrays.
        silent: no label of any decision has arrived since the generation's last request.
        come: the labels of positives, and of negative requests where anybody says so.
    """

    requests: PartlySeen
    challenger: npt.NDArray[np.float64]
    champion: npt.NDArray[np.float64]
    immature: int
    silent: bool
    come: Mapping[str, LabelsCome]

    def __len__(self) -> int:
        return len(self.requests.unit)

    @property
    def hidden(self) -> int:
        """Requests that were stopped and have no label: what they were, nobody can know."""
        return int((~self.requests.seen).sum())


def outcomes(
    decisions: pa.Table,
    labels: pa.Table,
    *,
    generation: int,
    version: int,
    maturity_ms: int,
    now_event_ms: int,
    hides: Sequence[str] = EARLIER_HIDE,
    propensities: Mapping[str, float] | None = None,
) -> Outcomes:
    """The pairs of a shadow generation joined to the labels that have arrived.

    The last label of a decision counts; after `maturity_ms` no label means negative, but for a
    request whose decision hides its outcome. Where one was drawn to be let through or not, those
    let through stand for all that were drawn, and a label of one that was not says nothing.

    Args:
        hides: decisions after which no positive label can come.
        propensities: by decision, the chance with which such a request was let through.
    """
    columns = _ordered(decisions, generation)
    known = dated_labels(labels, until_ms=now_event_ms)
    copied = (columns["kind"] == "shadow") & (columns["version"] == version)
    copied &= np.isfinite(columns["score"])
    copies = dict(zip(columns["decision_id"][copied], columns["score"][copied], strict=True))
    decided = (columns["kind"] == "decision") & (columns["arm"] == "champion")
    decided &= columns["has_unit"] & scored_flags(columns)
    decided &= _in(columns["decision_id"], copies)
    columns = {name: values[decided] for name, values in columns.items()}
    ids, age_ms = columns["decision_id"], now_event_ms - columns["event_ms"]
    chance = np.array([(propensities or {}).get(i, 0.0) for i in ids], dtype=np.float64)
    hiding = np.isin(columns["decision"], list(hides))
    labelled = _in(ids, known)
    seen = ~hiding | (labelled & (chance == 0.0))
    immature = seen & ~labelled & (age_ms < maturity_ms)
    label = np.array([known[i][1] if i in known else -1 for i in ids], dtype=np.int64)
    arrived = np.array([known[i][0] if i in known else -1 for i in ids], dtype=np.int64)
    came, come = np.ones(len(ids)), dict[str, LabelsCome]()
    for value, name in enumerate(LABELS):
        delay_ms = np.where(label == value, np.maximum(arrived - columns["event_ms"], 0), -1)
        curve = delay_curve(age_ms[seen], delay_ms[seen])
        if (found := labels_come(curve, age_ms[seen & ~immature])) is not None:
            come[name] = found
            if value == 1:
                share = curve.share(age_ms)
                came = np.where(share > 0, share, 1.0)
    kept = ~immature
    champion = columns["score"][kept].astype(np.float64)
    times = in_order(labels).column("event_ms").to_numpy()
    last_ms = int(columns["event_ms"].max()) if len(ids) else 0
    return Outcomes(
        requests=PartlySeen(
            unit=columns["unit"][kept],
            positive=(seen & (label == 1))[kept],
            seen=seen[kept],
            chance=np.where(chance > 0.0, chance, seen)[kept],
            guess=np.clip(champion, 0.0, 1.0),
            came=came[kept],
        ),
        challenger=np.array([copies[i] for i in ids[kept]], dtype=np.float64),
        champion=champion,
        immature=int(immature.sum()),
        silent=not ((times > last_ms) & (times <= now_event_ms)).any(),
        come=come,
    )


@dataclass(frozen=True, slots=True)
class Arm:
    """What is known of one arm's recall and precision, each bound with the error of missed harm.

    Args:
        caught: positives that were seen among its first `alerts` requests.
    """

    caught: int
    recall: Interval
    precision: Interval


@dataclass(frozen=True, slots=True)
class Recall:
    """Positives among the requests that each arm ranks highest, as many as people can look at.

    Args:
        positives: that were seen.
        known: share of the positives that the challenger finds more than the champion, with the
            error of missed harm. proven: the same with that of a stop.
    """

    positives: int
    alerts: int
    challenger: Arm
    champion: Arm
    known: Interval
    proven: Interval


def recall_at_capacity(seen: Outcomes, *, capacity: float, errors: Errors) -> Recall:
    """Both arms at the same number of alerts, so that neither is better for raising more.

    Args:
        capacity: share (0-1) of requests that may be alerts.
    """
    alerts, requests = round(capacity * len(seen)), seen.requests
    mine, other = (_highest(scores, alerts) for scores in (seen.challenger, seen.champion))
    more = recall_difference(mine, other)

    def arm(flagged: Flags) -> Arm:
        return Arm(
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
    """Whether the new version finds fewer of the positives than the one before it.

    Requests without a mature label are INCONCLUSIVE, and so is silence: where labels have stopped
    coming, none does not mean negative.
    """
    if not len(seen) and not seen.immature:
        return Gate(
            NAME,
            "INCONCLUSIVE",
            "Nothing can be told: the log holds no request that both versions scored.",
            {},
        )
    if seen.immature:
        reason = (
            "Nothing can be told yet: "
            f"{seen.immature:,} requests of the shadow phase have no mature label."
        )
        return Gate(NAME, "INCONCLUSIVE", reason, {"immature": seen.immature})
    if seen.silent:
        reason = "Labels have stopped coming: none has arrived since the shadow phase."
        return Gate(NAME, "INCONCLUSIVE", reason, {})
    found = recall_at_capacity(seen, capacity=capacity, errors=errors)
    worst, least = -found.known.low, -found.proven.high
    verdict = bound.verdict(least, worst)
    parts = (_said(verdict, least, worst, errors), _counted(seen, found), _asked(verdict, bound),
             *_unknown(seen, found), *_to_come(seen))  # fmt: skip
    return Gate(NAME, verdict, " ".join(filter(None, parts)), _values(seen, found, bound))


def _said(verdict: Verdict, least: float, worst: float, errors: Errors) -> str:
    than = "of the positives than the version before it"
    if verdict == "UNHEALTHY":
        return f"It finds at least {points(least)} fewer {than} ({sure(errors.stop)})."
    if math.isnan(worst):
        return "Nothing can be told of the positives that it finds."
    most = points(max(worst, 0.0))
    if verdict == "INCONCLUSIVE":
        return f"It may find up to {most} fewer {than} ({sure(errors.missed)})."
    most = f"no more than {most} fewer" if worst > 0 else "no fewer"
    return f"It finds {most} {than} ({sure(errors.missed)})."


def _asked(verdict: Verdict, bound: Bound) -> str:
    if verdict == "UNHEALTHY":
        return f"The limit is {points(bound.limit)}."
    return "" if bound.tolerance is None else f"Allowed: {points(bound.tolerance)}."


def _counted(seen: Outcomes, found: Recall) -> str:
    if not found.positives:
        return f"Of {len(seen):,} requests none is known to be positive."
    return (
        f"Its {found.alerts:,} highest scores held {found.challenger.caught:,} of "
        f"{found.positives:,} positives; those of the version before it held "
        f"{found.champion.caught:,}."
    )


def _unknown(seen: Outcomes, found: Recall) -> Iterator[str]:
    """What our own decisions hide, in sentences."""
    requests = seen.requests
    drawn = requests.is_drawn
    never = int((~requests.seen & ~drawn).sum())
    if drawn.any():
        through = int((drawn & requests.seen).sum())
        yield f"{through:,} requests were let through and stand for {int(drawn.sum()):,}."
    if never:
        yield f"Of {never:,} stopped requests nothing is known."
        ends = [(a.recall.lowest, a.recall.highest) for a in (found.challenger, found.champion)]
        if all(math.isfinite(end) for pair in ends for end in pair):
            mine, other = (span(low, high) for low, high in ends)
            yield (
                f"Whatever they were, it finds {mine} of the positives, and the version before it "
                f"{other}."
            )


def _to_come(seen: Outcomes) -> Iterator[str]:
    if (come := seen.come.get(LABELS[1])) is not None:
        yield (
            f"Of the labels of positives that come within {come.within_ms / DAY_MS:.3g} days "
            f"{percent(come.share)} are here ({span(come.low, come.high)})."
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
    for name, come in seen.come.items():
        values |= {
            f"{name}_labels_share": number_of(come.share),
            f"{name}_labels_low": number_of(come.low),
            f"{name}_labels_high": number_of(come.high),
            f"{name}_labels_within_days": number_of(come.within_ms / DAY_MS),
        }
    return values


def _ordered(table: pa.Table, generation: int) -> Columns:
    """The generation's records but for voided decisions', by (event_ms, writer, seq)."""
    columns = columns_of(table)
    voided = dict.fromkeys(columns["decision_id"][columns["kind"] == "void"])
    kept = columns["generation"] == generation
    if voided:
        kept &= ~_in(columns["decision_id"], voided)
    columns = {name: values[kept] for name, values in columns.items()}
    order = np.lexsort((columns["seq"], columns["writer"].astype(str), columns["event_ms"]))
    return {name: values[order] for name, values in columns.items()}


def _highest(scores: npt.NDArray[np.float64], count: int) -> Flags:
    flags = np.zeros(len(scores), dtype=bool)
    flags[np.argsort(-scores, kind="stable")[:count]] = True
    return flags


def _in(ids: npt.NDArray[Any], known: dict[str, Any]) -> Flags:
    return np.array([i in known for i in ids], dtype=bool)
