"""Rows become the tensors that a graph takes, and one declared column of its outputs the scores."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.model.definition import InputSpec
from mlplatform.model.signature_checks import signature_problems
from mlplatform.model.tensors.signature import Signature, Tensors

INPUTS = (
    InputSpec(name="amount", kind="field", of="amount"),
    InputSpec(name="channel", kind="category", of="channel"),
    InputSpec(name="visits", kind="field", of="visits"),
    InputSpec(name="night", kind="is_night"),
)
NAMES = tuple(i.name for i in INPUTS)
WORDS = {"channel": ("web", "shop")}
PLAIN = {
    "inputs": [
        {"name": "numbers", "dtype": "float64", "shape": ["n", 2], "of": ["visits", "amount"]},
        {"name": "text", "dtype": "string", "shape": ["n", 1], "of": ["channel"], "unknown": "?"},
        {"name": "token", "dtype": "int64", "shape": ["n", 2], "of": ["channel", "visits"]},
        {"name": "night", "dtype": "bool", "shape": ["n"], "of": ["night"]},
    ],
    "outputs": [
        {"name": "label", "dtype": "int64", "shape": ["n"]},
        {"name": "chances", "dtype": "float32", "shape": ["n", 2]},
    ],
    "score": {"output": "chances", "column": 1},
}
SIGNATURE = msgspec.convert(PLAIN, Signature)
TENSORS = Tensors(SIGNATURE, NAMES, WORDS)
NAN = np.nan


def test_columns_of_rows_stand_in_the_tensors_that_name_them() -> None:
    rows = np.array([[2.5, 2, 7, 1], [NAN, NAN, NAN, NAN], [1, 1, 3, 0]], np.float32)
    fed = TENSORS.feeds(rows)
    np.testing.assert_array_equal(fed["numbers"], [[7, 2.5], [NAN, NAN], [3, 1]])
    assert fed["numbers"].dtype == np.float64
    assert fed["text"].tolist() == [["web"], [""], ["?"]]
    np.testing.assert_array_equal(fed["token"], [[2, 7], [0, 0], [1, 3]])
    assert fed["night"].tolist() == [True, False, False]


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1))
def test_any_row_gives_tensors_of_the_declared_kind(rows: list[list[float]]) -> None:
    """What a caller of the raw protocol sends can be no text but a word of the bundle's."""
    fed = TENSORS.feeds(np.array(rows, np.float32))
    kinds = {name: tensor.dtype.kind for name, tensor in fed.items()}
    assert kinds == {"numbers": "f", "text": "O", "token": "i", "night": "b"}
    assert set(fed["text"].ravel()) <= {"", "?", "web", "shop"}
    assert ((fed["token"][:, 0] >= 0) & (fed["token"][:, 0] < 4)).all()
    assert [len(tensor) for tensor in fed.values()] == [len(rows)] * 4


def test_what_stands_for_a_missing_value_is_declared_with_the_tensor() -> None:
    tensors = [
        {"name": "a", "dtype": "float32", "shape": ["n"], "of": ["amount"], "missing": -1},
        {"name": "c", "dtype": "string", "shape": ["n"], "of": ["channel"], "missing": "none"},
        {"name": "v", "dtype": "int64", "shape": ["n"], "of": ["visits"], "missing": 9},
        {"name": "n", "dtype": "bool", "shape": ["n"], "of": ["night"], "missing": 1},
    ]
    signature = msgspec.convert({**PLAIN, "inputs": tensors}, Signature)
    fed = Tensors(signature, NAMES, WORDS).feeds(np.full((1, 4), NAN, np.float32))
    assert [tensor.tolist() for tensor in fed.values()] == [[-1.0], ["none"], [9], [True]]


def test_the_score_is_the_declared_column_and_no_other_shape_is_taken() -> None:
    chances = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    assert TENSORS.scores(chances, 2).tolist() == [0.25, 0.5]
    for wrong in (chances[:1], chances[:, 0], chances[:, :1], chances[None]):
        with pytest.raises(ValueError, match=r"chances"):
            TENSORS.scores(wrong, 2)


def test_a_signature_that_fits_has_no_problem() -> None:
    assert list(signature_problems(SIGNATURE, INPUTS)) == []


def tensor(number: int, **changed: object) -> dict[str, object]:
    inputs = [dict(t) for t in PLAIN["inputs"]]
    inputs[number] |= changed
    return {"inputs": inputs}


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        (tensor(0, of=["visits", "nobody"]), "inputs.0.of"),
        (tensor(3, of=["amount"]), "inputs"),
        (tensor(0, name="text"), "inputs"),
        (tensor(0, shape=["n", 3]), "inputs.0.shape"),
        (tensor(0, shape=["n"]), "inputs.0.shape"),
        (tensor(0, shape=[2, 2]), "inputs.0.shape"),
        (tensor(1, of=["visits"]), "inputs.1.of"),
        (tensor(3, of=["channel"]), "inputs.3.dtype"),
        (tensor(0, missing="none"), "inputs.0.missing"),
        ({"score": {"output": "nothing"}}, "score.output"),
        ({"score": {"output": "label"}}, "score.output"),
        ({"score": {"output": "chances"}}, "score.column"),
        ({"score": {"output": "chances", "column": 2}}, "score.column"),
    ],
    ids=[
        "an input that the model lacks",
        "an input in no tensor",
        "a name twice",
        "too many columns",
        "two inputs in one dimension",
        "rows of a fixed number",
        "a number as a text",
        "a category as yes or no",
        "a text for a missing number",
        "a score from nowhere",
        "a score that is a whole number",
        "a score without its column",
        "a column beyond the last",
    ],
)
def test_what_does_not_fit_is_told_by_its_key(changed: dict[str, object], key: str) -> None:
    signature = msgspec.convert({**PLAIN, **changed}, Signature)
    assert key in [found for found, _, _ in signature_problems(signature, INPUTS)]
