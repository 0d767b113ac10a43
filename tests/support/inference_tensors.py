"""Tensors of a small model for the fuzz: as callers send them, and as a model server is asked."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mlplatform.model.tensors.named_tensors import NamedTensors
from mlplatform.model.tensors.signature import (
    InputTensor,
    OutputTensor,
    ScoreOutput,
    Signature,
    Tensors,
)
from mlplatform.rollouts.serving.named_codec import NamedCodec

NAMES: Final = ("amount", "channel", "visits")
WORDS: Final = {"channel": ("web", "shop")}
SIGNATURE: Final = Signature(
    inputs=(InputTensor(name="x", dtype="float32", shape=("n", 3), of=NAMES, missing=-1),),
    outputs=(OutputTensor(name="scores", dtype="float32", shape=("n",)),),
    score=ScoreOutput(output="scores"),
)
SERVER: Final = NamedCodec("limits", Tensors(SIGNATURE, NAMES, WORDS))
NAMED: Final = NamedTensors(NAMES, WORDS, None)


def columns() -> list[bytes]:
    """Bodies of one tensor for each input, in JSON and in bytes behind it."""
    kinds, values = ("FP64", "BYTES", "INT64"), ([1.5, None], ["web", "x"], [1, 2])
    tensors: list[dict[str, Any]] = [
        {"name": name, "datatype": kind, "shape": [2, 1]}
        for name, kind in zip(NAMES, kinds, strict=True)
    ]
    plain = [t | {"data": data} for t, data in zip(tensors, values, strict=True)]
    sizes = [
        t | {"parameters": {"binary_data_size": 16 - 4 * (t["name"] == "channel")}} for t in tensors
    ]
    data = bytes(16) + b"\x03\0\0\0web\x01\0\0\0x" + bytes(16)
    return [msgspec.json.encode({"inputs": plain}), msgspec.json.encode({"inputs": sizes}) + data]
