"""What a serving plane does: run services from manifests and say which are ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How a service does.

    Args:
        ready: its own readiness answer, for this version: warm and self-tested, not only started.
        reason: why it is not ready, in words; empty when it is.
        restarts: how often it had to be started again.
        pid: of its process, where the plane has one.
        failed: whether waiting alone will not mend it; a plane that can't tell says no.
    """

    name: str
    ready: bool
    reason: str
    restarts: int = 0
    pid: int | None = None
    failed: bool = False


class ServingPlane(Protocol):
    """Services are immutable: another bundle is another service under another name."""

    def apply(self, manifest: Manifest) -> None:
        """Have this service run. Returns at once; `status` says when it is ready.

        Raises:
            Refused: the manifest asks for what this plane won't do, or differs from the one that
                was applied under the same name. An identical one changes nothing.
        """
        ...

    def status(self, name: str) -> ServiceStatus:
        """How the service does now.

        Raises:
            NotFound: no such service was applied.
        """
        ...

    def endpoint(self, name: str) -> str | None:
        """The base URL where it listens, or None while it does not."""
        ...

    def remove(self, name: str) -> None:
        """Have the service stop, after the requests in flight; nothing to do for an unknown one."""
        ...

    def names(self) -> list[str]:
        """Names of the services that were applied and not removed, sorted."""
        ...
