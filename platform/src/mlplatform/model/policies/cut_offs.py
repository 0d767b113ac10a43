"""The decision about a scored row, by the thresholds of the first segment in which the row lies."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.decision_checks import Problems, decision_problems
from mlplatform.model.policies.decision_scale import Decision, DecisionScale
from mlplatform.model.policies.segments import MOST_SEGMENTS
from mlplatform.model.tensors.categories import Vocabularies, places

NOWHERE: Final = -1
"""The place of a row that lies in no segment."""
_BEYOND_FLOAT32: Final = float(np.finfo(np.float32).max) + 2.0**103
"""The least float64 that becomes infinite as float32."""


class RowSegment(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Rows whose value of one input lies in [at_least, below), or is one of `values`. A missing
    value lies in no segment.

    Args:
        values: numbers, or words of a category.
    """

    name: str
    input: str
    at_least: float | None = None
    below: float | None = None
    values: tuple[float | str, ...] = ()


class SegmentThresholds(RowSegment, frozen=True):
    """A segment of a bundle, with its own thresholds in place of the bundle's.

    Args:
        rows, positives: held-out requests in the segment from which thresholds were found, and how
            many of them were known to be positive; 0 where model.yaml gives the scores.
    """

    thresholds: dict[str, float]
    rows: int = 0
    positives: int = 0


@dataclass(frozen=True, slots=True)
class RowThresholds:
    """The thresholds by which a row is decided.

    Args:
        begins: outcome → score or number from which on it is given, rising; the first has none.
        segment: the segment whose thresholds they are; None for those of all other rows.
    """

    begins: dict[str, float]
    segment: str | None

    def text(self, write: Callable[[float], str]) -> str:
        """Where each outcome begins: "high from 0.52, highest from 0.90"."""
        return ", ".join(f"{outcome} from {write(begin)}" for outcome, begin in self.begins.items())


NO_THRESHOLDS: Final = RowThresholds({}, None)


def segment_problems(
    segments: Sequence[SegmentThresholds],
    scale: DecisionScale,
    calibration: Calibration,
    names: Sequence[str],
    words: Vocabularies,
) -> Problems:
    """Problems of a bundle's segments.

    Args:
        names: names of the inputs that are one number or a category.
        words: the vocabularies of inputs that are categories.
    """
    own, key = [segment.name for segment in segments], "segment_thresholds"
    found = {
        f"{key} of classes": scale.by_class and bool(segments),
        f"{key} are more than {MOST_SEGMENTS}": len(segments) > MOST_SEGMENTS,
        f"{key} have a name twice": len(set(own)) != len(own),
    }
    for segment in segments:
        whose = f"{key}.{segment.name}"
        bounds = segment.at_least is not None or segment.below is not None
        found[f"{whose} is not of bounds or of values"] = bounds == bool(segment.values)
        found[f"{whose} is of no input that is a number or a category"] = segment.input not in names
        known = {*words[segment.input]} if segment.input in words else None
        found[f"{whose} has a value that its input can't have"] = (
            known is not None and (bounds or not set(segment.values) <= known)
        ) or (known is None and any(isinstance(value, str) for value in segment.values))
        found |= decision_problems(scale, calibration, segment.thresholds, f"{whose}.")
    return found


class RowSegments:
    """Segments bound to the positions of a bundle's inputs; of several that a row lies in, the
    first counts.

    A model reads float32, and so do the tables that it is trained and tested on. So both the bounds
    and the values count as the float32 next to them, wherever a row is float64.
    """

    __slots__ = ("bound",)

    def __init__(
        self, segments: Sequence[RowSegment], names: Sequence[str], words: Vocabularies
    ) -> None:
        """
        Args:
            names: names of the inputs, in the order of a row.
            words: the vocabularies of inputs that are categories.

        Raises:
            ValueError: an input or a word of a segment is not known.
        """
        if lacking := sorted({s.input for s in segments} - set(names)):
            raise ValueError(f"there is no input {', '.join(lacking)}")
        self.bound = tuple((names.index(s.input), _edges(s, words)) for s in segments)

    def place(self, row: Sequence[float]) -> int:
        """The place of the first segment in which a row lies; `NOWHERE` if there is none."""
        for place, (position, edges) in enumerate(self.bound):
            if bisect_right(edges, row[position]) & 1:
                return place
        return NOWHERE

    def places(self, x: NDArray[Any]) -> NDArray[np.int8]:
        """The places of the first segments in which rows [n, inputs] lie, in int8."""
        found = np.full(len(x), NOWHERE, np.int8)
        for place, (position, edges) in reversed([*enumerate(self.bound)]):
            inside = np.searchsorted(edges, x[:, position].astype(np.float64), side="right") & 1
            found[inside.astype(bool)] = place
        return found


