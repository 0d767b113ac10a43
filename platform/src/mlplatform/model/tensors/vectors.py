"""A vector of a request as numbers of a row: the same in training, in serving and over the log.

A vector is a list of a declared length, made elsewhere (an embedding). A row has one float32 for
each of its numbers, side by side. A request has all of them or is refused; where a payload was
erased, or a caller of the open protocol sent none, all of them are NaN.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.tensors.categories import MISSING
from mlplatform.model.tensors.remainders import COLUMNS, remainder_of
from mlplatform.runtime.errors import InputInvalid

if TYPE_CHECKING:
    import pyarrow as pa  # a gateway starts without pyarrow

MOST_LENGTH: Final = 1024
"""Most numbers of a vector."""
FLOAT32_MOST: Final = 3.4028234663852886e38
"""Largest float32: a number beyond it would be an infinity in a row."""

AS_TEXT: Final = "numbers in brackets, as [0.25, -1.5]"
"""How a vector is written in a cell of text."""
_SHOWN: Final = 12
_NO_NUMBERS: Final = ("NaN", "Infinity", "-Infinity")
"""What PostgreSQL writes into a JSON array for a float that JSON has no number for."""
_COLUMN: Final = re.compile(r"(.+)\.v([1-9][0-9]{0,3})\.([1-9][0-9]{0,3})")


class Vector:
    """The numbers of one request field in a row."""

    def __init__(self, of: str, length: int) -> None:
        self._of, self._length = of, length
        self._missing = [MISSING] * length

    def places(self, value: Sequence[float] | None) -> Sequence[float]:
        """The numbers of a vector, in order; all NaN where there is none.

        Raises:
            InputInvalid: the vector has another length than declared.
        """
        if value is None:
            return self._missing
        if len(value) != self._length:
            raise _other_length(self._of, None, len(value), self._length)
        return value

    def column(self, values: pa.ChunkedArray[Any]) -> NDArray[np.float32]:
        """The numbers of a column of lists, [rows, length]; NaN in the row of a missing list.

        Raises:
            InputInvalid: a vector has another length than declared; the message names its row.
        """
        import pyarrow.compute as pc  # only training needs it

        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        missing = np.isnan(lengths.astype(np.float64))
        if (other := ~missing & (lengths != self._length)).any():
            row = int(other.argmax())
            raise _other_length(self._of, row, int(lengths[row]), self._length)
        found = np.full((len(values), self._length), np.nan, np.float32)
        flat: Any = pc.list_flatten(values)
        found[~missing] = flat.to_numpy().reshape(-1, self._length)
        return found


def vector_columns(name: str, length: int) -> tuple[str, ...]:
    """The names of the inputs that hold a vector's numbers, counted from 1. Another length gives
    other names, so that bundles which read vectors of two lengths share no column."""
    return tuple(f"{name}.v{length}.{number}" for number in range(1, length + 1))


def vector_of(column: str) -> str | None:
    """The vector of which an input holds a number, by the input's name; None for another input."""
    found = _COLUMN.fullmatch(column)
    return None if found is None else found[1]


def length_of(column: str) -> int:
    """The length of the vector of which an input holds a number; 0 for another input."""
    found = _COLUMN.fullmatch(column)
    return 0 if found is None else int(found[2])


def spans(names: Sequence[str]) -> tuple[tuple[str, slice], ...]:
    """The inputs of a row, in order, with all numbers of a vector as one, and a number with its
    remainders: name and places."""
    found: list[tuple[str, slice]] = []
    place = 0
    while place < len(names):
        name, length = names[place], length_of(names[place])
        size = max(1, length)
        if place + 1 < len(names) and remainder_of(names[place + 1]) == name:
            size = COLUMNS
        found.append((vector_of(name) or name, slice(place, place + size)))
        place += size
    return tuple(found)


def vector_text(values: Sequence[float]) -> str | None:
    """A vector in a few words, by its length and Euclidean norm; None where it is missing."""
    norm = math.hypot(*values)
    return None if math.isnan(norm) else f"{len(values)} numbers, norm {norm:.4g}"


class NotAVector(ValueError):
    """A text that is no vector.

    Args:
        place: `[3]` if it is this element that is no number; empty if the text is no list.
        shown: the first characters of that element or of the text, never all numbers.
        wanted: what is wanted instead.
    """

    def __init__(self, place: str, shown: str, wanted: str) -> None:
        super().__init__(place, shown, wanted)
        self.place, self.shown, self.wanted = place, shown, wanted


def vector_of_text(text: str) -> list[float]:
    """The numbers of a JSON list, each as float64.

    A null, NaN or infinite element becomes NaN or an infinity, as it would be in a column of lists;
    the reader of the vector refuses it by its index.

    Raises:
        NotAVector: the text is no list, or an element is no number.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise NotAVector("", repr(_cut(text.strip())), AS_TEXT)
    return [_number(value, place) for place, value in enumerate(found)]


def _number(value: Any, place: int) -> float:
    if value is None:
        return MISSING
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or value in _NO_NUMBERS:
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return math.inf if value > 0 else -math.inf
    raise NotAVector(f"[{place}]", _cut(json.dumps(value)), "a number")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _other_length(of: str, row: int | None, length: int, wanted: int) -> InputInvalid:
    return InputInvalid(of, row, f"the vector has {length} numbers; wanted: {wanted}")
