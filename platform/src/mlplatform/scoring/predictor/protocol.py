"""Inference requests and responses of the Open Inference Protocol v2.

Source: KServe, "Open Inference Protocol (V2)", REST, and its binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from mlplatform.model import oip
from mlplatform.model.tensors.named_tensors import (
    MATRIX,
    NamedTensors,
    SentTensor,
    from_bytes,
    from_json,
)
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import PlatformError

INPUT: Final = MATRIX
OUTPUT: Final = oip.OUTPUT
DATATYPE: Final = "FP32"
FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
HEADER_LENGTH: Final = "Inference-Header-Content-Length"

Floats = npt.NDArray[np.float32]


class RequestRefused(PlatformError):
    """A request that can't be answered, with the HTTP status that says whose fault it is."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Inference:
    """One request: its id, its rows [n, width] and whether the scores go back as bytes."""

    request_id: str | None
    rows: Floats
    binary: bool


# JSON has no NaN: null is a missing value.
_Number = float | None
_Values = list[_Number | list[_Number]] | None


class _InputTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()

    @property
    def holds_json(self) -> bool:
        return bool(self.data) and bytes(self.data) != b"null"


class _OutputTensor(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_InputTensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_OutputTensor] = []


class _AnswerTensor(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = {}
    data: list[float] | None = None


class _Answer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_AnswerTensor]
    id: str | None = None


_decoder = msgspec.json.Decoder(_Request)
_values = msgspec.json.Decoder(_Values)
_encoder = msgspec.json.Encoder()


def parse(
    body: bytes, header_length: str | None, width: int, named: NamedTensors | None = None
) -> Inference:
    """The inference in a request body.

    Args:
        body: the JSON, followed by the tensors' bytes where they are sent as binary data.
        header_length: value of the header Inference-Header-Content-Length; None if it is missing.
        width: number of the model's inputs.
        named: the tensors that may be sent instead of the one with all inputs; None: only that one.

    Raises:
        RequestRefused: 400; the message says what is wrong.
    """
    head, tail = _split(body, header_length)
    try:
        request = _decoder.decode(head)
    except NOT_JSON as error:
        raise RequestRefused(400, f"the request is not an inference request: {error}") from error
    inputs = request.inputs
    if (len(inputs) == 1 and inputs[0].name == INPUT) or is_matrix(
        [tensor.name for tensor in inputs], named
    ):
        rows = _rows(request.inputs[0], tail, width)
    else:
        assert named is not None
        rows = rows_of_several(lambda: _tensors_of(request.inputs, tail), named)
    return Inference(request.id, rows, _wants_binary(request))


def is_matrix(names: Sequence[str], named: NamedTensors | None) -> bool:
    """Whether a request has the one tensor of all inputs, instead of the named ones.

    Raises:
        RequestRefused: 400 if they are neither.
    """
    if names == [INPUT] or (named is None and len(names) == 1):
        return True
    if named is None or not names:
        raise RequestRefused(400, f"inputs are {names}; the model takes one tensor, {INPUT!r}")
    try:
        named.check_names(names)
    except ValueError as error:
        raise RequestRefused(400, str(error)) from error
    return False


def rows_of_several(sent: Callable[[], Sequence[SentTensor]], named: NamedTensors) -> Floats:
    """The rows that named tensors hold together.

    Raises:
        RequestRefused: 400, naming what is wrong.
    """
    try:
        return named.rows(sent())
    except ValueError as error:
        raise RequestRefused(400, str(error)) from error


def inference_response(
    scores: Floats, *, model: str, version: str, request_id: str | None, binary: bool
) -> tuple[bytes, int | None]:
    """The response body, and the length of its JSON if bytes follow it.

    A score that is not a number is null in JSON.
    """
    tensor = _AnswerTensor(OUTPUT, DATATYPE, list(scores.shape))
    if not binary:
        tensor.data = scores.ravel().tolist()
        return _encoder.encode(_Answer(model, version, [tensor], request_id)), None
    data = scores.astype("<f4", copy=False).tobytes()
    tensor.parameters = {"binary_data_size": len(data)}
    head = _encoder.encode(_Answer(model, version, [tensor], request_id))
    return head + data, len(head)


def error_body(message: str) -> bytes:
    """The protocol's error object."""
    return _encoder.encode({"error": message})


def encode(value: Any) -> bytes:
    """Any other response of the protocol as JSON."""
    return _encoder.encode(value)


