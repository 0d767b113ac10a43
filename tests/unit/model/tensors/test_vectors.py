"""A vector is the same numbers in a request, in a training set and over the log, or is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.learning.features import rows
from mlplatform.learning.training.golden import golden_set
from mlplatform.model.definition import (
    InputSpec,
    ModelDefinition,
    RequestField,
    are_whole,
    declared_names,
    row_inputs,
)
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.inputs import InputPlan
from mlplatform.model.signature_checks import signature_problems
from mlplatform.model.tensors.named_tensors import NamedTensors, SentTensor
from mlplatform.model.tensors.signature import (
    InputTensor,
    OutputTensor,
    ScoreOutput,
    Signature,
    Tensors,
)
from mlplatform.model.tensors.tokens import Tokens
from mlplatform.model.tensors.vectors import (
    FLOAT32_MOST,
    NotAVector,
    spans,
    vector_columns,
    vector_of_text,
    vector_text,
)
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, InputInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api.reference.examples import score as example
from mlplatform.scoring.request.payloads import Payloads

FRAUD = load_definition("fraud")
LENGTH = 3


def with_vector(**bounds: Any) -> ModelDefinition:
    fields = {
        **FRAUD.request,
        "face": RequestField(type="vector", length=LENGTH, **bounds),
        "note": RequestField(type="string"),
    }
    declared = (
        InputSpec(name="letters", kind="text", of="note", tokens=Tokens(of="words", length=2)),
        InputSpec(name="looks", kind="vector", of="face"),
        InputSpec(name="amount", kind="field", of="amount"),
    )
    return msgspec.structs.replace(FRAUD, request=fields, inputs=row_inputs(declared, fields))


DEFINITION = with_vector()
PLAN = InputPlan(DEFINITION, (), vocabularies={"letters": ("hello",)})
NAMES = ("letters.w1.1", "letters.w1.2", "looks.v3.1", "looks.v3.2", "looks.v3.3", "amount")
VECTORS: list[list[float] | None] = [
    [0.1, 1 / 3, -2.0],
    [FLOAT32_MOST, -FLOAT32_MOST, 1e-45],
    [1e-300, -0.0, 16_777_217.0],
    None,
]


def request(face: Any, amount: float = 12.5) -> dict[str, Any]:
    return {"amount": amount, "note": "hello you", "face": face}


def test_a_vector_has_the_same_bits_alone_in_a_column_and_in_the_log() -> None:
    assert PLAN.names == NAMES
    alone = np.array([PLAN.row(request(face), 0, {}) for face in VECTORS], np.float32)
    assert alone[0].tolist() == [2.0, 1.0, np.float32(0.1), np.float32(1 / 3), -2.0, 12.5]
    assert np.isnan(alone[3, 2:5]).all()
    columns = {
        "event_time": pa.array([0] * len(VECTORS), pa.timestamp("ms")),
        "amount": [12.5] * len(VECTORS),
        "note": ["hello you"] * len(VECTORS),
    }
    for kind in (rows.ARROW["vector"], pa.list_(pa.float64()), pa.list_(pa.float32(), LENGTH)):
        table = pa.table({**columns, "face": pa.array(VECTORS, kind)})
        np.testing.assert_array_equal(PLAN.matrix(table), alone)
        np.testing.assert_array_equal(PLAN.matrix(table.slice(1, 2)), alone[1:3])
    payloads = [json.dumps({"request": request(face), "features": {}}) for face in VECTORS]
    logged = pa.table({"event_ms": pa.array([0] * len(VECTORS), pa.int64()), "payload": payloads})
    np.testing.assert_array_equal(LoggedInputs(PLAN).read(logged).matrix, alone)


@settings(deadline=None)
@given(st.lists(st.floats(-FLOAT32_MOST, FLOAT32_MOST), min_size=LENGTH, max_size=LENGTH))
def test_every_finite_vector_goes_through_the_log_as_it_was_served(face: list[float]) -> None:
    body = json.dumps({**example(DEFINITION), "face": face}).encode()
    served = Payloads(DEFINITION).score(body)
    row = np.array(PLAN.row(served.fields, served.event_ms, {}), np.float32)
    np.testing.assert_array_equal(row[2:5], np.array(face, np.float32))
    payload = msgspec.json.encode({"request": served.fields, "features": {}}).decode()
    logged = pa.table({"event_ms": pa.array([served.event_ms], pa.int64()), "payload": [payload]})
    np.testing.assert_array_equal(LoggedInputs(PLAN).read(logged).matrix[0], row)


def test_an_erased_payload_has_no_vector() -> None:
    erased = pa.table({"event_ms": pa.array([0], pa.int64()), "payload": pa.nulls(1, pa.string())})
    assert np.isnan(LoggedInputs(PLAN).read(erased).matrix).all()


@pytest.mark.parametrize("face", [[1.0, 2.0], [1.0] * 4, [], [1.0, None, 2.0], "1,2,3", 1.0])
def test_a_logged_value_that_is_no_such_vector_is_never_read_as_one(face: Any) -> None:
    payload = json.dumps({"request": request(face), "features": {}})
    logged = pa.table({"event_ms": pa.array([0], pa.int64()), "payload": [payload]})
    with pytest.raises(Corrupt, match="not what was logged"):
        LoggedInputs(PLAN).read(logged)


def test_another_length_is_refused_by_row_and_by_table() -> None:
    with pytest.raises(InputInvalid, match="face: the vector has 2 numbers; wanted: 3"):
        PLAN.row(request([1.0, 2.0]), 0, {})
    table = pa.table(
        {
            "event_time": pa.array([0, 0], pa.timestamp("ms")),
            "amount": [1.0, 1.0],
            "note": ["", ""],
            "face": [[1.0] * 3, [1.0] * 4],
        }
    )
    with pytest.raises(
        InputInvalid, match="face, row 1, counted from 0: the vector has 4 numbers; wanted: 3"
    ):
        PLAN.matrix(table)


def test_a_bundle_of_another_length_is_refused_by_the_field() -> None:
    fields = {"face": RequestField(type="vector", length=4)}
    older = row_inputs((InputSpec(name="looks", kind="vector", of="face"),), fields)
    with pytest.raises(
        ConfigInvalid, match="length of request field face is 3; wanted: 4, as this bundle reads"
    ):
        InputPlan(DEFINITION, (), older)
    with pytest.raises(ConfigInvalid, match="wanted: one of face"):
        InputPlan(DEFINITION, (), (InputSpec(name="looks.v3.1", kind="vector", of="amount"),))
    with pytest.raises(ConfigInvalid, match="inputs: face: of is 'face'; wanted: one of amount"):
        InputPlan(DEFINITION, (), (InputSpec(name="face", kind="field", of="face"),))


@pytest.mark.parametrize(
    ("face", "status", "field", "said"),
    [
        ("[1, 2]", 422, "face", "face must be a list of length 3 or more"),
        ("[1, 2, 3, 4]", 422, "face", "face must be a list of length 3 at most"),
        ("null", 422, "face", "face must be a list, not null"),
        ('"0.5"', 422, "face", "face must be a list, not a text"),
        ("7.25", 422, "face", "face must be a list, not a number"),
        ("[1, 2, null]", 422, "face[2]", "face[2] must be a number, not null"),
        ('[1, "2", 3]', 422, "face[1]", "face[1] must be a number, not a text"),
        ("[[1], 2, 3]", 422, "face[0]", "face[0] must be a number, not a list"),
        ("[1, true, 3]", 422, "face[1]", "face[1] must be a number, not true or false"),
        ("[1, 3.5e38, 3]", 422, "face[1]", "face[1] must be a number of 3.4028234663852886e+38"),
        ("[1, 1e400, 3]", 422, "face[1]", "face[1] must be a number that float64 holds"),
        ("[1, NaN, 3]", 400, None, "the body is not JSON"),
        ("[1, -Infinity, 3]", 400, None, "the body is not JSON"),
    ],
)
def test_what_is_no_such_vector_is_refused_with_field_and_index(
    face: str, status: int, field: str | None, said: str
) -> None:
    whole = json.dumps({**example(DEFINITION), "face": 7}).replace('"face": 7', f'"face": {face}')
    with pytest.raises(Problem) as refused:
        Payloads(DEFINITION).score(whole.encode())
    assert (refused.value.status, refused.value.details.field) == (status, field)
    assert str(refused.value).startswith(said)


def test_bounds_of_a_vector_are_those_of_each_number() -> None:
    payloads = Payloads(with_vector(minimum=-1, maximum=0.1))
    good = {**example(DEFINITION), "face": [-1, 0.1, 0]}
    assert payloads.score(json.dumps(good).encode()).fields["face"] == [-1.0, 0.1, 0.0]
    with pytest.raises(Problem, match=r"face\[1\] must be a number of 0.1 at most"):
        payloads.score(json.dumps(good | {"face": [0, 0.2, 0]}).encode())


def test_a_retry_is_the_same_request_only_with_the_same_vector() -> None:
    payloads = Payloads(DEFINITION)

    def body(face: str) -> bytes:
        whole = json.dumps({**example(DEFINITION), "face": 7})
        return payloads.score(whole.replace('"face": 7', f'"face": {face}').encode()).body

    assert body("[1, 0.50, 2e0]") == body("[1.0,0.5,2]")
    assert body("[1, 0.5, 2]") != body("[1, 2, 0.5]")


def test_the_inputs_of_a_row_are_whole_and_declared_once() -> None:
    assert declared_names(DEFINITION.inputs) == ("letters", "looks", "amount")
    assert are_whole(DEFINITION.inputs)
    assert not are_whole(DEFINITION.inputs[:-2])
    assert not are_whole((*DEFINITION.inputs[:3], *DEFINITION.inputs[4:]))
    assert not are_whole((*DEFINITION.inputs[:2], *DEFINITION.inputs[4:1:-1]))
    assert spans(NAMES)[-2:] == (("looks", slice(2, 5)), ("amount", slice(5, 6)))
    assert vector_text([3.0, 4.0]) == "2 numbers, norm 5"
    assert vector_text([math.nan] * 2) is None


YAML = (model_folder("fraud") / "model.yaml").read_text()
FIELD = "  face: {type: vector, length: 8}\n"
INPUT = "  - {name: looks, kind: vector, of: face}\n"
RULES = [
    (FIELD, "  face: {type: vector}\n", "request.face.length is missing; wanted: how many"),
    (FIELD, "  face: {type: vector, length: 0}\n", "is 0; wanted: a whole number of 1 or more"),
    (FIELD, "  face: {type: vector, length: 1025}\n", "wanted: a whole number of 1024 at most"),
    (FIELD, "  face: {type: float64, length: 8}\n", "wanted: nothing: only vectors have it"),
    (FIELD, "  face: {type: vector, length: 8, entity: face}\n", "a vector names nobody"),
    (FIELD, "  face: {type: vector, length: 8, pseudonymous: true}\n", "a vector names nobody"),
    (FIELD, "  face: {type: vector, length: 8, maximum: 1.0e+39}\n", "rows are float32"),
    (FIELD, "  face: {type: vector, length: 8, max_length: 8}\n", "only texts have it"),
    ("assignment_unit: customer_id", "assignment_unit: face", "a vector names nobody"),
    (INPUT, INPUT.replace("vector", "field"), "a vector takes an input of kind vector"),
    (INPUT, INPUT.replace("face", "amount"), "a request field of type vector: one of face"),
    (INPUT, INPUT.replace("looks", "looks.v8.1"), "does not end like `.v64.3`"),
    ("shows: [amount, terminal_id]", "shows: [amount, face]", "a person can read: no vector"),
    ("inputs: [amount, customer_count_1d,", "inputs: [looks, customer_count_1d,", "not watched"),
]


@pytest.mark.parametrize(("before", "after", "said"), RULES, ids=[r[2] + r[1] for r in RULES])
def test_model_yaml_refuses_a_vector_that_nothing_could_hold(
    before: str, after: str, said: str
) -> None:
    text = YAML.replace("request:\n", f"request:\n{FIELD}", 1)
    text = text.replace("\ninputs:\n", f"\ninputs:\n{INPUT}", 1)
    assert parse(text, "fraud/model.yaml").inputs[7].name == "looks.v8.8"
    assert before in text
    with pytest.raises(ConfigInvalid) as refused:
        parse(text.replace(before, after, 1), "fraud/model.yaml")
    assert said in str(refused.value)


def test_a_row_holds_a_vector_of_the_greatest_length_and_others_beside_it() -> None:
    def model(*lengths: int) -> str:
        fields = [f"  f{n}: {{type: vector, length: {k}}}\n" for n, k in enumerate(lengths)]
        inputs = [f"  - {{name: f{n}, kind: vector, of: f{n}}}\n" for n in range(len(lengths))]
        text = YAML.replace("request:\n", f"request:\n{''.join(fields)}", 1)
        return text.replace("\ninputs:\n", f"\ninputs:\n{''.join(inputs)}", 1)

    assert len(parse(model(1024, 400), "fraud/model.yaml").inputs) > 1424
    with pytest.raises(ConfigInvalid, match="wanted: 1536 or fewer: each number of a vector count"):
        parse(model(1024, 1024), "fraud/model.yaml")


def signature(dtype: Any, missing: float | None = None) -> Signature:
    vector = InputTensor(name="x", dtype=dtype, shape=("n", LENGTH), of=NAMES[2:5], missing=missing)
    rest = InputTensor(name="rest", dtype="float32", shape=("n", 3), of=(*NAMES[:2], "amount"))
    output = OutputTensor(name="p", dtype="float32", shape=("n",))
    return Signature(inputs=(vector, rest), outputs=(output,), score=ScoreOutput(output="p"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_graph_takes_the_vector_as_one_tensor(dtype: str) -> None:
    assert not list(signature_problems(signature(dtype), DEFINITION.inputs))
    tensors = Tensors(signature(dtype, missing=0), NAMES, {"letters": ("hello",)})
    made = [PLAN.row(request(face), 0, {}) for face in VECTORS]
    found = tensors.feeds(np.array(made, np.float32))["x"]
    assert (found.dtype.name, found.shape) == (dtype, (4, LENGTH))
    np.testing.assert_array_equal(found[0], np.array(VECTORS[0], np.float32))
    assert found[3].tolist() == [0.0] * LENGTH


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_a_tensor_of_another_kind_takes_no_vector(dtype: str) -> None:
    found = list(signature_problems(signature(dtype), DEFINITION.inputs))
    assert ("inputs.0.dtype", dtype, "float32 or float64, of a vector") in found


def test_callers_of_the_open_protocol_send_all_numbers_of_a_vector_or_none() -> None:
    named = NamedTensors(NAMES, {"letters": ("hello",)}, None)
    others = [SentTensor(name, "FP32", [2], [1.0, 1.0]) for name in (*NAMES[:2], "amount")]
    vector = SentTensor("looks", "FP64", [2, LENGTH], [0.1, 0.2, 0.3, None, None, None])
    found = named.rows([*others, vector])
    np.testing.assert_array_equal(found[0, 2:5], np.array([0.1, 0.2, 0.3], np.float32))
    named.check_whole(found)
    found[1, 4] = 1.0
    with pytest.raises(ValueError, match="'looks' lacks the number 0 in row 1; wanted: all 3 num"):
        named.check_whole(found)
    with pytest.raises(ValueError, match="'looks' has shape"):
        named.rows([*others, SentTensor("looks", "FP64", [2, 2], [0.1] * 4)])
    with pytest.raises(ValueError, match="'looks' has datatype 'INT64'; wanted: FP32, FP64"):
        named.rows([*others, SentTensor("looks", "INT64", [2, LENGTH], [1] * 6)])


@pytest.mark.parametrize(
    ("face", "said"),
    [
        ([0.1, 0.2], "face has another length than 3: 2"),
        (
            [0.1, None, 0.2],
            "face has a value that is not a finite float32: {'index': 1, 'value': nan}",
        ),
        ([0.1, math.inf, 0.2], "not a finite float32: {'index': 1, 'value': inf}"),
        ([0.1, 0.2, 5.0], "face has a value of more than 1: {'index': 2, 'value': 5.0}"),
        ([0.1, -5.0, 5.0], "face has a value of less than -1: {'index': 1, 'value': -5.0}"),
        (None, "face is missing"),
    ],
)
def test_a_history_with_a_wrong_vector_is_refused_by_row_and_index(
    face: list[float | None] | None, said: str
) -> None:
    fields = {"face": RequestField(type="vector", length=LENGTH, minimum=-1, maximum=1)}
    definition = msgspec.structs.replace(FRAUD, request=fields)
    good = [0.5, -1.0, 1.0]
    table = pa.table(
        {
            "request_id": ["a", "b", "c"],
            "event_time": pa.array([0, 1, 2], rows.TIME),
            "face": pa.array([good, face, good], rows.ARROW["vector"]),
            "label": pa.array([0, 0, 0], pa.int8()),
            "label_time": pa.array([3, 3, 3], rows.TIME),
        }
    )
    with pytest.raises(InputInvalid) as refused:
        rows.check_history(table, definition, "history")
    assert str(refused.value).startswith("history, row 1, counted from 0: ")
    assert said in str(refused.value)
    rows.check_history(table.take(pa.array([0, 2])), definition, "history")


def test_a_golden_row_holds_the_vector_as_a_list(tmp_path: Path) -> None:
    definition = msgspec.structs.replace(DEFINITION, inputs=DEFINITION.inputs[2:])
    file = tmp_path / "golden.json"

    def read(looks: Any) -> Any:
        row = {"inputs": {"looks": looks, "amount": 4.0}, "score": 0.5}
        file.write_text(json.dumps([row]))
        return golden_set(file, definition).rows.tolist()

    assert read([1.0, 2.0, 3.0]) == [[1.0, 2.0, 3.0, 4.0]]
    assert np.isnan(read(None)[0][:3]).all()
    for wrong in ([1.0], 2.0, "1"):
        with pytest.raises(ConfigInvalid, match=r"0\.inputs\.looks: .*wanted: a list of 3 num"):
            read(wrong)


def test_the_names_of_a_vectors_numbers_say_its_length() -> None:
    assert vector_columns("looks", 2) == ("looks.v2.1", "looks.v2.2")
    assert not {*vector_columns("looks", 2)} & {*vector_columns("looks", 3)}


@given(st.lists(st.floats(width=64, allow_nan=False), max_size=8))
def test_a_vector_written_as_a_json_list_is_read_to_the_bit(numbers: list[float]) -> None:
    """Also with the words that PostgreSQL and Python write for infinities."""
    written = json.dumps(numbers)
    as_words = written.replace("-Infinity", '"-Infinity"').replace(" Infinity", ' "Infinity"')
    for text in (written, as_words, f" {written}\n"):
        found = vector_of_text(text)
        assert np.array(found, np.float64).tobytes() == np.array(numbers, np.float64).tobytes()


def test_a_gap_in_a_list_is_a_number_that_the_check_of_its_row_refuses_by_its_index() -> None:
    column = pa.array([vector_of_text(t) for t in ("[1, null, 3]", '[1, 2, "NaN"]', "[1, 2, 3]")])
    (_, check, *_) = rows.within_bounds(
        pa.chunked_array([column.cast(pa.list_(pa.float32()))]),
        "face",
        with_vector().request["face"],
    )
    assert check.wrong.tolist() == [True, True, False]
    assert check.values is not None
    assert [value["index"] for value in check.values.to_pylist()[:2]] == [1, 2]
    assert vector_of_text(f"[{'9' * 400}, -{'9' * 400}]") == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.5", "it is '0.5'; wanted: numbers in brackets, as [0.25, -1.5]"),
        ("{0.25,0.5}", "it is '{0.25,0.5}'; wanted: numbers in brackets"),
        ("0.25;0.5;0.75;1.25", "it is '0.25;0.5;0.7…'; wanted: numbers in brackets"),
        ("[0.25, 0.5", "it is '[0.25, 0.5'; wanted: numbers in brackets"),
        ('{"a": [1.0]}', """it is '{"a": [1.0]}'; wanted: numbers in brackets"""),
        ("[" * 60_000, "it is '[[[[[[[[[[[[…'; wanted: numbers in brackets"),
        ('[0.25, "0.5"]', '[1] is "0.5"; wanted: a number'),
        ("[0.25, true]", "[1] is true; wanted: a number"),
        ("[[0.25, 0.5, 0.75, 1.25], 1]", "[0] is [0.25, 0.5, …; wanted: a number"),
    ],
)
def test_a_text_that_is_no_vector_is_refused_with_its_first_wrong_part_alone(
    text: str, problem: str
) -> None:
    with pytest.raises(NotAVector) as refused:
        vector_of_text(text)
    found = refused.value
    assert f"{found.place or 'it'} is {found.shown}; wanted: {found.wanted}".startswith(problem)
