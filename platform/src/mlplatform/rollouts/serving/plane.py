"""The port of a serving plane: it runs services from manifests and reports which are ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The status of a service.

    Args:
        ready: answer of the service's own readiness check for this version: it is warm and
            self-tested, not only started.
        reason: text that says why it is not ready; empty if it is ready.
        restarts: number of restarts.
        pid: id of its process; None if the plane has no processes.
        failed: whether waiting alone will not help; False if the plane can't tell.
    """

    name: str
    ready: bool
    reason: str
    restarts: int = 0
    pid: int | None = None
    failed: bool = False


class ServingPlane(Protocol):
    """Services are immutable: another bundle is another service with another name."""

    def apply(self, manifest: Manifest) -> None:
        """Start this service if it does not run. Returns at once; `status` says when it is ready.

        Raises:
            Refused: the plane does not support the manifest, or another manifest was applied under
                the same name. An identical one changes nothing.
        """
        ...

    def status(self, name: str) -> ServiceStatus:
        """The present status of a service.

        Raises:
            NotFound: no service of this name was applied.
        """
        ...

    def endpoint(self, name: str) -> str | None:
        """The base URL where a service listens; None while it does not listen."""
        ...

    def remove(self, name: str) -> None:
        """Stop a service after its requests in flight. An unknown service is no error."""
        ...

    def names(self) -> list[str]:
        """Names of the services that were applied and not removed, sorted."""
        ...
