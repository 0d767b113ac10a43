"""Several named tensors become the rows that the one tensor of all inputs would hold."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.tensors.named_tensors import NamedTensors, SentTensor, from_bytes, from_json
from mlplatform.model.tensors.signature import Signature, Tensors

NAMES = ("amount", "channel", "visits", "night")
WORDS = {"channel": ("web", "shop")}
SIGNATURE = msgspec.convert(
    {
        "inputs": [
            {"name": "numbers", "dtype": "float64", "shape": ["n", 1], "of": ["amount"]},
            {"name": "text", "dtype": "string", "shape": ["n", 1], "of": ["channel"]},
            {"name": "whole", "dtype": "int64", "shape": ["n", 2], "of": ["visits", "channel"]},
            {"name": "night", "dtype": "bool", "shape": ["n"], "of": ["night"]},
        ],
        "outputs": [{"name": "score", "dtype": "float32", "shape": ["n"]}],
        "score": {"output": "score"},
    },
    Signature,
)
COLUMNS = NamedTensors(NAMES, WORDS, None)
WHOLE = st.integers(0, 2**24)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.tuples(FLOATS, st.sampled_from(["web", "shop", "phone", ""]), WHOLE, st.booleans()),
    min_size=1,
    max_size=20,
)


def place(word: str) -> float:
    return {"web": 2.0, "shop": 3.0, "": np.nan}.get(word, 1.0)


def packed(texts: list[str]) -> bytes:
    return b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)


@given(ROWS)
def test_a_tensor_for_each_input_holds_its_column_in_json_and_in_bytes(rows: list[Any]) -> None:
    amounts, words, visits, nights = (list(column) for column in zip(*rows, strict=True))
    expected = [[a, place(w), v, n] for a, w, v, n in rows]
    n = len(rows)
    kinds = [("FP32", "<f4"), ("BYTES", ""), ("INT64", "<i8"), ("BOOL", "?")]
    columns = list(zip(NAMES, kinds, (amounts, words, visits, nights), strict=True))

    as_json = [
        from_json(name, kind, [n], msgspec.Raw(json.dumps(values).encode()))
        for name, (kind, _), values in columns
    ]
    as_bytes = [
        from_bytes(
            name,
            kind,
            [n, 1],
            memoryview(np.array(values, form).tobytes() if form else packed(values)),
        )
        for name, (kind, form), values in columns
    ]

    np.testing.assert_array_equal(COLUMNS.rows(as_json), np.array(expected, np.float32))
    np.testing.assert_array_equal(COLUMNS.rows(as_bytes[::-1]), np.array(expected, np.float32))


@given(ROWS)
def test_the_signatures_tensors_are_those_that_the_graph_gets(rows: list[Any]) -> None:
    wide = np.array([[a, place(w), v, n] for a, w, v, n in rows], np.float32)
    fed = Tensors(SIGNATURE, NAMES, WORDS).feeds(wide)
    named = NamedTensors(NAMES, WORDS, SIGNATURE)
    kinds = {tensor["name"]: tensor["datatype"] for tensor in named.describe()}
    sent = [
        SentTensor(name, kinds[name], values.shape, values.ravel().tolist())
        for name, values in fed.items()
    ]

    again = Tensors(SIGNATURE, NAMES, WORDS).feeds(named.rows(sent))

    assert named.describe()[2] == {"name": "whole", "datatype": "INT64", "shape": [-1, 2]}
    for name, values in fed.items():
        np.testing.assert_array_equal(again[name], values)


def test_null_is_missing_in_every_kind() -> None:
    sent = [
        from_json(name, kind, [1, 1], msgspec.Raw(b"[[null]]"))
        for name, kind in zip(NAMES, ("FP64", "BYTES", "INT64", "BOOL"), strict=True)
    ]
    assert np.isnan(COLUMNS.rows(sent)).all()


def test_a_signature_with_a_tensor_of_the_matrixs_name_is_asked_by_columns() -> None:
    named = msgspec.structs.replace(
        SIGNATURE, inputs=(msgspec.structs.replace(SIGNATURE.inputs[0], name="inputs"),)
    )
    found = NamedTensors(NAMES, WORDS, named)
    assert found.describe() == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 4]}]


GOOD = {
    "amount": ("FP32", [2], [1.0, 2.0]),
    "channel": ("BYTES", [2], ["web", "shop"]),
    "visits": ("INT64", [2], [1, 2]),
    "night": ("BOOL", [2], [True, False]),
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        pytest.param({"night": None}, r"lack \['night'\]", id="one lacks"),
        pytest.param({"more": ("FP32", [2], [1, 2])}, r"hold \['more'\]", id="a strange one"),
        pytest.param({"visits": ("INT64", [3], [1, 2, 3])}, "n the same", id="another n"),
        pytest.param({"visits": ("INT64", [2, 2], [1, 2, 3, 4])}, r"\[n, 1\]", id="two columns"),
        pytest.param({"visits": ("INT64", [2], [1])}, "needs 2", id="too few values"),
        pytest.param({"visits": ("INT64", [2], [1, 2**24 + 1])}, "beyond", id="not in float32"),
        pytest.param({"visits": ("INT64", [2], [1, 2**70])}, "beyond", id="no int64"),
        pytest.param({"visits": ("INT64", [2], [1, 0.5])}, "INT64", id="no whole number"),
        pytest.param({"amount": ("FP64", [2], [1e39, 1])}, "too large", id="beyond float32"),
        pytest.param({"amount": ("BYTES", [2], ["1", "2"])}, "BYTES", id="texts for numbers"),
        pytest.param({"amount": ("FP32", [2], [True, 1])}, "FP32", id="a truth value"),
        pytest.param({"amount": ("FP16", [2], [1, 1])}, "FP16", id="a strange datatype"),
        pytest.param({"amount": ("FP32", [2, 1], [[1], [1, 2]])}, "nested", id="ragged"),
        pytest.param({"amount": ("FP32", [10**15], [1])}, "needs 1000000000000000", id="vast"),
        pytest.param({"amount": ("FP32", [], [])}, "shape", id="no dimension"),
        pytest.param({"amount": ("FP32", [0], [])}, "at least 1", id="no rows"),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], says: str) -> None:
    wanted = {name: value for name, value in (GOOD | changed).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        COLUMNS.rows(
            [
                from_json(name, kind, shape, msgspec.Raw(json.dumps(values).encode()))
                for name, (kind, shape, values) in wanted.items()
            ]
        )


@given(st.sampled_from(["BYTES", "FP64", "INT64", "BOOL", "x"]), st.binary(max_size=40))
def test_no_bytes_are_too_strange(datatype: str, raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = from_bytes("a", datatype, [1], memoryview(raw))
        assert len(found.values) * (4 if datatype == "BYTES" else 1) <= len(raw)
