"""Answers in few bytes: what distinguishes one from others of its shape, and the shape's name."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from mlplatform.decisions.records.kept_keys import filled, shaped

NAME_BYTES: Final = 8
_WHOLE, _SHAPED, _SCORED = b"\x00", b"\x01", b"\x02"
_SCORE: Final = struct.Struct("<d")


class PackedAnswer(msgspec.Struct, frozen=True):
    """An answer as it is stored.

    Args:
        data: one byte for its kind; then the answer itself, or the name of its shape and, where it
            has one, the score.
        shape: text of the shape, which is stored once for all answers; empty: the answer is whole.
    """

    data: bytes
    shape: bytes = b""


def whole(answer: bytes) -> PackedAnswer:
    """The answer unchanged."""
    return PackedAnswer(_WHOLE + answer)


def packed(answer: bytes, decision_id: str, score: float | None) -> PackedAnswer:
    """The answer without what its decision's id and score say."""
    shape, found = shaped(answer, decision_id, score)
    if shape is None:
        return whole(answer)
    name = shape_name(shape)
    if found is None:
        return PackedAnswer(_SHAPED + name, shape)
    return PackedAnswer(_SCORED + name + _SCORE.pack(found), shape)


def unpacked(data: bytes, shape: bytes, decision_id: str) -> bytes:
    """The answer again, byte for byte.

    Args:
        shape: text of the shape that `data` names; empty if it names none.
    """
    kind, rest = data[:1], data[1:]
    if kind == _WHOLE:
        return rest
    score = _SCORE.unpack(rest[NAME_BYTES:])[0] if kind == _SCORED else None
    return filled(shape, decision_id, score)


def shape_name(shape: bytes) -> bytes:
    """A short name for a shape: 64 bits, for some thousands of shapes."""
    return hashlib.blake2b(shape, digest_size=NAME_BYTES).digest()
