"""The offline table: a model's past requests and their labels, from imported history and then from
the log.

On disk the table is a series of numbered parts. Each holds requests and labels by UTC day, and the
log position that they reach. A part appears whole, by one rename, so that data and position never
differ. Files without a part's number were left by a killed run; the next one removes them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlplatform.decisions.records.last_labels import LABEL_COLUMNS, LabelCounts
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import Kind
from mlplatform.learning.features import arrivals, rows, unfinished_import
from mlplatform.learning.features.compile import EVERY, UnitSample, sample_of, sample_sql
from mlplatform.learning.features.external_parts import BUILDING, ExternalParts
from mlplatform.learning.features.unfinished_import import UnfinishedImport, history_digest
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import InputInvalid, Refused
from mlplatform.runtime.units import DAY_MS

KINDS: tuple[Kind, ...] = ("decision", "label", "void")
LOG_COLUMNS = ("writer", "kind", "payload", "decision", "answered_by", "score", *LABEL_COLUMNS)
NO_POSITION = b"{}"  # position of history, which comes from no record of the log
PORTION: Final = 50_000
"""Records of each writer that are read at a time; about 100 MB of memory."""
PART_RECORDS: Final = 1_000_000
"""Records after which a part is written, though more wait: about 100 MB of rows."""


@dataclass(frozen=True, slots=True)
class ProjectionCounts:
    """Counts of what one projection read from the log."""

    requests: int = 0
    labels: int = 0
    voids: int = 0

    def __add__(self, other: ProjectionCounts) -> ProjectionCounts:
        return ProjectionCounts(
            self.requests + other.requests, self.labels + other.labels, self.voids + other.voids
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    requests: pa.Table
    labels: pa.Table
    voids: pa.Table = field(default_factory=rows.VOIDS.empty_table)
    decided: pa.Table = field(default_factory=rows.DECIDED.empty_table)
    arrivals: pa.Table = field(default_factory=arrivals.ARRIVALS.empty_table)

    @classmethod
    def joined(cls, parts: Sequence[_Part], definition: ModelDefinition) -> _Part:
        """The rows of all parts, in their order."""
        empty = cls(
            rows.request_schema(definition).empty_table(),
            rows.labels_schema(definition).empty_table(),
        )
        joined = cls(
            *(
                pa.concat_tables([getattr(one, f.name) for one in (empty, *parts)])
                for f in fields(cls)
            )
        )
        return replace(joined, arrivals=arrivals.with_positions(joined.arrivals))

    @property
    def counts(self) -> ProjectionCounts:
        return ProjectionCounts(len(self.requests), len(self.labels), len(self.voids))


def _part_of(records: pa.Table, definition: ModelDefinition) -> _Part:
    """The rows in records of the log; a decision whose payload was erased has none."""
    by_kind = {k: records.filter(pc.field("kind") == k) for k in KINDS}
    erased = pc.field("payload").is_null()
    decisions = by_kind["decision"].filter(~erased)
    payloads = rows.payloads_of(decisions, definition)
    return _Part(
        rows.requests_of(decisions, payloads, definition),
        rows.labels_of(by_kind["label"], definition),
        rows.voids_of(by_kind["void"]),
        rows.decided_of(decisions, payloads, definition.decision.hides_outcome),
        arrivals.arrivals_of(decisions, (payload.windows_at for payload in payloads)),
    )


class OfflineTable:
    """The offline table of one model; several processes may call every method at once.

    Args:
        folder: the folder `settings.Home.offline(model)`.
    """

    def __init__(self, folder: Path, definition: ModelDefinition) -> None:
        self.folder = folder
        self.definition = definition
        self._parts = folder / "parts"
        self._db: duckdb.DuckDBPyConnection | None = None

    def import_history(self, table: pa.Table, key: bytes, source: str = "history") -> int:
        """Import requests from before there was a log. Returns their number.

        Args:
            table: `rows.history_schema(definition)`, sorted by event time; columns of optional
                fields may be lacking. Labels may be null, and may arrive after the last event.
            key: the pseudonym key; fields marked pseudonymous are stored only under it.
            source: the name of the data in error messages.

        If there is history, new rows must come after its last midnight. The import is unfinished
        until `finish_history`.

        Raises:
            Refused: the log was projected before, so that new requests must come from the log; or
                another import is unfinished.
            InputInvalid: a row is wrong (the message names the source, the row and the error), or
                the first request is not later than the history in the table. Nothing was imported.
        """
        table = rows.completed(table, self.definition)
        rows.check_history(table, self.definition, source)
        requests, labels = rows.split_history(table, self.definition, key)
        with self._lock():
            self.check_follows(table, source)
            number = max(self._numbers(), default=-1) + 1
            mark = UnfinishedImport(number, history_digest(table, self.definition))
            unfinished_import.write(self.folder, mark)
            self._add(number, _Part(requests, labels), {})
        return len(requests)

    def unfinished_import(self) -> UnfinishedImport | None:
        """The import whose rows are in the table and whose snapshots and windows are not known to
        be complete; None if there is none."""
        mark = unfinished_import.read(self.folder)
        is_here = mark is not None and self._parts / _name(mark.part) in self._history()
        return mark if is_here else None

    def note_forgotten(self, midnights_ms: Iterable[int]) -> tuple[int, ...]:
        """Note snapshots that are about to be removed. Returns all that the import has noted."""
        mark = self.unfinished_import()
        if mark is None:
            raise Refused(f"no import of {self.definition.name} is unfinished")
        every = tuple(sorted({*mark.forgotten_ms, *midnights_ms}))
        unfinished_import.write(self.folder, msgspec.structs.replace(mark, forgotten_ms=every))
        return every

    def finish_history(self) -> None:
        """Note that the history, its snapshots and its windows are complete."""
        unfinished_import.remove(self.folder)

    def check_follows(self, table: pa.Table, source: str) -> None:
        """Raises unless this history may be added to the table.

        Raises:
            Refused, InputInvalid: for the same reasons as in `import_history`.
        """
        if self.unfinished_import() is not None:
            raise Refused(
                f"an import into {self.definition.name} was stopped halfway: repeat it with the"
                " same files, then add others"
            )
        if self._has_answers():
            raise unfinished_import.closed_history(self.definition.name)
        end_ms = self.history_end_ms()
        if end_ms is None or not table.num_rows:
            return
        least = datetime.fromtimestamp(-(-end_ms // DAY_MS) * DAY_MS / 1000, UTC).replace(
            tzinfo=None
        )
        first: datetime = table.column("event_time")[0].as_py()
        if first < least:
            problem = (
                f"it begins at {first.isoformat()}; wanted: requests from"
                f" {least.isoformat()} on, as earlier ones were imported already:"
                f" --from {least.date()} leaves out the rows before; a history with earlier ones"
                f" {unfinished_import.another_home(self.definition.name)}"
            )
            raise InputInvalid(source, 0, problem)
        here = self.requests().project("request_id").to_arrow_table().column(0)
        again = pc.is_in(table.column("request_id"), here.combine_chunks()).to_numpy()
        problem = "request_id is that of a request that was imported already"
        rows.refuse(again, source, problem, table.column("request_id"))

    def project(self, log: DecisionLog) -> ProjectionCounts:
        """Append the log's records after the position of the last part.

        Memory does not grow with the number of records: they are read in portions, and each part
        is durable before the next one is begun. A killed run goes on after its last part.

        Raises:
            Corrupt: the request of a decision does not fit the model's declaration.
        """
        counts, ended = ProjectionCounts(), False
        with self._lock():
            while not ended:
                part, position, ended = self._next_part(log)
                if position:
                    number = max(self._numbers(), default=-1) + 1
                    self._add(number, part, position)
                    counts += part.counts
        return counts

    def _next_part(self, log: DecisionLog) -> tuple[_Part, Mapping[str, int], bool]:
        """The next rows of the log, their position (empty if there are none), and whether the log
        has no more."""
        portions: list[_Part] = []
        position, room = dict(self.position()), PART_RECORDS
        while room > 0:
            query = RecordQuery(
                model=self.definition.name, kinds=KINDS, after=position, columns=LOG_COLUMNS,
                limit=PORTION,
            )  # fmt: skip
            records = log.read(query)
            room -= records.num_rows
            position |= rows.last_seq(records)
            if records.num_rows:
                portions.append(_part_of(records, self.definition))
            if records.num_rows < PORTION:  # no writer has as many
                break
        part = _Part.joined(portions, self.definition)
        return part, position if portions else {}, room > 0

    def position(self) -> Mapping[str, int]:
        """The number of each writer's last log record in the table."""
        for number in reversed(self._numbers()):
            content = (self._parts / _name(number) / "position.json").read_bytes()
            if content != NO_POSITION:
                return msgspec.json.decode(content, type=dict[str, int])
        return {}

    def history_end_ms(self) -> int | None:
        """The event time of the imported history's last request; None without history."""
        parts = self._history()
        if not parts:
            return None
        files = sorted((parts[-1] / "requests").glob("*.parquet"))
        last = pq.read_table(files[-1], columns=["event_time"]).column(0).cast(pa.int64())
        return int(last.to_numpy().max()) // 1000

    @property
    def db(self) -> duckdb.DuckDBPyConnection:
        """The connection of this object's relations. It uses one thread, so that sums repeat
        exactly."""
        if self._db is None:
            self._db = duckdb.connect(":memory:", config={"threads": 1})
            self._db.execute("SET enable_progress_bar=false")
        return self._db

    def requests(
        self,
        from_ms: int | None = None,
        to_ms: int | None = None,
        sample: UnitSample = EVERY,
        *,
        as_of_ms: int | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Requests with event time in [from_ms, to_ms): request_id, event_time, and the fields.

        Args:
            sample: which of them, as from `sample_of`.
            as_of_ms: those that were void at this time are left out; None: all voided ones are.
        """
        found = self._read(self._files("requests"), rows.request_schema(self.definition))
        for comparison, at_ms in ((">=", from_ms), ("<", to_ms)):
            if at_ms is not None:
                found = found.filter(f"event_time {comparison} epoch_ms({int(at_ms)})")
        found = self._without_void(found, as_of_ms)
        return found if sample.share >= 1 else found.filter(sample_sql(self.definition, sample))

    def sample_of(
        self, from_ms: int, to_ms: int, most_rows: int, as_of_ms: int | None = None
    ) -> UnitSample:
        """The largest sample of at most `most_rows` of the `requests` in [from_ms, to_ms)."""
        requests = self.requests(from_ms, to_ms, as_of_ms=as_of_ms)
        return sample_of(self.definition, requests, most_rows)

    def every_request(
        self, from_ms: int, files: Sequence[str] | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Requests from an event time on, in some of `request_files` or in all, with those voided
        later, because windows had counted them."""
        found = self.request_files() if files is None else list(files)
        relation = self._read(found, rows.request_schema(self.definition))
        return relation.filter(f"event_time >= epoch_ms({int(from_ms)})")

    def request_files(self) -> list[str]:
        """Parquet files of all requests."""
        return self._files("requests")

    def history_files(self, name: str) -> list[str]:
        """Parquet files of the imported history's `requests` or `labels`."""
        return sorted(str(f) for p in self._history() for f in p.glob(f"{name}/*.parquet"))

    def history(self, from_ms: int) -> duckdb.DuckDBPyRelation:
        """The requests of the imported history, from an event time on."""
        files, schema = self.history_files("requests"), rows.request_schema(self.definition)
        return self._read(files, schema).filter(f"event_time >= epoch_ms({int(from_ms)})")

    def arrivals(self, files: Sequence[str] | None = None) -> duckdb.DuckDBPyRelation:
        """When the log's requests became known, and which requests were known to them
        (`arrivals`): of some of `arrival_files`, or of all."""
        found = self.arrival_files() if files is None else list(files)
        if not found:
            return self.db.from_arrow(arrivals.ARRIVALS.empty_table())
        return self.db.read_parquet(found)

    def arrival_files(self) -> list[str]:
        """Parquet files of all arrivals."""
        return sorted(str(f) for f in self._parts.glob("[0-9]*/arrivals.parquet"))

    def labels(self, as_of_ms: int) -> duckdb.DuckDBPyRelation:
        """The labels known at `as_of_ms`: request_id, label, label_time, one row a request.

        Of several labels of a request the last counts, as `decisions.records.last_labels` says.
        """
        known = self._without_void(self.label_records(as_of_ms), as_of_ms)
        return known.aggregate(
            f"request_id, max_by(label, ({rows.LABEL_RANK})) AS label, "
            "max(label_time) AS label_time",
            "request_id",
        )

    def label_records(self, as_of_ms: int) -> duckdb.DuckDBPyRelation:
        """Every label that had arrived at `as_of_ms`, including repeated ones and those of void
        requests."""
        found = self._read(self._files("labels"), rows.labels_schema(self.definition))
        found = found.filter(f"label_time <= epoch_ms({int(as_of_ms)})")
        # parts of an earlier version lack these columns
        order = (f"coalesce({name}, 0) AS {name}" for name, _ in rows.ORDER)
        return found.project(", ".join([*rows.LABELS.names[:3], *order]))

    def label_counts(self, from_ms: int, to_ms: int, as_of_ms: int) -> LabelCounts:
        """The counts of requests in [from_ms, to_ms), by the labels and voids known at
        `as_of_ms`."""
        requests = self.requests(from_ms, to_ms, as_of_ms=as_of_ms)
        requests = requests.project("request_id").set_alias("r")
        labels = self.labels(as_of_ms).set_alias("l")
        is_positive = "l.label = 1" if self.definition.task == "binary" else "false"
        found = requests.join(labels, "r.request_id = l.request_id", how="left").aggregate(
            f"count(*), count(l.label), count(*) FILTER ({is_positive})"
        )
        return LabelCounts(*found.fetchall()[0])

    def labelled_requests(
        self, from_ms: int, to_ms: int, as_of_ms: int, sample: UnitSample = EVERY
    ) -> pa.Table:
        """Requests in [from_ms, to_ms) with the labels known at `as_of_ms`, ordered by event time,
        without those that were void then.

        Args:
            sample: as in `requests`.

        A request without a known label has null in `label` and `label_time`; one that was neither
        stopped nor explored, in the columns of `rows.DECIDED`.
        """
        requests = self.requests(from_ms, to_ms, sample, as_of_ms=as_of_ms).set_alias("r")
        labels = self.labels(as_of_ms).set_alias("l")
        decided = self.decisions().set_alias("d")
        joined = requests.join(labels, "r.request_id = l.request_id", how="left")
        joined = joined.project("r.*, l.label, l.label_time").set_alias("r")
        joined = joined.join(decided, "r.request_id = d.request_id", how="left")
        table: pa.Table = (
            joined.project(f"r.*, {', '.join(f'd.{name}' for name in rows.DECIDED.names[1:])}")
            .order("event_time, request_id")
            .to_arrow_table()
        )
        return table

    def decisions(self) -> duckdb.DuckDBPyRelation:
        """The effects of decisions on their requests: the rows of `rows.DECIDED`, a small share."""
        files = sorted(str(f) for f in self._parts.glob("[0-9]*/decided.parquet"))
        if not files:
            return self.db.from_arrow(rows.DECIDED.empty_table())
        return self.db.read_parquet(files)

    def snapshot_folder(self, view: str) -> Path:
        return self.folder / "snapshots" / view

    def external(self, view: str) -> ExternalParts:
        """The parts of an external view's table."""
        return ExternalParts(self.folder / "external" / view)

    def voids(self, as_of_ms: int | None = None) -> duckdb.DuckDBPyRelation:
        """The voids known at `as_of_ms`, None: all, as rows of `rows.VOIDS`. One without a time was
        known always."""
        found = self._read(self._files("voids"), rows.VOIDS)
        if as_of_ms is None:
            return found
        return found.filter(f"event_time IS NULL OR event_time <= epoch_ms({int(as_of_ms)})")

    def _without_void(
        self, found: duckdb.DuckDBPyRelation, as_of_ms: int | None
    ) -> duckdb.DuckDBPyRelation:
        gone = self.voids(as_of_ms).set_alias("gone")
        return found.set_alias("kept").join(gone, "kept.request_id = gone.request_id", how="anti")

    def _files(self, name: str) -> list[str]:
        return sorted(str(f) for f in self._parts.glob(f"[0-9]*/{name}/*.parquet"))

    def _read(self, files: list[str], schema: pa.Schema) -> duckdb.DuckDBPyRelation:
        """The rows of these files; null in columns that they are too old to have."""
        if not files:
            return self.db.from_arrow(schema.empty_table())
        found = self.db.read_parquet(files, union_by_name=True)
        return found.project(", ".join(rows.declared_columns(found.columns, schema)))

    def _history(self) -> list[Path]:
        """The imported parts. Parts of the log come after them, but for those that hold nothing
        but labels of them."""
        return [p for p in self._every_part() if (p / "position.json").read_bytes() == NO_POSITION]

    def _has_answers(self) -> bool:
        """Whether a part of the log has requests."""
        of_log = {*self._every_part()} - {*self._history()}
        return any(any((part / "requests").glob("*.parquet")) for part in of_log)

    def _every_part(self) -> list[Path]:
        return [self._parts / _name(number) for number in self._numbers()]

    def _numbers(self) -> list[int]:
        return sorted(int(f.name) for f in self._parts.glob("[0-9]*"))

    def _add(self, number: int, part: _Part, position: Mapping[str, int]) -> None:
        building = self._parts / BUILDING
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            _write_days(building / "requests", part.requests, "event_time")
            _write_days(building / "labels", part.labels, "label_time")
            if part.voids.num_rows:
                (building / "voids").mkdir()
                pq.write_table(part.voids, building / "voids" / "voids.parquet")
            if part.arrivals.num_rows:
                pq.write_table(part.arrivals, building / "arrivals.parquet")
            if part.decided.num_rows:
                pq.write_table(part.decided, building / "decided.parquet")
            (building / "position.json").write_bytes(msgspec.json.encode(position))
            os.rename(building, self._parts / _name(number))
        finally:
            shutil.rmtree(building, ignore_errors=True)  # incomplete files take space too

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Holds the writer's lock; the kernel frees it when the holder dies."""
        self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _name(number: int) -> str:
    return f"{number:08d}"


def _write_days(folder: Path, table: pa.Table, time: str) -> None:
    folder.mkdir()
    table = table.sort_by([(time, "ascending"), ("request_id", "ascending")])
    days = table.column(time).to_numpy().astype("datetime64[D]")
    for day, start, length in zip(
        *np.unique(days, return_index=True, return_counts=True), strict=True
    ):
        pq.write_table(table.slice(int(start), int(length)), folder / f"{day}.parquet")
