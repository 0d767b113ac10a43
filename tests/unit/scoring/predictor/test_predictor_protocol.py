"""What an inference request may say, and what is answered to one that says it wrongly."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlplatform.model.tensors.named_tensors import NamedTensors
from mlplatform.scoring.predictor.grpc_server import pb, rows_of
from mlplatform.scoring.predictor.protocol import Floats, RequestRefused, inference_response, parse

TENSOR = {"name": "inputs", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}


def body(**changes: object) -> bytes:
    return json.dumps({"inputs": [{**TENSOR, **changes}]}).encode()


def binary(rows: Floats, **request: object) -> tuple[bytes, str]:
    data = rows.astype("<f4").tobytes()
    tensor = {
        "name": "inputs",
        "shape": list(rows.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], **request}).encode()
    return head + data, str(len(head))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([1, 2, 3, 4, 5, 6], id="flat in row order"),
        pytest.param([[1, 2, 3], [4, 5, 6]], id="nested by row"),
    ],
)
def test_json_rows_are_read_in_row_order(data: object) -> None:
    request = parse(body(data=data), None, 3)

    assert request.rows.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert request.rows.dtype == np.float32
    assert not request.binary


def test_null_is_a_missing_value() -> None:
    rows = parse(body(data=[[None, 2, 3], [4, 5, None]]), None, 3).rows

    assert np.isnan(rows).tolist() == [[True, False, False], [False, False, True]]


ROWS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(width=32)
)


@given(ROWS)
def test_binary_rows_arrive_bit_for_bit(rows: Floats) -> None:
    data, length = binary(rows)

    assert parse(data, length, 3).rows.tobytes() == rows.tobytes()


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(0, 1, width=32)))
def test_scores_survive_json_bit_for_bit(scores: Floats) -> None:
    text, head = inference_response(scores, model="m", version="1", request_id=None, binary=False)

    decoded = np.array(json.loads(text)["outputs"][0]["data"], dtype=np.float32)
    assert head is None
    assert decoded.tobytes() == scores.tobytes()


def test_binary_scores_follow_a_json_head_that_names_their_length() -> None:
    scores = np.array([0.25, np.nan], dtype=np.float32)

    data, head = inference_response(scores, model="m", version="1", request_id="a", binary=True)

    assert json.loads(data[:head]) == {
        "model_name": "m",
        "model_version": "1",
        "id": "a",
        "outputs": [
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [2],
                "parameters": {"binary_data_size": 8},
            }
        ],
    }
    assert data[head:] == scores.tobytes()


def test_a_score_that_is_no_number_is_null_in_json() -> None:
    scores = np.array([np.nan], dtype=np.float32)

    text, _ = inference_response(scores, model="m", version="1", request_id=None, binary=False)

    assert json.loads(text)["outputs"][0]["data"] == [None]


@pytest.mark.parametrize(
    ("request_part", "wanted"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "scores", "parameters": {"binary_data": False}}],
            },
            False,
        ),
    ],
)
def test_the_caller_chooses_how_scores_come_back(
    request_part: dict[str, object], wanted: bool
) -> None:
    text = json.dumps({"inputs": [TENSOR], **request_part}).encode()

    assert parse(text, None, 3).binary is wanted


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param(b"{", "not an inference request", id="broken JSON"),
        pytest.param(b"\xff", "not an inference request", id="not UTF-8"),
        pytest.param(b'{"\xe9nputs": []}', "not an inference request", id="a name not UTF-8"),
        pytest.param(b"{}", "inputs", id="no inputs"),
        pytest.param(b'{"inputs": []}', "one tensor", id="no tensor"),
        pytest.param(
            json.dumps(
                {"inputs": [TENSOR], "parameters": {"binary_data_output": "false"}}
            ).encode(),
            "not true or false",
            id="a word where a truth value is wanted",
        ),
        pytest.param(body(name="rows"), "'inputs'", id="another name"),
        pytest.param(body(datatype="FP64"), "FP64", id="another datatype"),
        pytest.param(body(shape=[2, 4]), "[n, 3]", id="another width"),
        pytest.param(body(shape=[6]), "[n, 3]", id="one dimension"),
        pytest.param(body(shape=[0, 3], data=[]), "n >= 1", id="no rows"),
        pytest.param(body(shape=[-1, -3]), "[n, 3]", id="negative shape"),
        pytest.param(body(shape=[3, 3]), "needs 9", id="too few values"),
        pytest.param(body(data=[[1, 2, 3], [4, 5]]), "different lengths", id="ragged"),
        pytest.param(body(data=[1, [2, 3]]), "different lengths", id="mixed nesting"),
        pytest.param(
            body(data=[[1, 2], [3, 4], [5, 6]]), "has data of shape", id="nested otherwise"
        ),
        pytest.param(body(data=["a"] * 6), "data", id="text"),
        pytest.param(body(data=[1e300] * 6), "too large", id="beyond FP32"),
        pytest.param(body(data=None), "no data", id="no data"),
        pytest.param(body() + b"....", "not an inference request", id="bytes after the JSON"),
        pytest.param(
            json.dumps({"inputs": [TENSOR], "outputs": [{"name": "x"}]}).encode(),
            "'scores'",
            id="another output",
        ),
    ],
)
def test_a_wrong_request_is_refused_by_name(text: bytes, named: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        parse(text, None, 3)

    assert refusal.value.status == 400
    assert named in str(refusal.value)


@pytest.mark.parametrize("length", ["", "-1", "0", "x", "100000", "1e2"])
def test_an_impossible_header_length_is_refused(length: str) -> None:
    data, _ = binary(np.zeros((1, 3), dtype=np.float32))

    with pytest.raises(RequestRefused, match="Inference-Header-Content-Length"):
        parse(data, length, 3)


@pytest.mark.parametrize("cut", [1, 4, 12])
def test_a_binary_tensor_cut_short_is_refused(cut: int) -> None:
    data, length = binary(np.zeros((1, 3), dtype=np.float32))

    with pytest.raises(RequestRefused, match="binary_data_size"):
        parse(data[:-cut], length, 3)


@given(st.binary(max_size=200), st.one_of(st.none(), st.text("0123456789-x", max_size=4)))
def test_no_bytes_whatsoever_do_more_than_be_refused(text: bytes, length: str | None) -> None:
    with pytest.raises(RequestRefused):
        parse(text, length, 3)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["x"], r"lack ['a', 'b'] and hold ['x']"),
        (["a"], "lack ['b']"),
        (["a", "b", "b"], "repeat a name"),
        ([str(i) for i in range(20_000)], "hold ['0', '1', '10', "),
    ],
)
def test_names_of_tensors_are_read_before_their_values(names: list[str], says: str) -> None:
    named = NamedTensors(("a", "b"), {}, None)
    # The data are no numbers: whatever decodes them says so.
    tensors = [{"name": n, "datatype": "FP32", "shape": [1], "data": ["x"]} for n in names]
    with pytest.raises(RequestRefused, match=re.escape(says)) as refusal:
        parse(json.dumps({"inputs": tensors}).encode(), None, 2, named)
    assert refusal.value.status == 400
    assert len(str(refusal.value)) <= 1000

    request = pb.ModelInferRequest(raw_input_contents=[b"odd"] * len(names))
    for name in names:
        request.inputs.add(name=name, datatype="FP32", shape=[1])
    with pytest.raises(RequestRefused, match=re.escape(says)):
        rows_of(request, 2, named)
