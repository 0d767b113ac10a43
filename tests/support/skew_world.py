"""A bank's payments by two gateways, answered with windows and daily snapshots, and what can go
wrong with either."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP, OnlineRow
from mlplatform.learning.features.snapshots import materialize
from mlplatform.learning.skew.comparison import SkewPass, compare
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.windows.declaration import Filter, Window
from mlplatform.model.windows.ratios import ratios_of
from mlplatform.model.windows.tiles import SeriesReader, fold, new_columns, series_of
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

BEGIN_MS = 20_500 * DAY_MS
WRITERS = ("gateway-a", "gateway-b")
WINDOWS = (
    Window(name="c_n_1h", entity="customer", aggregate="count", window="1h", resolution="5m"),
    Window(
        name="c_sum_1d", entity="customer", aggregate="sum", of="amount", window="1d",
        resolution="1h",
    ),
    Window(
        name="c_mean_7d", entity="customer", aggregate="mean", of="amount", window="7d",
        resolution="6h",
    ),
    Window(
        name="c_since", entity="customer", aggregate="seconds_since", window="1d", resolution="1h"
    ),
    Window(name="t_n_6h", entity="terminal", aggregate="count", window="6h", resolution="30m"),
    Window(
        name="t_large_1d", entity="terminal", aggregate="count", window="1d", resolution="1h",
        where=Filter(field="amount", op=">", value=80),
    ),
    Window(
        name="c_last_1d", entity="customer", aggregate="last", of="amount", window="1d",
        resolution="1h",
    ),
    Window(
        name="t_customers_1d", entity="terminal", aggregate="distinct", of="customer_id",
        window="1d", resolution="1h",
    ),
    Window(name="c_sum_to_mean", entity="customer", aggregate="ratio", of="c_sum_1d",
        to="c_mean_7d",
    ),
)  # fmt: skip
VIEWS = load_views(model_folder("fraud"))
MODEL = msgspec.structs.replace(load_definition("fraud"), windows=WINDOWS)

ServedValues = dict[str, float | None]


class Store:
    """An online store of daily rows; those of a snapshot are read some minutes after midnight."""

    is_remote = False

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows: dict[str, dict[int, tuple[int, ServedValues]]] = {v.name: {} for v in VIEWS}
        self.coming: list[tuple[str, pa.Table]] = []

    def write(self, view: str, rows: pa.Table) -> int:
        self.coming.append((view, rows))
        return rows.num_rows

    def arrive(self) -> None:
        for view, rows in self.coming:
            key = next(v.join_key for v in VIEWS if v.name == view)
            for row in rows.to_pylist():
                made, _ = row.pop(EVENT_TIMESTAMP), row.pop(CREATED)
                at_ms = int(made.timestamp() * 1000) if made.tzinfo else _utc_ms(made)
                self.rows[view][row.pop(key)] = (at_ms, self._world.faults.stored(row))
        self.coming = []

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        values: dict[str, float | None] = {}
        times: dict[str, int | None] = {}
        for view in VIEWS:
            at_ms, row = self.rows[view.name].get(keys[view.entity], (-(10**15), {}))
            is_valid = at_ms >= event_ms - view.ttl_ms
            values |= {n: row.get(n) if is_valid else None for n in view.feature_names}
            times[view.name] = at_ms if is_valid else None
        return OnlineRow(values, times)

    def is_held_up(self) -> bool:
        return False

    def newest(self) -> Mapping[str, int | None]:
        return {}

    def close(self) -> None: ...


def _utc_ms(moment: Any) -> int:
    return int((moment - moment.__class__(1970, 1, 1)).total_seconds() * 1000)


@dataclass
class Faults:
    """What goes wrong; by default nothing.

    Args:
        served: changes what a decision at a time is served.
        stored: changes a row on its way into the online store.
        frozen: (view, day) whose snapshots are made no more from that day on.
        stopped: (entity, event time) from which on its windows take in nothing, and say they do.
        behind_ms: how far the windows' state is behind the log.
        late: (first, last) event time of records of the second gateway that reach the log and the
            state six hours after the last.
    """

    served: Callable[[ServedValues, int], None] = lambda values, at_ms: None
    stored: Callable[[ServedValues], ServedValues] = lambda row: row
    frozen: tuple[str, int] = ("", 0)
    stopped: tuple[str, int] = ("", 0)
    behind_ms: int = 0
    late: tuple[int, int] = (0, 0)


@dataclass
class World:
    """Payments of some days, in a log and in an offline table."""

    home: Path
    faults: Faults = field(default_factory=Faults)
    definition: ModelDefinition = MODEL
    seed: int = 1
    customers: int = 300
    terminals: int = 80
    offline_folder: Path | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.store = Store(self)
        folder = self.offline_folder or self.home / "offline"
        self.offline = OfflineTable(folder, self.definition)
        self.shared = series_of(self.definition.windows, self.definition.entities)
        self.readers = [(series, SeriesReader(series, windows)) for series, windows in self.shared]
        self.tiles: dict[tuple[int, int], Any] = {}
        self.position = dict.fromkeys(WRITERS, 0)
        self.waiting: deque[tuple[str, Record]] = deque()
        self.queued: list[tuple[str, Record]] = []
        self.held: list[Record] = []
        self.labels: list[tuple[int, str]] = []
        self.number = self.days = 0

    def run(self, days: int, a_day: int) -> World:
        with closing(SqliteDecisionLog(self.home)) as log:
            for _ in range(days):
                self._day(log, BEGIN_MS + self.days * DAY_MS, a_day)
                self.days += 1
            self._release(log, 2**62)
        return self

    def compare(self, **options: Any) -> SkewPass:
        with closing(SqliteDecisionLog(self.home)) as log:
            return compare(self.definition, VIEWS, log, self.offline, **options)

    def _day(self, log: SqliteDecisionLog, begin_ms: int, a_day: int) -> None:
        times = [begin_ms + self.chance.randrange(DAY_MS - 1_000) for _ in range(a_day * 4 // 5)]
        times += [at_ms + self.chance.randrange(500) for at_ms in times[: a_day // 5]]
        has_arrived, last_ms = False, 0
        under_way: list[tuple[str, Record]] = []
        for event_ms in sorted(times):
            if event_ms - last_ms > 500:  # whatever came before is on record
                self._commit(under_way)
                under_way = []
            last_ms = event_ms
            if event_ms > begin_ms + 5 * MINUTE_MS and not has_arrived:
                self.store.arrive()
                has_arrived = True
            self._release(log, event_ms)
            under_way.append(self._answered(event_ms))
        self._commit(under_way)
        self._label(begin_ms + DAY_MS)
        self._flush(log)
        self.offline.project(log)
        day = (begin_ms - BEGIN_MS) // DAY_MS
        stopped, since = self.faults.frozen
        views = [v for v in VIEWS if v.name != stopped or day < since]
        end_ms = begin_ms + DAY_MS
        materialize(self.offline, views, end_ms, self.store, end_ms + 5 * MINUTE_MS)  # type: ignore[arg-type]

    def _answered(self, event_ms: int) -> tuple[str, Record]:
        self.number += 1
        chance = self.chance
        request = {
            "customer_id": -1 - int(chance.random() ** 2 * self.customers),
            "terminal_id": chance.randrange(self.terminals),
            "amount": round(chance.random() * 120, 2),
        }
        keys = {e: request[f] for e, f in self.definition.entities.items()}
        self._follow(event_ms)
        row = self.store.read(keys, event_ms)  # type: ignore[arg-type]
        values = row.values
        for number, (series, reader) in enumerate(self.readers):
            empty = new_columns(series)
            reader.fill(values, self.tiles.get((number, request[series.key]), empty), event_ms)  # type: ignore[call-overload]
        for ratio in ratios_of(self.definition.windows):
            values[ratio.name] = ratio.of_values(values)
        self.faults.served(values, event_ms)
        writer = chance.choice(WRITERS)
        payload = {
            "request": request, "features": values, "feature_times": row.times,
        }  # fmt: skip
        if self.shared:
            payload["windows_at"] = dict(self.position)
        record = Record(
            kind="decision", decision_id=f"{chance.getrandbits(64):016x}{self.number:06x}",
            model="fraud", event_ms=event_ms, recorded_ms=event_ms + chance.randrange(2, 30),
            decision="approve", answered_by="champion", payload=payload,
        )  # fmt: skip
        return writer, record

    def _commit(self, under_way: list[tuple[str, Record]]) -> None:
        first, last = self.faults.late
        for writer, record in under_way:
            if writer == WRITERS[1] and first <= record.event_ms < last:
                self.held.append(record)
                continue
            self._append(writer, record)

    def _append(self, writer: str, record: Record) -> None:
        self.queued.append((writer, record))
        if record.kind == "decision" and self.chance.random() < 0.02:
            arrives_ms = record.event_ms + self.chance.randrange(5 * DAY_MS)
            self.labels.append((arrives_ms, record.decision_id))
        self.waiting.append((writer, record))
        self._follow(record.recorded_ms)

    def _follow(self, now_ms: int) -> None:
        """Let the state take in what is old enough for it."""
        while self.waiting and self.waiting[0][1].recorded_ms <= now_ms - self.faults.behind_ms:
            writer, record = self.waiting.popleft()
            self.position[writer] += 1
            if record.kind != "decision":
                continue
            entity, since_ms = self.faults.stopped
            for number, (series, _) in enumerate(self.shared):
                key = record.payload["request"][series.key]
                if self.definition.entities.get(entity) == series.key and (
                    record.event_ms >= since_ms
                ):
                    continue
                columns = self.tiles.setdefault((number, key), new_columns(series))
                fold(columns, series, record.event_ms, record.payload["request"])

    def _label(self, now_ms: int) -> None:
        ready = sorted(one for one in self.labels if one[0] < now_ms)
        self.labels = [one for one in self.labels if one[0] >= now_ms]
        for arrives_ms, decision_id in ready:
            record = Record(
                kind="label", decision_id=decision_id, model="fraud", event_ms=arrives_ms,
                recorded_ms=now_ms, label=1,
            )  # fmt: skip
            self._append(WRITERS[0], record)

    def _release(self, log: SqliteDecisionLog, now_ms: int) -> None:
        if self.held and now_ms >= self.faults.late[1] + 6 * HOUR_MS:
            for record in self.held:
                self._append(WRITERS[1], record)
            self.held = []
        if now_ms == 2**62:
            self._flush(log)

    def _flush(self, log: SqliteDecisionLog) -> None:
        for writer in WRITERS:
            records = [Entry(r) for w, r in self.queued if w == writer]
            for start in range(0, len(records), 1_000):
                log.append(writer, records[start : start + 1_000])
        self.queued = []
