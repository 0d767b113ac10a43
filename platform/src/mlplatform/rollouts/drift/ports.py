"""The ports of a drift check: everything outside of the check that it touches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.model.bundle import Bundle
from mlplatform.model.features.views import FeatureView
from mlplatform.model.routes import Arm
from mlplatform.rollouts.drift.incidents import Incidents
from mlplatform.rollouts.drift.retrain import LabelledRequests
from mlplatform.rollouts.journal.journal import Rollouts
from mlplatform.runtime.clock import Clock


class Offline(LabelledRequests, Protocol):
    """The offline table, from which a retrain would learn."""

    def project(self, log: DecisionLog) -> object:
        """Add the records that the log holds by now to the offline table."""
        ...


@dataclass(frozen=True, slots=True)
class DriftPorts:
    """Everything outside that a drift check touches.

    Args:
        counted: where checks keep what they have found of days; it may be deleted at any time.
        bundle: of an arm, every digest checked.
        open_rollout: of a version that answers an incident; gives back why it is refused, None
            where it is not. Raises Busy where another is under way.
        trains: whether the model's folder trains it; else it holds a ready ONNX file.
    """

    log: DecisionLog
    counted: Path
    incidents: Incidents
    rollouts: Rollouts
    offline: Offline
    clock: Clock
    views: Sequence[FeatureView]
    bundle: Callable[[Arm], Bundle]
    open_rollout: Callable[[int], str | None]
    trains: bool = True
