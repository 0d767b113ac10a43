"""Segments and protected groups: requests with one value in common, judged by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

MOST_SEGMENTS = 16
"""Most segments. Each takes a part of the share of false alarms, and so power from all others."""

MOST_GROUPS = 50
"""Most groups of a protected attribute, because all comparisons share one error."""

Flags = npt.NDArray[np.bool_]
SegmentName = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]


class SegmentLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits of one segment, as in `rollout.stop` or in a step, for its requests only.

    Args:
        alerts: how many alerts more or fewer than predicted, as a share of the predicted number.
        disagreement: share of the requests with an alert that the arms decide differently, minus
            the predicted share.
    """

    alerts: Annotated[float, Meta(gt=0)]
    disagreement: Annotated[float, Meta(gt=0)]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests whose value of an input, or of a request field, lies in [at_least, below), or is
    one of `values`. A missing value lies in no segment.

    Args:
        name: name of the segment, which no other segment has.
        input: name of an input; either this or `field` is given.
        field: name of a request field; either this or `input` is given. An input reads it as it
            is, or it is protected.
        at_least: least value in the segment; None: no least one.
        below: value below which the segment ends; None: no end.
        values: the values in the segment, in place of bounds; texts for a field of type string.
    """

    name: SegmentName
    input: str | None = None
    field: str | None = None
    at_least: float | None = None
    below: float | None = None
    values: Annotated[tuple[bool | float | str, ...], Meta(max_length=1000)] = ()


class RolloutSegment(Segment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A segment that a rollout judges by itself.

    Args:
        required: whether shadow must show the segment's tolerances before a challenger goes on. If
            not, proven harm still stops the challenger, and what is not shown is only reported.
            That is for segments too small to show anything.
    """

    required: bool = True


class SegmentPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Segments that a rollout judges by themselves.

    Args:
        stop: limits of harm; a challenger with more harm than this, proven in one segment, is
            stopped. They are wider than for all requests, because a segment holds few alerts.
        tolerance: a segment is healthy once larger harm than this is ruled out.
        groups: the segments.
    """

    stop: SegmentLimits
    tolerance: SegmentLimits
    groups: Annotated[tuple[RolloutSegment, ...], Meta(min_length=1, max_length=MOST_SEGMENTS)]


class ValidatedSegment(Segment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A segment of the held-out requests.

    Args:
        required: whether the segment must show that it loses no more than is tolerated. If not, a
            proven loss still refuses the candidate, and what is not shown is only reported.
    """

    required: bool = True

    def holds(self, values: Sequence[Any] | npt.NDArray[Any]) -> Flags:
        """Whether each value lies in the segment; None and NaN do not."""
        source = SegmentSource(self.name, "", None, None, self.at_least, self.below, self.values)
        return source.holds(values)


class SegmentGates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Segments of the held-out requests in which a candidate is compared with the champion.

    Args:
        average_precision_drop: largest tolerated loss against the champion in each segment. It is
            wider than for all requests, because a segment holds few positives.
        groups: the segments; a request may be in several.
    """

    average_precision_drop: Annotated[float, Meta(ge=0, le=1)]
    groups: Annotated[tuple[ValidatedSegment, ...], Meta(min_length=1, max_length=MOST_SEGMENTS)]


class ClassSegmentGates(SegmentGates, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Segments of the held-out requests in which a candidate of classes is compared.

    Args:
        accuracy_drop: largest tolerated loss of accuracy against the champion in each segment. It
            is wider than for all requests, because a segment holds fewer.
    """

    accuracy_drop: Annotated[float, Meta(ge=0, le=1)]
    average_precision_drop: Annotated[float, Meta(ge=0, le=1)] = 1.0


class NumberSegmentGates(SegmentGates, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Segments of the held-out requests in which a candidate of numbers is compared.

    Args:
        mae_rise: largest tolerated rise of the mean absolute error in each segment, as a share of
            the champion's there. It is wider than for all requests, because a segment holds fewer.
    """

    mae_rise: Annotated[float, Meta(ge=0, le=1)]
    average_precision_drop: Annotated[float, Meta(ge=0, le=1)] = 1.0


class FairnessPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much the outcomes of the groups of a protected attribute may differ.

    Args:
        adverse: outcomes that are bad for a customer; empty: the last of `decision.outcomes`.
        reference: protected attribute → the group with which others are compared; without an entry,
            the group with the most requests.
        adverse_share_ratio: limit of a group's share of adverse outcomes divided by the reference
            group's.
        false_positive_ratio: the same limit, among requests with label 0.
        not_shown: what happens if there are too few requests to show that a limit holds: the
            candidate is refused (`refuse`), or it is reported (`tell`).
    """

    limit_keys: ClassVar[tuple[str, ...]] = ("adverse_share_ratio", "false_positive_ratio")

    adverse: tuple[str, ...] = ()
    reference: dict[str, str] = {}
    adverse_share_ratio: Annotated[float, Meta(gt=1)] | None = None
    false_positive_ratio: Annotated[float, Meta(gt=1)] | None = None
    not_shown: Literal["refuse", "tell"] = "refuse"

    @property
    def limits(self) -> dict[str, float]:
        """The declared limits by their keys."""
        found = {key: getattr(self, key) for key in self.limit_keys}
        return {key: limit for key, limit in found.items() if limit is not None}


class ClassFairness(FairnessPolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much less often a model of classes may be right for a group of a protected attribute.

    Args:
        accuracy_difference: how far a group's accuracy may lie below the reference group's.
    """

    limit_keys: ClassVar[tuple[str, ...]] = ("accuracy_difference",)

    accuracy_difference: Annotated[float, Meta(gt=0, le=1)]


class NumberFairness(FairnessPolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much the errors of a model of numbers may differ by group of a protected attribute.

    Args:
        mae_ratio: limit of a group's mean absolute error divided by the reference group's.
        bias_difference: how far a group's bias, the mean of numbers less labels, may lie from the
            reference group's to either side, in the number's unit.
    """

    limit_keys: ClassVar[tuple[str, ...]] = ("mae_ratio", "bias_difference")

    mae_ratio: Annotated[float, Meta(gt=1)] | None = None
    bias_difference: Annotated[float, Meta(gt=0)] | None = None


class SegmentSource(msgspec.Struct, frozen=True):
    """A segment, with the place of its value in a logged request.

    Args:
        kind, of, to: the same fields as those of an input; for a view's feature, `of` is the
            feature's name.
    """

    name: str
    kind: str
    of: str | None = None
    to: str | None = None
    at_least: float | None = None
    below: float | None = None
    values: tuple[bool | float | str, ...] = ()

    def holds(self, values: Sequence[Any] | npt.NDArray[Any]) -> Flags:
        """Whether each value lies in the segment; None and NaN do not."""
        if self.values:
            return np.array([value in self.values for value in values], dtype=bool)
        if not isinstance(values, np.ndarray):
            values = np.array([_number(value) for value in values], dtype=np.float64)
        return band(values, self.at_least, self.below)


def band(values: npt.NDArray[Any], at_least: float | None, below: float | None) -> Flags:
    """Whether each number lies in [at_least, below); a bound of None is open, and NaN is never
    inside."""
    low = -np.inf if at_least is None else at_least
    high = np.inf if below is None else below
    return np.asarray((values >= low) & (values < high), dtype=bool)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
