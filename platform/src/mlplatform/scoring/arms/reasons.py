"""The inputs that drove an alert, by their contributions to the score of its bundle.

TreeSHAP is a graph of the bundle, which ONNX Runtime runs on a thread beside the event loop. It is
one call that holds no interpreter lock, so that other requests wait only for the core.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mlplatform.model.bundle import CONTRIBUTIONS_NAME, EXPLAINER_FILE, INPUT_NAME, Bundle
from mlplatform.model.definition import REMAINDER
from mlplatform.model.rules import Reason
from mlplatform.model.tensors.categories import word_of
from mlplatform.model.tensors.remainders import COLUMNS, joined_number
from mlplatform.model.tensors.tokens import words_of
from mlplatform.model.tensors.vectors import length_of, spans, vector_text

MOST = 3
MOST_WAITING = 16
"""Most explanations under way for one arm; at milliseconds each, more would miss their deadline."""

Row = Sequence[float]
Contributions = Callable[[Row, float], list[float]]
"""Function from a row and its raw score to the contribution of each input, a vector being one."""


class NotExplained(Exception):
    """A score has no contributions; `reason` goes into the record."""

    def __init__(
        self, reason: Literal["deadline", "queue_full", "not_additive", "invalid_output"]
    ) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Driver:
    """A reason with the contribution of its inputs, and those of them that raise the score,
    strongest first; a vector is named by its first number."""

    reason: Reason
    contribution: float
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReasonInputs:
    """A reason with the inputs that count for it, in the order of the inputs.

    Args:
        places: position of each of them among the contributions of a row.
    """

    reason: Reason
    names: tuple[str, ...]
    places: tuple[int, ...]


def reason_inputs(bundle: Bundle) -> tuple[ReasonInputs, ...]:
    """The reasons of a bundle, one for each code, in the order of their first inputs."""
    names: Sequence[str] = bundle.input_names
    if vectors := vector_places(bundle):
        names = [names[places.start] for places in vectors]
    by_code: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_code.setdefault(bundle.reasons[name].code, []).append(place)
    return tuple(
        ReasonInputs(
            bundle.reasons[names[places[0]]], tuple(names[p] for p in places), tuple(places)
        )
        for places in by_code.values()
    )


def drivers(bundle: Bundle, contributions: Sequence[float], count: int = MOST) -> list[Driver]:
    """The reasons that raised the score most, strongest first; inputs with one reason code count as
    one.

    Args:
        contributions: the contribution of each input, in the order of the inputs; a vector's is
            one.
        count: largest number of reasons.
    """
    reasons = reason_inputs(bundle)
    return [
        _driver(one, total, contributions) for one, total in _raising(reasons, contributions, count)
    ]


def codes(
    reasons: Sequence[ReasonInputs], contributions: Sequence[float], count: int = MOST
) -> list[str]:
    """The codes of `drivers`, for callers with many rows of one bundle.

    Args:
        reasons: the `reason_inputs` of the bundle.
    """
    return [one.reason.code for one, _ in _raising(reasons, contributions, count)]


def _raising(
    reasons: Sequence[ReasonInputs], contributions: Sequence[float], count: int
) -> list[tuple[ReasonInputs, float]]:
    """The strongest reasons of those that raise the score, with the sum of their contributions."""
    totals = [math.fsum([contributions[place] for place in one.places]) for one in reasons]
    order = sorted(range(len(totals)), key=totals.__getitem__, reverse=True)  # keeps ties in order
    return [(reasons[place], totals[place]) for place in order[:count] if totals[place] > 0]


def _driver(one: ReasonInputs, total: float, contributions: Sequence[float]) -> Driver:
    parts = [(contributions[p], n) for n, p in zip(one.names, one.places, strict=True)]
    raising = sorted((part for part in parts if part[0] > 0), key=lambda part: -part[0])
    return Driver(one.reason, total, tuple(name for _, name in raising))


def tree_shap(bundle: Bundle, folder: Path) -> Contributions | None:
    """The TreeSHAP of the bundle in a folder; None if it explains by reference values. Shares of a
    vector's numbers are one.

    Raises:
        Corrupt: ONNX Runtime does not accept the graph.
    """
    if EXPLAINER_FILE not in bundle.files:
        return None

    from mlplatform.scoring.predictor.model import RuntimeFailure, session  # imports ONNX Runtime

    run = session(folder / EXPLAINER_FILE).run
    attribution, vectors = bundle.attribution, vector_places(bundle)

    def contributions(row: Row, raw: float) -> list[float]:
        try:
            (shares,) = run([CONTRIBUTIONS_NAME], {INPUT_NAME: np.array([row], np.float32)})
        except RuntimeFailure as error:
            raise NotExplained("invalid_output") from error
        values: list[float] = shares.astype(np.float64).tolist()
        if not attribution.adds_up(values, raw):
            raise NotExplained("not_additive")
        return [math.fsum(values[at]) for at in vectors] if vectors else values

    return contributions


class Explainer:
    """Computes contributions on a thread of its own, within a deadline."""

    def __init__(self, contributions: Contributions) -> None:
        self._contributions = contributions
        self._thread = ThreadPoolExecutor(1, "reasons")
        self._waiting = 0

    async def explain(self, row: Row, raw: float, until_s: float) -> list[float]:
        """The contribution of each input to a raw score.

        Raises:
            NotExplained: the deadline has passed, too many explanations run at once, or the shares
                do not add up to the score.
        """
        if self._waiting >= MOST_WAITING:
            raise NotExplained("queue_full")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            # A call whose time is over while it waits is cancelled, and never runs.
            async with asyncio.timeout(until_s - time.monotonic()):
                return await loop.run_in_executor(self._thread, self._contributions, row, raw)
        except TimeoutError as error:
            raise NotExplained("deadline") from error
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False)


def explainer(bundle: Bundle, folder: Path) -> Explainer | None:
    """The explainer of a bundle's scores; None if its predictor is asked again instead."""
    contributions = tree_shap(bundle, folder)
    return None if contributions is None else Explainer(contributions)


