"""Requests may leave an optional field out, wherever they come from: a missing value, and no
fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mlplatform.commands.terminal.arguments import column_names
from mlplatform.learning.features import rows
from mlplatform.learning.features.history_files import examine_history
from mlplatform.learning.features.unfinished_import import history_digest
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.folders import model_folder, parse
from mlplatform.model.inputs import InputPlan, as_recorded
from mlplatform.model.windows.declaration import as_written
from mlplatform.operations.tables.batch import _rules as batch_rules
from mlplatform.operations.tables.columns import matched_columns
from mlplatform.operations.tables.request_rows import requests_of
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request.payloads import Payloads

ADDED: dict[str, Any] = {
    "device_risk": {"type": "float64", "minimum": 0, "maximum": 1, "optional": True},
    "attempts": {"type": "int64", "minimum": 0, "optional": True},
    "channel": {"type": "string", "values": ["app", "web"], "optional": True},
    "is_abroad": {"type": "bool", "optional": True},
    "profile": {"type": "vector", "length": 2, "optional": True},
}
OF_ADDED: list[dict[str, Any]] = [
    {"name": "device_risk", "kind": "field", "of": "device_risk"},
    {"name": "attempts", "kind": "field", "of": "attempts"},
    {"name": "channel", "kind": "category", "of": "channel"},
    {"name": "is_abroad", "kind": "field", "of": "is_abroad"},
    {"name": "profile", "kind": "vector", "of": "profile"},
]
EXPLORATION: dict[str, Any] = {
    "share": 0.1, "decision": "review", "amount": "amount", "maximum_amount": 100,
    "maximum_sum": 1000,
}  # fmt: skip
BEFORE = {"customer_id": 1, "terminal_id": 2, "amount": 3.5, "event_time": 1_700_000_000_000}
SENT = {
    "device_risk": 0.5, "attempts": 2, "channel": "web", "is_abroad": True, "profile": [0.5, 1.0],
}  # fmt: skip
KEY = b"k" * 32


def document(**changes: Any) -> dict[str, Any]:
    """The fraud model's, with optional fields of every type, and keys replaced by dotted path."""
    found: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
    found["request"] |= json.loads(json.dumps(ADDED))
    found["inputs"] = found["inputs"][:4] + OF_ADDED
    found["drift"]["inputs"] = ["amount"]
    for path, value in changes.items():
        *parents, last = path.split("__")
        part: Any = found
        for name in parents:
            part = part[name]
        part[last] = value
    return found


def read(**changes: Any) -> ModelDefinition:
    return parse(yaml.safe_dump(document(**changes), sort_keys=False), "model.yaml")


DEFINITION = read()
PAYLOADS = Payloads(DEFINITION)
SHIPPED = Payloads(
    parse((model_folder("fraud") / "model.yaml").read_text(encoding="utf-8"), "model.yaml")
)


def body(**fields: Any) -> bytes:
    return json.dumps({**BEFORE, **fields}).encode()


def test_a_request_may_leave_out_or_null_any_of_them() -> None:
    for sent in (body(), body(**dict.fromkeys(ADDED)), body(channel=None)):
        fields = PAYLOADS.score(sent).fields
        assert {name: fields[name] for name in ADDED} == dict.fromkeys(ADDED)
    fields = PAYLOADS.score(body(**SENT)).fields
    assert {name: fields[name] for name in ADDED} == SENT


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"device_risk": 1.5}, "device_risk"),
        ({"attempts": 0.5}, "attempts"),
        ({"channel": "fax"}, "channel"),
        ({"is_abroad": 1}, "is_abroad"),
        ({"profile": [1.0]}, "profile"),
        ({"amount": None}, "amount"),
    ],
)
def test_a_wrong_value_is_refused_as_of_any_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Problem) as caught:
        PAYLOADS.score(body(**changes))
    assert caught.value.details.field == field


@pytest.mark.parametrize(
    "twice",
    [
        '"attempts": 1, "attempts": 2',
        '"attempts": 1, "attempts": null',
        '"attempts": null, "attempts": null',
        '"channel": "app", "channel": null',
        '"amount": 1.0',
    ],
)
def test_no_member_stands_twice_whatever_is_left_out(twice: str) -> None:
    with pytest.raises(Problem, match="more than once"):
        PAYLOADS.score(body()[:-1] + f", {twice}}}".encode())


def test_a_retry_from_before_the_fields_were_declared_is_the_same_request() -> None:
    before = SHIPPED.score(body())
    assert PAYLOADS.score(body()).body == before.body
    assert PAYLOADS.score(body(attempts=None)).body == before.body
    assert PAYLOADS.score(body(attempts=0)).body != before.body


