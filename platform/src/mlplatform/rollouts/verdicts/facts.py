"""The facts that one record of the decision log tells of an arm, without other records.

A rollout counts records of one generation in one role: copies in shadow, both arms' decisions in
canary, and a provisional champion's own. `Facts` keep what counts of them; `traffic` pairs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.logged_segments import LoggedSegments
from mlplatform.decisions.records.record import ARM_FAILURES, ASSIGNED, FEATURES, VARIANT
from mlplatform.model.oip import OWN_FAILURES
from mlplatform.model.policies.decision_scale import EARLIER, DecisionScale
from mlplatform.model.policies.segments import SegmentSource
from mlplatform.rollouts.journal.basis_evidence import Role

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Columns = dict[str, npt.NDArray[Any]]

COLUMNS: Final = (
    *("writer", "seq", "kind", "decision_id", "event_ms", "recorded_ms", "generation", "arm"),
    *("answered_by", "unit", "version", "score", "decision", "degraded", "degraded_reason"),
    "latency_us",
)
"""The columns of the log that are read."""

COPY, CHALLENGER, FAILED, EXCUSED, SCORED, ALERT = (1 << n for n in range(6))
ROW: Final = np.dtype(
    [
        *((name, "<i8") for name in ("event_ms", "recorded_ms", "unit", "latency_us")),
        *((name, "u1") for name in ("flags", "decision", "lost")),
        ("segments", "<u4"),
        ("number", "<f4"),
    ]
)
"""The stored values of a record. `flags` are the constants above: of a copy that was sent, and of
the arm that is judged. Its `failed`: the arm did not give its answer; `excused`: the gateway had no
room or time to ask it. `scored`: the answer counts for decision statistics (not degraded); `alert`:
it was an alert. `latency_us` is -1 where none was recorded. `decision` is a number for each
decision. `lost` is 1 plus the index in `OWN_FAILURES` of why a copy was never sent. `segments` has
a bit for each segment that the decision lies in. `number` is the score of a model of numbers, which
is a float32.
"""
_UNKNOWN_DECISION: Final = 255


@dataclass(frozen=True, slots=True)
class Subject:
    """The version whose records are counted, and the rules for counting.

    Args:
        version: version that is judged.
        within_us: microseconds for which a challenger's caller waits in canary; `traffic` says what
            it limits.
        segments: segments that are also counted on their own.
        scale: what the model decides, by which the decisions of records are read.
        by_decision: arms also disagree on a request with an alert if their decisions differ. False:
            only if one arm alone raised the alert, as predictions of earlier releases count.
    """

    generation: int
    role: Role
    version: int
    within_us: float = math.inf
    segments: tuple[SegmentSource, ...] = ()
    scale: DecisionScale = EARLIER
    by_decision: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the log that must be read. Payloads are read only where needed, because
        they are by far the largest part of a record."""
        return (*COLUMNS, "payload") if self.segments else COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSubject(Subject):
    """A variant of an A/B/n test, which is judged in role "champion", by its own requests.

    Args:
        buckets: its buckets, as (first, end) with the end exclusive.
    """

    buckets: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the log that must be read: also the bucket, because an answer of another
        arm does not name the variant."""
        return (*COLUMNS, "bucket")


@dataclass(frozen=True, slots=True, eq=False)
class RecordFacts:
    """Records in any order; one array element each.

    Args:
        rows: array of type `ROW`.
    """

    decision_id: npt.NDArray[np.object_]
    writer: npt.NDArray[np.object_]
    seq: Integers
    rows: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def has(self, flag: int) -> Flags:
        """Whether each record has a flag."""
        found: Flags = (self.rows["flags"] & flag) > 0
        return found

    def of(self, chosen: Any) -> RecordFacts:
        """The facts of some records, chosen by flags or positions."""
        return RecordFacts(*(values[chosen] for values in self._arrays))

    def without(self, decision_ids: set[str]) -> RecordFacts:
        """The facts of all decisions but these."""
        if not decision_ids:
            return self
        return self.of(np.array([i not in decision_ids for i in self.decision_id], dtype=bool))

    @property
    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.decision_id, self.writer, self.seq, self.rows


def concatenated(parts: Sequence[RecordFacts]) -> RecordFacts:
    """The parts joined; empty without parts."""
    nothing = np.zeros(0, dtype=object)
    empty = RecordFacts(nothing, nothing, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=ROW))
    columns = zip(*(part._arrays for part in (empty, *parts)), strict=True)
    return RecordFacts(*(np.concatenate(values) for values in columns))


def facts(table: pa.Table, subject: Subject) -> RecordFacts:
    """Facts of the records that count for a subject; inferences whose caller named the unit count
    as the decisions that they are, but not in shadow, where raw callers' requests have no copies.

    Whatever answered in an arm's place is that arm's failure, unless the gateway never got to ask
    the arm. A copy that timed out is the challenger's failure, as an answer would have been; one
    that the gateway had no room to send says nothing about it, and is lost.
    """
    columns = columns_of(table)
    kind, arm, reason = (columns[name] for name in ("kind", "arm", "degraded_reason"))
    version = columns["version"] == subject.version
    copy = np.zeros(len(kind), dtype=bool)
    decided = (kind == "decision") | (kind == "inference")
    failed, scored = failed_flags(columns), scored_flags(columns)
    match subject.role:
        case "shadow":
            copy = (kind == "shadow") & version
            decided = (kind == "decision") & (arm == "champion")
            answered = np.isfinite(columns["score"])
            failed, scored = np.where(copy, (~answered, answered), (failed, scored))
            challenger = copy
        case "canary":
            challenger = arm == "challenger"
            decided &= np.isin(arm, ASSIGNED)
        case "champion" if isinstance(subject, VariantSubject):
            decided &= (arm == VARIANT) & in_buckets(table, subject.buckets)
            challenger = decided
        case "champion":
            decided &= (arm == "champion") & (version | failed)
            challenger = decided
    kept = (columns["generation"] == subject.generation) & (copy | decided) & columns["has_unit"]
    lost = np.zeros(len(kind), dtype=np.uint8)
    for number, own in enumerate(OWN_FAILURES, start=1):
        lost[copy & (reason == own)] = number
    rows = np.zeros(len(kind), dtype=ROW)
    for name in ("event_ms", "recorded_ms", "unit", "latency_us"):
        rows[name] = columns[name]
    flagged = {
        COPY: copy,
        CHALLENGER: challenger,
        FAILED: failed,
        EXCUSED: excused_flags(columns),
        SCORED: scored,
        ALERT: np.isin(columns["decision"], subject.scale.alerts) & scored,
    }
    rows["flags"] = sum(flag * values.astype(np.uint8) for flag, values in flagged.items())
    names = (None, *subject.scale.names)
    numbers = {name: number for number, name in enumerate(names)}
    rows["decision"] = [numbers.get(word, _UNKNOWN_DECISION) for word in columns["decision"]]
    rows["lost"] = lost
    if subject.scale.number is not None:
        rows["number"] = columns["score"]
    if subject.segments:
        chosen = np.flatnonzero(kept & ~copy)  # a copy lies in the segments of its decision
        rows["segments"][chosen] = LoggedSegments(subject.segments).bits(table.take(chosen))
    return RecordFacts(columns["decision_id"], columns["writer"], columns["seq"], rows).of(kept)


def in_buckets(table: pa.Table, buckets: Sequence[tuple[int, int]]) -> Flags:
    """Whether each record's bucket lies in one of these ranges, (first, end) with the end
    exclusive."""
    bucket = np.asarray(table.column("bucket").fill_null(pa.scalar(-1)).to_numpy())
    found: Flags = np.zeros(len(bucket), dtype=bool)
    for first, end in buckets:
        found |= (bucket >= first) & (bucket < end)
    return found


def columns_of(table: pa.Table) -> Columns:
    """The columns of the log as arrays, and `has_unit`; -1 for no number, NaN for no score."""
    columns = {name: _column(table, name) for name in COLUMNS}
    return columns | {"has_unit": np.asarray(table.column("unit").is_valid().to_numpy())}


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    values = table.column(name)
    match name:
        case "score":
            return np.asarray(values.fill_null(pa.scalar(math.nan)).to_numpy(), dtype=np.float64)
        case "degraded":
            return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)
        case "seq" | "event_ms" | "recorded_ms" | "generation" | "unit" | "version" | "latency_us":
            return np.asarray(values.fill_null(pa.scalar(-1)).to_numpy(), dtype=np.int64)
        case "decision_id":
            return np.array([*values.to_pylist(), None], dtype=object)[:-1]
    # there are few words: each is made once, and rows share it
    coded = values.combine_chunks().dictionary_encode()
    words = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    return np.asarray(words[coded.indices.fill_null(len(coded.dictionary)).to_numpy()])


def failed_flags(columns: Columns) -> Flags:
    elsewhere = columns["answered_by"] != columns["arm"]
    reported = np.isin(columns["degraded_reason"], ARM_FAILURES)
    failed: Flags = (elsewhere | reported) & ~excused_flags(columns)
    return failed


def excused_flags(columns: Columns) -> Flags:
    # the reason is that of the first step, which is the assigned arm
    reason = columns["degraded_reason"]
    # features were stale: no arm was asked
    withheld = (reason == FEATURES) & (columns["answered_by"] != columns["arm"])
    excused: Flags = np.isin(reason, OWN_FAILURES) | withheld
    return excused


def scored_flags(columns: Columns) -> Flags:
    degraded = columns["degraded"] | excused_flags(columns)
    scored: Flags = ~failed_flags(columns) & ~degraded & np.isfinite(columns["score"])
    return scored
