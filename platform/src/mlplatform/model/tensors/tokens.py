"""A text as the places of its tokens: the same in training, in serving and over the log.

A text has a declared number of places in a row, one for each of its first tokens. A token is a run
of words, or of characters, of the text in one form: NFKC, case folded, with letters, digits and
their marks alone. Its place is that of its word in a vocabulary, 1 where that one lacks it; places
that no token takes are missing values, NaN in a row of numbers and 0 where a tensor holds integers.
A text of any length and content takes a bounded time, and only tokens leave this module.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlplatform.model.tensors.categories import (
    FIRST,
    MISSING,
    MOST_CHARACTERS,
    MOST_WORDS,
    UNKNOWN,
    Vocabularies,
    encoded,
)
from mlplatform.runtime.text import BLANK

if TYPE_CHECKING:
    import pyarrow as pa  # a gateway starts without pyarrow

MOST_READ: Final = 1024
"""Most characters of a text that are read, as sent and in each form on the way. A longer text is
none that a request may hold, and NFKC makes 18 characters of some single ones."""
MOST_OF_A_TOKEN: Final = 64
"""Most characters of a token that is learned."""
LEAST_ROWS: Final = 5
"""Least number of rows in which a token must occur to be learned: a token of a single customer's
texts would reveal the customer."""
MOST_TOKENS: Final = 200_000
"""Most tokens that rows know between bundles, the most frequent ones; each bundle has fewer."""

_ASCII: Final = re.compile("[a-z0-9]+")
_MARKS: Final = frozenset(("Mn", "Mc", "Me"))
_COLUMN: Final = re.compile(r"(.+)\.[wc][1-5]\.([1-9][0-9]?)")


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rules by which a text becomes tokens.

    Args:
        of: the parts of a text that make a token.
        length: number of tokens that are read; a longer text is cut.
        grams: number of words or characters in one token; tokens overlap.
        vocabulary: largest number of tokens that are learned.
    """

    of: Literal["words", "characters"]
    length: Annotated[int, Meta(ge=1, le=64)]
    grams: Annotated[int, Meta(ge=1, le=5)] = 1
    vocabulary: Annotated[int, Meta(ge=1, le=MOST_WORDS)] = 2000


class Tokenizer:
    """The places of a text's tokens, by the words of a bundle."""

    def __init__(self, tokens: Tokens, words: Sequence[str]) -> None:
        self._tokens = tokens
        self._known = {word: float(number) for number, word in enumerate(words, FIRST)}
        self._padding = [[MISSING] * count for count in range(tokens.length + 1)]

    def places(self, text: object) -> list[float]:
        """One place for each token that is read of the text, then NaN up to `length` values; a
        value that is no text has no tokens."""
        known = self._known
        found = [known.get(token, UNKNOWN) for token in tokens_of(text, self._tokens)]
        return found + self._padding[self._tokens.length - len(found)]

    def column(self, values: pa.ChunkedArray[Any]) -> NDArray[np.float64]:
        """The places of each text of a column, [rows, length]."""
        texts, indices = encoded(values)
        of_texts = np.array([self.places(text) for text in (None, *texts)])
        return of_texts[indices + 1]


def tokens_of(text: object, tokens: Tokens) -> list[str]:
    """The first tokens of a text, in order; a text with fewer parts than one token holds is one
    token."""
    if not isinstance(text, str):
        return []
    words = split(text)
    if tokens.of == "words":
        parts: Sequence[str] = words
        between = " "
    else:
        parts, between = " ".join(words), ""
    if not parts:
        return []
    size = tokens.grams
    if size == 1:
        return list(parts[: tokens.length])
    count = min(max(1, len(parts) - size + 1), tokens.length)
    return [between.join(parts[start : start + size]) for start in range(count)]


def split(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and their marks, NFKC and case folded.

    Invisible characters part no word. All that depends on the version of Unicode
    (`unicodedata.unidata_version`) are characters that the older one does not have.

    Source: Unicode Standard 3.13, Default Caseless Matching; UAX #15, Normalization Forms.
    """
    text = text[:MOST_READ]
    if text.isascii():
        return _ASCII.findall(text.lower())
    folded = unicodedata.normalize("NFKC", text)[:MOST_READ].casefold()
    normal = unicodedata.normalize("NFKC", folded)[:MOST_READ]
    # a mark may now stand beside its letter, because an invisible character between them was
    # removed
    return unicodedata.normalize(
        "NFKC", "".join(map(_token_character, BLANK.sub("", normal)))
    ).split()


def _token_character(character: str) -> str:
    if character.isalnum():
        return character
    category = unicodedata.category(character)
    if category in _MARKS:
        return character
    return "" if category == "Cf" else " "


def learned_tokens(
    values: pa.ChunkedArray[Any], tokens: Tokens, *, most: int, least_rows: int = LEAST_ROWS
) -> tuple[str, ...]:
    """The tokens that occur in the most texts of a column, most frequent first and among equals in
    their order."""
    texts, indices = encoded(values)
    counts = np.bincount(indices + 1, minlength=len(texts) + 1)[1:]
    found: Counter[str] = Counter()
    for text, count in zip(texts, counts.tolist(), strict=True):
        for token in set(tokens_of(text, tokens)):
            found[token] += count
    known = (t for t, rows in found.items() if rows >= least_rows and len(t) <= MOST_OF_A_TOKEN)
    return tuple(sorted(known, key=lambda token: (-found[token], token))[:most])


def token_problems(vocabularies: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Text input and the problem of its tokens."""
    for name, words in vocabularies.items():
        if len(words) > MOST_WORDS:
            yield name, f"{len(words)} tokens; the limit is {MOST_WORDS}"
        elif len(set(words)) != len(words):
            yield name, "a token stands there twice"
        elif strange := [word for word in words if not _is_token(word)]:
            yield name, f"{strange[0][:40]!a} is not a token of a text"
    if sum(len(word) for words in vocabularies.values() for word in words) > MOST_CHARACTERS:
        yield "all", f"the tokens have more than {MOST_CHARACTERS} characters together"


def _is_token(word: str) -> bool:
    """Whether a word is made of words as `split` gives them, with one space between two; a token of
    characters may begin or end with a space."""
    return 0 < len(word) <= MOST_OF_A_TOKEN and (
        word == " " or " ".join(split(word)) == word.removeprefix(" ").removesuffix(" ")
    )


def column_name(text: str, tokens: Tokens, number: int) -> str:
    """The name of an input that holds one place of a text, numbered from 1. Other token rules give
    another name, so that bundles which read one text in two ways share no column."""
    return f"{text}.{tokens.of[0]}{tokens.grams}.{number}"


def text_of(column: str) -> str | None:
    """The text of whose tokens an input holds a place, by the input's name; None for another
    input."""
    found = _COLUMN.fullmatch(column)
    return None if found is None else found[1]


def number_of(column: str) -> int:
    """The number of the place that an input holds, from 1."""
    found = _COLUMN.fullmatch(column)
    if found is None:
        raise ValueError(f"{column} is not a place of a text")
    return int(found[2])


def words_of(column: str, vocabularies: Vocabularies) -> Sequence[str] | None:
    """The words whose places are an input's values; None for a number."""
    found = vocabularies.get(column)
    return found if found is not None else vocabularies.get(text_of(column) or "")
