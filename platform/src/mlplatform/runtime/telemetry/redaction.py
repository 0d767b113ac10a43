"""Removal of personal values from log text: those of the fields that model.yaml declares.

Lines, spans and metrics are made from lists of names without such fields. What is left is text that
other code wrote, above all the text of an exception. In it, values are removed by the name before
them and, if the request is at hand, by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from mlplatform.runtime.canonical import NOT_JSON

REDACTED: Final = "[redacted]"
LEAST_CHARS: Final = 3
"""Least characters of a value that is removed; a shorter one occurs in too many words and numbers
that tell nothing."""
MAX_VALUES: Final = 500


class FieldPolicy:
    """Removes the values of fields from text.

    Args:
        names: names of the fields; in a text they appear as `name=value`, `"name": value` or
            `'name': value`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: frozenset[str] = frozenset()
        self._named: re.Pattern[str] | None = None
        self.cover(names)

    def cover(self, names: Iterable[str]) -> None:
        """Remove the values of these fields too, from now on; no field is ever uncovered."""
        known = self._names.union(names)
        if known == self._names:
            return
        alternatives = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
        self._named = re.compile(
            rf"(?<![\w-])((['\"]?)(?:{alternatives})\2\s*[:=]\s*)"
            r"(\"[^\"\n]*\"|'[^'\n]*'|[^\s,;)}\]]+)"
        )
        self._names = known

    def applied(self, text: str, sent: bytes = b"") -> str:
        """The text without the values.

        Args:
            sent: body of the present request, in any form; its values are removed too.
        """
        if self._named is not None:
            text = self._named.sub(rf"\1{REDACTED}", text)
        found = {v for v in _values(sent) if len(v) >= LEAST_CHARS and v in text}
        values = sorted(found, key=len, reverse=True)
        if len(values) > MAX_VALUES:
            return REDACTED
        if values:
            alternatives = "|".join(map(re.escape, values))
            text = re.sub(rf"(?<![\w.])(?:{alternatives})(?![\w.])", REDACTED, text)
        return text


def _values(sent: bytes) -> Iterator[str]:
    """The scalars in a JSON body, in each form in which a program may print them."""
    if not sent:
        return
    try:
        yield from _scalars(msgspec.json.decode(sent))
    except NOT_JSON:  # no program has read values in it, only its text
        yield from re.findall(r"[\w.@-]+", sent.decode("utf-8", "replace"))


def _scalars(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(inner)
    elif isinstance(value, float):
        yield repr(value)
        if value.is_integer():
            yield str(int(value))
    elif not isinstance(value, bool) and value is not None:
        yield str(value)
