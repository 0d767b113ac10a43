"""Everything that a pass touches outside itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.model.bundle import server_of
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.rollouts.journal.journal import Anchors, Passes, Rollouts
from mlplatform.rollouts.passes.plan import Now
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.entrance import Entrance


class Versions(Protocol):
    """What a pass needs of the registry."""

    def fetch(self, model: str, version: int, into: Path) -> Path:
        """The folder of a version's bundle, every digest checked."""
        ...

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version; the same again changes nothing."""
        ...


class Approvals(Protocol):
    """Where people are asked."""

    def ensure_requested(self, rollout_id: str, evidence: Mapping[str, Any], digest: str) -> None:
        """Ask once for a digest, however often this is called.

        Raises:
            Unavailable: nobody can be asked now.
        """
        ...


class RawRoutes(Protocol):
    """Where raw callers are routed, past the gateway."""

    @property
    def entrance(self) -> Entrance:
        """What they come through."""
        ...

    def find(self, model: str) -> dict[str, Any] | None:
        """The HTTPRoute of a model as it is now; None: there is none."""
        ...

    def write(self, body: Mapping[str, Any], version: str | None) -> None:
        """Have the HTTPRoute be so, if it still is the object of this version; None makes it.

        Raises:
            Refused: it is another one by now, or somebody else owns a field of it.
            Unavailable: the cluster does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything that a pass touches."""

    rollouts: Rollouts
    passes: Passes
    anchors: Anchors
    plane: ServingPlane
    versions: Versions
    log: DecisionLog
    approvals: Approvals
    clock: Clock
    bundles: Path
    counted: Path
    """Where passes keep what they have counted of the log; it may be deleted at any time."""
    storage_uri: Callable[[Path], str] = lambda folder: folder.absolute().as_uri()
    """How the plane's predictors name a bundle's folder."""
    repositories: Path | None = None
    """Where model repositories of Triton lie; None: the plane has no Triton."""
    scales: bool = False
    """Whether models that ask for an autoscaler get one."""
    raw: RawRoutes | None = None
    """None: nobody calls predictors past the gateway."""
    server_of: Callable[[Path], ModelServer | None] = server_of
    """What answers for the bundle in a folder."""
    replicas: int | None = None
    """Pods of a version; None: as many as the model's tier asks for."""

    def now(self) -> Now:
        return Now(event_ms=self.clock.event_ms(), wall_ms=self.clock.wall_ms())
