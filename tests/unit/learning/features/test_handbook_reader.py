"""The handbook's schema: read whole, or refused with file and row."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.learning.features.rows import check_history, history_schema
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS
from models.fraud.sources import examine_transactions, read_transactions, with_pattern_change

FRAUD = load_definition("fraud")
START_MS = 17_600 * DAY_MS
SCHEMA = pa.schema(
    [
        ("TRANSACTION_ID", pa.int64()),
        ("TX_DATETIME", pa.timestamp("ns")),
        ("CUSTOMER_ID", pa.int32()),
        ("TERMINAL_ID", pa.int32()),
        ("TX_AMOUNT", pa.float64()),
        ("TX_TIME_SECONDS", pa.int32()),
        ("TX_TIME_DAYS", pa.int32()),
        ("TX_FRAUD", pa.int8()),
        ("TX_FRAUD_SCENARIO", pa.int8()),
    ]
)


def transactions(first: int = 0, **changes: list[Any]) -> pa.Table:
    numbers = range(first, first + 3)
    columns: dict[str, list[Any]] = {
        "TRANSACTION_ID": list(numbers),
        "TX_DATETIME": [(START_MS + n * 1000) * 1_000_000 for n in numbers],
        "CUSTOMER_ID": [7, 8, 7],
        "TERMINAL_ID": [1, 2, 3],
        "TX_AMOUNT": [10.0, 20.5, 30.0],
        "TX_TIME_SECONDS": [0, 1, 2],
        "TX_TIME_DAYS": [0, 0, 0],
        "TX_FRAUD": [0, 1, 0],
        "TX_FRAUD_SCENARIO": [0, 2, 0],
    }
    return pa.table({**columns, **changes}, schema=SCHEMA)


def write(folder: Path, name: str, table: pa.Table) -> Path:
    pq.write_table(table, folder / name)
    return folder / name


def test_a_file_becomes_canonical_columns_without_the_scenario(tmp_path: Path) -> None:
    table = read_transactions(write(tmp_path, "tx.parquet", transactions()))
    assert table.schema == history_schema(FRAUD)
    check_history(table, FRAUD, "read")
    assert table.column("request_id").to_pylist() == ["0", "1", "2"]
    assert table.column("customer_id").to_pylist() == [7, 8, 7]
    assert table.column("label").to_pylist() == [0, 1, 0]
    times = table.column("event_time").cast(pa.int64()).to_pylist()
    assert times == [(START_MS + n * 1000) * 1000 for n in range(3)]


def test_a_folder_is_read_in_the_order_of_its_file_names(tmp_path: Path) -> None:
    write(tmp_path, "b.parquet", transactions(3))
    write(tmp_path, "a.parquet", transactions(0))
    assert read_transactions(tmp_path).column("request_id").to_pylist() == list("012345")


@pytest.mark.parametrize("name", ["2026-10", "b.parq", "b.csv.gz", "b.txt"])
def test_a_folder_with_rows_that_would_be_missed_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.parquet", transactions(0))
    write(tmp_path, "_SUCCESS", transactions(3))
    assert read_transactions(tmp_path).num_rows == 3
    if name == "2026-10":
        (tmp_path / name).mkdir()
        write(tmp_path / name, "b.parquet", transactions(3))
    else:
        write(tmp_path, name, transactions(3))
    with pytest.raises(InputInvalid, match=rf": it has {name}/?, whose rows would be missed"):
        read_transactions(tmp_path)


TEXT = "transaction_id{0}timestamp{0}customer_id{0}terminal_id{0}amount{0}label\n"
ROW = "1{0}2026-01-01 10:00:00{0}7{0}1{0}9.5{0}0\n"
NAMES = {
    "request_id": "transaction_id", "event_time": "timestamp", "customer_id": "customer_id",
    "terminal_id": "terminal_id", "amount": "amount", "label": "label",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mark"), [("own.csv", ","), ("own.tsv", "\t"), ("own.TSV", "\t"), ("own.txt", "|")]
)
def test_text_is_read_by_the_mark_between_its_cells(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_text((TEXT + ROW).format(mark))
    table = read_transactions(tmp_path / name, columns=NAMES)
    assert table.column("amount").to_pylist() == [9.5]


@pytest.mark.parametrize("name", ["own.csv.gz", "own.xlsx", "own"])
def test_another_kind_of_file_is_named_with_those_that_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    end = Path(name).suffix or name
    told = rf"{name}: its name ends with '{end}'; wanted: \.parquet, or \.csv, \.tsv, \.txt"
    with pytest.raises(InputInvalid, match=told):
        read_transactions(tmp_path / name)
    if name != "own":
        with pytest.raises(InputInvalid, match=r"end with \.parquet, \.csv or \.tsv"):
            read_transactions(tmp_path)


def test_the_same_seed_gives_the_same_arrivals(tmp_path: Path) -> None:
    file = write(tmp_path, "tx.parquet", transactions())
    assert read_transactions(file, seed=1).equals(read_transactions(file, seed=1))
    assert not read_transactions(file, seed=1).equals(read_transactions(file, seed=2))


@pytest.mark.parametrize(
    ("changes", "row", "problem"),
    [
        ({"TRANSACTION_ID": [0, 1, 0]}, 2, "TRANSACTION_ID is that of an earlier row: 0$"),
        (
            {"TX_DATETIME": [START_MS * 10**6, (START_MS - 1) * 10**6, START_MS * 10**6]},
            1,
            r"TX_DATETIME is before that of the row above \(sort the rows by it, oldest first\):"
            r" 2\d{3}-\d\d-\d\dT[\d:.]+$",
        ),
        ({"TX_AMOUNT": [1.0, 2.0, -3.0]}, 2, "TX_AMOUNT is less than 0: -3.0$"),
        ({"TX_AMOUNT": [1.0, 2.0, 5e9]}, 2, "TX_AMOUNT is more than 1000000: 5000000000.0$"),
        ({"TX_AMOUNT": [float("inf"), 2.0, 3.0]}, 0, "TX_AMOUNT is not finite: inf$"),
        ({"TX_AMOUNT": [1.0, float("nan"), 3.0]}, 1, "TX_AMOUNT is missing"),
        ({"CUSTOMER_ID": [None, 1, 2]}, 0, "CUSTOMER_ID is missing"),
        ({"TX_FRAUD": [0, 1, 2]}, 2, "TX_FRAUD is not 0 or 1: 2$"),
    ],
    ids=[
        "an id twice",
        "a time before the one above",
        "a negative amount",
        "an amount over the model's bound",
        "no finite amount",
        "no number",
        "no customer",
        "a label that is none",
    ],
)
def test_a_wrong_row_is_named_by_file_and_row(
    tmp_path: Path, changes: dict[str, list[Any]], row: int, problem: str
) -> None:
    write(tmp_path, "a.parquet", transactions(-3))
    write(tmp_path, "b.parquet", transactions(**changes))
    with pytest.raises(InputInvalid, match=rf"b\.parquet, row {row}, counted from 0: {problem}"):
        read_transactions(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda t: t.drop(["TERMINAL_ID"]),
            "there is no column for terminal_id; unused in it: .*--map terminal_id=?",
        ),
        (lambda t: t.append_column("CITY", t.column(0)), "column CITY is unknown"),
        (
            lambda t: t.set_column(4, "TX_AMOUNT", t.column("TX_AMOUNT").cast(pa.string())),
            "column TX_AMOUNT is string; wanted: double",
        ),
    ],
    ids=["a missing column", "an unknown column", "a wrong type"],
)
def test_a_wrong_column_is_named_by_file(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], problem: str
) -> None:
    with pytest.raises(InputInvalid, match=rf"tx\.parquet: {problem}"):
        read_transactions(write(tmp_path, "tx.parquet", change(transactions())))


def test_a_time_with_a_zone_is_read_as_the_moment_that_it_is(tmp_path: Path) -> None:
    times = pa.array([START_MS * 1000] * 3, pa.timestamp("us", tz="Europe/Zurich"))
    table = transactions().set_column(1, "TX_DATETIME", times)
    read = read_transactions(write(tmp_path, "tx.parquet", table)).column("event_time")
    assert read.cast(pa.int64()).to_pylist() == [START_MS * 1000] * 3


def test_a_payment_from_the_future_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "tx.parquet", transactions())
    assert read_transactions(file, now_ms=START_MS + 2000).num_rows == 3
    with pytest.raises(
        InputInvalid,
        match=r"tx\.parquet, row 2, counted from 0: "
        r"TX_DATETIME is in the future: 2",
    ):
        read_transactions(file, now_ms=START_MS + 1999)


SLIPPED_NS = START_MS * 10**6
"""A time in nanoseconds, which is beyond the year 9999 where it is taken for microseconds."""


@pytest.mark.parametrize("name", ["TX_DATETIME", "label_time"])
def test_a_time_beyond_the_calendar_is_named_with_its_count(tmp_path: Path, name: str) -> None:
    table = known_at(7, 8, 9)
    counts = [(START_MS + 7000) * 1000, SLIPPED_NS, (START_MS + 9000) * 1000]
    times = pa.array(counts, pa.int64()).cast(pa.timestamp("us"))
    table = table.set_column(table.schema.get_field_index(name), name, times)
    file = write(tmp_path, "tx.parquet", table)
    found = examine_transactions(file, now_ms=START_MS + 10_000)
    (refusal,) = found.refusals
    problem = f"{name} is not from 1970 to 9999 in the unit of its column: {SLIPPED_NS} us"
    assert str(refusal) == f"tx.parquet, row 1, counted from 0: {problem}"


def test_a_payment_from_before_1970_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text((TEXT + ROW).format(",").replace("2026", "1900"))
    told = r"own\.csv, row 0, counted from 0: timestamp is not from 1970 .*: 1900-01-01T10:00:00$"
    with pytest.raises(InputInvalid, match=told):
        read_transactions(tmp_path / "own.csv", columns=NAMES)


def known_at(*seconds: int | None) -> pa.Table:
    """Transactions with the times at which their labels were known, seconds after the first."""
    times = [None if s is None else (START_MS + s * 1000) * 1000 for s in seconds]
    return transactions().append_column("label_time", pa.array(times, pa.timestamp("us")))


def test_a_genuine_payment_without_a_label_time_is_known_at_its_maturity(tmp_path: Path) -> None:
    file = write(tmp_path, "tx.parquet", known_at(None, 9, 8))
    found = read_transactions(file, now_ms=START_MS + 10_000)  # maturity itself may be to come
    check_history(found, FRAUD, "read")
    maturity_us = FRAUD.label.maturity_days * DAY_MS * 1000
    given_us = [(START_MS + s * 1000) * 1000 for s in (9, 8)]
    told = found.column("label_time").cast(pa.int64()).to_pylist()
    assert told == [START_MS * 1000 + maturity_us, *given_us]


def test_a_fraud_without_a_label_time_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    file = write(tmp_path, "tx.parquet", known_at(None, None, 8))
    with pytest.raises(InputInvalid) as caught:
        read_transactions(file)
    assert caught.value.row == 1
    assert caught.value.problem == (
        "label_time is missing and TX_FRAUD is not 0; wanted: when it was known, or"
        " `--map label_time=`"
    )
    assert read_transactions(file, columns={"label_time": ""}).num_rows == 3


def test_a_label_that_is_known_in_the_future_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "tx.parquet", known_at(None, 9, 8))
    with pytest.raises(
        InputInvalid,
        match=r"row 1, counted from 0: label_time is in the future, so the label "
        r"can't be known yet \(a label 0 may leave its time empty\): ",
    ):
        read_transactions(file, now_ms=START_MS + 8999)
    assert read_transactions(file, now_ms=None).num_rows == 3


def test_files_that_overlap_in_time_or_ids_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", transactions(3))
    write(tmp_path, "b.parquet", transactions(0))
    with pytest.raises(
        InputInvalid,
        match=r"b\.parquet, row 0, counted from 0: "
        r"TX_DATETIME is before the last of the file above: 2",
    ):
        read_transactions(tmp_path)
    write(tmp_path, "a.parquet", transactions(0))
    write(tmp_path, "b.parquet", transactions(3, TRANSACTION_ID=[9, 1, 10]))
    with pytest.raises(
        InputInvalid,
        match=r"b\.parquet, row 1, counted from 0: "
        r"TRANSACTION_ID is that of a row of an earlier file: 1$",
    ):
        read_transactions(tmp_path)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=r"whose name ends with \.parquet"):
        read_transactions(tmp_path)
    (tmp_path / "tx.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputInvalid, match=r"tx\.parquet: no readable Parquet"):
        read_transactions(tmp_path)


def test_the_pattern_change_raises_amounts_from_its_time_on_alone(tmp_path: Path) -> None:
    table = read_transactions(write(tmp_path, "tx.parquet", transactions()))
    changed = with_pattern_change(table, START_MS + 1000)
    assert changed.column("amount").to_pylist() == [10.0, 28.7, 42.0]
    assert changed.drop(["amount"]).equals(table.drop(["amount"]))


def test_the_handbooks_own_files_are_read_whole() -> None:
    path = os.environ.get("MLPLATFORM_TRANSACTIONS")
    if path is None:
        pytest.skip("MLPLATFORM_TRANSACTIONS names no folder with the handbook's transactions")
    table = read_transactions(Path(path))
    check_history(table, FRAUD, path)
    label = table.column("label").to_numpy()
    assert 0.005 < label.mean() < 0.012
    assert np.bincount(label).sum() == table.num_rows > 100_000
