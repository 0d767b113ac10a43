"""The values that a sample of decisions read, taken from the log; each decision has the same
chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import Kind
from mlplatform.learning.features.rows import last_seq
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.canonical import NOT_JSON

CHUNK_ROWS: Final = 10_000
"""Records of the log in memory at a time, of all writers together."""
FEWEST_ROWS: Final = 1_000
IDS_AT_ONCE: Final = 10_000
Key = int | str


class DecisionReads(msgspec.Struct, frozen=True, kw_only=True):
    """The values that one decision read.

    Args:
        keys: entity → its key.
        times: view → event time of the row that was read; None where there was no row.
        position: per writer, the number of the last record that the windows included; None where no
            window was read.
        gaps: view, or windows of an entity → why nothing was read.
    """

    decision_id: str
    event_ms: int
    recorded_ms: int
    keys: Mapping[str, Key]
    features: Mapping[str, float | None]
    times: Mapping[str, int | None] = {}
    position: Mapping[str, int] | None = None
    gaps: Mapping[str, str] = {}

    def gap(self, source: str) -> str | None:
        """Why nothing was read of a source; None if something was, or the reason is unknown."""
        return self.gaps.get(source, None if self.features else "unavailable")


class SampledReads(msgspec.Struct, frozen=True, kw_only=True):
    """A sample of decisions with their reads.

    Args:
        population: number of decisions from which the sample was drawn.
        unreadable: number of drawn decisions whose payload was erased, or is not in the gateways'
            format.
    """

    served: tuple[DecisionReads, ...]
    population: int
    unreadable: int


class _Payload(msgspec.Struct):
    request: dict[str, Any] = {}
    features: dict[str, float | None] = {}
    feature_times: dict[str, int | None] = {}
    windows_at: dict[str, int] | None = None
    feature_gaps: dict[str, list[str]] = {}


_decode = msgspec.json.Decoder(_Payload).decode


def stream(
    log: DecisionLog,
    model: str,
    kinds: tuple[Kind, ...],
    columns: tuple[str, ...],
    *,
    upto: Mapping[str, int],
    after: Mapping[str, int] | None = None,
    from_ms: int | None = None,
) -> Iterator[pa.Table]:
    """The records of a model in portions that fit into memory, while other processes go on
    appending.

    Args:
        columns: columns to read, with `writer` and `seq` among them.
        upto: per writer, the number of the last record to read; other writers are skipped.
    """
    limit = max(CHUNK_ROWS // max(len(upto), 1), FEWEST_ROWS)
    reached = dict(after or {})
    while True:
        query = RecordQuery(
            model=model, kinds=kinds, from_ms=from_ms, after=reached, limit=limit, columns=columns
        )
        found = log.read(query)
        if not found.num_rows:
            return
        reached |= last_seq(found)
        if any(seq > upto.get(writer, 0) for writer, seq in last_seq(found).items()):
            found = found.filter(_within(found, upto))
            if not found.num_rows:
                return
        yield found


def _within(found: pa.Table, upto: Mapping[str, int]) -> pc.Expression:
    inside = pc.scalar(False)
    for writer, seq in upto.items():
        inside = inside | ((pc.field("writer") == writer) & (pc.field("seq") <= seq))
    return inside


def take(
    log: DecisionLog,
    definition: ModelDefinition,
    *,
    size: int,
    upto: Mapping[str, int],
    after: Mapping[str, int] | None,
    from_ms: int | None,
) -> SampledReads:
    """`size` of the decisions behind a position, or all where there are fewer, by event time.

    A decision is drawn by a hash of its id: a pass that is repeated draws the same ones.
    """
    drawn: list[tuple[int, str]] = []
    population, bar = 0, 2**32
    columns = ("writer", "seq", "decision_id")
    for found in stream(
        log, definition.name, ("decision",), columns, upto=upto, after=after, from_ms=from_ms
    ):
        population += found.num_rows
        ids: list[Any] = found.column("decision_id").to_pylist()
        drawn += [(mark, one) for one in ids if (mark := crc32(one.encode())) < bar]
        if len(drawn) > size:
            drawn = sorted(drawn)[:size]
            bar = drawn[-1][0]
    served, missing = _read(log, definition, [one for _, one in drawn], from_ms)
    served.sort(key=lambda one: (one.event_ms, one.decision_id))
    return SampledReads(served=tuple(served), population=population, unreadable=missing)


def _read(
    log: DecisionLog, definition: ModelDefinition, ids: Sequence[str], from_ms: int | None
) -> tuple[list[DecisionReads], int]:
    served, missing = [], 0
    for start in range(0, len(ids), IDS_AT_ONCE):
        query = RecordQuery(
            model=definition.name,
            kinds=("decision",),
            from_ms=from_ms,
            decision_ids=tuple(ids[start : start + IDS_AT_ONCE]),
            columns=("decision_id", "event_ms", "recorded_ms", "payload"),
        )
        for row in log.read(query).to_pylist():
            one = _reads_of(row, definition)
            if one is None:
                missing += 1
            else:
                served.append(one)
    return served, missing


def _reads_of(row: Mapping[str, Any], definition: ModelDefinition) -> DecisionReads | None:
    if row["payload"] is None:
        return None
    try:
        payload = _decode(row["payload"])
    except NOT_JSON:
        return None
    keys = {e: payload.request.get(field) for e, field in definition.entities.items()}
    if not all(is_key(key) for key in keys.values()):
        return None
    return DecisionReads(
        decision_id=row["decision_id"],
        event_ms=row["event_ms"],
        recorded_ms=row["recorded_ms"],
        keys=keys,  # type: ignore[arg-type]
        features=payload.features,
        times=payload.feature_times,
        position=payload.windows_at,
        gaps={name: cause for cause, names in payload.feature_gaps.items() for name in names},
    )


def is_key(value: object) -> bool:
    """Whether the value can be the key of an entity."""
    if isinstance(value, bool):
        return False
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)