def ordinary_row(bundle: Bundle) -> tuple[float, ...]:
    """The reference value of each input, in order; NaN where missing is ordinary."""
    values = (bundle.reference[name] for name in bundle.input_names)
    return tuple(math.nan if value is None else value for value in values)


def vector_places(bundle: Bundle) -> tuple[slice, ...]:
    """The places of each input in a row, with a vector as one, and a number with its remainders;
    empty for a bundle each of whose inputs has one place."""
    if not any(spec.kind in ("vector", REMAINDER) for spec in bundle.inputs):
        return ()
    return tuple(places for _, places in spans(bundle.input_names))


class ReadableInput(NamedTuple):
    """An input as people see it: a category by its word, a vector by its length and norm. What is
    missing is None."""

    name: str
    reason: Reason
    value: float | str | None
    ordinary: float | str | None


def readable_inputs(bundle: Bundle, row: Row) -> dict[str, ReadableInput]:
    """Input, or the first number of a vector → how it is shown, in the order of the inputs."""
    names, usual = bundle.input_names, ordinary_row(bundle)

    def text(values: Row, at: slice) -> float | str | None:
        if length_of(names[at.start]):
            return vector_text(values[at])
        if at.stop - at.start == COLUMNS:
            return joined_number(values[at])
        value = None if math.isnan(values[at.start]) else values[at.start]
        words = words_of(names[at.start], bundle.vocabularies)
        return value if words is None else word_of(value, words)

    return {
        names[at.start]: ReadableInput(
            name, bundle.reasons[names[at.start]], text(row, at), text(usual, at)
        )
        for name, at in spans(names)
    }


def without_each(
    row: Sequence[float], reference: Sequence[float], vectors: Sequence[slice] = ()
) -> list[list[float]]:
    """Copies of a row, each with one input at its reference value. Their scores show each input's
    effect.

    Args:
        vectors: the `vector_places` of the bundle: a vector is at its reference values as a whole.
    """
    if vectors:
        return [[*row[: at.start], *reference[at], *row[at.stop :]] for at in vectors]
    copies = [list(row) for _ in row]
    for position, value in enumerate(reference):
        copies[position][position] = value
    return copies