NO_SEGMENTS: Final = RowSegments((), (), {})


class CutOffs:
    """The function from scores and rows to outcomes: each outcome begins at its own score and ends
    where the next begins. The row says in which segment, and so by which thresholds.

    Attributes:
        outcome: gives the outcome for one score and its row. It stands in the path of every
            request: a function with the table at hand takes two thirds of the time of a method that
            bisects it, as most scores are below the first of few thresholds.
        alerts: the outcomes that are alerts.
    """

    __slots__ = ("_begins", "_of_segments", "_scale", "_segments", "alerts", "outcome")

    def __init__(
        self,
        scale: DecisionScale,
        thresholds: Mapping[str, float],
        segments: RowSegments = NO_SEGMENTS,
        of_segments: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """
        Args:
            of_segments: thresholds of each of the segments.
        """
        first, rest = scale.names[0], scale.names[1:]
        begins, owns = scale.begins(thresholds), [scale.begins(own) for own in of_segments]
        others = tuple(zip(begins, rest, strict=True))
        table = tuple(
            (position, edges, tuple(zip(own, rest, strict=True)))
            for (position, edges), own in zip(segments.bound, owns, strict=True)
        )

        def outcome(score: float, row: Sequence[float]) -> Decision:
            found = first
            for begin, name in others:
                if score < begin:
                    return found
                found = name
            return found

        def outcome_by_segment(score: float, row: Sequence[float]) -> Decision:
            found, steps = first, others
            for position, edges, own in table:
                if bisect_right(edges, row[position]) & 1:
                    steps = own
                    break
            for begin, name in steps:
                if score < begin:
                    return found
                found = name
            return found

        self.outcome = outcome_by_segment if table else outcome
        self.alerts = frozenset(scale.alerts)
        self._scale, self._begins = scale, begins
        self._segments, self._of_segments = segments, owns

    def places(self, scores: NDArray[Any], x: NDArray[Any]) -> NDArray[np.int8]:
        """Outcomes as their places among the names, from 0, in int8.

        Args:
            x: the rows of the scores, [n, inputs].
        """
        found = _places(scores, self._begins)
        if self._of_segments:
            of_rows = self._segments.places(x)
            for place, begins in enumerate(self._of_segments):
                inside = of_rows == place
                found[inside] = _places(scores[inside], begins)
        return found

    def alerting(self, scores: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Whether each score of a row gets an alert."""
        return self._scale.alerting(self.places(scores, x))

    def certainty(self, scores: NDArray[Any]) -> NDArray[Any]:
        """The score of each row that records keep: the score itself."""
        return scores


def _places(scores: NDArray[Any], begins: Sequence[float]) -> NDArray[np.int8]:
    places = np.zeros(np.shape(scores), np.int8)
    for begin in begins:
        places += scores >= begin
    return places


def _edges(segment: RowSegment, vocabularies: Vocabularies) -> tuple[float, ...]:
    """Rising numbers, between every other two of which the segment's values lie.

    Raises:
        ValueError: a word is not known.
    """
    if not segment.values:
        low = -math.inf if segment.at_least is None else segment.at_least
        high = math.inf if segment.below is None else segment.below
        return _float32_edge(low), _float32_edge(high)
    known = places(vocabularies.get(segment.input, ()))
    if unknown := [v for v in segment.values if isinstance(v, str) and v not in known]:
        raise ValueError(f"the vocabulary of {segment.input} lacks {unknown[0]!r}")
    numbers = {np.float32(known[v] if isinstance(v, str) else v) for v in segment.values}
    edges: list[float] = []
    for number in sorted(numbers):
        with np.errstate(over="ignore"):
            after = np.nextafter(number, np.float32(math.inf))
        low, high = _float32_edge(number), _float32_edge(after)
        if edges and edges[-1] == low:
            edges[-1] = high
        else:
            edges += [low, high]
    return tuple(edges)


def _float32_edge(bound: float | np.float32) -> float:
    """The least float64 that as float32 is the bound's own float32, or more."""
    with np.errstate(over="ignore"):
        least = np.float32(bound)
    if math.isinf(least):
        return _BEYOND_FLOAT32 if least > 0 else -math.inf
    before = float(np.nextafter(least, np.float32(-math.inf)))
    if math.isinf(before):
        return math.nextafter(-_BEYOND_FLOAT32, 0.0)
    middle = (before + float(least)) / 2
    return middle if np.float32(middle) >= least else math.nextafter(middle, math.inf)
