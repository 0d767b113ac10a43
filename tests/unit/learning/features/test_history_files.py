"""The history of a folder without `sources.py`: Parquet and CSV in the model's own columns."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.learning.features import rows
from mlplatform.learning.features.columns import MOST_ALIKE
from mlplatform.learning.features.csv_files import MOST_ROW
from mlplatform.learning.features.history_files import columns_of, examine_history
from mlplatform.learning.features.input_files import MOST_FILE_BYTES, MOST_FILES
from mlplatform.learning.features.parquet_work import MOST_COLUMNS, MOST_ROWS
from mlplatform.model.consistency import OF_EVERY_REQUEST, contradictions
from mlplatform.model.definition import EVENT_TIME, ModelDefinition, RequestField
from mlplatform.model.folders import load_definition
from mlplatform.model.signature_checks import MOST_FIELDS
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import GIB

FRAUD = load_definition("fraud")


def day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC).replace(tzinfo=None)


ROWS = {
    "request_id": [1, 2],
    "event_time": [day(1), day(2)],
    "customer_id": [7, 8],
    "terminal_id": [3, 3],
    "amount": [12.5, 8.0],
    "label": [0, 1],
    "label_time": [day(4), day(5)],
}


def written(folder: Path, **renamed: str) -> Path:
    table = pa.table({renamed.get(name, name): values for name, values in ROWS.items()})
    times = [name for name in table.column_names if pa.types.is_timestamp(table[name].type)]
    for name in times:
        position = table.schema.get_field_index(name)
        table = table.set_column(position, name, table[name].cast(pa.timestamp("us")))
    pq.write_table(table.append_column("branch", pa.array(["a", "b"])), folder / "own.parquet")
    return folder / "own.parquet"


def checked(path: Path, **how: Any) -> None:
    """Raises the first refusal, as an import does."""
    found = examine_history(path, definition=FRAUD, **{"now_ms": None, "columns": {}, **how})
    for one in found.refusals:
        raise one


def test_columns_have_the_models_names_and_types() -> None:
    columns = {one.name: one.kinds for one in columns_of(FRAUD)}
    assert set(columns) == set(ROWS)
    assert "double" in columns["amount"]


def test_a_column_of_another_name_is_mapped_and_others_are_left_unread(tmp_path: Path) -> None:
    path = written(tmp_path, amount="value")
    found = examine_history(path, definition=FRAUD, now_ms=None, columns={"amount": "value"})
    assert found.table.column("amount").to_pylist() == [12.5, 8.0]
    assert found.names["amount"] == "value"
    assert found.unread == ("branch",)
    assert found.table.num_rows == 2


def wide(fields: int) -> ModelDefinition:
    number = RequestField(type="float64")
    more = {f"f{n}": number for n in range(fields - len(FRAUD.request))}
    return msgspec.structs.replace(FRAUD, request={**FRAUD.request, **more})


def test_a_history_may_have_more_columns_than_one_batch_of_all_rows(tmp_path: Path) -> None:
    definition = wide(MOST_FIELDS)
    table = pq.read_table(written(tmp_path))
    for name in definition.request.keys() - FRAUD.request.keys():
        table = table.append_column(name, pa.array([0.5, 1.5]))
    pq.write_table(table, tmp_path / "own.parquet")
    found = examine_history(tmp_path, definition=definition, now_ms=None, columns={})
    assert found.table.column("f1900").to_pylist() == [0.5, 1.5]
    rows.check_history(found.table, definition, "history")


def test_a_model_has_no_more_fields_than_a_table_may_have() -> None:
    kept = len([*wide(MOST_FIELDS).request, *rows.HEAD, *rows.TAIL])
    assert kept <= MOST_COLUMNS
    assert not [one for one in contradictions(wide(MOST_FIELDS)) if one.key == "request"]
    (found,) = [one for one in contradictions(wide(MOST_FIELDS + 1)) if one.key == "request"]
    assert f"{MOST_FIELDS + 1} fields" in found.found
    assert found.wanted == f"{MOST_FIELDS} or fewer: vectors hold more numbers"


def test_the_document_has_the_limits() -> None:
    text = " ".join((Path(__file__).parents[4] / "docs" / "history.md").read_text().split())
    assert MOST_FILE_BYTES == 2 * GIB
    assert f"{MOST_FILES:,} files of 2 GiB, {MOST_ROWS // 10**6} million rows" in text
    assert f"{MOST_COLUMNS:,} columns, rows of {MOST_ROW:,} characters" in text
    assert f"{MOST_FIELDS:,} request fields" in text


def usual(**columns: pa.Array[Any]) -> pa.Table:
    """The rows as other programs type them: times with a zone, unsigned ids, labels with gaps."""
    times: dict[str, Any] = {
        name: pa.array(ROWS[name], pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        for name in ("event_time", "label_time")
    }
    ids = {name: pa.array(ROWS[name], pa.uint32()) for name in ("customer_id", "terminal_id")}
    return pa.table({**ROWS, **times, **ids, **columns})


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        pytest.param("event_time", pa.array(ROWS["event_time"], pa.timestamp("ns", "Europe/Paris")),
                     [day(1), day(2)], id="times with a zone"),
        pytest.param("customer_id", pa.array([7, 2**32 - 1], pa.uint32()), [7, 2**32 - 1],
                     id="unsigned ids"),
        pytest.param("customer_id", pa.array([7.0, 8.0]), [7, 8], id="ids as floats"),
        pytest.param("request_id", pa.array(["a-1", "b-2"], pa.large_string()), ["a-1", "b-2"],
                     id="ids of requests as texts"),
        pytest.param("label", pa.array([False, True]), [0, 1], id="labels as truths"),
        pytest.param("label", pa.array([0.0, float("nan")]), [0, None], id="labels with NaN"),
        pytest.param("amount", pa.array([Decimal("12.34"), Decimal(8)], pa.decimal128(12, 2)),
                     [12.34, 8.0], id="money"),
    ],
)  # fmt: skip
def test_types_that_lose_nothing_by_it_are_taken(
    tmp_path: Path, name: str, values: pa.Array[Any], expected: list[Any]
) -> None:
    pq.write_table(usual(**{name: values}), tmp_path / "own.parquet")
    found = examine_history(tmp_path, definition=FRAUD, now_ms=None, columns={})
    assert found.table.schema == rows.history_schema(FRAUD)
    assert [
        str(v) if name == "request_id" else v for v in found.table[name].to_pylist()
    ] == expected


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        pytest.param("customer_id", pa.array([7.5, 8.0]), "0: customer_id is not a whole number",
                     id="a fraction for an id"),
        pytest.param("label", pa.array([0.5, 1.0]), "row 0, counted from 0: "
        "label is not a whole number: 0.5",
                     id="a fraction for a label"),
        pytest.param("amount", pa.array(["1.5", "2"]),
                     r'column amount is string; wanted: double or .*'
                     r'in pandas table\["amount"\]\.astype\("float64"\)', id="a text for a number"),
        pytest.param("event_time", pa.array(["2026-03-01", "2026-03-02"]),
                     r'in pandas pandas\.to_datetime\(table\["event_time"\], utc=True\)',
                     id="a text for a time"),
    ],
)  # fmt: skip
def test_other_types_are_refused_with_the_cast(
    tmp_path: Path, name: str, values: pa.Array[Any], why: str
) -> None:
    pq.write_table(usual(**{name: values}), tmp_path / "own.parquet")
    with pytest.raises(InputInvalid, match=why):
        checked(tmp_path)


def texted() -> ModelDefinition:
    more = {
        "is_new": RequestField(type="bool"),
        "note": RequestField(type="string"),
        "risk": RequestField(type="float64", optional=True),
        "face": RequestField(type="vector", length=2),
        "sex": RequestField(type="string", values=("f", "m")),
    }
    request = {**FRAUD.request, **more}
    return msgspec.structs.replace(FRAUD, request=request, protected=("sex",))


def test_csv_gives_what_parquet_gives(tmp_path: Path) -> None:
    definition, face = texted(), pa.array([[0.1, 2.0], [3.0, 4.0]], pa.list_(pa.float64()))
    more = {"is_new": pa.array([True, False]), "note": ["", "a, b"], "face": face}
    table = usual(**more, label=pa.array([0.0, None]), risk=pa.array([None, 0.5]))
    (tmp_path / "p").mkdir()
    pq.write_table(table, tmp_path / "p" / "own.parquet")
    names = [*table.column_names]
    lines = [
        [
            json.dumps(v) if isinstance(v, list) else "" if v is None else str(v)
            for v in row.values()
        ]
        for row in table.to_pylist()
    ]
    with (tmp_path / "own.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *lines])
    of_parquet, of_csv = (
        examine_history(path, definition=definition, now_ms=None, columns={}).table
        for path in (tmp_path / "p", tmp_path / "own.csv")
    )
    assert of_csv.equals(of_parquet)
    assert of_csv["note"].to_pylist() == ["", "a, b"]
    assert of_csv["sex"].null_count == 2, "a protected attribute may be left out"
    assert of_csv["label"].to_pylist() == [0, None]


def test_cells_of_csv_that_are_no_values_are_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "request_id,event_time,customer_id,terminal_id,amount,label,label_time\n"
        "1,2026-03-01,7,3,12.5,0,2026-03-04\n2,2026-03-02,x,3,1e,0,2026-03-04\n"
    )
    found = examine_history(path, definition=FRAUD, now_ms=None, columns={})
    assert [str(refusal) for refusal in found.refusals] == [
        "own.csv, row 1, counted from 0: customer_id is 'x'; wanted: a whole number",
        "own.csv, row 1, counted from 0: "
        "amount is '1e'; wanted: a number, with a point before its decimals",
    ]
    assert found.table.num_rows == 0


def test_a_missing_column_is_named_with_a_proposal(tmp_path: Path) -> None:
    path = written(tmp_path, amount="amount_eur")
    with pytest.raises(InputInvalid, match=r"no column for amount.*--map amount=amount_eur"):
        examine_history(path, definition=FRAUD, now_ms=None, columns={})


def test_the_only_column_of_a_type_is_proposed_whatever_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, customer_id="cardholder")
    with pytest.raises(InputInvalid, match=r"no column for customer_id.*=cardholder$"):
        examine_history(path, definition=FRAUD, now_ms=None, columns={})


def test_labels_of_another_file_are_a_way_out_where_there_is_no_label(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    pq.write_table(pq.read_table(written(tmp_path)).drop(["label", "label_time"]), path)
    with pytest.raises(InputInvalid, match=r"=\?; labels in another file are joined first"):
        examine_history(path, definition=FRAUD, now_ms=None, columns={})


def test_a_column_that_is_taken_from_its_own_field_is_named_with_both(tmp_path: Path) -> None:
    why = "column terminal_id is mapped to amount, so terminal_id has none; wanted: another column"
    with pytest.raises(InputInvalid, match=why):
        examine_history(
            written(tmp_path), definition=FRAUD, now_ms=None, columns={"amount": "terminal_id"}
        )


def test_no_request_may_be_later_than_now(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="event_time is in the future"):
        checked(written(tmp_path), now_ms=0, columns={})


def beside(folder: Path, name: str) -> None:
    """A folder, if the name ends with a slash, or a file."""
    place = folder / name.rstrip("/")
    if name.endswith("/"):
        place.mkdir()
    else:
        place.write_bytes(b"")


@pytest.mark.parametrize(
    "name", ["2026-10/", "more.parquet/", "b.parq", "b.csv.gz", "b.txt", "b.xlsx"]
)
def test_a_folder_with_rows_that_would_be_missed_is_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    beside(tmp_path, name)
    with pytest.raises(InputInvalid, match=rf": it has {re.escape(name)}, whose rows would be mis"):
        examine_history(tmp_path, definition=FRAUD, now_ms=None, columns={})


@pytest.mark.parametrize(
    "name", ["_SUCCESS", "_temporary/", ".hidden/", ".own.parquet.crc", "own.crc", "README.md"]
)
def test_what_engines_and_people_put_beside_files_is_left_out(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    beside(tmp_path, name)
    found = examine_history(tmp_path, definition=FRAUD, now_ms=None, columns={})
    assert found.table.num_rows == 2


def with_event_times(folder: Path, times: pa.Array[Any]) -> Path:
    path = written(folder)
    table = pq.read_table(path)
    place = table.schema.get_field_index("event_time")
    pq.write_table(table.set_column(place, "event_time", times), path)
    return path


OVERFLOWING_MS = 10**12 + 2**61
"""A count of milliseconds whose thousandfold, of microseconds, overflows to one of the year
2001."""


@pytest.mark.parametrize(
    ("count", "unit", "shown"),
    [
        pytest.param(-62_135_596_800, "s", "0001-01-01T00:00:00", id="the year 1"),
        pytest.param(-1, "ms", "1969-12-31T23:59:59.999000", id="the last moment of 1969"),
        pytest.param(OVERFLOWING_MS, "ms", f"{OVERFLOWING_MS} ms", id="one that overflows"),
        pytest.param(253_402_300_800, "s", "253402300800000 ms", id="the first moment of 10000"),
    ],
)
def test_a_time_that_no_request_may_have_is_refused_in_a_history(
    tmp_path: Path, count: int, unit: Any, shown: str
) -> None:
    times = pa.array([count, count], pa.int64()).cast(pa.timestamp(unit))
    told = rf"own\.parquet, row 0, counted from 0: event_time is not from 1970 to 9999 .*: {shown}$"
    with pytest.raises(InputInvalid, match=told):
        checked(with_event_times(tmp_path, times), now_ms=None, columns={})


SLIPPED_NS = 1_790_000_000_000_000_000
"""A time in nanoseconds, which is beyond the year 9999 where it is taken for microseconds."""


@pytest.mark.parametrize("name", ["event_time", "label_time"])
def test_a_time_beyond_the_calendar_is_named_with_its_count(tmp_path: Path, name: str) -> None:
    path = written(tmp_path)
    table = pq.read_table(path)
    counts = [int(day(5).replace(tzinfo=UTC).timestamp() * 10**6), SLIPPED_NS]
    times = pa.array(counts, pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, times), path)
    now_ms = int(day(30).replace(tzinfo=UTC).timestamp() * 1000)
    with pytest.raises(
        InputInvalid, match=rf"own\.parquet, row 1, counted from 0: {name} .*: {SLIPPED_NS} us$"
    ):
        checked(path, now_ms=now_ms, columns={})


def with_times(folder: Path, *times: datetime | None) -> Path:
    path = written(folder)
    table = pq.read_table(path)
    place = table.schema.get_field_index("label_time")
    changed = table.set_column(place, "label_time", pa.array(times, pa.timestamp("us")))
    pq.write_table(changed, path)
    return path


def test_a_label_0_without_a_time_is_known_at_its_maturity(tmp_path: Path) -> None:
    path = with_times(tmp_path, None, day(3))
    now_ms = int(day(3).replace(tzinfo=UTC).timestamp() * 1000)
    found = examine_history(path, definition=FRAUD, now_ms=now_ms, columns={}).table
    mature = day(1 + FRAUD.label.maturity_days)
    assert found.column("label_time").to_pylist() == [mature, day(3)]
    rows.check_history(found, FRAUD, "history")
    found = examine_history(
        with_times(tmp_path, day(3), None), definition=FRAUD, now_ms=now_ms, columns={}
    ).table
    with pytest.raises(
        InputInvalid, match="row 1, counted from 0: label and label_time must both be there"
    ):
        rows.check_history(found, FRAUD, "history")


def test_no_label_may_be_known_later_than_now(tmp_path: Path) -> None:
    path = with_times(tmp_path, None, day(3))
    now_ms = int(day(2).replace(tzinfo=UTC).timestamp() * 1000)
    with pytest.raises(
        InputInvalid, match=r"row 1, counted from 0: label_time is in the future.*2026-03-03"
    ):
        checked(path, now_ms=now_ms, columns={})


def test_a_number_that_its_column_can_not_hold_is_refused(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path))
    position = table.schema.get_field_index("label")
    pq.write_table(
        table.set_column(position, "label", pa.array([0, 300])), tmp_path / "own.parquet"
    )
    with pytest.raises(InputInvalid, match=r"own\.parquet: label is not int8: .*300"):
        examine_history(tmp_path, definition=FRAUD, now_ms=None, columns={})


def test_no_request_field_can_have_the_name_of_a_column_beside_it() -> None:
    kept = {*rows.LABELS.names, *rows.DECIDED.names, *rows.VOIDS.names}
    assert kept == {EVENT_TIME, *OF_EVERY_REQUEST}


@pytest.mark.parametrize("name", ["stopped", "declined"])
def test_what_is_said_of_requests_beside_their_columns_takes_no_name_from_a_field(
    name: str,
) -> None:
    fields = {**FRAUD.request, name: RequestField(type="bool")}
    assert not list(contradictions(msgspec.structs.replace(FRAUD, request=fields)))


def with_texts(folder: Path, values: list[str | None]) -> Path:
    path = written(folder)
    pq.write_table(pq.read_table(path).append_column("shop", pa.array(values)), path)
    return path


SHOPS = msgspec.structs.replace(
    FRAUD,
    request={**FRAUD.request, "shop": RequestField(type="string", values=("Straße", "", "web"))},
)


def test_texts_come_out_as_they_are_in_the_file(tmp_path: Path) -> None:
    path = with_texts(tmp_path, ["Straße", ""])
    found = examine_history(path, definition=SHOPS, now_ms=None, columns={})
    assert found.table.column("shop").to_pylist() == ["Straße", ""]
    rows.check_history(found.table, SHOPS, "history")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x", "row 1, counted from 0: shop is none of request.shop.values"),
        (None, "row 1, counted from 0: shop is missing"),
        ("a\x1b", "a character that is not printed"),
        ("y" * 1025, "more than 1024 characters"),
    ],
    ids=["no text of the list", "no text", "a control character", "a long text"],
)
def test_a_text_that_no_request_may_have_is_refused_in_a_history(
    tmp_path: Path, value: str | None, told: str
) -> None:
    path = with_texts(tmp_path, ["web", value])
    found = examine_history(path, definition=SHOPS, now_ms=None, columns={})
    assert re.search(told, str(found.refusals[0]))


def test_every_refusal_is_told_with_its_file_row_and_number(tmp_path: Path) -> None:
    """A model without sources.py has the report that the example's own reader gives."""
    many = MOST_ALIKE + 5
    first = {
        "request_id": [str(number) for number in range(many + 3)],
        "event_time": [day(1)] * (many + 3),
        "customer_id": [7.5, *[8.0] * (many + 2)],
        "terminal_id": [3] * (many + 3),
        "amount": [1.0, None, *[-5.0] * many, 2.0],
        "label": [0] * (many + 3),
        "label_time": [day(4)] * (many + 3),
    }
    second = {**ROWS, "request_id": ["0", "x"], "event_time": [day(3), day(2)], "label": [2, 1]}
    for name, found in (("a.parquet", first), ("b.parquet", second)):
        pq.write_table(pa.table(found), tmp_path / name)
    found_all = examine_history(tmp_path, definition=FRAUD, now_ms=None, columns={})
    told = [str(one) for one in found_all.refusals]
    for wanted in (
        "a.parquet, row 0, counted from 0: customer_id is not a whole number: 7.5",
        "a.parquet, row 1, counted from 0: amount is missing",
        "a.parquet, row 2, counted from 0: amount is less than",
        "b.parquet, row 1, counted from 0: event_time is before that of the row above",
        "b.parquet, row 0, counted from 0: label is not 0 or 1: 2",
    ):
        assert any(one.startswith(wanted) for one in told), (wanted, told)
    below = next(kind for kind in found_all.refused if "less than" in kind[1])
    assert found_all.refused[below] == many
    assert sum("less than" in one for one in told) == MOST_ALIKE, "bounded, and counted in full"
