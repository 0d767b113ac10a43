"""The results of the gates on one candidate, and further figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlplatform.learning.training_sets.stability import Stability
from mlplatform.learning.validation.fold_gate import FoldFinding
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.group_findings import Fairness, GroupMeasures
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.search_report import SearchReport
from mlplatform.model.policies.volume import VolumeStop


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """The number of replayed requests, and of those with an alert.

    A rollout compares this with live traffic, on which the two arms should differ as much.

    Args:
        segments: segment → the counts of its requests.
        design_effect: of the difference between the arms' alerts (`paired_design_effect`); None
            where nothing shows it.
        flip_design_effect: of the share that the arms decide differently: of the alerts of either
            arm, or of all requests where alerts are not compared.
        flips: number of requests with another decision than the champion's; None where alerts are
            compared.
        differing: number of requests with an alert of either arm that they decide differently; None
            where alerts are not compared.
    """

    requests: int
    alerts: int
    champion_alerts: int
    both_alerts: int
    segments: Mapping[str, ReplayCounts] = field(default_factory=dict)
    flips: int | None = None
    differing: int | None = None
    design_effect: float | None = None
    flip_design_effect: float | None = None


@dataclass(frozen=True, slots=True)
class VolumeReplay:
    """Whether a gateway would have stopped the bundle on replayed requests.

    Args:
        stop: the first stop; None if there was none.
        at_ms: event time of the request at which the stop came; 0 without a stop.
    """

    stop: VolumeStop | None = None
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class GateReport:
    """All gates of one candidate.

    Args:
        champion: digest of the champion's bundle; None for a first version.
        champion_version: the champion's version; None where nobody has said it.
        baseline: measures beside the folder's simpler model, which stands in them where a champion
            does in `measures`; empty if the folder has none.
        fairness, group_measures: the groups of protected attributes; the latter of a model of
            classes or of numbers.
        same_rows: whether it was fitted to the champion's rows, with its seed.
        stability: how much each input moved over the days of the training set; None where nobody
            has measured it.
    """

    model: str
    bundle: str
    champion: str | None
    gates: tuple[GateResult, ...]
    replayed: ReplayCounts | None = None
    measures: tuple[Measure, ...] = ()
    fairness: Fairness | None = None
    folds: tuple[FoldFinding, ...] = ()
    search: SearchReport | None = None
    champion_version: int | None = None
    same_rows: bool = False
    baseline: tuple[Measure, ...] = ()
    stability: Stability | None = None
    group_measures: GroupMeasures | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate passed; False for a report without gates."""
        return bool(self.gates) and all(g.verdict == "passed" for g in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons why the candidate did not pass."""
        return tuple(f"{g.name}: {g.reason}" for g in self.gates if g.verdict != "passed")
