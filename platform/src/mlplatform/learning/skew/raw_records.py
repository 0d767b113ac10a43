"""Records of a few entities from the log and the history, in a database that may spill to disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.draws import logged_draws
from mlplatform.decisions.records.port import DecisionLog
from mlplatform.decisions.records.record import Kind
from mlplatform.learning.features.arrivals import ARRIVALS
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.rows import (
    TIME,
    declared_columns,
    event_times,
    python_vector,
    request_schema,
)
from mlplatform.learning.skew.decision_reads import Key, stream
from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.runtime.canonical import NOT_JSON

Keys = Mapping[str, Collection[Key]]

THREADS: Final = 2
MEMORY: Final = "512MB"
"""Memory limit of DuckDB; beyond it, records and joins lie on disk."""
ARRIVAL: Final = ("writer", "seq", "recorded_ms", "windows_at")
COLUMNS: Final = (
    *("writer", "seq", "kind", "decision_id", "event_ms", "recorded_ms", "decision", "label"),
    "payload",
)
_LABEL_COLUMNS: Final[list[tuple[str, pa.DataType]]] = [
    ("request_id", pa.string()),
    ("label", pa.int8()),
    ("label_time", TIME),
    ("recorded_ms", pa.int64()),
    ("seq", pa.int64()),
    ("_writer", pa.string()),
]
_VOID_COLUMNS: Final[list[tuple[str, pa.DataType]]] = [
    ("request_id", pa.string()),
    ("event_ms", pa.int64()),
    ("_writer", pa.string()),
    ("seq", pa.int64()),
]
_LABELS: Final = pa.schema(_LABEL_COLUMNS)
_VOIDS: Final = pa.schema(_VOID_COLUMNS)
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: Final[dict[str, Any]] = {"int64": Whole, "float64": float, "string": str, "bool": bool}


def _type(field: RequestField) -> Any:
    return python_vector(field.length or 0) if field.type == "vector" else _TYPES[field.type]


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database, in a folder that is removed with it."""
    with TemporaryDirectory(prefix="skew-") as folder:
        config = {"threads": THREADS, "memory_limit": MEMORY, "temp_directory": folder}
        with duckdb.connect(str(Path(folder) / "records.db"), config=config) as db:
            db.execute("SET enable_progress_bar=false")
            db.execute("SET TimeZone='UTC'")
            yield db


def gather(
    db: duckdb.DuckDBPyConnection,
    log: DecisionLog,
    offline: OfflineTable,
    *,
    keys: Keys,
    from_ms: int,
    upto: Mapping[str, int],
) -> int:
    """Fill the tables `events`, `labels` and `voids`. Returns the number of payloads that can't be
    read.

    `events` holds the requests of these entities: those of the history without a writer, those of
    the log with `_writer`, `_seq`, `_recorded_ms` and `_windows_at`; `_stopped` ones hid their
    outcome.

    Args:
        keys: request field → keys. A request is wanted if one of its fields has one of the keys.
        from_ms: event time of the first record.
    """
    definition = offline.definition
    schema = event_schema(definition)
    for name, of in (("events", schema), ("labels", _LABELS), ("voids", _VOIDS)):
        db.register("empty_", of.empty_table())
        db.execute(f"CREATE TABLE {name} AS SELECT * FROM empty_")
    _keep_keys(db, keys, definition)
    _take_history(db, offline, keys, from_ms)
    reader, unreadable = _Requests(definition, keys), 0
    kinds: tuple[Kind, ...] = ("decision", "label", "void")
    pieces = stream(log, definition.name, kinds, COLUMNS, upto=upto, from_ms=from_ms)
    for found in pieces:
        by_kind = {k: found.filter(pc.field("kind") == k) for k in kinds}
        events, lost = reader.events(by_kind["decision"], schema)
        unreadable += lost
        _insert(db, "events", events)
        _insert(db, "labels", _labels(by_kind["label"]))
        _insert(db, "voids", _voids(by_kind["void"]))
    db.execute(
        "DELETE FROM labels WHERE request_id NOT IN (SELECT request_id FROM events);"
        "DELETE FROM voids WHERE request_id NOT IN (SELECT request_id FROM events);"
    )
    return unreadable


def event_schema(definition: ModelDefinition) -> pa.Schema:
    """The columns of `events`: the request's fields, then what the log says of it. No request field
    begins with _."""
    arrival = [(f"_{name}", ARRIVALS.field(name).type) for name in ARRIVAL]
    return pa.schema([*request_schema(definition), *arrival, ("_stopped", pa.bool_())])


def keys_table(field: str) -> str:
    """Name of the relation that holds the wanted keys of a request field, as `key`."""
    return f"keys_{field}"


