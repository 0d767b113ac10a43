"""Reads card payments from Parquet or CSV; the names of the Fraud Detection Handbook need no map.

The handbook's payments come from its authors' simulator. It labels every payment, also those that
a bank would have declined, and whose fraud nobody would then have seen: figures on this data
flatter a model that declines. It has no time of a label's arrival, so one is drawn here, seeded.
Which of its scenarios made a fraud (TX_FRAUD_SCENARIO) is never a feature and is not read.

Source: https://fraud-detection-handbook.github.io, chapter 3 (schema only).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlplatform.authoring import InputInvalid, load_definition
from mlplatform.authoring.history import (
    CSV_FILES,
    CSV_IN_FOLDERS,
    PARQUET,
    Check,
    CsvFiles,
    ExpectedColumn,
    FileCheck,
    ParquetFiles,
    in_order,
    is_missing,
    kept_refusals,
    known_by,
    match_columns,
    matured_times,
    table_files,
    unique_values,
    value_problem,
    within_bounds,
    within_calendar,
)

from .labels import arrival_us

PRICE_LEVEL = 1.4
NO_COLUMNS: Final[Mapping[str, str]] = MappingProxyType({})
_ZONE = re.compile(r", tz=[^\]]*\]$")
"""Of a time's type: Arrow stores it in UTC whatever its zone."""
TIME = pa.timestamp("us")
MOST_REFUSALS = 1_000
TIMES = tuple(f"timestamp[{unit}]" for unit in ("us", "ns", "ms", "s"))
WHOLE = ("int64", "int32", "int16")
COLUMNS = (
    ExpectedColumn(
        "request_id",
        (*WHOLE, "string"),
        ("TRANSACTION_ID", "request_id"),
        frozenset({"id", "transaction", "tx", "txn", "trans", "payment", "reference", "ref"}),
        "the payment's own id; no two have one (in Parquet a whole number, in CSV any text)",
    ),
    ExpectedColumn(
        "event_time",
        TIMES,
        ("TX_DATETIME", "event_time"),
        frozenset({"time", "datetime", "timestamp", "date", "at", "ts", "tx", "created"}),
        "when it was asked for; UTC where no offset is given; in order, the oldest first",
    ),
    ExpectedColumn(
        "customer_id",
        WHOLE,
        ("CUSTOMER_ID", "customer_id"),
        frozenset({"customer", "client", "card", "account", "user", "holder", "id"}),
        "who pays; a whole number from 0 on, stored as a pseudonym",
    ),
    ExpectedColumn(
        "terminal_id",
        WHOLE,
        ("TERMINAL_ID", "terminal_id"),
        frozenset({"terminal", "merchant", "shop", "pos", "device", "store", "id"}),
        "where; a whole number from 0 on",
    ),
    ExpectedColumn(
        "amount",
        ("double", "float", *WHOLE),
        ("TX_AMOUNT", "amount"),
        frozenset({"amount", "amt", "value", "sum", "price", "total", "betrag", "eur", "usd"}),
        "how much, 0 to 1 000 000",
    ),
    ExpectedColumn(
        "label",
        ("int8", *WHOLE, "bool"),
        ("TX_FRAUD", "label"),
        frozenset({"fraud", "is", "label", "class", "target", "chargeback", "flag"}),
        "1: it was fraud, 0: it was not",
    ),
    ExpectedColumn(
        "label_time",
        TIMES,
        ("label_time",),
        frozenset({"label", "reported", "chargeback", "known", "time", "date", "at"}),
        "when that was known, not in the future; may be empty where the label is 0, which then "
        "counts as known at the end of the label's maturity",
        is_needed=False,
        without="without it, the import sets the time at which each label became known: for a"
        " fraud a time drawn at random within label.maturity_days after the payment, for any other"
        " payment the end of those days",
    ),
)
"""What a history of this model needs; usual names are the handbook's, and the history's own."""
CANONICAL = (
    *("request_id", "event_time", "customer_id", "terminal_id", "amount"),
    *("label", "label_time"),
)
FIELDS = ("customer_id", "terminal_id", "amount")
IGNORED = ("TX_TIME_SECONDS", "TX_TIME_DAYS", "TX_FRAUD_SCENARIO")
IN_CSV: Final[Mapping[str, pa.DataType]] = {
    **{"request_id": pa.string(), "event_time": TIME, "customer_id": pa.int64()},
    **{"terminal_id": pa.int64(), "amount": pa.float64(), "label": pa.int8(), "label_time": TIME},
}
IN_PARQUET: Final[Mapping[str, pa.DataType]] = {
    **{str(t): t for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): t for t in (pa.float32(), pa.float64())},
    **{str(t): t for t in (pa.timestamp("us"), pa.timestamp("ns"))},
    **{str(t): t for t in (pa.timestamp("ms"), pa.timestamp("s"))},
}


