"""Rows of a table as requests: what a gateway takes without, a table may lack too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from tests.support import external_world, table_world
from tests.support.external_world import BUREAU, T_S

from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.external.table_import import import_table
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.policy import FeaturePolicies
from mlplatform.learning.features.rows import check_history, history_schema
from mlplatform.model.bundle import load_bundle
from mlplatform.model.definition import InputSpec, ModelDefinition, RequestField
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.windows.declaration import Window
from mlplatform.operations.tables.columns import matched_columns
from mlplatform.operations.tables.input_files import blocks
from mlplatform.operations.tables.request_rows import requests_of
from mlplatform.operations.tables.row_features import RowFeatures
from mlplatform.runtime.clock import LAST_MS
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.units import DAY_S
from mlplatform.scoring.request.payloads import Payloads

KEY = b"k" * 32


def definition() -> ModelDefinition:
    found: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
    found["request"]["sex"] = {"type": "string", "values": ["f", "m"]}
    found["protected"] = ["sex"]
    return parse(yaml.safe_dump(found), "model.yaml")


DEFINITION = definition()
ROWS = {
    "request_id": ["a", "b", "c"],
    "customer_id": [1, 2, 3],
    "terminal_id": [1, 1, 1],
    "amount": [1.0, 2.0, 3.0],
}


def table(**columns: Any) -> pa.Table:
    return pa.table({**ROWS, **columns})


def test_a_protected_attribute_may_be_unknown_and_is_checked_where_it_is_known() -> None:
    given = table(sex=["f", None, "x"])
    found = requests_of(given, {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {2: "sex is none of request.sex.values: 'x'"}
    assert found.table.column("sex").to_pylist() == ["f", None]


def test_a_table_without_a_protected_attribute_is_taken() -> None:
    kinds = {field.name: str(field.type) for field in table().schema}
    assert "sex" not in matched_columns(DEFINITION, kinds, {}, "a.parquet", is_text=False)
    found = requests_of(table(), {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {}
    assert found.table.column("sex").null_count == 3


def test_other_names_of_columns_are_proposed_by_the_words_that_a_history_has_for_them() -> None:
    fraud = load_definition("fraud")
    kinds = {"TransactionID": "int64", "Client": "int64", "MerchantID": "int64", "Value": "double"}
    with pytest.raises(InputInvalid) as refused:
        matched_columns(fraud, kinds, {}, "own.csv", is_text=False)
    assert str(refused.value).endswith(
        "a proposal: --map request_id=TransactionID --map customer_id=Client"
        " --map terminal_id=MerchantID --map amount=Value"
    )


def test_no_column_is_proposed_where_two_are_equally_likely() -> None:
    fraud = load_definition("fraud")
    kinds = {"Ref": "string", "OneID": "int64", "OtherID": "int64", "Value": "double"}
    with pytest.raises(InputInvalid) as refused:
        matched_columns(fraud, kinds, {}, "own.csv", is_text=False)
    assert str(refused.value).endswith(
        "a proposal: --map request_id=Ref --map customer_id=? --map terminal_id=?"
        " --map amount=Value"
    )


def test_a_time_beyond_the_calendar_is_the_problem_of_its_row_alone() -> None:
    """Nanoseconds that are taken for microseconds."""
    counts = pa.array([T_S * 10**6, T_S * 10**9, T_S * 10**6], pa.int64())
    given = table(event_time=counts.cast(pa.timestamp("us")))
    found = requests_of(given, {}, DEFINITION, as_of_ms=T_S * 1000, key=KEY)
    assert found.problems.keys() == {1}
    assert found.problems[1].startswith("event_time is ")
    assert found.problems[1].endswith(f": {T_S * 10**9} us")
    assert found.table.num_rows == 2


def worded() -> ModelDefinition:
    """Texts that may be empty, may not be, may be missing, and tell customers apart."""
    found: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
    found["request"]["customer_id"] = {"type": "string", "entity": "customer", "pseudonymous": True}
    found["request"]["note"] = {"type": "string"}
    found["request"]["channel"] = {"type": "string", "values": ["", "web"]}
    found["request"]["card"] = {"type": "string", "values": ["debit", "credit"]}
    found["request"]["branch"] = {"type": "string", "optional": True}
    found["request"]["sex"] = {"type": "string", "values": ["f", "m"]}
    found["protected"] = ["sex"]
    found["inputs"].append({"name": "note_words", "kind": "category", "of": "note"})
    return parse(yaml.safe_dump(found), "model.yaml")


WORDED = worded()
FULL = {
    "customer_id": "c1", "terminal_id": 1, "amount": 2.0, "note": "n", "channel": "web",
    "card": "debit", "branch": "b", "sex": "f",
}  # fmt: skip


def problem_of_table(tmp_path: Path, name: str, value: str | None, suffix: str) -> str | None:
    given = pa.Table.from_pylist([{"request_id": "a", **FULL, name: value}])
    given = given.set_column(given.column_names.index(name), name, pa.array([value], pa.string()))
    path = tmp_path / f"a{suffix}"
    (pq.write_table if suffix == ".parquet" else pyarrow.csv.write_csv)(given, path)
    (block,) = blocks(path, path.name, WORDED, {}, rows=10, first=0)
    found = requests_of(block.rows, block.unread, WORDED, as_of_ms=1, key=KEY)
    return found.problems.get(0)


def problem_online(name: str, value: str | None) -> str | None:
    try:
        Payloads(WORDED).score(msgspec.json.encode({**FULL, "event_time": 1, name: value}))
    except Problem as problem:
        return str(problem)
    return None


def problem_of_history(name: str, value: str | None) -> str | None:
    times = {"event_time": T_S * 10**6, "label": 0, "label_time": T_S * 10**6}
    row = {"request_id": "a", **FULL, **times, name: value}
    given = pa.Table.from_pylist([row], schema=history_schema(WORDED))
    try:
        check_history(given, WORDED, "a")
    except InputInvalid as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        pytest.param("note", "", True, id="any text may be an empty one"),
        pytest.param("channel", "", True, id="an empty text that is declared"),
        pytest.param("card", "", False, id="an empty text that is not declared"),
        pytest.param("customer_id", "", False, id="an empty text that tells nobody apart"),
        pytest.param("branch", "", True, id="an optional field"),
        pytest.param("branch", None, True, id="an optional field that is missing"),
        pytest.param("sex", "", False, id="an empty text of a protected attribute"),
        pytest.param("sex", None, True, id="a protected attribute that is missing"),
        pytest.param("note", None, False, id="a needed field that is missing"),
    ],
)
def test_all_ways_in_agree_on_empty_texts_and_missing_ones(
    tmp_path: Path, name: str, value: str | None, taken: bool
) -> None:
    """An empty cell of CSV is an empty text where the field allows one, and else missing."""
    assert (problem_of_table(tmp_path, name, value, ".parquet") is None) == taken
    assert (problem_online(name, value) is None) == taken
    assert (problem_of_history(name, value) is None) == taken
    of_csv = problem_of_table(tmp_path, name, value, ".csv")
    if name in ("branch", "sex"):
        assert of_csv is None
    elif value is not None:
        assert (of_csv is None) == taken


FREE = msgspec.structs.replace(
    DEFINITION, request={**DEFINITION.request, "free": RequestField(type="float64")}
)


@pytest.mark.parametrize(
    ("event_ms", "free", "problem"),
    [
        pytest.param(0, 1.0, None, id="the first moment"),
        pytest.param(LAST_MS, -1e308, None, id="the last moment"),
        pytest.param(-1, 1.0, "event_time is not from 1970 to 9999", id="before 1970"),
        pytest.param(LAST_MS + 1, 1.0, "event_time is not from 1970 to 9999", id="after 9999"),
        pytest.param(T_S, float("inf"), "free is not finite: inf", id="an infinite number"),
        pytest.param(T_S, float("-inf"), "free is not finite: -inf", id="an infinite one below 0"),
    ],
)
def test_all_ways_in_agree_on_times_and_numbers(
    event_ms: int, free: float, problem: str | None
) -> None:
    time_us = pa.array([event_ms * 1000], pa.int64()).cast(pa.timestamp("us"))
    kept = {"customer_id": [1], "terminal_id": [1], "amount": [1.0], "free": [free]}
    kept |= {"sex": pa.array(["f"], pa.string())}
    given = pa.table({"request_id": ["a"], "event_time": time_us, **kept})
    of_batch = requests_of(given, {}, FREE, as_of_ms=LAST_MS, key=KEY).problems.get(0)

    known = {"label": pa.array([0], pa.int8()), "label_time": time_us}
    given = pa.table({**{name: given.column(name) for name in given.column_names}, **known})
    of_history = None
    try:
        check_history(given.select(history_schema(FREE).names), FREE, "a")
    except InputInvalid as error:
        of_history = str(error)

    infinite = "1e999" if free > 0 else "-1e999"
    number = str(free) if abs(free) < float("inf") else infinite
    body = '{"customer_id": 1, "terminal_id": 1, "amount": 1.0, "free": %s, "event_time": %d}'
    of_online = None
    try:
        Payloads(FREE).score((body % (number, event_ms)).encode())
    except Problem as error:
        of_online = str(error)

    assert (of_batch is None, of_history is None, of_online is None) == (problem is None,) * 3
    if problem is not None:
        assert str(of_batch).startswith(problem)
        assert str(of_history).startswith(f"a, row 0, counted from 0: {problem}")


def test_an_empty_cell_of_csv_is_an_empty_text_where_one_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"request_id,{','.join(FULL)}\na,c1,1,2.0,,,debit,,\n")
    (block,) = blocks(path, path.name, WORDED, {}, rows=10, first=0)
    row = requests_of(block.rows, block.unread, WORDED, as_of_ms=1, key=KEY).table.to_pylist()[0]
    assert [row[name] for name in ("note", "channel", "branch", "sex")] == ["", "", None, None]


def test_an_empty_id_of_a_row_is_refused() -> None:
    found = requests_of(table(request_id=["a", "", "c"]), {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {1: "request_id is empty"}


@pytest.mark.parametrize("name", ["terminal_id", "customer_id"])
def test_no_key_has_an_empty_text_among_its_values(name: str) -> None:
    """The unit of assignment is none of an entity or a pseudonym, too."""
    found: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
    found["request"][name] = {**found["request"][name], "type": "string", "values": ["", "a"]}
    for bound in ("minimum", "maximum"):
        found["request"][name].pop(bound, None)
    with pytest.raises(ConfigInvalid, match=rf"request\.{name}\.values .*no empty text"):
        parse(yaml.safe_dump(found), "model.yaml")


def test_a_customers_id_stands_in_no_problem() -> None:
    given = table(customer_id=[1, -893704, None])
    found = requests_of(given, {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {1: "customer_id is less than 0", 2: "customer_id is missing"}


def test_windows_of_a_first_request_are_missing_and_of_an_unknown_request_stale(
    tmp_path: Path,
) -> None:
    mean = Window(
        name="mean_1h", entity="customer", aggregate="mean", of="amount", window="1h",
        resolution="1m",
    )  # fmt: skip
    fraud = msgspec.structs.replace(load_definition("fraud"), windows=(mean,))
    history = [
        {"request_id": name, "event_time": minute * 60_000_000, "customer_id": 1, "terminal_id": 1,
         "amount": 9.0, "label": None, "label_time": None}
        for name, minute in (("first", 0), ("second", 1))
    ]  # fmt: skip
    offline = OfflineTable(tmp_path / "offline", fraud)
    offline.import_history(pa.Table.from_pylist(history, schema=history_schema(fraud)), KEY)
    written = load_bundle(tmp_path / table_world.bundle(tmp_path))
    inputs = (InputSpec(name="mean_1h", kind="window", of="customer"),)
    bundle = msgspec.structs.replace(written, inputs=inputs, windows=(mean,))

    known = offline.requests().order("event_time").to_arrow_table()
    other = pa.array(["first", "other"])
    for rows, expected in (
        (known, [(("missing",), False), ((), False)]),
        (known.set_column(0, "request_id", other), [(("missing",), False), (("stale",), True)]),
    ):
        found = RowFeatures(fraud, (), bundle, offline).inputs(rows)
        causes = [found.gaps[kind] for kind in found.kinds]
        assert [
            (tuple(cause for cause, _ in gaps.features.values()), gaps.withheld) for gaps in causes
        ] == expected


def test_a_row_of_an_imported_table_without_values_is_no_gap_as_to_a_gateway(
    tmp_path: Path,
) -> None:
    fraud, now_ms = load_definition("fraud"), (T_S + DAY_S) * 1000
    offline = OfflineTable(tmp_path / "offline", fraud)
    path = external_world.written(
        tmp_path / "bureau.parquet", external_world.table([(1, 0, 0, None), (2, 0, 0, 7.0)])
    )
    columns = ExternalColumns.of(BUREAU, fraud, KEY, now_ms)
    store = FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])
    import_table(columns, PlainFiles(path), offline.external("bureau"), store, lambda: now_ms)
    rows = external_world.table([(key, DAY_S, DAY_S, None) for key in (1, 2, 3)])
    (batch,) = rows.to_batches()
    keys = columns.stored(batch, "", range(3)).column("customer_id")
    requests = pa.table(
        {
            "request_id": ["a", "b", "c"],
            "event_time": rows.column("as_of"),
            "customer_id": keys,
            "terminal_id": [1, 1, 1],
            "amount": [9.0, 9.0, 9.0],
        }
    )
    written = load_bundle(tmp_path / table_world.bundle(tmp_path))
    inputs = (InputSpec(name="bureau_score", kind="view", of="bureau"),)
    bundle = msgspec.structs.replace(written, inputs=inputs)

    policies = FeaturePolicies([BUREAU], ["bureau_score"])
    read = [store.read({"customer": key}, now_ms) for key in keys.to_pylist()]
    served = [policies.gaps(row, now_ms, store.newest()) for row in read]
    store.close()
    found = RowFeatures(fraud, (BUREAU,), bundle, offline).inputs(requests)
    assert [found.gaps[kind] for kind in found.kinds] == served
    assert [gaps.by_cause is None for gaps in served] == [True, True, False]
