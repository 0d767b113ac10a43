"""The ports of a pass: everything outside of the pass that it touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.model.bundle import server_of
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.rollouts.journal.journal import Anchors, Controls, Passes, Rollouts
from mlplatform.rollouts.passes.wait_reasons import Now
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.entrance import Entrance


class Versions(Protocol):
    """The calls of the registry that a pass makes."""

    def fetch(self, model: str, version: int, into: Path) -> Path:
        """The folder of a version's bundle, with every digest checked."""
        ...

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version; repeating it changes nothing."""
        ...


class Approvals(Protocol):
    """The place where people are asked for approvals."""

    def ensure_requested(self, rollout_id: str, evidence: Mapping[str, Any], digest: str) -> None:
        """Ask once for this digest, however often this is called.

        Raises:
            Unavailable: approvers can't be asked now.
        """
        ...


class RawRoutes(Protocol):
    """The routes of raw callers, who bypass the gateway."""

    @property
    def entrance(self) -> Entrance:
        """The Gateway through which raw callers come."""
        ...

    def find(self, model: str) -> dict[str, Any] | None:
        """The present HTTPRoute of a model; None if there is none."""
        ...

    def write(self, body: Mapping[str, Any], version: str | None) -> None:
        """Write the HTTPRoute, if its object still has this version; with version None create it.

        Raises:
            Refused: the object has another version now, or another manager owns a field of it.
            Unavailable: the cluster does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside that a pass touches."""

    rollouts: Rollouts
    controls: Controls
    passes: Passes
    anchors: Anchors
    plane: ServingPlane
    versions: Versions
    log: DecisionLog
    approvals: Approvals
    clock: Clock
    bundles: Path
    counted: Path
    """Folder of the counts of the log; it may be deleted at any time."""
    storage_uri: Callable[[Path], str] = lambda folder: folder.absolute().as_uri()
    """Function that gives the plane's URI of a bundle's folder."""
    repositories: Path | None = None
    """Folder of Triton's model repositories; None if the plane has no Triton."""
    scales: bool = False
    """Whether a model that asks for an autoscaler gets one."""
    raw: RawRoutes | None = None
    """Routes of raw callers; None if nobody calls predictors past the gateway."""
    server_of: Callable[[Path], ModelServer | None] = server_of
    """Function that gives the server that answers for the bundle in a folder."""
    replicas: int | None = None
    """Pods of a version; None for as many as the model's tier asks for."""

    def now(self) -> Now:
        return Now(event_ms=self.clock.event_ms(), wall_ms=self.clock.wall_ms())