@dataclass(frozen=True, slots=True)
class _File:
    """One file's rows in canonical names, `names` to call them by, and what could not be read."""

    name: str
    table: pa.Table
    names: Mapping[str, str]
    unread: tuple[str, ...]
    refusals: tuple[InputInvalid, ...]


def read_transactions(
    path: Path,
    *,
    now_ms: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] = NO_COLUMNS,
) -> pa.Table:
    """All payments of a Parquet or CSV file, or of a folder's by name, in canonical columns.

    Args: as `examine_transactions`.

    Raises:
        InputInvalid: names the file, the row (from 0) and what is wrong; nothing was read.
    """
    examined = examine_transactions(path, now_ms=now_ms, seed=seed, columns=columns)
    if examined.refusals:
        raise examined.refusals[0]
    return examined.table


def examine_transactions(
    path: Path,
    *,
    now_ms: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] = NO_COLUMNS,
) -> FileCheck:
    """The payments of a file or folder, with a refusal for each row that can't be taken in.

    Args:
        now_ms: no payment and no time of a label may be later; None where the data is from another
            time than ours.
        seed: of the drawn times of arrival, which lie within the label's maturity_days.
        columns: of `COLUMNS` → the file's; where there are any, columns of no use are left unread,
            else one that is not known is refused.

    Raises:
        InputInvalid: there is no such file, or its columns are not what is wanted.
    """
    files, found, refusals = _files(path), list[_File](), list[InputInvalid]()
    last_us: int | None = None
    for file in _read(files, columns):
        refusals += file.refusals
        refusals += _refusals(file, now_ms)
        last_us, early = _follows(file, last_us)
        refusals += early
        found.append(file)
    whole = [file.table.filter(pa.array(_is_whole(file.table))) for file in found]
    together = pa.concat_tables(whole)
    if not refusals:
        refusals += _again(together, found)
    days = load_definition("fraud").label.maturity_days
    table = _canonical(together, days, seed)
    kept, refused = kept_refusals(refusals, MOST_REFUSALS)
    return FileCheck(table, kept, found[0].names, found[0].unread, refused)


def with_pattern_change(
    table: pa.Table, change_ms: int, *, factor: float = PRICE_LEVEL
) -> pa.Table:
    """The payments with every amount from `change_ms` on multiplied by `factor`.

    The handbook's five months have no change of pattern. This brings one about: a new price level
    (a currency is exchanged, prices jump). At a factor of 1.4 a gradient boosting of the time
    before loses almost half its average precision (0.79 to 0.46) and its alerts rise more than
    fivefold; labels stay as they are.
    """
    after = table.column("event_time").cast(pa.int64()).to_numpy() >= change_ms * 1000
    amounts = table.column("amount").to_numpy()
    changed = np.where(after, np.round(amounts * factor, 2), amounts)
    position = table.schema.get_field_index("amount")
    return table.set_column(position, "amount", pa.array(changed))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise InputInvalid(
                str(path.absolute()),
                None,
                "there is no such file or folder; wanted: a"
                " .parquet or .csv file, or a folder of them",
            )
        if path.suffix.lower() not in (PARQUET, *CSV_FILES):
            problem = (
                f"its name ends with {path.suffix or path.name!a}; wanted: .parquet, or"
                f" {', '.join(CSV_FILES)} of plain text, not packed"
            )
            raise InputInvalid(path.name, None, problem)
        return [path]
    files = table_files(path)
    if not files:
        wanted = (
            f"there is no file in it whose name ends with .parquet, {' or '.join(CSV_IN_FOLDERS)}"
        )
        raise InputInvalid(str(path), None, wanted)
    if len({_is_csv(f) for f in files}) > 1:
        raise InputInvalid(str(path), None, "it has Parquet and CSV files; wanted: one kind")
    return files


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() in CSV_FILES