def _keep_keys(db: duckdb.DuckDBPyConnection, keys: Keys, definition: ModelDefinition) -> None:
    schema = request_schema(definition)
    for field, wanted in keys.items():
        kind = schema.field(field).type
        fitting = [key for key in wanted if isinstance(key, str) == pa.types.is_string(kind)]
        table = pa.table({"key": pa.array(fitting, kind)})
        db.register("keys_", table)
        db.execute(f"CREATE TABLE {keys_table(field)} AS SELECT * FROM keys_")


def _take_history(
    db: duckdb.DuckDBPyConnection, offline: OfflineTable, keys: Keys, from_ms: int
) -> None:
    requests = offline.history_files("requests")
    if not requests:
        return
    read = "read_parquet($files, union_by_name=true)"  # a field may have been declared later
    found = db.execute(f"DESCRIBE SELECT * FROM {read}", {"files": requests}).fetchall()
    schema = request_schema(offline.definition)
    fields = ", ".join(declared_columns([row[0] for row in found], schema))
    wanted = " OR ".join(f'"{f}" IN (SELECT key FROM {keys_table(f)})' for f in keys)
    db.execute(
        f"INSERT INTO events SELECT {fields}, NULL, NULL, NULL, NULL, false"
        f" FROM {read} WHERE event_time >= epoch_ms({int(from_ms)}) AND ({wanted})",
        {"files": requests},
    )
    if labels := offline.history_files("labels"):
        db.execute(
            "INSERT INTO labels SELECT request_id, label, label_time, 0, 0, NULL"
            f" FROM read_parquet($files) WHERE label_time >= epoch_ms({int(from_ms)})"
            " AND request_id IN (SELECT request_id FROM events)",
            {"files": labels},
        )


class _Requests:
    """Turns decision records of wanted keys into rows of `events`."""

    def __init__(self, definition: ModelDefinition, keys: Keys) -> None:
        self._fields = tuple(definition.request)
        self._hides = frozenset(definition.decision.hides_outcome)
        self._keys = [(field, frozenset(wanted)) for field, wanted in keys.items()]
        fields: list[Any] = [
            (name, (Whole if f.pseudonymous else _type(f)) | None, None)
            for name, f in definition.request.items()
        ]
        request = msgspec.defstruct("Request", fields)
        payload: list[Any] = [
            ("request", request),
            ("windows_at", dict[str, int] | None, None),
        ]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Payload", payload)).decode

    def events(self, decisions: pa.Table, schema: pa.Schema) -> tuple[pa.Table, int]:
        """The rows, and the number of payloads that are gone or no longer fit the model's
        declaration."""
        kept: list[int] = []
        found: list[Any] = []
        unreadable = 0
        texts: list[Any] = decisions.column("payload").to_pylist()
        for place, text in enumerate(texts):
            try:
                payload: Any = self._decode(text)
            except (TypeError, *NOT_JSON):
                unreadable += 1
                continue
            request = payload.request
            for field, wanted in self._keys:
                if getattr(request, field) in wanted:
                    kept.append(place)
                    found.append(payload)
                    break
        rows = decisions.take(pa.array(kept, pa.int64()))
        draws = logged_draws(rows)
        stopped = [
            decision in self._hides and not (one in draws and draws[one].explored)
            for one, decision in zip(
                rows.column("decision_id").to_pylist(),
                rows.column("decision").to_pylist(),
                strict=True,
            )
        ]
        arrays: list[Any] = [
            rows.column("decision_id"),
            event_times(rows.column("event_ms")),
            *([getattr(p.request, name) for p in found] for name in self._fields),
            *(rows.column(name) for name in ("writer", "seq", "recorded_ms")),
            [None if p.windows_at is None else list(p.windows_at.items()) for p in found],
            stopped,
        ]
        return pa.table(arrays, schema=schema), unreadable


def _labels(records: pa.Table) -> pa.Table:
    records = records.filter(pc.is_valid(records.column("label")))
    times = event_times(records.column("event_ms"))
    columns = [records.column("decision_id"), records.column("label"), times]
    return pa.table(
        [*columns, *(records.column(n) for n in ("recorded_ms", "seq", "writer"))], schema=_LABELS
    )


def _voids(records: pa.Table) -> pa.Table:
    names = ("decision_id", "event_ms", "writer", "seq")
    return pa.table([records.column(name) for name in names], schema=_VOIDS)


def _insert(db: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    if rows.num_rows:
        db.register("new_", rows)
        db.execute(f"INSERT INTO {name} SELECT * FROM new_")
        db.unregister("new_")
