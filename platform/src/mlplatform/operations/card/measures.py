"""The measures of a card: of all held-out requests, and of the groups of protected attributes."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a card."""


class Estimate(_Part, frozen=True):
    """A number with its interval; None if there were too few rows."""

    value: float | None
    low: float | None
    high: float | None


class CardMeasure(_Part, frozen=True):
    """One measure on the days for the gates, as in `learning.validation.measures.Measure`."""

    name: str
    candidate: Estimate
    champion: Estimate | None = None
    difference: Estimate | None = None


class CardGroup(_Part, frozen=True):
    """One protected group, as `learning.validation.group_findings.GroupFairness`."""

    group: str
    rows: int
    known: int
    positives: int
    adverse_share: Estimate
    true_positive_rate: Estimate
    false_positive_rate: Estimate
    mean_score: float | None
    observed: Estimate
    calibration_gap: Estimate
    favourable_ratio: float | None
    adverse_share_ratio: Estimate | None
    false_positive_ratio: Estimate | None


class CardMeasuredGroup(_Part, frozen=True):
    """One protected group, as `learning.validation.group_findings.MeasuredGroup`."""

    group: str
    rows: int
    units: int
    measures: tuple[CardMeasure, ...]
    compared: dict[str, Estimate] = {}


OfGroup = TypeVar("OfGroup", CardGroup, CardMeasuredGroup)


class CardAttribute(_Part, Generic[OfGroup], frozen=True):
    """The groups of one protected attribute; `unknown` counts rows without a known group."""

    attribute: str
    reference: str
    unknown: int
    groups: tuple[OfGroup, ...]


class CardFairness(_Part, frozen=True):
    """All protected attributes, as in `learning.validation.group_findings.Fairness`."""

    adverse: tuple[str, ...]
    rows: int
    ratio_level: float
    attributes: tuple[CardAttribute[CardGroup], ...]


class CardGroupMeasures(_Part, frozen=True):
    """All protected attributes, as in `learning.validation.group_findings.GroupMeasures`."""

    rows: int
    level: float
    unit: str
    attributes: tuple[CardAttribute[CardMeasuredGroup], ...]
