"""Rows to a server that takes named tensors, and its scores back, in the protocol's JSON.

JSON is what every server of the protocol speaks; the binary extension is not. It has no NaN, so a
missing value is the number that the bundle's signature declares for it.

Source: KServe, Open Inference Protocol v2, inference request and response JSON objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.model.bundle import Bundle
from mlplatform.model.oip import (
    FLOAT32_MAX,
    Codec,
    MatrixCodec,
    PredictionFailed,
    Reply,
    check_status,
    reply_bytes,
)
from mlplatform.model.tensors.named_tensors import DATATYPES
from mlplatform.model.tensors.signature import OutputTensor, Tensors
from mlplatform.runtime.canonical import NOT_JSON


class _Output(msgspec.Struct, frozen=True):
    name: str
    data: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct, frozen=True):
    outputs: list[_Output]


_answers = msgspec.json.Decoder(_Answer)
_numbers = msgspec.json.Decoder(list[float | list[float]])


@dataclass(frozen=True, slots=True)
class NamedCodec:
    """A codec for the tensors of a signature. Another party's server gets no token of the platform.

    Args:
        name: name of the model at the server.
    """

    name: str
    tensors: Tensors

    def request(
        self, authority: str, token: str, rows: Sequence[Sequence[float]], more: str = ""
    ) -> bytes:
        with np.errstate(over="ignore"):
            matrix = np.array(rows, np.float64).astype(np.float32)
        fed = self.tensors.feeds(matrix)
        inputs = [
            _tensor_of(tensor.name, DATATYPES[tensor.dtype], fed[tensor.name])
            for tensor in self.tensors.signature.inputs
        ]
        body = msgspec.json.encode({"inputs": inputs, "outputs": [{"name": self.tensors.output}]})
        head = (
            f"POST /v2/models/{self.name}/infer HTTP/1.1\r\nHost: {authority}\r\n{more}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def reply_bytes(self, rows: int) -> int:
        """Most bytes of a reply: room for every output of the signature, because some servers
        return all."""
        outputs = self.tensors.signature.outputs
        return reply_bytes(rows * sum(math.prod(_columns(output)) for output in outputs))

    def scores(self, reply: Reply, rows: int) -> list[float]:
        check_status(reply)
        try:
            output = self._output(reply.body, rows)
            found: list[float] = self.tensors.scores(output, rows).ravel().tolist()
        except (*NOT_JSON, ValueError) as error:
            raise PredictionFailed("invalid_output", str(error)[:500]) from error
        return found

    def _output(self, body: bytes, rows: int) -> NDArray[np.float64]:
        """The output that holds scores, in its declared shape; some servers return [n] as [n, 1].

        Raises:
            ValueError: the output is missing, or it does not hold numbers of that shape.
        """
        found = next(
            (o for o in _answers.decode(body).outputs if o.name == self.tensors.output), None
        )
        if found is None:
            raise ValueError(f"no output named {self.tensors.output!r}")
        [declared] = (o for o in self.tensors.signature.outputs if o.name == self.tensors.output)
        shape = [rows, *_columns(declared)]
        columns = math.prod(shape[1:])
        numbers = _numbers.decode(found.data)
        # An array from anything else takes seconds to make, or has other rows.
        is_flat = len(numbers) == rows * columns and not any(isinstance(v, list) for v in numbers)
        if not is_flat and not (
            len(numbers) == rows
            and all(isinstance(row, list) and len(row) == columns for row in numbers)
        ):
            raise ValueError(f"{rows} rows gave {declared.name} of another shape than {shape}")
        return np.array(numbers, np.float64).reshape(shape)


def _columns(tensor: OutputTensor) -> list[int]:
    return [size for size in tensor.shape if size != "n"]


def codec_of(bundle: Bundle, service: str) -> Codec:
    """The codec for the server of a bundle's version."""
    tensors = bundle.tensors
    if bundle.server is None or tensors is None:
        return MatrixCodec(service, max(1, bundle.classes))
    return NamedCodec(bundle.server.served_as or service, tensors)


def _tensor_of(name: str, datatype: str, values: NDArray[Any]) -> dict[str, Any]:
    if values.dtype.kind == "f":  # JSON has no infinity, which a row has beyond float32
        values = np.clip(values, -FLOAT32_MAX, FLOAT32_MAX)
    shape = list(values.shape)
    return {"name": name, "datatype": datatype, "shape": shape, "data": values.ravel().tolist()}
