"""Detection of a new process behind a predictor's service, which no breaker has tried yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.errors import PlatformError
from mlplatform.scoring.arms.live import Target

Identity = tuple[int | None, int]
"""Process id and number of restarts; a pid alone may be used again."""


class Processes:
    """The process that answered for each service when it was last ready.

    Args:
        status: returns the status of a service from the serving plane; reads a file.
    """

    def __init__(self, status: Callable[[str], ServiceStatus]) -> None:
        self._status = status
        self._known: dict[str, Identity] = {}

    def replaced(self, targets: Iterable[Target]) -> list[Target]:
        """The targets that are ready in a new process, or for the first time.

        A target that is not ready, or whose status is unknown, is not replaced yet. Services that
        are no longer among the targets are forgotten.
        """
        by_service = {target.arm.service: target for target in targets}
        ready = {name: now for name in by_service if (now := self._ready(name)) is not None}
        found = [by_service[name] for name, now in ready.items() if self._known.get(name) != now]
        self._known = {n: now for n in by_service if (now := ready.get(n) or self._known.get(n))}
        return found

    def broken(self, targets: Iterable[Target]) -> list[Target]:
        """The targets that waiting alone does not mend, because what listens there is not their
        model."""
        return [target for target in targets if self._is_broken(target.arm.service)]

    def _is_broken(self, service: str) -> bool:
        try:
            return self._status(service).failed
        except (PlatformError, OSError):
            return False

    def _ready(self, service: str) -> Identity | None:
        try:
            status = self._status(service)
        except (PlatformError, OSError):  # a service that cannot be asked is not ready
            return None
        return (status.pid, status.restarts) if status.ready else None
