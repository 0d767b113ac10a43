"""The offline table: history once, then the log, each record once, whatever is killed when."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.decisions.records.last_labels import LabelCounts
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.decisions.records.record import COLUMNS, Record, arrow_schema
from mlplatform.learning.features.compile import EVERY
from mlplatform.learning.features.offline import OfflineTable, ProjectionCounts
from mlplatform.learning.features.rows import history_schema, request_schema
from mlplatform.learning.features.unfinished_import import history_digest
from mlplatform.model.definition import RequestField
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import Corrupt, InputInvalid, Refused
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")
KEY = b"k" * 32
NOON_MS = 20_000 * DAY_MS + DAY_MS // 2


class MemoryLog:
    """Records in memory, numbered per writer, read as the real log reads them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, *records: Record, writer: str = "gateway-1") -> None:
        for record in records:
            seq = sum(r["writer"] == writer for r in self.rows) + 1
            row = msgspec.structs.asdict(record)
            row["payload"] = msgspec.json.encode(row["payload"]).decode()
            self.rows.append({"writer": writer, "seq": seq, **row})

    def read(self, query: RecordQuery) -> pa.Table:
        after = query.after or {}
        rows = [
            {name: row[name] for name in query.columns}
            for row in self.rows
            if row["model"] == query.model
            and row["kind"] in query.kinds
            and row["seq"] > after.get(row["writer"], 0)
        ]
        return pa.Table.from_pylist(rows, schema=arrow_schema(query.columns))


def decision(number: int, *, event_ms: int = NOON_MS, **request: Any) -> Record:
    content = {"customer_id": -7, "terminal_id": 3, "amount": 12.5, **request}
    return Record(
        kind="decision",
        decision_id=f"d{number}",
        model="fraud",
        event_ms=event_ms,
        recorded_ms=0,
        payload={"request": content, "features": {}},
    )


def label(number: int, value: int, *, arrives_ms: int = NOON_MS + DAY_MS) -> Record:
    return Record(
        kind="label",
        decision_id=f"d{number}",
        model="fraud",
        event_ms=arrives_ms,
        recorded_ms=0,
        label=value,
    )


def void(number: int, at_ms: int) -> Record:
    return Record(
        kind="void", decision_id=f"d{number}", model="fraud", event_ms=at_ms, recorded_ms=0
    )


def history(rows: Sequence[dict[str, Any]]) -> pa.Table:
    blank = {
        "request_id": "h0",
        "event_time": NOON_MS * 1000,
        "customer_id": 1,
        "terminal_id": 2,
        "amount": 3.0,
        "label": 0,
        "label_time": (NOON_MS + 3 * DAY_MS) * 1000,
    }
    full = [{**blank, **row} for row in rows]
    return pa.Table.from_pylist(full, schema=history_schema(FRAUD))


@pytest.fixture
def offline(tmp_path: Path) -> OfflineTable:
    return OfflineTable(tmp_path / "fraud", FRAUD)


def ids(offline: OfflineTable) -> list[str]:
    return sorted(offline.requests().to_arrow_table().column("request_id").to_pylist())


def test_history_is_stored_under_pseudonyms_and_added_to_behind_its_last_midnight(
    offline: OfflineTable,
) -> None:
    assert offline.import_history(history([{}, {"request_id": "h1"}]), KEY) == 2
    with pytest.raises(Refused, match="an import into fraud was stopped halfway"):
        offline.import_history(history([{"request_id": "h2"}]), KEY)
    offline.finish_history()
    stored = offline.requests().to_arrow_table()
    assert stored.column("customer_id").to_pylist() == [pseudonym(1, KEY)] * 2
    assert stored.column("terminal_id").to_pylist() == [2, 2]
    with pytest.raises(
        InputInvalid,
        match=r"row 0, counted from 0: "
        r"it begins at .*; wanted: requests from",
    ):
        offline.import_history(history([{"request_id": "h2"}]), KEY)
    later = {"event_time": (NOON_MS + DAY_MS) * 1000, "label_time": (NOON_MS + 4 * DAY_MS) * 1000}
    with pytest.raises(
        InputInvalid, match=r"row 1, counted from 0: request_id is that of a request .*: 'h1'"
    ):
        offline.import_history(history([{**later, "request_id": i} for i in ("h2", "h1")]), KEY)
    assert ids(offline) == ["h0", "h1"]
    assert offline.history_end_ms() == NOON_MS

    assert offline.import_history(history([{**later, "request_id": "h2"}]), KEY) == 1
    offline.finish_history()
    assert ids(offline) == ["h0", "h1", "h2"]
    assert offline.history_end_ms() == NOON_MS + DAY_MS
    log = MemoryLog()
    log.add(decision(1))
    offline.project(log)
    assert offline.history_end_ms() == NOON_MS + DAY_MS
    with pytest.raises(Refused, match=r"fraud has answered requests.*MLPLATFORM_HOME"):
        offline.import_history(history([{**later, "request_id": "h3"}]), KEY)


