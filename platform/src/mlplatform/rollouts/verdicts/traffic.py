"""Requests of both arms, from records: copies beside the decisions on the same requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mlplatform.model.oip import OWN_FAILURES
from mlplatform.rollouts.verdicts.facts import (
    ALERT,
    CHALLENGER,
    COPY,
    EXCUSED,
    FAILED,
    SCORED,
    Flags,
    Integers,
    RecordFacts,
    Subject,
)


def _nothing() -> Integers:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Requests of both arms, in any order; one array element per record.

    Args:
        challenger: the record belongs to the arm that is judged.
        failed: the arm did not give its answer.
        excused: the gateway had no room or time to ask the arm. It is nobody's failure and counts
            as no request of the arm.
        scored: the answer counts for score and decision statistics (not degraded).
        alert: the decision was an alert.
        paired: the other arm decided the same request too.
        flipped: the two decisions differ; for numbers, by more than the tolerance.
        other_alert: the other arm's decision was an alert.
        late: the answer, or the copy, took longer than a challenger's caller would have waited.
        latency_us: microseconds that the answer took, or the call with the copy; -1 if not
            recorded.
        call: number of the call that carried the copy; -1 if the record is not a copy.
        dropped: reason → number of copies that the gateway could not send; they are not records
            here.
        uncopied_ms: wall times at which decisions without a copy were recorded.
        segments: bits of the segments in which the request lies; set for paired copies and in
            canary. Empty if no segment is counted.
    """

    event_ms: Integers
    recorded_ms: Integers
    unit: Integers
    challenger: Flags
    failed: Flags
    excused: Flags
    scored: Flags
    alert: Flags
    paired: Flags
    flipped: Flags
    other_alert: Flags
    late: Flags
    latency_us: Integers
    call: Integers
    dropped: Mapping[str, int] = field(default_factory=dict)
    uncopied_ms: Integers = field(default_factory=_nothing)
    segments: Integers = field(default_factory=_nothing)

    def __len__(self) -> int:
        return len(self.unit)


def traffic(facts: RecordFacts, subject: Subject) -> Traffic:
    """The requests of these records.

    In shadow a copy that the challenger answered is compared with the champion's decision on the
    same request, where that counts. The copy is late where the time of its call over the call's
    rows is twice what a challenger will be waited for in canary, as two calls may share a
    predictor. In canary a challenger is waited for that long; the champion, which has no other
    predictor behind it, is given longer, and what it answers after that is late.
    """
    if subject.role == "shadow":
        return _shadow(facts, subject)
    found = _traffic(facts)
    if subject.role == "champion":
        return found
    late = ~found.challenger & ~found.failed & (found.latency_us > subject.within_us)
    return dataclasses.replace(found, late=late)


def _shadow(facts: RecordFacts, subject: Subject) -> Traffic:
    # if two decisions have one id, the last one counts
    facts = facts.of(np.lexsort((facts.seq, facts.writer.astype(str), facts.rows["event_ms"])))
    copy, scored, lost = facts.has(COPY), facts.has(SCORED), facts.rows["lost"]
    decided = scored & ~copy
    ids, decision, alert = facts.decision_id, facts.rows["decision"], facts.has(ALERT)
    position = dict(zip(ids[decided], np.flatnonzero(decided), strict=True))
    answered = np.flatnonzero(copy & scored)
    beside = np.array([position.get(i, -1) for i in ids[answered]], dtype=np.int64)
    answered, beside = answered[beside >= 0], beside[beside >= 0]
    paired, flipped, other_alert = np.zeros((3, len(facts)), dtype=bool)
    segments = facts.rows["segments"].astype(np.int64)
    segments[answered] = segments[beside]
    paired[answered] = True
    if (quantity := subject.scale.number) is not None:
        number = facts.rows["number"].astype(np.float64)
        flipped[answered] = np.abs(number[answered] - number[beside]) > quantity.tolerance
    else:
        flipped[answered] = decision[answered] != decision[beside]
    other_alert[answered] = alert[beside]
    copied = set(ids[copy])
    uncopied = np.array([i not in copied for i in ids[decided]], dtype=bool)
    sent = lost == 0
    found = _traffic(facts.of(sent))
    return dataclasses.replace(
        found,
        paired=paired[sent],
        flipped=flipped[sent],
        other_alert=other_alert[sent],
        late=_late_copies(found, subject.within_us),
        dropped={
            reason: int(count)
            for number, reason in enumerate(OWN_FAILURES, start=1)
            if (count := (lost == number).sum())
        },
        uncopied_ms=facts.rows["recorded_ms"][decided][uncopied],
        segments=segments[sent],
    )


def _late_copies(found: Traffic, within_us: float) -> Flags:
    _, call, sizes = np.unique(found.call, return_inverse=True, return_counts=True)
    rows = np.where(found.challenger, 2 * sizes[call], 1) if len(found) else found.call
    return np.asarray(~found.failed & (found.latency_us > within_us * rows), dtype=bool)


def _traffic(facts: RecordFacts) -> Traffic:
    nothing = np.zeros(len(facts), dtype=bool)
    return Traffic(
        event_ms=facts.rows["event_ms"],
        recorded_ms=facts.rows["recorded_ms"],
        unit=facts.rows["unit"],
        challenger=facts.has(CHALLENGER),
        failed=facts.has(FAILED),
        excused=facts.has(EXCUSED),
        scored=facts.has(SCORED),
        alert=facts.has(ALERT),
        paired=nothing,
        flipped=nothing,
        other_alert=nothing,
        late=nothing,
        latency_us=facts.rows["latency_us"],
        call=_calls(facts),
        segments=facts.rows["segments"].astype(np.int64),
    )


def calls(facts: RecordFacts) -> list[tuple[str, int, int]]:
    """The call of each record. Copies of one call share writer, recording time and latency."""
    recorded, latency = (facts.rows[name].tolist() for name in ("recorded_ms", "latency_us"))
    return list(zip(facts.writer, recorded, latency, strict=True))


def _calls(facts: RecordFacts) -> Integers:
    found = np.full(len(facts), -1, dtype=np.int64)
    copies = facts.has(COPY)
    numbers: dict[tuple[str, int, int], int] = {}
    found[copies] = [numbers.setdefault(c, len(numbers)) for c in calls(facts.of(copies))]
    return found
