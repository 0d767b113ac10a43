"""Payloads of unsealed rows: what payloads of one model have in common is stored once, as a shape.

A shape is the JSON text of a payload with a mark in the place of each value. A row holds the number
of its shape and the values: numbers, two characters in a byte, and strings. The text comes back
byte for byte. A payload of no known shape, or with a backslash, is stored as it is.

A shape holds no value, only names and brackets, so that nothing of an erased payload stays in it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from binascii import hexlify, unhexlify
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from mlplatform.runtime.errors import Corrupt

STEP: Final = (
    "CREATE TABLE IF NOT EXISTS payload_shapes (number INTEGER PRIMARY KEY,"
    " text TEXT NOT NULL UNIQUE) STRICT",
)
MOST_SHAPES: Final = 4_096
"""Most shapes of a log: more would be of payloads that have little in common."""
_MOST_CHARACTERS: Final = 16_384
_MOST_SEEN: Final = 1_024
_RECENT: Final = 8
_MOST_SKIPPED: Final = 255
_NUMBER, _STRING = "\x01", "\x02"
_MARKS: Final = re.compile(f'{_NUMBER}|"{_STRING}"')
_VALUES: Final = re.compile("-?[0-9][0-9.e-]*+|null|true|false")
_LETTERS: Final = {"n": "null", "e": "true", "-e": "false"}
"""What is left of a word: the other letters are dropped, and `a` becomes a sign."""
_CHARACTERS: Final = b"0123456789.-en,;"
"""The characters of packed values; the last one fills a byte."""
_PACKING: Final = bytes.maketrans(_CHARACTERS + b"a", b"0123456789abcdef" + b"b")
_UNPACKING: Final = bytes.maketrans(b"0123456789abcdef", _CHARACTERS)
_EMPTY: Final = (b"[]", b"<>")
_OF_VALUES: Final = b"0123456789.-enultrfas"
_DROPPED: Final = bytes(one for one in range(256) if one not in b"0123456789.-en,a")


PackedPayload = tuple[int | None, bytes | None, str | None]
"""A payload as a row holds it: the number of its shape, its numbers, and its strings, one a line.
Without a shape the last one is the whole text; it is None if the payload was removed."""


class Shape:
    """The common part of payloads.

    Args:
        number: its number in the log.
        text: JSON with marks.
    """

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        pieces = text.split('"')
        self._length = len(pieces)
        names = pieces[1::2]
        self._string_places = [place for place, one in enumerate(names) if one == _STRING]
        self._names = ["" if one == _STRING else one for one in names]
        between = '"'.join(pieces[0::2])
        self._brackets = between.encode().replace(*_EMPTY).replace(_NUMBER.encode(), b"")
        slots = between.split(",")
        self._slots = len(slots)
        self._number_slots = [place for place, one in enumerate(slots) if _NUMBER in one]
        marks = _MARKS.findall(text)
        numbers, strings = iter(range(len(marks))), iter(range(marks.count(_NUMBER), len(marks)))
        order = [next(numbers if mark == _NUMBER else strings) for mark in marks]
        self._in_order = itemgetter(*order, 0, 0)  # of at least two, it gives a tuple
        wanted = _MARKS.sub(lambda mark: "%s" if mark[0] == _NUMBER else '"%s"', _escaped(text))
        self._format = f"{wanted}%.0s%.0s"

    def pack(self, pieces: list[str]) -> PackedPayload | None:
        """A payload of this shape as a row holds it; None if it has another shape.

        Args:
            pieces: valid JSON without spaces and backslashes, split at its quotes.
        """
        if len(pieces) != self._length:
            return None
        names = pieces[1::2]
        strings = [names[place] for place in self._string_places]
        for place in self._string_places:
            names[place] = ""
        if names != self._names:
            return None
        # what is between names and strings: with a quote for each, and with empty lists apart from
        # lists of a number, it says where numbers are
        between = '"'.join(pieces[0::2]).encode().replace(*_EMPTY)
        if between.translate(None, _OF_VALUES) != self._brackets:
            return None
        digits = between.translate(_PACKING, _DROPPED)
        if len(digits) % 2:
            digits += b"f"
        return self.number, unhexlify(digits), "\n".join(strings)

    def unpack(self, numbers: bytes, strings: str) -> str:
        """The payload with these values.

        Raises:
            ValueError: it has not as many values.
        """
        written = hexlify(numbers).translate(_UNPACKING).decode()
        slots = written.removesuffix(";").split(",")
        if len(slots) != self._slots:
            raise ValueError(f"{len(slots)} values instead of {self._slots}")
        values = [slots[place] for place in self._number_slots]
        if "n" in written or "e" in written:
            values = [_LETTERS.get(one, one) for one in values]
        if self._string_places or strings:
            values += strings.split("\n")
        if len(values) != len(self._number_slots) + len(self._string_places):
            raise ValueError(f"{len(values)} values in a shape of fewer or more")
        text: str = self._format % self._in_order(values)
        return text


@dataclass(slots=True)
class _RecentShapes:
    """The shapes of similar records, the newest first.

    Args:
        skips: number of payloads of other shapes for which none is looked for.
        next_skips: what `skips` will be if none is found then.
    """

    shapes: list[Shape] = field(default_factory=list)
    skips: int = 0
    next_skips: int = 0


class PayloadPacker:
    """Packs payloads for one connection, and adds the shapes that come twice to the log.

    Args:
        db: a connection; calls are within its transactions.
        checks: whether each packed payload is unpacked and compared: it may be no valid JSON.
    """

    def __init__(self, db: sqlite3.Connection, *, checks: bool) -> None:
        self._db = db
        self._checks = checks
        self._shapes: dict[str, Shape] = {}
        self._recent: dict[int, _RecentShapes] = {}
        self._seen: set[int] = set()

    def pack(self, context: int, text: str) -> PackedPayload:
        """The payload as a row holds it.

        Args:
            context: number that similar records share.
        """
        recent = self._recent.get(context)
        if recent is None:
            recent = self._recent[context] = _RecentShapes()
        if "\\" in text:
            return None, None, text
        pieces = text.split('"')
        for shape in recent.shapes:
            packed = shape.pack(pieces)
            if packed is not None:
                return self._checked(shape, packed, text)
        if recent.skips:
            recent.skips -= 1
        else:
            found = self._shape_of(text)
            packed = None if found is None else found.pack(pieces)
            if found is not None and packed is not None:
                recent.next_skips = 0
                recent.shapes.insert(0, found)
                del recent.shapes[_RECENT:]
                return self._checked(found, packed, text)
            recent.skips = recent.next_skips
            recent.next_skips = min(2 * recent.next_skips + 1, _MOST_SKIPPED)
        return None, None, text

    def forget(self) -> None:
        """Forget all shapes: a transaction that may have added some has failed."""
        self._shapes.clear()
        self._recent.clear()

    def _checked(self, shape: Shape, packed: PackedPayload, text: str) -> PackedPayload:
        if self._checks:
            _, numbers, strings = packed
            with suppress(ValueError):
                if shape.unpack(numbers or b"", strings or "") == text:
                    return packed
            return None, None, text
        return packed

    def _shape_of(self, payload: str) -> Shape | None:
        if len(payload) > _MOST_CHARACTERS:
            return None
        text = with_marks(payload)
        shape = self._shapes.get(text)
        if shape is None:
            number = self._number_of(text)
            if number is not None:
                shape = self._shapes[text] = Shape(number, text)
        return shape

    def _number_of(self, text: str) -> int | None:
        find = "SELECT number FROM payload_shapes WHERE text = ?"
        row = self._db.execute(find, (text,)).fetchone()
        if row is not None:
            return int(row[0])
        if hash(text) not in self._seen:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(hash(text))
            return None
        (last,) = self._db.execute("SELECT max(number) FROM payload_shapes").fetchone()
        if (last or 0) >= MOST_SHAPES or not is_without_values(text):
            return None
        return self._db.execute("INSERT INTO payload_shapes (text) VALUES (?)", (text,)).lastrowid


class PayloadReader:
    """Reads packed payloads by one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._shapes: dict[int, Shape] = {}

    def text(self, packed: PackedPayload) -> str | None:
        """The payload's text; None if the payload was removed.

        Raises:
            Corrupt: the row, or its shape, is damaged.
        """
        number, numbers, payload = packed
        if number is None or payload is None:
            return payload
        try:
            shape = self._shapes.get(number)
            if shape is None:
                find = "SELECT text FROM payload_shapes WHERE number = ?"
                (text,) = self._db.execute(find, (number,)).fetchone()
                shape = self._shapes[number] = Shape(number, text)
            return shape.unpack(numbers or b"", payload)
        except (TypeError, ValueError) as error:  # no such shape, or not of these values
            problem = f"the payload of an unsealed record can't be read: {error}"
            raise Corrupt(f"{problem}; run `mlplatform log verify`") from error


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def with_marks(payload: str) -> str:
    """A payload with marks in the place of its values."""
    pieces = payload.split('"')
    pieces[0::2] = [_VALUES.sub(_NUMBER, one) for one in pieces[0::2]]
    for place in range(1, len(pieces) - 1, 2):
        if not pieces[place + 1].startswith(":"):
            pieces[place] = _STRING
    return '"'.join(pieces)


def is_without_values(text: str) -> bool:
    """Whether a text with marks is JSON without spaces, and each of its values is a mark."""
    if any(re.search(r"\s", piece) for piece in text.split('"')[0::2]):
        return False
    try:
        values = [*_values(json.loads(_MARKS.sub("0", text)))]
    except (ValueError, RecursionError):
        return False
    return bool(values) and values == [0] * len(_MARKS.findall(text))


def _values(parsed: Any) -> Iterator[Any]:
    if isinstance(parsed, dict | list):
        for one in parsed.values() if isinstance(parsed, dict) else parsed:
            yield from _values(one)
    else:
        yield parsed
