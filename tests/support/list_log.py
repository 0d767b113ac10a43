"""Records in memory as what reads them of a decision log."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.decisions.records.record import Record, arrow_schema
from mlplatform.runtime.units import DAY_MS


class ListLog:
    """The reading half of a decision log, in memory."""

    def __init__(self, records: Sequence[Record]) -> None:
        rows = [msgspec.structs.asdict(r) | {"writer": "w", "payload": "{}"} for r in records]
        numbered = [row | {"seq": seq} for seq, row in enumerate(rows)]
        self.table = pa.Table.from_pylist(numbered, arrow_schema([*numbered[0]]))

    def read(self, query: RecordQuery) -> pa.Table:
        keep = pc.field("kind").isin(list(query.kinds))
        keep &= pc.field("event_ms") >= (query.from_ms or 0)
        if query.to_ms is not None:
            keep &= pc.field("event_ms") < query.to_ms
        return self.table.filter(keep).select(list(query.columns))

    def watermarks(self) -> list[Watermark]:
        return [Watermark("w", 10**6, 99 * DAY_MS, 0, live=True)]
