"""The import of a file of labels: records of the decision log, as labels of the API are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import DuplicateKey, Entry, Idempotency
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.rows import Column, refuse
from mlplatform.learning.training_sets.label_files import in_order_of_time
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.review.recording import turn
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.labels.kinds import LabelKind
from mlplatform.scoring.request.decision_ids import is_known

WRITER: Final = "labels"
"""Writer of these records in this home; a lock gives it to one process at a time."""
LOCK: Final = "labels.lock"
CLIENT: Final = "label-file"
OWNER: Final = f"{CLIENT}/labels"
"""Owner of the claims; no client's name has a slash."""
KEEP_MS: Final = 3_650 * DAY_MS
"""How long a row is known as taken in: a file may bring every label of years again."""
PORTION: Final = 500
"""Labels of a transaction; gateways wait some milliseconds for it at most."""


@dataclass(frozen=True, slots=True)
class LabelImport:
    """The rows of a file of labels.

    Args:
        stored: rows that are new records.
        repeated: rows that were taken in before, with the same label and time.
        of_history: rows about requests of the imported history; the others are about decisions.
    """

    rows: int
    stored: int
    repeated: int
    of_history: int


def check_known(platform: Platform, model: str, table: pa.Table, source: str) -> int:
    """The number of rows that are about requests of the model's imported history.

    Raises:
        InputInvalid: a row is about no request of the history and no decision of the model, or its
            label was stated before the request.
    """
    key, ids = platform.pseudonym_key(), table.column("request_id")
    asked_ms = _event_times(platform, model, ids)
    of_history = ~np.isnat(asked_ms)
    unknown = ~of_history
    for row in np.flatnonzero(unknown):
        unknown[row] = not is_known(model, str(ids[int(row)].as_py()), key)
    problem = f"request_id is of no request of {model}'s history and of no decision of {model}"
    refuse(unknown, source, problem, ids)
    times = table.column("label_time")
    refuse(times.to_numpy() < asked_ms, source, "label_time is before the request", times)
    return int(of_history.sum())


def import_labels(platform: Platform, model: str, table: pa.Table, source: str) -> LabelImport:
    """Record the labels of a file, each once however often it comes.

    A label counts from the moment of its import on, as one that the API takes: no training set of
    an earlier moment changes. Labels of one request count in the order of their own times. An
    import that is killed is finished by the next one of the same file.

    Args:
        table: as from `examine_labels`.

    Raises:
        InputInvalid: for the reasons of `check_known`; nothing is recorded.
        Busy: another process records labels of files.
    """
    of_history, stored = check_known(platform, model, table, source), 0
    ordered, clock = in_order_of_time(table), platform.clock
    definition = platform.definition(model)
    with (
        turn(platform.settings.home.run, lock=LOCK, what="another file of labels"),
        closing(platform.opened_log(makes=True)) as log,
    ):
        try:
            now_ms, wall_ms = clock.event_ms(), clock.wall_ms()
            for entries in _portions(definition, ordered, source, now_ms, wall_ms):
                stored += _append(log, entries)
        finally:
            log.close_writer(WRITER)
    return LabelImport(table.num_rows, stored, table.num_rows - stored, of_history)


def _append(log: SqliteDecisionLog, entries: list[Entry]) -> int:
    outcomes = log.append(WRITER, entries)
    return sum(not isinstance(outcome, DuplicateKey) for outcome in outcomes)


def _portions(
    definition: ModelDefinition, table: pa.Table, source: str, now_ms: int, wall_ms: int
) -> Iterator[list[Entry]]:
    kind = LabelKind.of(definition)
    for start in range(0, table.num_rows, PORTION):
        rows = table.slice(start, PORTION)
        ids, labels = (rows.column(name).to_pylist() for name in ("request_id", "label"))
        stated = rows.column("label_time").cast(pa.int64()).to_pylist()
        yield [
            _entry(
                kind,
                Record(
                    kind="label",
                    decision_id=str(one),
                    model=definition.name,
                    event_ms=now_ms,
                    recorded_ms=wall_ms,
                    payload={"client": CLIENT, "file": source, "stated_us": at},
                ),
                label,
            )
            for one, label, at in zip(ids, labels, stated, strict=True)
        ]


def _entry(kind: LabelKind, record: Record, label: Any) -> Entry:
    """The record with its label and claim: without a time of its own, a label is stored once until
    a file says another one, as in the API."""
    stated_us = record.payload["stated_us"]
    start = f"{record.decision_id}:"
    key = f"{start}{label}:{'' if stated_us is None else stated_us}"
    ends = tuple(f"{start}{other}:" for other in kind.others(label))
    digest = hashlib.sha256(key.encode()).hexdigest()
    claim = Idempotency(OWNER, key, digest, b"{}", KEEP_MS, ends, impersonal=True)
    return Entry(msgspec.structs.replace(record, **{kind.column: label}), claim)


def _event_times(platform: Platform, model: str, ids: Column) -> NDArray[np.datetime64]:
    """The event time of each request of the history, NaT of others."""
    offline = platform.offline(model)
    db, found = offline.db, offline.history(0).project("request_id, event_time")
    labelled = db.from_arrow(pa.table([ids, pa.array(np.arange(len(ids)))], ["request_id", "row"]))
    joined = labelled.set_alias("g").join(
        found.set_alias("h"), "g.request_id = h.request_id", how="left"
    )
    times = joined.project("g.row, h.event_time").order("row").to_arrow_table()
    return np.asarray(times.column("event_time").to_numpy(), "datetime64[us]")
