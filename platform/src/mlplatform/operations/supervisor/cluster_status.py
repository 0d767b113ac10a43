"""Services that a cluster runs: their statuses are written for this machine's gateways, and nothing
is started."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from mlplatform.operations.supervisor.child import Child
from mlplatform.rollouts.serving.local import ServiceStatusFile, StatusStore, wall_ms
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import NotFound, PlatformError

REFRESH_S: Final = 2.0

log = logging.getLogger(__name__)


class ClusterStatusMirror:
    """Writes the status and address of each service of a plane.

    A gateway outside of the cluster can't resolve the cluster's names, and no gateway has a right
    to ask the API server, so gateways read these statuses.
    """

    def __init__(self, home: Home, plane: ServingPlane) -> None:
        self._statuses = StatusStore(home.serving)
        self._plane = plane
        self._problem = ""
        self._closed = False

    @property
    def children(self) -> list[Child]:
        """An empty list: pods are not processes of this machine."""
        return []

    async def reconcile(self) -> None:
        """Refresh the statuses repeatedly until cancelled or closed."""
        while not self._closed:
            problem = ""
            try:
                await asyncio.to_thread(self.refresh)
            except (PlatformError, OSError, KeyError) as error:  # must not end the supervisor
                problem = str(error) or type(error).__name__
            if problem != self._problem:
                log.warning("services of the cluster: %s", problem or "followed again")
            self._problem = problem
            await asyncio.sleep(REFRESH_S)

    def refresh(self) -> None:
        """Read the status of every service once. A service that can't be asked keeps its last
        status: pods answer while the API server is away.

        Each has a thread: a model server of somebody else's that is slow holds up no other status.

        Raises:
            Unavailable, Refused: the cluster can't be asked, about one service at least.
        """
        names = set(self._plane.names())
        for name in self._statuses.names() - names:
            self._statuses.forget(name)
        with ThreadPoolExecutor(max(1, len(names))) as threads:
            ended = [threads.submit(self._refresh, name) for name in sorted(names)]
        for one in ended:
            one.result()

    def close(self) -> list[asyncio.Task[None]]:
        """Stop; there is nothing to wait for."""
        self._closed = True
        return []

    def _refresh(self, name: str) -> None:
        try:
            self._statuses.write(self._status_of(name))
        except NotFound:  # removed since
            self._statuses.forget(name)

    def _status_of(self, name: str) -> ServiceStatusFile:
        status, url = self._plane.status(name), urlsplit(self._plane.endpoint(name) or "")
        return ServiceStatusFile(
            name,
            status.ready,
            status.reason,
            status.restarts,
            None,
            url.port,
            wall_ms(),
            host=url.hostname or "",
        )
