"""The JSON form of a gate report, by name; journal, registry and page store and read it.

A report of an earlier release may lack any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, NotRequired, TypedDict, TypeVar

from mlplatform.learning.validation.gate_result import Verdict

NOTHING_YET: Final = "Nothing to check yet"
"""The words about a gate that had nothing to check, before traffic and in it: its verdict says
nothing. The reason of such a gate in traffic begins with them."""


class IntervalEntry(TypedDict):
    """An `Interval`; null if it is unknown."""

    value: float | None
    low: float | None
    high: float | None


class GateEntry(TypedDict):
    """A `GateResult`."""

    name: str
    verdict: Verdict
    observed: float | None
    limit: float | None
    interval: list[float] | None
    reason: str


class ReplayEntry(TypedDict):
    """The `ReplayCounts` of all requests, and of each segment."""

    requests: int
    alerts: int
    champion_alerts: int
    both_alerts: int
    flips: NotRequired[int]
    differing: NotRequired[int]
    design_effect: NotRequired[float]
    flip_design_effect: NotRequired[float]
    segments: NotRequired[dict[str, ReplayEntry]]


class MeasureEntry(TypedDict):
    """A `Measure`."""

    name: str
    candidate: IntervalEntry
    champion: IntervalEntry | None
    difference: IntervalEntry | None


class FoldEntry(TypedDict):
    """A `FoldFinding`."""

    number: int
    from_ms: int
    to_ms: int
    fitted: int
    rows: int
    positives: int
    is_unseen: bool
    measures: list[MeasureEntry]
    problem: str


class SearchEntry(TypedDict):
    """A `SearchReport` without its trials.

    Args:
        best: number of the best trial.
        value: the best trial's measure.
        reasons: why trials failed, at most three texts.
    """

    measure: str
    wanted: int
    done: int
    complete: int
    pruned: int
    failed: int
    budget_s: int
    seconds: float
    best: int
    value: float | None
    parameters: dict[str, Any]
    reasons: list[str]


class GroupEntry(TypedDict):
    """A `GroupFairness`."""

    group: str
    rows: int
    units: int
    known: int
    positives: int
    adverse_share: IntervalEntry
    true_positive_rate: IntervalEntry
    false_positive_rate: IntervalEntry
    mean_score: float | None
    observed: IntervalEntry
    calibration_gap: IntervalEntry
    favourable_ratio: float | None
    adverse_share_ratio: IntervalEntry | None
    false_positive_ratio: IntervalEntry | None


class MeasuredGroupEntry(TypedDict):
    """A `MeasuredGroup`."""

    group: str
    rows: int
    units: int
    measures: list[MeasureEntry]
    compared: dict[str, IntervalEntry]


OfGroup = TypeVar("OfGroup", GroupEntry, MeasuredGroupEntry)


class AttributeEntry(TypedDict, Generic[OfGroup]):
    """A `ProtectedAttribute`."""

    attribute: str
    reference: str
    unknown: int
    groups: list[OfGroup]


class FairnessEntry(TypedDict):
    """A `Fairness`."""

    adverse: list[str]
    rows: int
    ratio_level: float
    attributes: list[AttributeEntry[GroupEntry]]


class GroupMeasuresEntry(TypedDict):
    """A `GroupMeasures`."""

    rows: int
    level: float
    unit: str
    attributes: list[AttributeEntry[MeasuredGroupEntry]]


class StabilityEntry(TypedDict):
    """A `Stability`."""

    from_ms: list[int]
    indices: dict[str, list[float | None]]


class ReportEntry(TypedDict, total=False):
    """A `GateReport`; empty where a rollout was opened without one.

    Args:
        bundle, champion: digests of the two bundles; the champion's is None for a first version.
        champion_version: version of the champion; absent for a first version.
        same_rows: True if the candidate was fitted to the champion's rows, with its seed.
    """

    model: str
    bundle: str
    champion: str | None
    champion_version: NotRequired[int]
    passed: bool
    gates: list[GateEntry]
    replayed: ReplayEntry
    measures: list[MeasureEntry]
    baseline: list[MeasureEntry]
    folds: list[FoldEntry]
    search: SearchEntry
    fairness: FairnessEntry
    group_measures: NotRequired[GroupMeasuresEntry]
    same_rows: bool
    stability: NotRequired[StabilityEntry]


if TYPE_CHECKING:  # msgspec drops what a TypedDict does not name, and digests are of all of it
    ValidationReport = ReportEntry
else:
    ValidationReport = dict[str, Any]


def replayed_of(report: Mapping[str, Any]) -> Any:
    """The `ReplayEntry` of a report, None if it has none. Reports of 0.3 and before, which
    registries and journals hold, call its requests payments."""
    return _renewed(report.get("replayed"))


def _renewed(counts: Any) -> Any:
    if not isinstance(counts, Mapping):
        return counts
    named = {("requests" if name == "payments" else name): held for name, held in counts.items()}
    if isinstance(segments := named.get("segments"), Mapping):
        named["segments"] = {name: _renewed(inside) for name, inside in segments.items()}
    return named
