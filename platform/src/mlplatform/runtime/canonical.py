"""The canonical bytes of a value, which are hashed wherever something is signed or compared."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, Final

import msgspec

NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Exceptions of decoding bytes that are no JSON, or not of the wanted shape. For text that is not
UTF-8 msgspec raises Python's `UnicodeDecodeError`."""

DIGEST: Final = re.compile("[0-9a-f]{64}")
"""The form of a `digest`, for a full match."""


def canonical_json(value: Any) -> bytes:
    """The value as JSON with sorted keys, no spaces and no NaN, in UTF-8.

    Source: RFC 8785 in spirit; numbers are written as Python's shortest round-trip form.

    Raises:
        ValueError: for NaN and infinities, which JSON cannot hold.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: bytes | Any) -> str:
    """SHA-256, hexadecimal, of bytes as they are, or of any other value in canonical form."""
    data = value if isinstance(value, bytes) else canonical_json(value)
    return hashlib.sha256(data).hexdigest()


def finite_or_none(value: float | None) -> float | None:
    """The number; None if it is missing, NaN or infinite, for which JSON has no form."""
    return None if value is None or not math.isfinite(value) else value