def test_an_import_that_was_killed_before_its_rows_holds_no_other_one_up(
    offline: OfflineTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            offline.import_history(history([{}]), KEY)
    assert offline.unfinished_import() is None
    assert offline.import_history(history([{"request_id": "h1"}]), KEY) == 1
    assert offline.unfinished_import() is not None
    assert ids(offline) == ["h1"]


def test_a_digest_is_of_rows_and_not_of_chunks() -> None:
    rows = [{"request_id": f"h{n}", "label": None, "label_time": None} for n in range(3)]
    table = history(rows)
    chunked = pa.concat_tables([history(rows[:1]), history(rows).slice(1)])
    assert history_digest(table, FRAUD) == history_digest(chunked, FRAUD)
    assert history_digest(table, FRAUD) == history_digest(
        table.select(table.column_names[::-1]), FRAUD
    )
    assert history_digest(table, FRAUD) != history_digest(table.slice(1), FRAUD)


def test_history_after_the_log_is_refused(offline: OfflineTable) -> None:
    log = MemoryLog()
    log.add(decision(1))
    offline.project(log)
    assert offline.history_end_ms() is None
    with pytest.raises(Refused):
        offline.import_history(history([{}]), KEY)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"amount": -1.0}, "amount is less than 0"),
        ({"amount": 1e7}, r"amount is more than 1000000"),
        ({"amount": float("nan")}, "amount is missing"),
        ({"amount": float("inf")}, "amount is not finite: inf"),
        ({"event_time": -1}, "event_time is not from 1970 to 9999 .*: 1969-12-31T23:59:59.999999"),
        ({"label_time": 10**18}, f"label_time is not from 1970 to 9999 .*: {10**18} us"),
        ({"customer_id": None}, "customer_id is missing"),
        ({"event_time": NOON_MS * 1000 - 1}, "event_time is before"),
        ({"request_id": "h0"}, "request_id is that of an earlier row"),
        ({"label": 2}, "label is not 0 or 1"),
        ({"label": None}, "label and label_time must both be there"),
        ({"label_time": NOON_MS * 1000 - 1}, "label_time is before event_time"),
    ],
    ids=[
        "an amount under the minimum",
        "an amount over the maximum",
        "no number",
        "an infinite number",
        "a time before 1970",
        "a label known after 9999",
        "no customer",
        "a row before the one above",
        "an id twice",
        "a label that is none",
        "a time of arrival without a label",
        "a label from the future",
    ],
)
def test_a_wrong_row_of_history_is_named_and_nothing_is_taken_in(
    offline: OfflineTable, row: dict[str, Any], problem: str
) -> None:
    table = history([{}, {"request_id": "h1", **row}])
    with pytest.raises(InputInvalid, match=f"march, row 1, counted from 0: {problem}"):
        offline.import_history(table, KEY, source="march")
    assert ids(offline) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.drop(["amount"]), "column amount is missing"),
        (lambda t: t.append_column("pan", t.column("amount")), "column pan is unknown"),
        (
            lambda t: t.set_column(4, "amount", t.column("amount").cast(pa.int32())),
            "column amount is of type int32; wanted: double",
        ),
    ],
    ids=["a missing column", "an unknown column", "a wrong type"],
)
def test_a_wrong_column_of_history_is_named(
    offline: OfflineTable, change: Callable[[pa.Table], pa.Table], problem: str
) -> None:
    with pytest.raises(InputInvalid, match=problem):
        offline.import_history(change(history([{}])), KEY)