def _split(body: bytes, header_length: str | None) -> tuple[bytes | memoryview, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    # A longer number is not a valid length, and int() refuses thousands of digits.
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not digits or not 0 < int(header_length) <= len(body):
        raise RequestRefused(
            400,
            f"{HEADER_LENGTH} is {header_length!r}; wanted: a length within the {len(body)} bytes",
        )
    view = memoryview(body)
    return view[: int(header_length)], view[int(header_length) :]


def check_tensor(name: str, datatype: str, shape: Sequence[int], width: int) -> None:
    """Check that a tensor of that description fits the model.

    Raises:
        RequestRefused: 400, naming what is wrong.
    """
    if name != INPUT:
        raise RequestRefused(400, f"there is an input {name!r}; the model takes {INPUT!r}")
    if datatype != DATATYPE:
        raise RequestRefused(
            400, f"{INPUT!r} has datatype {datatype!r}; the model takes {DATATYPE}"
        )
    if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
        raise RequestRefused(
            400, f"{INPUT!r} has shape {list(shape)}; the model takes [n, {width}] with n >= 1"
        )


def shaped(values: Floats, shape: Sequence[int]) -> Floats:
    """The values in the shape of rows.

    Raises:
        RequestRefused: 400 where the shape needs another number of values.
    """
    count = shape[0] * shape[1]
    if values.size != count:
        raise RequestRefused(
            400, f"{INPUT!r} holds {values.size} values; shape {list(shape)} needs {count}"
        )
    return values.reshape(shape)


def check_finite(rows: Floats) -> None:
    """Check that every value is a number of FP32, or NaN for a missing one.

    JSON can hold nothing else. As bytes, a predictor accepts infinite values: the gateway sends
    values beyond FP32 so, as the training matrix has them. The gateway refuses infinite values of
    callers.

    Raises:
        RequestRefused: 400 if a value is infinite.
    """
    if np.isinf(rows).any():
        raise RequestRefused(400, f"{INPUT!r} has a value too large for {DATATYPE}")


def check_callers_rows(rows: Floats, named: NamedTensors) -> None:
    """Check rows that a caller made: every value is a number of FP32 or NaN, and no vector has only
    some of its numbers.

    Raises:
        RequestRefused: 400, naming what is wrong.
    """
    check_finite(rows)
    try:
        named.check_whole(rows)
    except ValueError as error:
        raise RequestRefused(400, str(error)) from error


def _rows(tensor: _InputTensor, tail: memoryview, width: int) -> Floats:
    check_tensor(tensor.name, tensor.datatype, tensor.shape, width)
    size = tensor.parameters.get("binary_data_size")
    values = _from_json(tensor, tail) if size is None else _from_bytes(tensor, tail, size)
    return shaped(values, tensor.shape)


def _from_bytes(tensor: _InputTensor, tail: memoryview, size: Any) -> Floats:
    if tensor.holds_json:
        raise RequestRefused(400, f"{INPUT!r} has both data and binary_data_size")
    if type(size) is not int or size != len(tail) or size % 4:
        raise RequestRefused(
            400,
            f"binary_data_size is {size!r}; {len(tail)} bytes follow the JSON, 4 to a value",
        )
    return np.frombuffer(tail, dtype="<f4")


def _tensors_of(inputs: Sequence[_InputTensor], tail: memoryview) -> list[SentTensor]:
    """Several tensors as they were sent; binary ones follow the JSON in their order."""
    found, at = [], 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size")
        what = tensor.name, tensor.datatype, tensor.shape
        if (size is None) != tensor.holds_json:
            raise ValueError(f"{tensor.name!r} has to have either data or binary_data_size")
        if tensor.holds_json:
            found.append(from_json(*what, tensor.data))
        elif type(size) is not int or not 0 <= size <= len(tail) - at:
            left = len(tail) - at
            raise ValueError(f"{tensor.name!r} has {size!r} bytes, but {left} follow the JSON")
        else:
            found.append(from_bytes(*what, tail[at : at + size]))
            at += size
    if at != len(tail):
        raise ValueError(f"{len(tail)} bytes follow the JSON; the tensors are {at} of them")
    return found


def _from_json(tensor: _InputTensor, tail: memoryview) -> Floats:
    try:
        data = _values.decode(tensor.data) if tensor.data else None
    except NOT_JSON as error:
        raise RequestRefused(400, f"{INPUT!r} has data of no numbers: {error}") from error
    if data is None:
        raise RequestRefused(400, f"{INPUT!r} has no data")
    if len(tail):
        raise RequestRefused(400, f"{len(tail)} bytes follow the JSON, but no tensor is binary")
    if _is_flat_and_bounded(data):
        return np.array(data, dtype=np.float32)
    try:
        wide = np.array(data, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise RequestRefused(400, f"{INPUT!r} has rows of different lengths") from error
    if wide.ndim == 2 and list(wide.shape) != tensor.shape:
        raise RequestRefused(
            400,
            f"{INPUT!r} has data of shape {list(wide.shape)}; wanted: {tensor.shape}, its shape",
        )
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    check_finite(values)
    return values


def _is_flat_and_bounded(data: list[Any]) -> bool:
    """Whether these are all numbers within FP32: the usual case, checked without NumPy."""
    try:
        return bool(sum(map(abs, data)) < FLOAT32_MAX)
    except TypeError:
        return False


def _wants_binary(request: _Request) -> bool:
    everything = _flag(request.parameters, "binary_data_output", False)
    for output in request.outputs:
        if output.name != OUTPUT:
            raise RequestRefused(400, f"no output {output.name!r}; the model gives {OUTPUT!r}")
        everything = _flag(output.parameters, "binary_data", everything)
    return everything


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestRefused(400, f"parameter {name!r} is {value!r}, not true or false")
    return value
