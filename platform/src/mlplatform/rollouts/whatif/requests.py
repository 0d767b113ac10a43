"""Requests that two bundles have decided, as arrays: all that a what-if is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mlplatform.learning.validation.replay_result import ReplayResult

UNKNOWN, NEGATIVE, POSITIVE = -1, 0, 1
UNKNOWN_WORD: Final = "(unknown)"
OTHER_WORDS: Final = "(other words)"
MOST_WORDS: Final = 50
"""Most words of a category that have a band of their own; these are the words with the most
requests."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeLabels:
    """Labels of requests that are positive or negative; one element each.

    Args:
        outcome: POSITIVE or NEGATIVE if it is known, else UNKNOWN.
        hidden: flags of the UNKNOWN requests whose decision hid their outcome; nobody can report
            them.
        capacity: share (0-1) of requests that people can look at.
    """

    outcome: Codes
    hidden: Flags
    capacity: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassLabels:
    """Requests whose class is known, with the probabilities of both bundles.

    Args:
        rows: positions of these requests among all requests. If there are very many, a share of the
            customers stands for all.
        place: position of the right class among the model's classes.
        reference, candidate: probabilities of each bundle [rows, classes].
        labelled: number of all requests whose class is known.
        immature: number of requests that may still get a label.
        unlabelled: number of requests that got no label in time.
    """

    rows: Integers
    place: Integers
    reference: Floats
    candidate: Floats
    labelled: int
    immature: int
    unlabelled: int


@dataclass(frozen=True, slots=True, eq=False)
class NumberLabels:
    """The number that each request turned out to have; NaN where it is not known.

    Args:
        immature, unlabelled: as in `ClassLabels`.
        quantile: quantile (0-1) of the labels at which the quantile loss is measured.
    """

    number: Floats
    immature: int
    unlabelled: int
    quantile: float


Labels = OutcomeLabels | ClassLabels | NumberLabels
"""The labels of requests, one type for each task of a model."""


@dataclass(frozen=True, slots=True, eq=False)
class InputBands:
    """The band of one input that each request lies in.

    Args:
        codes: number of the band of each request; -1 if the value is missing.
        edges: upper ends of all bands but the last, for a number.
        words: names of the bands, for a category; None for a number.
    """

    codes: Integers
    edges: Sequence[float] = ()
    words: Sequence[str] | None = None

    @property
    def count(self) -> int:
        """How many bands there are, beside that of missing values."""
        return len(self.edges) + 1 if self.words is None else len(self.words)


def word_bands(places: Integers, words: Sequence[str], most: int = MOST_WORDS) -> InputBands:
    """The bands of a category: unknown values, the words with the most requests, all others.

    Args:
        places: codes of the words as in `model.tensors.categories.indices`: 0 is missing, 1 is
            unknown.
        most: largest number of words with a band of their own.
    """
    names = (UNKNOWN_WORD, *words)
    if len(words) <= most:
        return InputBands(places - 1, words=names)
    counts = np.bincount(places, minlength=len(words) + 2)[2:]
    own = np.sort(np.argsort(-counts, kind="stable")[:most])
    codes = np.full(len(words) + 2, most + 1, np.int64)
    codes[:2] = -1, 0
    codes[own + 2] = np.arange(1, most + 1)
    return InputBands(codes[places], words=(*names[:1], *(words[i] for i in own), OTHER_WORDS))


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Requests that both bundles have decided; one array element per request.

    Args:
        reference, candidate: results of each bundle. Scores are calibrated (0-1); with classes,
            that of the decided class. Models of numbers have their numbers there.
        bands: name of an input → bands of the requests.
        tops: for classes, the most probable ones of each bundle [n, classes], as positions among
            the reference's classes, in the same order in each row. None for other models.
    """

    event_ms: Integers
    unit: Integers
    reference: ReplayResult
    candidate: ReplayResult
    labels: Labels
    bands: Mapping[str, InputBands]
    tops: tuple[Codes, Codes] | None = None

    def __len__(self) -> int:
        return len(self.unit)
