"""Scores of a server that is not the platform's are those of the rows that it was asked for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mlplatform.model.oip import PredictionFailed, Reply
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.rollouts.serving.named_codec import NamedCodec


def codec(shape: list[Any], column: int | None) -> NamedCodec:
    document = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 1], "of": ["amount"]}],
        "outputs": [
            {"name": "score", "dtype": "float32", "shape": shape},
            {"name": "label", "dtype": "int64", "shape": ["n"]},
        ],
        "score": {"output": "score", "column": column},
    }
    return NamedCodec("m", Tensors(msgspec.convert(document, Signature), ("amount",), {}))


PLAIN, WIDE = codec(["n"], None), codec(["n", 3], 1)


def reply(data: Any) -> Reply:
    return Reply(200, {}, msgspec.json.encode({"outputs": [{"name": "score", "data": data}]}))


@pytest.mark.parametrize(
    ("asked", "data", "scores"),
    [
        (PLAIN, [0.1, 0.2], [0.1, 0.2]),
        (PLAIN, [[0.1], [0.2]], [0.1, 0.2]),
        (WIDE, [[1, 2, 3], [4, 5, 6]], [2, 5]),
        (WIDE, [1, 2, 3, 4, 5, 6], [2, 5]),
    ],
)
def test_rows_are_flat_or_nested(asked: NamedCodec, data: Any, scores: list[float]) -> None:
    assert asked.scores(reply(data), 2) == scores


@pytest.mark.parametrize(
    ("asked", "data"),
    [
        (PLAIN, [[0.1, 0.2]]),
        (PLAIN, [0.1, [0.2]]),
        (PLAIN, [0.1] * 3),
        (PLAIN, [[]] * 2),
        (PLAIN, []),
        (WIDE, [[1, 2], [3, 4], [5, 6]]),
        (WIDE, [[1, 2, 3], [4, 5]]),
        (WIDE, [[1, 2, 3, 4, 5, 6]]),
    ],
)
def test_another_shape_is_no_scores(asked: NamedCodec, data: Any) -> None:
    with pytest.raises(PredictionFailed, match="2 rows gave score of another shape") as failed:
        asked.scores(reply(data), 2)
    assert failed.value.reason == "invalid_output"


def test_an_answer_has_room_for_every_output() -> None:
    assert PLAIN.reply_bytes(100) == 65_536 + 100 * 64 * 2
    assert WIDE.reply_bytes(100) == 65_536 + 100 * 64 * 4
    assert WIDE.reply_bytes(10**6) == 4 * 1024 * 1024
