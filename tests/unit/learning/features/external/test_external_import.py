"""A bank's table is checked as a whole and taken in whole, or not at all."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.support import iceberg_tables
from tests.support.delta_tables import appended
from tests.support.external_world import BUREAU, T_S, TIME, Row, fraud_like, table, written

from mlplatform.learning.features.external import table_import
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.external.snapshot_rows import SnapshotRows
from mlplatform.learning.features.external.table_import import (
    ImportReport,
    import_table,
    serve_missing,
)
from mlplatform.learning.features.external_parts import MARK, ExternalParts
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.runtime.errors import InputInvalid, PlatformError
from mlplatform.runtime.units import DAY_S

NOW_MS = (T_S + 30 * DAY_S) * 1000
ROWS: list[Row] = [(1, 0, 10, 1.0), (2, 5, 5, 9.0), (3, DAY_S, DAY_S, None)]


class Killed(BaseException):
    """What no code catches, as no code catches SIGKILL."""


def take(folder: Path, path: Path, *, dry_run: bool = False) -> ImportReport:
    columns = ExternalColumns.of(BUREAU, fraud_like(), bytes(32), NOW_MS)
    online = None if dry_run else FeastSqlite(folder / "online.db", "fraud", [BUREAU])
    parts = ExternalParts(folder / "external")
    source = iceberg_tables.source_of(columns, path, parts)
    return import_table(columns, source, parts, online, lambda: NOW_MS)


def state(folder: Path) -> dict[str, str]:
    """What is there of the view, and what the online store says of it."""
    parts = (folder / "external").glob("*")
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in parts if p.is_file()}
    found.pop(MARK, None)  # a random one
    store = FeastSqlite(folder / "online.db", "fraud", [BUREAU])
    rows = store._db.execute('SELECT * FROM "fraud_bureau" ORDER BY 1, 2').fetchall()
    store.close()
    return found | {"online": hashlib.sha256(repr(rows).encode()).hexdigest()}


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def changed(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index(name)
        return rows.set_column(place, name, pc.cast(rows.column(name), kind, safe=False))

    return changed


def put(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    """The table with another value in one cell."""

    def changed(rows: pa.Table) -> pa.Table:
        values = rows.column(name).to_pylist()
        values[row] = value
        place = rows.schema.get_field_index(name)
        return rows.set_column(place, name, pa.array(values, rows.schema.field(name).type))

    return changed


def at(seconds: int) -> pa.Scalar:
    return pa.scalar(seconds * 10**6, TIME).as_py()


BAD: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a key is missing": (put("customer_id", 1, None), "row 1.*customer_id is missing"),
    "a key below its bounds": (put("customer_id", 2, -1), "row 2.*customer_id"),
    "a key of texts": (cast("customer_id", pa.string()), "column customer_id is string"),
    "a key of fractions": (cast("customer_id", pa.float64()), "column customer_id is double"),
    "no event time": (put("as_of", 0, None), "row 0.*as_of is missing"),
    "no availability time": (put("known_at", 2, None), "row 2.*known_at is missing"),
    "known before it held": (put("known_at", 1, at(T_S)), "row 1.*as_of is after known_at"),
    "known in the future": (put("known_at", 0, at(T_S + 31 * DAY_S)), "row 0.*in the future"),
    "an event of 1969": (put("as_of", 1, at(-1)), "row 1.*as_of is not between 1970 and 2242"),
    "an event of 2300": (put("as_of", 1, at(2**34)), "row 1.*as_of is not between"),
    "times as texts": (cast("as_of", pa.string()), "column as_of is string"),
    "times as numbers": (cast("known_at", pa.int64()), "column known_at is int64"),
    "an infinite number": (put("bureau_score", 1, float("inf")), "row 1.*bureau_score is inf"),
    "a number beyond floats": (put("open_loans", 1, 2**53 + 1), "row 1.*open_loans.*2\\*\\*53"),
    "whole numbers of fractions": (cast("open_loans", pa.float64()), "column open_loans is double"),
    "truths as texts": (cast("is_listed", pa.string()), "column is_listed is string"),
    "a column that is not there": (lambda t: t.drop_columns("is_listed"), "no column is_listed"),
    "another value of the same times": (
        lambda t: pa.concat_tables([t, put("bureau_score", 1, 8.0)(t)]),
        "row 4.*other values than a row above it",
    ),
    "no rows": (lambda t: t.slice(0, 0), "there is no row in it"),
    "an infinite number below 0": (
        put("bureau_score", 2, float("-inf")),
        "row 2.*bureau_score is infinite",
    ),
    "a number far below floats": (put("open_loans", 0, -(2**60)), "row 0.*open_loans.*2\\*\\*53"),
    "an event of year 1": (put("as_of", 2, at(-62_135_596_800)), "row 2.*as_of is not between"),
    "known in 1969": (put("known_at", 0, at(-1)), "row 0.*known_at|row 0.*as_of"),
    "a key without a sign": (cast("customer_id", pa.uint64()), "column customer_id is uint64"),
    "a key of decimals": (
        cast("customer_id", pa.decimal128(30, 0)),
        "column customer_id is decimal",
    ),
    "a key of bytes": (
        lambda t: put("customer_id", 0, 1)(t).set_column(0, "customer_id", pa.array([b"1"] * 3)),
        "column customer_id is binary",
    ),
    "a key that is null everywhere": (
        lambda t: t.set_column(0, "customer_id", pa.nulls(3, pa.int64())),
        "row 0.*customer_id is missing",
    ),
    "times as days": (cast("as_of", pa.date32()), "column as_of is date32"),
    "times of nothing": (lambda t: t.set_column(1, "as_of", pa.nulls(3)), "column as_of is"),
    "numbers as texts": (cast("bureau_score", pa.string()), "column bureau_score is string"),
    "numbers as decimals": (
        cast("bureau_score", pa.decimal128(20, 2)),
        "column bureau_score is decimal",
    ),
    "numbers as truths": (cast("bureau_score", pa.bool_()), "column bureau_score is bool"),
    "truths as numbers": (cast("is_listed", pa.int64()), "column is_listed is int64"),
    "whole numbers without a sign": (cast("open_loans", pa.uint64()), "column open_loans is uint"),
    "a column of columns": (
        lambda t: t.set_column(3, "bureau_score", pa.array([{"a": 1.0}] * 3)),
        "columns within columns|bureau_score is struct",
    ),
    "no column of the key": (lambda t: t.drop_columns("customer_id"), "no column customer_id"),
    "names in capitals": (
        lambda t: t.rename_columns([name.upper() for name in t.column_names]),
        "no column customer_id",
    ),
    "a column twice": (
        lambda t: t.append_column("bureau_score", t.column("bureau_score")),
        "names of their own",
    ),
    "a list": (
        lambda t: t.set_column(3, "bureau_score", pa.array([[1.0]] * 3)),
        "columns within columns|bureau_score is list",
    ),
}


IN_PARQUET_ALONE = ("a key without a sign", "whole numbers without a sign", "a column twice")
"""What no Delta table has: deltalake gives the numbers a sign, and refuses the column."""
IN_ICEBERG = (
    *("an event of 2300", "times as texts", "times as days", "a key that is null everywhere"),
    *("numbers as decimals", "a column of columns", "another value of the same times"),
)
"""Rows of an Iceberg table are checked where those of a Delta table are; its types are its own."""
KINDS: dict[str, tuple[str, Callable[[Path, pa.Table], Path]]] = {
    "parquet": (".parquet", written),
    "delta": ("", appended),
    "iceberg": ("", iceberg_tables.appended),
}
CASES = [
    *(("parquet", case) for case in BAD),
    *(("delta", case) for case in BAD if case not in IN_PARQUET_ALONE),
    *(("iceberg", case) for case in IN_ICEBERG),
]


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_one_bad_row_is_told_and_nothing_is_taken_in(tmp_path: Path, kind: str, case: str) -> None:
    (change, problem), (suffix, write) = BAD[case], KINDS[kind]
    take(tmp_path, write(tmp_path / f"good{suffix}", table([(9, 0, 0, 1.0)])))
    before = state(tmp_path)
    path = write(tmp_path / f"bad{suffix}", change(table(ROWS)))
    with pytest.raises(InputInvalid, match=problem) as refused:
        take(tmp_path, path)
    assert f"bad{suffix}" in str(refused.value)
    assert state(tmp_path) == before


def test_a_cut_file_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.parquet", table(ROWS)).read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "empty").mkdir()
    for name in ("cut.parquet", "a.xlsx", "empty", "nowhere.parquet"):
        with pytest.raises(PlatformError, match=name):
            take(tmp_path, tmp_path / name)
    assert not list((tmp_path / "external").glob("*.parquet"))


def test_one_bad_row_in_a_million_is_named_and_nothing_is_taken_in(tmp_path: Path) -> None:
    count = 1_000_000
    times = pa.array(np.full(count, T_S * 10**6), TIME)
    scores = np.arange(count, dtype=np.float64)
    rows = pa.table(
        {
            "customer_id": np.arange(count), "as_of": times, "known_at": times,
            "bureau_score": scores, "open_loans": np.zeros(count, np.int64),
            "is_listed": pa.nulls(count, pa.bool_()),
        }
    )  # fmt: skip
    scores[count - 2] = np.inf
    changed = rows.set_column(3, "bureau_score", pa.array(scores))
    take(tmp_path, written(tmp_path / "good.parquet", table([(9, 0, 0, 1.0)])))
    before = state(tmp_path)
    with pytest.raises(InputInvalid, match=r"bad\.parquet, row 999998.*bureau_score is inf"):
        take(tmp_path, written(tmp_path / "bad.parquet", changed))
    assert state(tmp_path) == before


def test_a_file_with_a_broken_page_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.parquet", table(ROWS)).read_bytes()
    broken = bytearray(whole)
    broken[4:60] = bytes(56)
    (tmp_path / "broken.parquet").write_bytes(broken)
    with pytest.raises(PlatformError, match=r"broken\.parquet"):
        take(tmp_path, tmp_path / "broken.parquet")
    assert not list((tmp_path / "external").glob("*.parquet"))


def test_a_folder_is_taken_whole_and_its_bad_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    written(folder / "1.parquet", table(ROWS))
    (folder / "_SUCCESS").touch()
    (folder / "2.csv").write_text(
        "customer_id;as_of;known_at;bureau_score;open_loans;is_listed\n"
        "4;2024-10-05T00:00:00;2024-10-05T02:00:00+02:00;1.5;1;0\n"
        "5;2024-10-05T00:00:00;2024-10-05T00:00:00;;;\n"
        "six;2024-10-05T00:00:00;2024-10-05T00:00:00;;;\n"
    )
    with pytest.raises(InputInvalid, match=r"2\.csv.*row 2.*customer_id") as refused:
        take(tmp_path, folder)
    assert "six" not in str(refused.value)  # a customer's id stands in no message
    text = (folder / "2.csv").read_text()
    (folder / "2.csv").write_text(text.replace("six", "6"))
    assert take(tmp_path, folder) == ImportReport(rows=6, new=6, entities=6, resumed=0)
    assert take(tmp_path, folder) == ImportReport(rows=6, new=0, entities=0, resumed=0)


def test_the_same_rows_change_nothing_and_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", table([*ROWS, ROWS[0]]))
    assert take(tmp_path, path, dry_run=True).new == 3
    assert not list((tmp_path / "external").glob("[!l]*"))  # but the lock
    take(tmp_path, path)
    before = state(tmp_path)
    assert take(tmp_path, path).new == 0
    assert state(tmp_path) == before
    more = written(tmp_path / "more.parquet", table([*ROWS, (1, 0, 11, 2.0)]))
    assert take(tmp_path, more) == ImportReport(rows=4, new=1, entities=1, resumed=0)
    changed = written(tmp_path / "changed.parquet", table([(7, 0, 0, 1.0), (1, 0, 10, 2.0)]))
    with pytest.raises(InputInvalid, match=r"row 1.*other values than a row that is there already"):
        take(tmp_path, changed)


def test_a_customer_is_stored_as_a_pseudonym_alone(tmp_path: Path) -> None:
    take(tmp_path, written(tmp_path / "t.parquet", table(ROWS)))
    (part,) = (tmp_path / "external").glob("*.parquet")
    assert not {1, 2, 3} & set(pq.read_table(part).column("customer_id").to_pylist())


def test_a_missing_number_is_a_number_that_is_none(tmp_path: Path) -> None:
    rows = put("bureau_score", 0, float("nan"))(table(ROWS))
    take(tmp_path, written(tmp_path / "t.parquet", rows))
    (part,) = (tmp_path / "external").glob("*.parquet")
    assert pq.read_table(part).column("bureau_score").null_count == 2


PLACES = (
    *("_relations", "_refuse_conflict", "_write_new", "_serve"),
    *("ExternalParts.add", "ExternalParts.note", "FeastSqlite.write"),
)
KILLED = [
    *itertools.product(("parquet", "delta"), PLACES),
    *itertools.product(("delta", "iceberg"), ["SnapshotRows.note_read"]),
]


@pytest.mark.parametrize(("kind", "place"), KILLED)
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_killed_anywhere_a_rerun_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str, is_after: bool
) -> None:
    monkeypatch.setattr(table_import, "SERVED_ROWS", 2)
    _, write = KINDS[kind]
    path = write(tmp_path / "table.parquet", table(ROWS))
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        take(tmp_path / name, path)
    write(path, table([(1, 0, 12, 4.0), *ROWS, (5, 0, 0, 4.0)]))
    take(tmp_path / "straight", path)
    owner: Any = table_import
    *classes, function = place.split(".")
    for name in classes:
        owner = {c.__name__: c for c in (SnapshotRows, ExternalParts, FeastSqlite)}[name]
    real = getattr(owner, function)

    def killed(*arguments: Any) -> Any:
        if is_after:
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, killed)
        with pytest.raises(Killed):
            take(tmp_path / "killed", path)
    take(tmp_path / "killed", path)
    assert state(tmp_path / "killed") == state(tmp_path / "straight")


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_online_store_that_was_lost_is_given_every_row_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """It is on a server that no backup holds; a kill in between leaves the newest row there."""
    monkeypatch.setattr(table_import, "SERVED_ROWS", 1)
    for name, rows in (("1", ROWS), ("2", [(1, 0, 12, 4.0), (5, 2, 2, 4.0)])):
        take(tmp_path, written(tmp_path / f"{name}.parquet", table(rows)))
    before = state(tmp_path)
    for file in tmp_path.glob("online.db*"):
        file.unlink()
    parts = ExternalParts(tmp_path / "external")
    with closing(FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])) as store:
        if is_killed:
            real = FeastSqlite.write

            def killed(self: FeastSqlite, view: str, rows: pa.Table) -> int:
                real(self, view, rows)
                if (self.newest()["bureau"] or 0) >= (T_S + DAY_S) * 1000:
                    raise Killed
                return rows.num_rows

            with monkeypatch.context() as patch:
                patch.setattr(FeastSqlite, "write", killed)
                with pytest.raises(Killed):
                    serve_missing(BUREAU, parts, store, lambda: NOW_MS)
        with parts.building():
            assert serve_missing(BUREAU, parts, store, lambda: NOW_MS) == 0
        assert serve_missing(BUREAU, parts, store, lambda: NOW_MS) == 2
        assert serve_missing(BUREAU, parts, store, lambda: NOW_MS) == 0
    assert state(tmp_path) == before


def test_a_part_that_a_kill_left_is_served_where_features_were_declared_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = msgspec.structs.replace(BUREAU, fields=BUREAU.fields[:1])
    columns = ExternalColumns.of(fewer, fraud_like(), bytes(32), NOW_MS)
    path, parts = written(tmp_path / "1.parquet", table(ROWS)), ExternalParts(tmp_path / "external")

    def killed(*_: Any) -> int:
        raise Killed

    with (
        monkeypatch.context() as patch,
        closing(FeastSqlite(tmp_path / "online.db", "fraud", [fewer])) as store,
    ):
        patch.setattr(table_import, "_serve", killed)
        with pytest.raises(Killed):
            import_table(columns, PlainFiles(path), parts, store, lambda: NOW_MS)
    more = written(tmp_path / "2.parquet", table([(4, 0, 10, 1.0)]))
    assert take(tmp_path, more) == ImportReport(rows=1, new=1, entities=1, resumed=1)


def test_what_a_kill_left_of_a_draft_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "external" / ".building" / "spill"
    left.mkdir(parents=True)
    (left.parent / "rows.parquet").write_bytes(b"PAR1")
    assert take(tmp_path, written(tmp_path / "t.parquet", table(ROWS))).new == 3
    assert not left.parent.exists()