def test_a_protected_field_keeps_its_null_unless_it_is_declared_optional() -> None:
    sex = {"type": "string", "values": ["f", "m"]}
    protected = Payloads(read(request__sex=sex, protected=["sex"]))
    declared = Payloads(read(request__sex=sex | {"optional": True}, protected=["sex"]))
    assert protected.score(body()).sent["sex"] is None
    assert declared.score(body()).body == SHIPPED.score(body()).body


def test_its_inputs_are_missing_in_rows_and_in_matrices() -> None:
    plan = InputPlan(DEFINITION, (), vocabularies={"channel": ("app", "web")})
    names = [name for name in plan.names if name.partition(".")[0] in ADDED]
    row = plan.row(BEFORE | dict.fromkeys(ADDED), BEFORE["event_time"], {})
    assert np.isnan(row).tolist() == [name in names for name in plan.names]
    assert len(names) == 6
    sent = plan.row(BEFORE | SENT, BEFORE["event_time"], {})
    assert not np.isnan(sent).any()
    schema = rows.request_schema(DEFINITION)
    times = pa.array([BEFORE["event_time"] * 1000] * 2, pa.timestamp("us"))
    table = pa.Table.from_pylist([BEFORE | dict.fromkeys(ADDED), BEFORE | SENT], schema=schema)
    table = table.set_column(1, "event_time", times)
    np.testing.assert_array_equal(plan.matrix(table), np.array([row, sent], np.float32))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"request__customer_id__optional": True}, "request.customer_id.optional"),
        ({"request__terminal_id__optional": True}, "request.terminal_id.optional"),
        (
            {"assignment_unit": "attempts"},
            "request.attempts.optional is True; wanted: false",
        ),
        (
                {"request__amount__optional": True, "exploration": EXPLORATION},
                "exploration.amount is 'amount'",
            ),
        (
            {
                "windows": [
                    {"name": "risk_1h", "entity": "customer", "aggregate": "mean",
                     "of": "device_risk", "window": "1h", "resolution": "1m"}
                ]
            },
            "windows.0.of is 'device_risk'",
        ),
    ],
)  # fmt: skip
def test_what_every_request_must_have_is_not_optional(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(**changes)
    assert named in str(caught.value)


HEAD = {
    "request_id": ["a", "b", "c"],
    "customer_id": [1, 2, 3],
    "terminal_id": [1, 1, 1],
    "amount": [1.0, 2.0, 3.0],
}


def history(**columns: Any) -> pa.Table:
    times = pa.array([1, 2, 3], pa.timestamp("us"))
    given = {**HEAD, "event_time": times, "label": [0, 1, None]}
    given |= {"label_time": pa.array([4, 5, None], pa.timestamp("us")), **columns}
    schema = rows.history_schema(DEFINITION)
    nothing = [None] * 3
    return pa.table([given.get(n, nothing) for n in schema.names], schema=schema)


def test_a_history_may_lack_values_and_columns_and_the_others_are_checked() -> None:
    found = history(device_risk=[None, float("nan"), 0.5], channel=["app", None, "web"])
    rows.check_history(found, DEFINITION, "a.parquet")
    requests, _ = rows.split_history(found, DEFINITION, KEY)
    assert requests["device_risk"].to_pylist() == [None, None, 0.5]
    for wrong in ({"device_risk": [None, 2.0, 0.5]}, {"channel": [None, "fax", "app"]}):
        (name,) = wrong
        with pytest.raises(InputInvalid, match=name) as caught:
            rows.check_history(history(**wrong), DEFINITION, "a.parquet")
        assert caught.value.row == 1
    with pytest.raises(InputInvalid, match="amount is missing"):
        rows.check_history(history(amount=[1.0, None, 2.0]), DEFINITION, "a.parquet")


def history_file(path: Path, first: int = 0, **columns: Any) -> Path:
    """Three requests in a file, with no columns of optional fields but these."""
    times = pa.array([first + 1, first + 2, first + 3], pa.timestamp("us"))
    given = {**HEAD, "request_id": [first, first + 1, first + 2], "event_time": times}
    pq.write_table(pa.table(given | {"label": [0, 1, 0], "label_time": times} | columns), path)
    return path


def test_files_of_a_history_may_hold_optional_columns_as_other_tools_write_them(
    tmp_path: Path,
) -> None:
    history_file(tmp_path / "1.parquet", attempts=pa.array([1.0, None, 2.0]), channel=pa.nulls(3))
    history_file(tmp_path / "2.parquet", 10, risk=pa.array([0.1, float("nan"), 0.3]))
    names = {"device_risk": "risk"}
    found = examine_history(tmp_path, definition=DEFINITION, now_ms=None, columns=names).table
    nothing = [None] * 3
    assert found["attempts"].to_pylist() == [1, None, 2, *nothing]
    assert found["device_risk"].to_pylist() == [*nothing, 0.1, None, 0.3]
    assert {found[n].null_count for n in ("channel", "is_abroad", "profile")} == {6}
    rows.check_history(found, DEFINITION, "history")
    with pytest.raises(InputInvalid, match="column device is not in it"):
        examine_history(
            tmp_path, definition=DEFINITION, now_ms=None, columns={"device_risk": "device"}
        )


def test_a_field_declared_after_an_import_changes_no_digest_of_it() -> None:
    shipped = parse((model_folder("fraud") / "model.yaml").read_text(), "model.yaml")
    names = rows.history_schema(shipped).names
    before = history().select(names).cast(rows.history_schema(shipped))
    assert history_digest(history(), DEFINITION) == history_digest(before, shipped)
    known = history(attempts=[1, 2, 3])
    assert history_digest(known, DEFINITION) != history_digest(before, shipped)


def test_a_column_that_may_be_an_optional_one_is_not_passed_over() -> None:
    kinds = {f.name: str(f.type) for f in pa.table(HEAD | {"device_rsk": [0.1] * 3}).schema}
    with pytest.raises(InputInvalid) as caught:
        matched_columns(DEFINITION, kinds, {}, "a.parquet", is_text=False)
    assert "column device_rsk may be device_risk, which is optional" in str(caught.value)
    for column, expected in (("device_rsk", True), ("", False)):
        overrides = column_names([f"device_risk={column}"])
        found = matched_columns(DEFINITION, kinds, overrides, "a.parquet", is_text=False)
        assert ("device_risk" in found) == expected
    with pytest.raises(InputInvalid, match="there is no column for amount"):
        matched_columns(DEFINITION, kinds, {"amount": ""}, "a.parquet", is_text=False)


def test_a_batch_that_an_earlier_release_began_has_the_same_rules() -> None:
    shipped = parse((model_folder("fraud") / "model.yaml").read_text(), "model.yaml")
    declared = msgspec.to_builtins(shipped.request)
    assert {field.pop("optional") for field in declared.values()} == {False}
    read = declared, shipped.protected, as_written(shipped.windows), []
    earlier = digest(msgspec.to_builtins([*read, shipped.decision.safe]))
    assert batch_rules(shipped, []) == earlier
    assert batch_rules(read_as(DEFINITION, shipped), []) != earlier


def read_as(added: ModelDefinition, shipped: ModelDefinition) -> ModelDefinition:
    return msgspec.structs.replace(shipped, request=added.request)


def test_records_of_a_removed_field_are_read_by_the_bundle_that_knew_it() -> None:
    shipped = parse((model_folder("fraud") / "model.yaml").read_text(), "model.yaml")
    ratio = InputSpec(name="share", kind="ratio", of="device_risk", to="attempts")
    inputs = (*DEFINITION.inputs, ratio)
    words = {"channel": ("app", "web")}
    with pytest.raises(ConfigInvalid):
        InputPlan(shipped, (), inputs, vocabularies=words)
    plan = InputPlan(as_recorded(shipped, (), inputs), (), inputs, vocabularies=words)
    known = InputPlan(DEFINITION, (), inputs, vocabularies=words)
    for request in (BEFORE | SENT, BEFORE | dict.fromkeys(ADDED)):
        rows_of = [each.row(request, BEFORE["event_time"], {}) for each in (plan, known)]
        np.testing.assert_array_equal(rows_of[0], rows_of[1])


def test_a_table_to_score_may_lack_values_and_columns() -> None:
    plain = pa.table(HEAD)
    kinds = {field.name: str(field.type) for field in plain.schema}
    matched = matched_columns(DEFINITION, kinds, {}, "a.parquet", is_text=False)
    assert not set(matched) & set(ADDED)
    some = plain.append_column("is_abroad", pa.array([1, None, 2]))
    some = some.append_column("device_risk", pa.array([float("nan"), 0.5, 0.5]))
    found = requests_of(some, {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {2: "is_abroad is neither 0 nor 1: 2"}
    assert found.table["is_abroad"].to_pylist() == [True, None]
    assert found.table["device_risk"].to_pylist() == [None, 0.5]
    assert found.table["profile"].null_count == 2
