"""Model servers at addresses outside of the platform: each is tested on the golden rows of its
version while a manifest names it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mlplatform.model.bundle import load_bundle
from mlplatform.rollouts.serving.golden import WITHIN_S, problem_of
from mlplatform.rollouts.serving.local import ServiceStatusFile, wall_ms
from mlplatform.rollouts.serving.manifest import Service
from mlplatform.runtime.errors import PlatformError

ASK_S: Final = 10.0
"""Seconds between two tests: somebody may deploy another model there at any time."""
ASK_UNREADY_S: Final = 1.0
READY: Final = ("", False)

log = logging.getLogger(__name__)


class AddressedServer:
    """One service whose server has an address.

    It is ready while the server scores the golden rows as the bundle says. Otherwise gateways are
    told of no port.

    Args:
        service: a service with an address.
        folder: the folder of its bundle.
        say: stores a status.
    """

    def __init__(
        self, service: Service, folder: Path, say: Callable[[ServiceStatusFile], None]
    ) -> None:
        assert service.address is not None
        self._service = service
        self._url = service.address
        self._folder = folder
        self._say = say
        self._reason = "has not been asked yet"
        self._previous = ""  # the thread's last result
        self._failed = False
        self._renewals = 0
        self._answer_until_s = math.inf
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        # Nothing waits for this thread, so a slow server does not delay the end of the platform.
        threading.Thread(target=self._follow, name=service.name, daemon=True).start()

    def write(self) -> None:
        """Write the service's status again; without an answer in time it is not ready."""
        if time.monotonic() > self._answer_until_s:  # a name server may take longer
            self._reason, self._failed = f"has not answered within {WITHIN_S:g} s", False
        url, is_ready = urlsplit(self._url), not self._reason
        self._say(
            ServiceStatusFile(
                self._service.name,
                is_ready,
                self._reason,
                self._renewals,
                None,
                url.port if is_ready else None,
                wall_ms(),
                host=url.hostname or "",
                failed=self._failed,
            )
        )

    def stop(self) -> None:
        self._stopping.set()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            found = self._problem()
            self._previous = found[0]
            self._answer_until_s = math.inf
            with contextlib.suppress(RuntimeError):  # the loop has ended; this process ends too
                self._loop.call_soon_threadsafe(self._learn, *found)
            self._stopping.wait(ASK_S if found == READY else ASK_UNREADY_S)

    def _learn(self, reason: str, failed: bool) -> None:
        if self._stopping.is_set() or (reason, failed) == (self._reason, self._failed):
            return
        log.info("%s: %s", self._service.name, reason or "scores its golden rows")
        # A gateway treats a server that is ready again as another process, and tries it with
        # probes.
        self._renewals += not reason
        self._reason, self._failed = reason, failed
        self.write()

    def _problem(self) -> tuple[str, bool]:
        """The reason why the server is not ready (empty if it is), and whether only an action can
        change that."""
        name = self._service.name
        try:
            bundle = load_bundle(self._folder, self._service.digest, data=False)
            self._answer_until_s = time.monotonic() + WITHIN_S
            problem = problem_of(bundle, self._url, name)
        except (PlatformError, OSError) as error:
            return f"its golden rows can't be asked: {error}", False
        except Exception as error:
            # No answer of a foreign server may end the supervisor's watch over it.
            reason = f"its golden rows can't be asked: {error}"
            if reason != self._previous:  # log each result once
                log.exception("%s can't be asked", name)
            return reason, False
        return problem, bool(problem)
