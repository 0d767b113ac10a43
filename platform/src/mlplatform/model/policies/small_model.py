"""The scorecard in every bundle of two outcomes, as data."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec

from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.decision_checks import Problems, decision_problems, rises
from mlplatform.model.policies.decision_scale import DecisionScale


class _Part(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Unknown and missing keys are errors."""


class Characteristic(_Part, frozen=True):
    """One input of a scorecard: points by the interval that the value is in.

    `points[i]` is for values of at least `cuts[i - 1]` and less than `cuts[i]`, so there is one
    more of them than cuts; `missing` is for no value.
    """

    input: str
    cuts: tuple[float, ...]
    points: tuple[float, ...]
    missing: float


class SmallModel(_Part, frozen=True):
    """A scorecard that the gateway itself evaluates when no predictor answers.

    The sum of `base` and all points is the log odds of the label; its probability is the raw
    score, with a calibration of its own, and thresholds of its own on the bundle's scale. With
    fewer than `minimum_present` of its inputs it abstains: the rest would be guessing.

    `segment_thresholds` are its own in each segment of the bundle, by the segment's name.
    """

    schema: Literal["scorecard/1"]
    minimum_present: int
    base: float
    characteristics: tuple[Characteristic, ...]
    calibration: Calibration
    thresholds: dict[str, float]
    segment_thresholds: dict[str, dict[str, float]] = {}


def small_model_problems(
    small: SmallModel, names: Collection[str], scale: DecisionScale, segments: Collection[str]
) -> Problems:
    """Problems of a bundle's small model.

    Args:
        names: names of the bundle's inputs.
        segments: names of the segments that have thresholds of their own.
    """
    inputs = [c.input for c in small.characteristics]
    numbers = [
        small.base,
        *(v for c in small.characteristics for v in (*c.cuts, *c.points, c.missing)),
    ]
    return {
        **decision_problems(scale, small.calibration, small.thresholds, "small_model."),
        **{
            problem: present
            for name, own in small.segment_thresholds.items()
            for problem, present in decision_problems(
                scale, small.calibration, own, f"small_model.segment_thresholds.{name}."
            ).items()
        },
        "small_model.segment_thresholds are not those of the bundle's segments": (
            set(small.segment_thresholds) != set(segments)
        ),
        "small_model has no characteristic": not inputs,
        "small_model uses inputs that the model does not have": not set(inputs) <= set(names),
        "small_model: minimum_present is not 1 to the number of its inputs": not (
            1 <= small.minimum_present <= len(inputs)
        ),
        "small_model uses an input twice": len(set(inputs)) != len(inputs),
        "small_model has numbers that are not finite": not all(map(math.isfinite, numbers)),
        "small_model: cuts do not rise, or are not one less than points": not all(
            rises(c.cuts, strictly=True) and len(c.points) == len(c.cuts) + 1
            for c in small.characteristics
        ),
    }