def test_each_record_of_the_log_becomes_one_row_however_often_it_is_projected(
    offline: OfflineTable,
) -> None:
    log = MemoryLog()
    log.add(decision(1), decision(2, amount=99.0), label(1, 1))
    assert offline.project(log) == ProjectionCounts(requests=2, labels=1, voids=0)
    assert offline.project(log) == ProjectionCounts(requests=0, labels=0, voids=0)
    log.add(decision(3), writer="gateway-2")
    log.add(label(2, 0))
    assert offline.project(log) == ProjectionCounts(requests=1, labels=1, voids=0)
    assert ids(offline) == ["d1", "d2", "d3"]
    assert offline.position() == {"gateway-1": 4, "gateway-2": 1}


@pytest.mark.parametrize("killed_in", ["write_table", "rename"])
def test_a_kill_at_any_write_loses_and_doubles_nothing(
    offline: OfflineTable, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    log = MemoryLog()
    log.add(decision(1))
    offline.project(log)
    log.add(decision(2), decision(3, event_ms=NOON_MS + DAY_MS), label(1, 1))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner = os if killed_in == "rename" else "pyarrow.parquet"
        if killed_in == "rename":
            patch.setattr(owner, "rename", die)
        else:
            patch.setattr("mlplatform.learning.features.offline.pq.write_table", die)
        with pytest.raises(KeyboardInterrupt):
            offline.project(log)
    assert ids(offline) == ["d1"]
    assert offline.project(log) == ProjectionCounts(requests=2, labels=1, voids=0)
    assert ids(offline) == ["d1", "d2", "d3"]


def test_a_void_removes_its_request_and_its_labels(offline: OfflineTable) -> None:
    log = MemoryLog()
    log.add(decision(1), decision(2), label(1, 1))
    offline.project(log)
    log.add(void(1, 0))
    assert offline.project(log).voids == 1
    assert ids(offline) == ["d2"]
    assert offline.labels(NOON_MS + 9 * DAY_MS).fetchall() == []


def as_known(offline: OfflineTable, as_of_ms: int) -> tuple[list[str], list[str]]:
    """The requests and the labels that were there at a time, which every way to read them gives."""
    from_ms, to_ms = NOON_MS, NOON_MS + 1
    table = offline.labelled_requests(from_ms, to_ms, as_of_ms)
    found = table["request_id"].to_pylist()
    requests = offline.requests(from_ms, to_ms, as_of_ms=as_of_ms).order("request_id")
    assert [row[0] for row in requests.fetchall()] == found
    assert offline.sample_of(from_ms, to_ms, len(found), as_of_ms) == EVERY
    labelled = [row[0] for row in offline.labels(as_of_ms).fetchall()]
    counts = offline.label_counts(from_ms, to_ms, as_of_ms)
    assert counts == LabelCounts(len(found), len(labelled), len(labelled))
    return found, labelled


def test_a_void_counts_from_its_own_time_on(offline: OfflineTable) -> None:
    """So a training set as of an earlier time stays as it was, whatever is voided later."""
    log = MemoryLog()
    log.add(decision(1), decision(2), label(1, 1, arrives_ms=NOON_MS + 10))
    offline.project(log)
    times = (NOON_MS + 9, NOON_MS + 10, NOON_MS + 19)
    before = [as_known(offline, as_of_ms) for as_of_ms in times]
    log.add(void(1, NOON_MS + 20))
    offline.project(log)

    assert [as_known(offline, as_of_ms) for as_of_ms in times] == before
    assert before[-1] == (["d1", "d2"], ["d1"])
    assert as_known(offline, NOON_MS + 20) == (["d2"], [])
    assert ids(offline) == ["d2"]


def test_a_void_of_a_part_that_an_earlier_release_wrote_counts_always(
    offline: OfflineTable,
) -> None:
    log = MemoryLog()
    log.add(decision(1), decision(2), decision(3), void(1, NOON_MS + 20))
    offline.project(log)
    (file,) = offline.folder.glob("parts/*/voids/voids.parquet")
    pq.write_table(pq.read_table(file).select(["request_id"]), file)

    assert as_known(offline, NOON_MS)[0] == ["d2", "d3"]
    log.add(void(2, NOON_MS + 20))
    offline.project(log)
    assert as_known(offline, NOON_MS + 19)[0] == ["d2", "d3"]
    assert as_known(offline, NOON_MS + 20)[0] == ["d3"]


def test_a_label_is_known_from_its_arrival_on_and_the_last_one_counts(
    offline: OfflineTable,
) -> None:
    log = MemoryLog()
    log.add(decision(1), label(1, 0, arrives_ms=NOON_MS + 10), label(1, 1, arrives_ms=NOON_MS + 20))
    offline.project(log)

    def known(as_of_ms: int) -> list[Any]:
        table = offline.labelled_requests(NOON_MS, NOON_MS + 1, as_of_ms)
        return table.column("label").to_pylist()

    assert known(NOON_MS + 9) == [None]
    assert known(NOON_MS + 10) == [0]
    assert known(NOON_MS + 19) == [0]
    assert known(NOON_MS + 20) == [1]


def test_requests_are_bounded_by_event_time(offline: OfflineTable) -> None:
    log = MemoryLog()
    log.add(*(decision(n, event_ms=NOON_MS + n) for n in range(4)))
    offline.project(log)
    found = offline.requests(NOON_MS + 1, NOON_MS + 3).order("event_time").fetchall()
    assert [row[0] for row in found] == ["d1", "d2"]


@pytest.mark.parametrize(
    "payload",
    ['{"request": {"customer_id": 1, "amount": "2"}}', '{"request": 5}', "{}", "not json"],
    ids=["a field of another type", "no object", "no request", "no JSON"],
)
def test_a_payload_that_is_no_request_of_the_model_is_corrupt(
    offline: OfflineTable, payload: str
) -> None:
    log = MemoryLog()
    log.add(decision(1), decision(2))
    log.rows[1]["payload"] = payload
    with pytest.raises(Corrupt, match="decision d2"):
        offline.project(log)
    assert ids(offline) == []


def test_the_log_has_every_column_that_the_projection_reads() -> None:
    from mlplatform.learning.features.offline import LOG_COLUMNS

    assert set(LOG_COLUMNS) <= set(COLUMNS)


@pytest.mark.parametrize("in_history", [True, False])
def test_of_requests_before_a_field_was_declared_it_is_missing(
    tmp_path: Path, in_history: bool
) -> None:
    """The first request lies in a part from before, the second in the log from before."""
    before, log = OfflineTable(tmp_path / "fraud", FRAUD), MemoryLog()
    if in_history:
        before.import_history(history([{}]), KEY)
    else:
        log.add(decision(1))
        before.project(log)
    log.add(decision(2, event_ms=NOON_MS + 1))
    fields = {
        "age": RequestField(type="int64"), "risk": RequestField(type="float64"),
        "channel": RequestField(type="string"), "known": RequestField(type="bool"),
        "profile": RequestField(type="vector", length=2),
    }  # fmt: skip
    definition = msgspec.structs.replace(FRAUD, request={**FRAUD.request, **fields})
    after = OfflineTable(tmp_path / "fraud", definition)
    values = {"age": 4, "risk": 0.5, "channel": "web", "known": True, "profile": [1.0, 2.0]}
    log.add(decision(3, event_ms=NOON_MS + 2, **values))

    after.project(log)

    rows = after.requests().order("event_time").to_arrow_table()
    assert rows.schema.names == request_schema(definition).names
    assert rows.select(list(fields)).to_pylist() == [
        dict.fromkeys(fields), dict.fromkeys(fields), values
    ]  # fmt: skip
    assert after.labelled_requests(0, NOON_MS * 2, NOON_MS * 2).num_rows == 3
    assert len(after.history(0)) == int(in_history)
