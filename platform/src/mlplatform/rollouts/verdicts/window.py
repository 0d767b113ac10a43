"""What the decision log says about each arm in one generation of the routes, customer by customer.

Records are ordered by (event_ms, writer, seq) and cut at a fixed sample, so that a window holds the
same records whenever somebody looks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.records.record import ARM_FAILURES, FEATURES
from mlplatform.model.oip import OWN_FAILURES
from mlplatform.rollouts.journal.journal import GatewayLease

if TYPE_CHECKING:
    import pyarrow as pa

ALERTS = ("review", "decline")

MOMENT_MS = 250
"""Of wall time. One pause of a machine or of a process fails whatever requests it meets, of many
customers at once: within a moment failures are one event, however many they are."""

COPY_WITHIN_MS = 30_000
"""Of wall time, within which a decision's copy is recorded, or never: a call has 5 seconds."""

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Everything of one generation, in order; one array element per record.

    Args:
        moment: number of the moment in which it was recorded.
        challenger: the record belongs to the arm that is judged.
        failed: the arm did not give its answer.
        excused: the gateway had no room or time to ask the arm: nobody's failure, and no request
            that the arm was given.
        scored: the answer counts for score and decision statistics (not degraded).
        alert: the decision was to review or decline.
        paired: the same request was decided by the other arm too.
        flipped: that decision differs.
        other_alert: that decision was to review or decline.
        late: an answer, or a copy, for which a challenger's caller would not have waited.
        latency_us: how long the answer took, or the call that carried the copy; -1: not recorded.
        batch: number of the call that carried the copy, among the copies; -1: it is none.
        dropped: copies that the gateway could not send; they are no records here.
        uncopied: champion's decisions of which there is no copy, though there was time for one.
    """

    generation: int
    event_ms: Integers
    recorded_ms: Integers
    writer: tuple[str, ...]
    seq: Integers
    unit: Integers
    moment: Integers
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
    batch: Integers
    dropped: Mapping[str, int]
    uncopied: int

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True, slots=True)
class ArmWindow:
    """One arm's records up to a cut; the tuples hold one number per customer, in one order.

    Args:
        requests: those that the arm could answer.
        excused: the others, which the gateway had no room or time to put to it.
        moment_requests, moment_failures: the same requests and failures, one number per moment.
    """

    arm: str
    generation: int
    requests: tuple[int, ...]
    failures: tuple[int, ...]
    excused: tuple[int, ...]
    answers: tuple[int, ...]
    alerts: tuple[int, ...]
    pairs: tuple[int, ...]
    flips: tuple[int, ...]
    moment_requests: tuple[int, ...]
    moment_failures: tuple[int, ...]

    @property
    def units(self) -> int:
        """Customers of whom the arm could answer a request."""
        return sum(count > 0 for count in self.requests)

    def evidence(self) -> dict[str, int]:
        """Counts alone: what goes into the journal."""
        return {
            "units": self.units,
            "requests": sum(self.requests),
            "failures": sum(self.failures),
            "moments": sum(count > 0 for count in self.moment_requests),
            "failed_moments": sum(count > 0 for count in self.moment_failures),
            "excused": sum(self.excused),
            "answers": sum(self.answers),
            "alerts": sum(self.alerts),
            "pairs": sum(self.pairs),
            "flips": sum(self.flips),
        }


def shadow_traffic(
    table: pa.Table, *, generation: int, version: int, within_us: float = math.inf
) -> Traffic:
    """Copies that the challenger answered beside the champion's decisions of the same requests.

    A copy that timed out is the challenger's failure, as an answer would have been. One that the
    gateway had no room to send says nothing about the challenger: it is counted as dropped, and the
    decision without it as uncopied. A champion's decision with a counterpart lends it its customer
    and decision.

    Args:
        table: decision and shadow records, with the columns of `decisions.records.record.SCALARS`.
        within_us: how long a challenger will be waited for in canary. A copy is late where the time
            of its call over the call's rows is twice that, as two calls may share a predictor.
    """
    columns = ordered(table, generation)
    kind, reason = columns["kind"], columns["degraded_reason"]
    is_copy = (kind == "shadow") & (columns["version"] == version)
    lost = is_copy & np.isin(reason, OWN_FAILURES)
    failed_copy = is_copy & ~lost & ~_finite(columns["score"])
    decided = (kind == "decision") & (columns["arm"] == "champion")
    champion_scored = decided & scored_flags(columns)
    ids, decision = columns["decision_id"], columns["decision"]
    comparable = dict(zip(ids[champion_scored], decision[champion_scored], strict=True))
    answered = is_copy & _finite(columns["score"])
    others = [comparable.get(i) if a else None for i, a in zip(ids, answered, strict=True)]
    other = np.array([*others, None], dtype=object)[:-1]
    paired = present(other)
    found = _traffic(
        columns,
        (is_copy & ~lost) | decided,
        is_copy,
        np.where(is_copy, failed_copy, failed_flags(columns)),
        np.where(is_copy, answered, champion_scored),
        generation,
        other=other,
        flipped=paired & (decision != other),
        dropped={str(r): int((reason[lost] == r).sum()) for r in sorted(set(reason[lost]))},
        uncopied=_uncopied(columns, champion_scored, is_copy),
    )
    _, call, sizes = np.unique(found.batch, return_inverse=True, return_counts=True)
    rows = np.where(found.challenger, 2 * sizes[call], 1) if len(found) else found.seq
    return dataclasses.replace(found, late=~found.failed & (found.latency_us > within_us * rows))


def _uncopied(columns: Columns, decided: Flags, is_copy: Flags) -> int:
    """Decisions without a copy, but for the newest: their copies may be on their way."""
    if not decided.any():
        return 0
    recorded_ms = columns["recorded_ms"]
    due = decided & (recorded_ms < recorded_ms.max() - COPY_WITHIN_MS)
    copied = set(columns["decision_id"][is_copy])
    return sum(decision_id not in copied for decision_id in columns["decision_id"][due])


def canary_traffic(table: pa.Table, *, generation: int, within_us: float = math.inf) -> Traffic:
    """Decisions of both arms; whatever answered in an arm's place is that arm's failure, unless
    the gateway never got to ask the arm.

    Args:
        within_us: how long a challenger is waited for. The champion, which has no other predictor
            behind it, is given longer: what it answers after that is late.
    """
    columns = ordered(table, generation)
    decided = (columns["kind"] == "decision") & present(columns["arm"])
    challenger = columns["arm"] == "challenger"
    failed, scored = failed_flags(columns), scored_flags(columns)
    found = _traffic(columns, decided, challenger, failed, scored, generation)
    late = ~found.challenger & ~found.failed & (found.latency_us > within_us)
    return dataclasses.replace(found, late=late)


def champion_traffic(table: pa.Table, *, generation: int, version: int) -> Traffic:
    """Decisions of a provisional champion, which is the arm that is judged."""
    columns = ordered(table, generation)
    decided = (columns["kind"] == "decision") & (columns["arm"] == "champion")
    mine = decided & ((columns["version"] == version) | failed_flags(columns))
    failed, scored = failed_flags(columns), scored_flags(columns)
    return _traffic(columns, mine, mine, failed, scored, generation)


def first_records(traffic: Traffic, count: int) -> Traffic:
    """The traffic as it was when only its first records were there (dropped copies: as now)."""
    whole = {"generation", "dropped", "uncopied"}
    names = [f.name for f in dataclasses.fields(traffic) if f.name not in whole]
    return dataclasses.replace(traffic, **{n: getattr(traffic, n)[:count] for n in names})


def complete_records(traffic: Traffic, watermarks: Sequence[Watermark]) -> int:
    """How many records no living writer can add any before: live traffic is always a little ahead
    of the watermarks. All, where a writer has not said where it is; that is told otherwise."""
    reached = [w.event_ms for w in watermarks if w.live and w.event_ms is not None]
    if not reached:
        return len(traffic)
    return int(np.searchsorted(traffic.event_ms, min(reached), side="right"))


def cut_at_sample(traffic: Traffic, *, units: int, requests: int = 0) -> int | None:
    """How many records it takes until the judged arm has had this many customers and requests that
    it could answer."""
    mine = traffic.challenger & ~traffic.excused
    enough = (np.cumsum(_first_appearances(traffic, mine)) >= units) & (np.cumsum(mine) >= requests)
    return int(enough.argmax()) + 1 if enough.any() else None


def cut_at_failure(traffic: Traffic, *, failures: int) -> int | None:
    """How many records it takes until the judged arm has failed this often."""
    reached = np.cumsum(traffic.challenger & traffic.failed) >= failures
    return int(reached.argmax()) + 1 if reached.any() else None


def arm_windows(traffic: Traffic, cut: int) -> tuple[ArmWindow, ArmWindow]:
    """Challenger's and champion's windows over the first `cut` records."""
    return (
        _window(traffic, cut, traffic.challenger[:cut], "challenger"),
        _window(traffic, cut, ~traffic.challenger[:cut], "champion"),
    )


def first_appearances(traffic: Traffic, cut: int) -> tuple[int, int]:
    """Customers by their first appearance in an arm: (challenger's, both arms').

    Excused records count: a customer is in the arm that the split gave them, asked or not.
    """
    mine = int(_first_appearances(traffic, traffic.challenger)[:cut].sum())
    other = int(_first_appearances(traffic, ~traffic.challenger)[:cut].sum())
    return mine, mine + other


def log_ranges(traffic: Traffic, cut: int) -> dict[str, list[int]]:
    """First and last record number of each writer among the first `cut` records."""
    writers, inverse = np.unique(np.array(traffic.writer[:cut], dtype=str), return_inverse=True)
    seq = traffic.seq[:cut]
    low = np.full(len(writers), np.iinfo(np.int64).max)
    high = np.full(len(writers), -1)
    np.minimum.at(low, inverse, seq)
    np.maximum.at(high, inverse, seq)
    return {str(w): [int(a), int(b)] for w, a, b in zip(writers, low, high, strict=True)}


def behind(
    watermarks: Sequence[Watermark],
    gateways: Sequence[GatewayLease],
    *,
    event_ms: int,
    generation: int,
) -> tuple[str, ...]:
    """Who may still write into a range that ends at this event time; empty: it is complete."""
    writers = [
        f"writer {w.writer} is at {w.event_ms}, before {event_ms}"
        + (f", with {w.spilled} records spilled" if w.spilled else "")
        for w in watermarks
        if w.live and (w.event_ms is None or w.event_ms < event_ms)
    ]
    leases = [
        f"gateway {g.gateway} applies generation {g.generation}, not {generation}"
        for g in gateways
        if g.generation is None or g.generation < generation
    ]
    return (*writers, *leases, *unlogged(watermarks, gateways))


def unlogged(watermarks: Sequence[Watermark], gateways: Sequence[GatewayLease]) -> tuple[str, ...]:
    """Gateways that answer and whose records are not in this log, because no living writer of it
    has their name, or theirs come from a log elsewhere and do not come any more; a gateway that has
    just ended is one of them until its lease is over."""
    living = {w.writer: w for w in watermarks if w.live}
    silent = [
        f"gateway {g.gateway} answers, and no living writer of this log has its name"
        for g in gateways
        if g.gateway not in living
    ]
    late = [
        f"gateway {g.gateway} answers, and nothing of its log has come lately"
        for g in gateways
        if g.gateway in living and living[g.gateway].unheard
    ]
    return (*silent, *late)


Columns = dict[str, npt.NDArray[Any]]

_COLUMNS = (
    "writer",
    "seq",
    "kind",
    "decision_id",
    "event_ms",
    "recorded_ms",
    "generation",
    "arm",
    "answered_by",
    "unit",
    "version",
    "score",
    "decision",
    "degraded",
    "degraded_reason",
    "latency_us",
)


def ordered(table: pa.Table, generation: int) -> Columns:
    columns = {name: _column(table, name) for name in _COLUMNS}
    voided = set(columns["decision_id"][columns["kind"] == "void"])
    kept = columns["generation"] == generation
    if voided:
        kept &= np.array([i not in voided for i in columns["decision_id"]], dtype=bool)
    columns = {name: values[kept] for name, values in columns.items()}
    order = np.lexsort((columns["seq"], columns["writer"].astype(str), columns["event_ms"]))
    return {name: values[order] for name, values in columns.items()}


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    values = table.column(name)
    if name in ("seq", "event_ms", "recorded_ms", "generation"):
        return np.asarray(values.to_numpy(), dtype=np.int64)
    if name in ("score", "unit", "version", "latency_us", "degraded"):
        return np.array([*values.to_pylist(), None], dtype=object)[:-1]
    # of words there are few: each is made once, and all rows that hold it share it
    coded = values.combine_chunks().dictionary_encode()
    words = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    return np.asarray(words[coded.indices.fill_null(len(coded.dictionary)).to_numpy()])


def present(values: npt.NDArray[Any]) -> Flags:
    return np.array([v is not None for v in values], dtype=bool)


def _finite(values: npt.NDArray[Any]) -> Flags:
    return np.array([v is not None and math.isfinite(v) for v in values], dtype=bool)


def failed_flags(columns: Columns) -> Flags:
    elsewhere = columns["answered_by"] != columns["arm"]
    reported = np.isin(columns["degraded_reason"], ARM_FAILURES)
    failed: Flags = (elsewhere | reported) & ~excused_flags(columns)
    return failed


def excused_flags(columns: Columns) -> Flags:
    # the reason is that of the step that was due first: the assigned arm's
    reason = columns["degraded_reason"]
    # features were stale: no arm was asked
    withheld = (reason == FEATURES) & (columns["answered_by"] != columns["arm"])
    excused: Flags = np.isin(reason, OWN_FAILURES) | withheld
    return excused


def scored_flags(columns: Columns) -> Flags:
    degraded = columns["degraded"].astype(bool) | excused_flags(columns)
    scored: Flags = ~failed_flags(columns) & ~degraded & _finite(columns["score"])
    return scored


def _traffic(
    columns: Columns,
    kept: Flags,
    challenger: Flags,
    failed: Flags,
    scored: Flags,
    generation: int,
    *,
    other: npt.NDArray[Any] | None = None,
    flipped: Flags | None = None,
    dropped: Mapping[str, int] | None = None,
    uncopied: int = 0,
) -> Traffic:
    """Args: other: decisions of the other arm on the same requests, None where there is none."""
    kept = kept & present(columns["unit"])
    nothing = np.zeros(int(kept.sum()), dtype=bool)
    recorded_ms = columns["recorded_ms"][kept]
    return Traffic(
        generation=generation,
        event_ms=columns["event_ms"][kept],
        recorded_ms=recorded_ms,
        writer=tuple(columns["writer"][kept]),
        seq=columns["seq"][kept],
        unit=columns["unit"][kept].astype(np.int64),
        moment=recorded_ms // MOMENT_MS,
        challenger=challenger[kept].astype(bool),
        failed=failed[kept].astype(bool),
        excused=excused_flags(columns)[kept],
        scored=scored[kept].astype(bool),
        alert=(np.isin(columns["decision"], ALERTS) & scored)[kept],
        paired=nothing if other is None else present(other[kept]),
        flipped=nothing if flipped is None else flipped[kept],
        other_alert=nothing if other is None else np.isin(other[kept], ALERTS),
        latency_us=np.array(
            [-1 if v is None else v for v in columns["latency_us"][kept]], np.int64
        ),
        late=nothing,
        batch=_batches(columns, kept),
        dropped=dropped or {},
        uncopied=uncopied,
    )


def _batches(columns: Columns, kept: Flags) -> Integers:
    """Copies of one call have one writer, one moment of recording and one latency."""
    batches = np.full(int(kept.sum()), -1, dtype=np.int64)
    copies = columns["kind"][kept] == "shadow"
    calls = zip(
        *(columns[name][kept][copies] for name in ("writer", "recorded_ms", "latency_us")),
        strict=True,
    )
    numbers: dict[tuple[Any, ...], int] = {}
    batches[copies] = [numbers.setdefault(call, len(numbers)) for call in calls]
    return batches


def _first_appearances(traffic: Traffic, among: Flags) -> Flags:
    """Flags of records, among these, in which a customer appears for the first time."""
    first = np.zeros(len(traffic), dtype=bool)
    places = np.flatnonzero(among)
    first[places[np.unique(traffic.unit[places], return_index=True)[1]]] = True
    return first


def _window(traffic: Traffic, cut: int, mine: Flags, arm: str) -> ArmWindow:
    units = np.unique(traffic.unit[:cut][mine], return_inverse=True)
    moments = np.unique(traffic.moment[:cut][mine], return_inverse=True)

    def per(clusters: tuple[Integers, Integers], flags: Flags) -> tuple[int, ...]:
        found, inverse = clusters
        counts = np.bincount(inverse[flags[:cut][mine]], minlength=len(found))
        return tuple(counts.tolist())

    return ArmWindow(
        arm=arm,
        generation=traffic.generation,
        requests=per(units, ~traffic.excused),
        failures=per(units, traffic.failed),
        excused=per(units, traffic.excused),
        answers=per(units, traffic.scored),
        alerts=per(units, traffic.alert),
        pairs=per(units, traffic.paired),
        flips=per(units, traffic.flipped),
        moment_requests=per(moments, ~traffic.excused),
        moment_failures=per(moments, traffic.failed),
    )
