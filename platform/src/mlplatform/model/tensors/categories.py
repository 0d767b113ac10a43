"""A text as its place in a vocabulary: the same in training, in serving and over the log.

Place 1 is that of every value that the vocabulary lacks, its words have 2 and up. A missing value
is NaN in a row of numbers, and place 0 where a tensor holds integers. A text from outside is known
by the form in which text is kept (NFKC, no white space around it); what may not be kept (controls,
invisible characters, a word of two scripts) is unknown, and never becomes a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.text import cleaned

if TYPE_CHECKING:  # what serves starts without pyarrow
    import pyarrow as pa

Vocabularies = Mapping[str, Sequence[str]]
"""Input → its words in the order of their places."""
Places = Mapping[str | None, float]

MISSING: Final = math.nan
UNKNOWN: Final = 1.0
FIRST: Final = 2
MOST_WORDS: Final = 10_000
MOST_CHARACTERS: Final = 1_000_000
"""Most characters of all words of a bundle together."""
MOST_OF_A_WORD: Final = 1024


def places(words: Sequence[str]) -> Places:
    """The place of each word, and of None, which is a missing value."""
    known: dict[str | None, float] = {None: MISSING, "": MISSING}
    known.update((word, float(number)) for number, word in enumerate(words, FIRST))
    return known


def place(text: str | None, known: Places) -> float:
    """The place of one text."""
    found = known.get(text)
    return _unseen(text, known) if found is None else found


def column_places(values: pa.ChunkedArray[Any], known: Places) -> NDArray[np.float64]:
    """The place of each text of a column."""
    texts, indices = encoded(values)
    of_texts = np.array([MISSING, *(place(text, known) for text in texts)])
    return of_texts[indices + 1]


def frequent_words(values: pa.ChunkedArray[Any], most: int) -> tuple[str, ...]:
    """The most frequent texts of a column, most frequent first and among equals in their order;
    texts that may not be kept are left out."""
    texts, indices = encoded(values)
    counts = np.bincount(indices + 1, minlength=len(texts) + 1)[1:]
    found: dict[str, int] = {}
    for text, count in zip(texts, counts.tolist(), strict=True):
        if word := word_form(text):
            found[word] = found.get(word, 0) + count
    order = sorted(found, key=lambda word: (-found[word], word))
    return tuple(order[:most])


def joined(first: Iterable[str], *others: Iterable[str], most: int) -> tuple[str, ...]:
    """The words of several vocabularies, each once, with those of the first in front."""
    return tuple(dict.fromkeys(word for words in (first, *others) for word in words))[:most]


def translated(
    values: NDArray[np.float32], words: Sequence[str], wanted: Sequence[str]
) -> NDArray[np.float32]:
    """Places of one vocabulary as places of another, which may know other words."""
    known = places(wanted)
    table = np.array([np.nan, UNKNOWN, *(known.get(w, UNKNOWN) for w in words)], np.float32)
    return table[indices(values, len(words))]


def indices(values: NDArray[np.floating[Any]], words: int) -> NDArray[np.int64]:
    """Places as integers, 0 for missing; a value that is no place of `words` words becomes that of
    unknown values."""
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):
        right = (values >= 1) & (values < FIRST + words) & (values == np.floor(values))
    whole = np.where(right, values, UNKNOWN).astype(np.int64)
    return np.where(missing, 0, whole)


def word_of(value: float | None, words: Sequence[str]) -> str | None:
    """The word at a place, for a reader; None for a missing value."""
    if value is None or math.isnan(value):
        return None
    number = int(indices(np.array([value]), len(words))[0])
    return words[number - FIRST] if number >= FIRST else "(unknown)"


def vocabulary_problems(vocabularies: Vocabularies) -> Iterator[tuple[str, str]]:
    """Input and the problem of its words."""
    for name, words in vocabularies.items():
        if len(words) > MOST_WORDS:
            yield name, f"{len(words)} words; the limit is {MOST_WORDS}"
        elif len(set(words)) != len(words):
            yield name, "a word stands there twice"
        elif strange := [word for word in words if word_form(word) != word]:
            yield name, f"{strange[0][:40]!a} is not a text in the form in which it is kept"
    if sum(len(word) for words in vocabularies.values() for word in words) > MOST_CHARACTERS:
        yield "all", f"the words have more than {MOST_CHARACTERS} characters together"


def word_form(text: str) -> str | None:
    """The form in which a text is a word; None if it can't be one."""
    if not text or len(text) > MOST_OF_A_WORD:
        return None
    try:
        return cleaned("word", text) or None
    except InputInvalid:
        return None


def _unseen(text: str | None, known: Places) -> float:
    if not isinstance(text, str):
        return UNKNOWN
    if not text.strip():
        return MISSING
    return known.get(word_form(text) or text, UNKNOWN)


def encoded(values: pa.ChunkedArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """A column's distinct texts, and for each value the index of its text, -1 for none."""
    import pyarrow as pa

    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    texts: list[Any] = encoded.dictionary.to_pylist()
    return texts, numbers
