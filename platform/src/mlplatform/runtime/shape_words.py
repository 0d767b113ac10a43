"""The required shape of a value in words: msgspec's messages without the names of its types."""

from __future__ import annotations

import re
from typing import Final

_KINDS: Final = {
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object with keys",
    "null": "null",
}
_FORM: Final = re.compile(r" matching regex '(.*)'$")
_ENDS: Final = re.compile(r"\\[AZ]")
_TOO_LARGE: Final = "Number out of range"
_KIND: Final = re.compile(rf"`({'|'.join(_KINDS)})`")
_BOUNDS: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r" of length >= (\S+)", r" of length \1 or more"),
        (r" of length <= (\S+)", r" of length \1 at most"),
        (r" >= (\S+)", r" of \1 or more"),
        (r" <= (\S+)", r" of \1 at most"),
        (r" > (\S+)", r" of more than \1"),
        (r" < (\S+)", r" of less than \1"),
        (r"(?<=\d)\.0\b", ""),
        (r", got ", ", not "),
        (r" \| ", " or "),
    )
)


def in_words(message: str) -> str:
    """A message of msgspec about a value, without "Expected": "a number of 0 or more".

    Source: msgspec, `ValidationError`: "Expected `TYPE` BOUND, got `TYPE`".
    """
    if message == _TOO_LARGE:
        return "a number that float64 holds"
    text = message.removeprefix("Expected ")
    for pattern, words in _BOUNDS:
        text = pattern.sub(words, text)
    text = _FORM.sub(lambda found: f" of the form {_pattern(found[1])}", text)
    text = _KIND.sub(lambda found: _KINDS[found[1]], text)
    return text.replace("a whole number, not a number", "a whole number, without a fraction")


def _pattern(shown: str) -> str:
    """A regular expression from msgspec's text of it, which doubles backslashes, without its
    ends."""
    return _ENDS.sub("", shown.replace("\\\\", "\\"))
