"""The messages between a confined process and its parent: JSON and raw arrays, both bounded."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.runtime.units import MIB

MOST_HEAD_BYTES: Final = 2 * MIB
"""Names and types of the columns of the widest table take 1.8 MiB."""
MOST_RANK: Final = 8
MOST_ARRAYS: Final = 8192
"""A column of texts is three arrays: where they end, their bytes, and which are missing."""
_LENGTH: Final = struct.Struct("=I")

Kind = Literal["<f4", "<f8", "<i8", "<i4", "<i2", "|i1", "|u1"]
Arrays = Sequence[NDArray[Any]]


class BrokenFrame(Exception):
    """The bytes are no frame, or more than was announced."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; `body` is plain JSON."""

    body: Mapping[str, Any]
    arrays: Arrays = ()


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Kind
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * np.dtype(self.kind).itemsize


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body: dict[str, Any]
    arrays: tuple[_Array, ...]


def packed(frame: Frame) -> list[bytes | memoryview]:
    """The parts of a frame, to be written in order."""
    laid = [np.ascontiguousarray(array) for array in frame.arrays]
    arrays = tuple(_Array(kind=_kind(array), shape=array.shape) for array in laid)
    head = msgspec.json.encode(_Head(dict(frame.body), arrays))
    parts: list[bytes | memoryview] = [_LENGTH.pack(len(head)) + head]
    # A view of an array without elements can't be cast to bytes.
    return parts + [array.reshape(-1).view(np.uint8).data for array in laid if array.size]


def read(receive: Callable[[int], bytes | bytearray], most_bytes: int) -> Frame:
    """The next frame.

    Args:
        receive: returns exactly the requested number of bytes.
        most_bytes: largest size of the frame's arrays together; nothing larger is allocated.

    Raises:
        BrokenFrame: the bytes are not a frame, or the frame is larger than allowed.
    """
    (length,) = _LENGTH.unpack(receive(_LENGTH.size))
    if length > MOST_HEAD_BYTES:
        raise BrokenFrame(f"a head of {length} bytes; the limit is {MOST_HEAD_BYTES}")
    try:
        head = msgspec.json.decode(receive(length), type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenFrame("its head is not read") from error
    if len(head.arrays) > MOST_ARRAYS or any(min(a.shape, default=0) < 0 for a in head.arrays):
        raise BrokenFrame("it has too many arrays, or one of negative size")
    if any(len(a.shape) > MOST_RANK or max(a.shape, default=0) > most_bytes for a in head.arrays):
        raise BrokenFrame("its arrays have too many dimensions, or too long ones")
    if (total := sum(a.size for a in head.arrays)) > most_bytes:
        raise BrokenFrame(f"arrays of {total} bytes; the limit is {most_bytes}")
    return Frame(head.body, [_array(receive(a.size), a) for a in head.arrays])


def _array(raw: bytes | bytearray, header: _Array) -> NDArray[Any]:
    try:
        return np.frombuffer(raw, np.dtype(header.kind)).reshape(header.shape)
    except ValueError as error:
        raise BrokenFrame("the shape of an array does not fit its bytes") from error


def _kind(array: NDArray[Any]) -> Kind:
    kind: Kind = msgspec.convert(array.dtype.str, Kind)
    return kind
