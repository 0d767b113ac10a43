"""An int64 and a float64 reach a graph as they were sent, though a row is float32."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.learning.onnx.torch import Block
from mlplatform.learning.registry.pyfunc import _exact as of_frame
from mlplatform.learning.training.golden import golden_set
from mlplatform.learning.training_sets.dataset import input_plan
from mlplatform.model.definition import (
    InputSpec,
    ModelDefinition,
    RequestField,
    are_whole,
    declared_names,
    row_inputs,
)
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.inputs import InputPlan, as_recorded
from mlplatform.model.signature_checks import signature_problems
from mlplatform.model.tensors.named_tensors import NamedTensors, from_json
from mlplatform.model.tensors.remainders import (
    column_remainders,
    joined_number,
    numbers,
    remainders,
    whole_numbers,
)
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.model.tensors.vectors import spans
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.scoring.api.reference.examples import score as example
from mlplatform.scoring.request.payloads import Payloads

LARGEST = 2**63 - 1
WHOLE = st.one_of(
    st.integers(-(2**63), LARGEST),
    st.integers(-(2**54), 2**54),
    st.sampled_from([2**24 + 1, 2**53 + 1, 2**62 + 1, LARGEST - 512, LARGEST, -(2**63)]),
)
NUMBER = st.floats(-3.4e38, 3.4e38).filter(lambda value: value == 0 or abs(value) > 1e-29)


@settings(deadline=None)
@given(WHOLE)
def test_three_numbers_of_a_row_hold_every_int64(value: int) -> None:
    alone = remainders(value)
    assert alone == tuple(column_remainders(np.array([value], np.int64))[0].tolist())
    row = np.array([[float(value), *alone]], np.float32)
    assert whole_numbers(row)[0] == value
    assert joined_number([float(value), *alone]) == value
    assert joined_number(row[0].tolist()) == value


@settings(deadline=None)
@given(NUMBER)
def test_three_numbers_of_a_row_hold_a_float64_to_the_bit(value: float) -> None:
    alone = remainders(value)
    assert alone == tuple(column_remainders(np.array([value]))[0].tolist())
    row = np.array([[value, *alone]], np.float32)
    assert numbers(row).tobytes() == np.array([value]).tobytes()
    assert joined_number([value, *alone]) == value
    if abs(value) < 2**63:
        assert whole_numbers(row)[0] == int(value)


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_no_row_of_a_raw_caller_is_too_strange(row: list[float]) -> None:
    rows = np.array([row], np.float32)
    with np.errstate(invalid="ignore"):
        assert math.isnan(numbers(rows)[0]) or not math.isnan(row[0])
        assert isinstance(whole_numbers(rows, 7)[0].item(), int)
    joined_number(row)


def test_what_is_missing_or_beyond_float32_stays_so() -> None:
    assert all(map(math.isnan, remainders(None)))
    assert remainders(1e39) == (0.0, 0.0)
    rows = np.array([[np.nan] * 3, [np.inf, 0, 0], [-1e30, 0, 0], [5, np.nan, np.nan]], np.float32)
    assert whole_numbers(rows, 7).tolist() == [7, LARGEST, -(2**63), 5]
    assert joined_number([math.nan] * 3) is None


FRAUD = load_definition("fraud")
FIELDS = {
    **FRAUD.request,
    "account": RequestField(type="int64", optional=True),
    "rate": RequestField(type="float64"),
    "visits": RequestField(type="int64", minimum=0, maximum=1000),
}
DECLARED = (
    InputSpec(name="amount", kind="field", of="amount"),
    InputSpec(name="id", kind="field", of="account"),
    InputSpec(name="visits", kind="field", of="visits"),
    InputSpec(name="rate", kind="field", of="rate"),
    InputSpec(name="share", kind="ratio", of="rate", to="amount"),
)
PLAIN: dict[str, Any] = {
    "inputs": [
        {"name": "whole", "dtype": "int64", "shape": ["n", 2], "of": ["id", "visits"],
         "missing": -1},
        {"name": "wide", "dtype": "float64", "shape": ["n", 2], "of": ["rate", "share"]},
        {"name": "plain", "dtype": "float32", "shape": ["n"], "of": ["amount"]},
        {"name": "narrow", "dtype": "float32", "shape": ["n"], "of": ["rate"]},
    ],
    "outputs": [{"name": "p", "dtype": "float32", "shape": ["n"]}],
    "score": {"output": "p"},
}  # fmt: skip
SIGNATURE = msgspec.convert(PLAIN, Signature)
NAMES = ("amount", "id", "id.r1", "id.r2", "visits", "rate", "rate.r1", "rate.r2",
         "share", "share.r1", "share.r2")  # fmt: skip
DEFINITION: ModelDefinition = msgspec.structs.replace(
    FRAUD, request=FIELDS, inputs=row_inputs(DECLARED, FIELDS, SIGNATURE), signature=SIGNATURE
)
PLAN = InputPlan(DEFINITION, ())
TENSORS = Tensors(SIGNATURE, NAMES, {})


def request(account: int | None, rate: float, amount: float = 12.5) -> dict[str, Any]:
    sent = {**example(DEFINITION), "rate": rate, "amount": amount, "visits": 3}
    return {**sent, "account": account}


def test_only_inputs_that_a_wide_tensor_reads_have_remainders() -> None:
    assert PLAN.names == NAMES
    assert row_inputs(DECLARED, FIELDS) == DECLARED
    assert declared_names(DEFINITION.inputs) == tuple(spec.name for spec in DECLARED)
    assert not list(signature_problems(SIGNATURE, DEFINITION.inputs))
    assert spans(NAMES)[1:3] == (("id", slice(1, 4)), ("visits", slice(4, 5)))
    assert are_whole(DEFINITION.inputs)
    for at in (1, 2, 3):
        assert not are_whole((*DEFINITION.inputs[:at], *DEFINITION.inputs[at + 1 :]))
    assert not are_whole((*DEFINITION.inputs[:2], *DEFINITION.inputs[3:1:-1]))
    lost = as_recorded(FRAUD, (), DEFINITION.inputs).request
    assert {*lost} - {*FRAUD.request} == {"account", "visits", "rate"}


@settings(deadline=None)
@given(
    st.one_of(st.none(), WHOLE),
    NUMBER.filter(lambda value: value == 0 or 12.5e-29 < abs(value) < 1e37),  # so is its ratio
)
def test_a_graph_gets_what_was_sent_alone_in_a_column_and_from_the_log(
    account: int | None, rate: float
) -> None:
    body = json.dumps(request(account, rate)).encode()
    served = Payloads(DEFINITION).score(body)
    row = np.array([PLAN.row(served.fields, served.event_ms, {})], np.float32)
    fed = TENSORS.feeds(row)
    assert fed["whole"].tolist() == [[-1 if account is None else account, 3]]
    assert fed["wide"].tobytes() == np.array([rate, rate / 12.5]).tobytes()
    assert fed["narrow"].tolist() == [np.float32(rate)]
    columns: dict[str, Any] = {
        "event_time": pa.array([served.event_ms], pa.timestamp("ms")),
        "account": pa.array([account], pa.int64()),
        **{name: [served.fields[name]] for name in ("rate", "amount", "visits")},
    }
    np.testing.assert_array_equal(PLAN.matrix(pa.table(columns)), row)
    payload = msgspec.json.encode({"request": served.fields, "features": {}}).decode()
    logged = pa.table({"event_ms": pa.array([served.event_ms], pa.int64()), "payload": [payload]})
    np.testing.assert_array_equal(LoggedInputs(PLAN).read(logged).matrix, row)


def test_whole_numbers_of_a_column_are_exact_beside_missing_ones() -> None:
    accounts = [2**53 + 1, None, -(2**53) - 1]
    table = pa.table({
        "event_time": pa.array([0] * 3, pa.timestamp("ms")), "rate": [0.1] * 3,
        "amount": [1.0] * 3, "visits": [0] * 3, "account": pa.array(accounts, pa.int64()),
    })  # fmt: skip
    assert TENSORS.feeds(PLAN.matrix(table))["whole"][:, 0].tolist() == [
        accounts[0],
        -1,
        accounts[2],
    ]
    payloads = [json.dumps({"request": request(a, 0.1), "features": {}}) for a in accounts]
    logged = pa.table({"event_ms": pa.array([0] * 3, pa.int64()), "payload": payloads})
    fed = TENSORS.feeds(LoggedInputs(PLAN).read(logged).matrix)
    assert fed["whole"][:, 0].tolist() == [accounts[0], -1, accounts[2]]


def test_callers_of_the_open_protocol_send_exact_numbers() -> None:
    named = NamedTensors(NAMES, {}, SIGNATURE)
    values: dict[str, tuple[str, list[int], str]] = {
        "whole": ("INT64", [2, 2], f"[[{2**53 + 1}, 3], [null, {-LARGEST}]]"),
        "wide": ("FP64", [2, 2], "[[0.1234567890123456, 1e-9], [null, 2.5]]"),
        "plain": ("FP32", [2], "[1, 2]"),
        "narrow": ("FP32", [2], "[0.1234567890123456, null]"),
    }

    def rows(changed: dict[str, str]) -> Any:
        return named.rows([
            from_json(name, kind, shape, msgspec.Raw(changed.get(name, text).encode()))
            for name, (kind, shape, text) in values.items()
        ])  # fmt: skip

    with pytest.raises(ValueError, match="'whole' has a whole number beyond ±16777216"):
        rows({})
    whole = {"whole": f"[[{2**53 + 1}, 3], [null, 4]]"}
    fed = TENSORS.feeds(rows(whole))
    assert fed["whole"].tolist() == [[2**53 + 1, 3], [-1, 4]]
    assert fed["wide"][0].tolist() == [0.1234567890123456, 1e-9]
    assert np.isnan(fed["wide"][1, 0])
    with pytest.raises(ValueError, match="'whole' has a whole number beyond INT64"):
        rows({"whole": f"[[{2**63}, 3], [1, 4]]"})


def test_a_golden_row_and_a_data_frame_hold_exact_numbers(tmp_path: Path) -> None:
    given = {"amount": 1.5, "id": 2**53 + 1, "visits": 2, "rate": 0.1234567890123456, "share": None}
    (tmp_path / "golden.json").write_text(json.dumps([{"inputs": given, "score": 0.5}]))
    fed = TENSORS.feeds(golden_set(tmp_path / "golden.json", DEFINITION).rows)
    assert fed["whole"].tolist() == [[2**53 + 1, 2]]
    assert fed["wide"][0, 0] == 0.1234567890123456
    whole = pd.Series([2**53 + 1, None], dtype="Int64")
    assert whole_numbers(of_frame("id", whole), -1).tolist() == [2**53 + 1, -1]
    assert numbers(of_frame("rate", pd.Series([0.1]))).tolist() == [0.1]


def test_a_module_of_pytorch_learns_from_what_its_graph_gets() -> None:
    row = PLAN.row(request(2**53 + 1, 0.1234567890123456), 0, {})
    x = np.array([row], np.float32)
    whole, wide = (
        Block("whole", 1, 4, "int64", is_exact=True),
        Block("wide", 5, 11, "float64", True),
    )
    assert whole.of(x).tolist() == [[2**53 + 1]]
    np.testing.assert_array_equal(wide.of(x), TENSORS.feeds(x)["wide"])


YAML = (model_folder("fraud") / "model.yaml").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  - {name: amount.r1, kind: field, of: amount}\n", "does not end like `.r1`"),
        ("  - {name: rest, kind: remainder, of: amount}\n", "written by the platform alone"),
    ],
)
def test_nobody_writes_remainders(line: str, said: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse(YAML.replace("\ninputs:\n", f"\ninputs:\n{line}", 1), "fraud/model.yaml")
    assert said in str(refused.value)


def test_remainders_of_a_champions_input_go_with_it() -> None:
    rests = [InputSpec(name=f"was.r{n}", kind="remainder", of="was") for n in (1, 2)]
    gone = InputSpec(name="was", kind="view", of="no view of the folder")
    assert input_plan(DEFINITION, (), (gone, *rests)).names == NAMES
    there = InputSpec(name="was", kind="field", of="rate")
    assert input_plan(DEFINITION, (), (there, *rests)).names == (*NAMES, "was", "was.r1", "was.r2")