def _read(files: Sequence[Path], overrides: Mapping[str, str]) -> Iterator[_File]:
    if _is_csv(files[0]):
        with CsvFiles(files) as texts:
            for number, file in enumerate(files):
                names, unread = _names(texts.types(number), overrides, file.name)
                table, unfit = texts.read(number, {names[n]: IN_CSV[n] for n in names})
                table, outside = _renamed(table, names, file.name)
                yield _File(file.name, table, names, unread, (*unfit, *outside))
        return
    with ParquetFiles(files) as parquet:
        for number, file in enumerate(files):
            kinds = {n: _ZONE.sub("]", k) for n, k in parquet.types(number).items()}
            names, unread = _names(kinds, overrides, file.name)
            _check_types(kinds, names, file.name)
            table = parquet.read(number, {c: IN_PARQUET[kinds[c]] for c in names.values()})
            table, outside = _renamed(table, names, file.name)
            yield _File(file.name, table, names, unread, outside)


def _names(
    found: Mapping[str, str], overrides: Mapping[str, str], source: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    names = match_columns(COLUMNS, found, overrides, source)
    unread = tuple(n for n in found if n not in names.values())
    strange = [n for n in unread if n not in IGNORED]
    if strange and not overrides:
        usual = ", ".join(names.values())
        problem = (
            f"column {strange[0]} is unknown; wanted: {usual}; with one --map at least"
            f" (--map amount={names['amount']}) other columns are left unread"
        )
        raise InputInvalid(source, None, problem)
    return names, unread


def _check_types(found: Mapping[str, str], names: Mapping[str, str], source: str) -> None:
    for one in COLUMNS:
        kinds = [kind for kind in one.kinds if kind in IN_PARQUET]
        column = names.get(one.name)
        if column is not None and found[column] not in kinds:
            wanted = " or ".join(kinds)
            raise InputInvalid(
                source, None, f"column {column} is {found[column]}; wanted: {wanted}"
            )


def _renamed(
    table: pa.Table, names: Mapping[str, str], source: str
) -> tuple[pa.Table, tuple[InputInvalid, ...]]:
    """Under canonical names, times in microseconds; null in place of a time that no payment may
    have, with a refusal."""
    table = table.select(list(names.values())).rename_columns(list(names))
    refusals = list[InputInvalid]()
    for position, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            times = table.column(position)
            check = within_calendar(times, names[field.name])
            refusals += check.refusals(source, np.arange(len(times)))
            microseconds = times.cast(TIME, safe=False)
            known: Any = pc.if_else(pa.array(check.wrong), pa.scalar(None, TIME), microseconds)
            table = table.set_column(position, field.name, known)
    return table, tuple(refusals)


def _is_whole(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows lack nothing but what they may lack."""
    whole = np.ones(table.num_rows, dtype=np.bool_)
    for name in table.column_names:
        whole &= ~_lacks(table, name)
    return whole


def _lacks(table: pa.Table, name: str) -> NDArray[np.bool_]:
    """Which rows lack a value that they need; a genuine payment needs no time of its label."""
    missing = is_missing(table.column(name))
    if name == "label_time":
        missing &= table.column("label").to_numpy() != 0
    return missing


def _refusals(file: _File, now_ms: int | None) -> Iterator[InputInvalid]:
    known = {(refusal.row, refusal.problem.partition(" is ")[0]) for refusal in file.refusals}
    every = np.arange(file.table.num_rows)
    for name, column in file.names.items():
        problem = f"{column} is missing"
        if name == "label_time":
            label = file.names["label"]
            problem += f" and {label} is not 0; wanted: when it was known, or `--map label_time=`"
        missing = Check(_lacks(file.table, name), problem)
        for refusal in missing.refusals(file.name, every):
            if (refusal.row, column) not in known:
                yield refusal
    whole = _is_whole(file.table)
    table = file.table.filter(pa.array(whole))
    for check in _checks(table, file.names, now_ms):
        yield from check.refusals(file.name, every[whole])


def _checks(table: pa.Table, names: Mapping[str, str], now_ms: int | None) -> Iterator[Check]:
    times = table.column("event_time")
    yield in_order(times, names["event_time"])
    yield unique_values(table.column("request_id"), names["request_id"])
    request = load_definition("fraud").request
    for name in FIELDS:
        yield from within_bounds(table.column(name), names[name], request[name])
    labels = table.column("label")
    yield Check(~np.isin(labels.to_numpy(), (0, 1)), f"{names['label']} is not 0 or 1", labels)
    if now_ms is not None:
        late = times.cast(pa.int64()).to_numpy() > now_ms * 1000
        yield Check(late, f"{names['event_time']} is in the future", times)
    if "label_time" in names:
        known = table.column("label_time")
        early = known.to_numpy() < times.to_numpy()
        problem = f"{names['label_time']} is before {names['event_time']}"
        yield Check(early, problem, known)
        if now_ms is not None:
            yield known_by(known, names["label_time"], now_ms, may_be_empty=True)


def _follows(file: _File, last_us: int | None) -> tuple[int | None, list[InputInvalid]]:
    column = file.table.column("event_time").drop_null()
    times = column.cast(pa.int64()).to_numpy()
    if not len(times):
        return last_us, []
    if last_us is not None and times[0] < last_us:
        problem = f"{file.names['event_time']} is before the last of the file above"
        return int(times[-1]), [InputInvalid(file.name, 0, value_problem(problem, column[0]))]
    return int(times[-1]), []


def _again(together: pa.Table, files: Sequence[_File]) -> Iterator[InputInvalid]:
    """Ids of rows of an earlier file; in no file is one twice, and no row was left out."""
    ids = together.column("request_id")
    for row in np.flatnonzero(unique_values(ids, "").wrong):
        file, number = next(_places(files, int(row)))
        problem = f"{file.names['request_id']} is that of a row of an earlier file"
        yield InputInvalid(file.name, number, value_problem(problem, ids[int(row)]))


def _places(files: Sequence[_File], row: int) -> Iterator[tuple[_File, int]]:
    for file in files:
        if row < file.table.num_rows:
            yield file, row
        row -= file.table.num_rows


def _canonical(table: pa.Table, maturity_days: int, seed: int) -> pa.Table:
    event_us = table.column("event_time").cast(pa.int64()).to_numpy()
    label = table.column("label").to_numpy().astype(np.int8)
    if "label_time" in table.column_names:
        arrival = matured_times(table, maturity_days)
    else:
        drawn = arrival_us(event_us, label, maturity_days, np.random.default_rng(seed))
        arrival = pa.chunked_array([pa.array(drawn, TIME)])
    columns: list[pa.ChunkedArray[Any]] = [
        pc.cast(table.column("request_id"), pa.string()),
        table.column("event_time"),
        pc.cast(table.column("customer_id"), pa.int64()),
        pc.cast(table.column("terminal_id"), pa.int64()),
        pc.cast(table.column("amount"), pa.float64()),
        pa.chunked_array([pa.array(label)]),
        arrival,
    ]
    return pa.table(columns, names=list(CANONICAL))
