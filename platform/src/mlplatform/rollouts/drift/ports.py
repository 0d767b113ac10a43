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
        counted: folder in which checks store their findings about days; it may be deleted at any
            time.
        bundle: returns the bundle of an arm after checking every digest.
        open_rollout: opens a rollout of the version that answers an incident. It returns the reason
            why the rollout is refused, or None if it is opened, and raises Busy if another is under
            way.
        trains: whether the model's folder trains the model; else it holds a ready ONNX file.
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
