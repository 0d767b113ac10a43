"""The platform as a process beside the demo: started, asked how it does, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

from mlplatform.operations.supervisor.status import status
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy, Unavailable
from mlplatform.runtime.processes.records import read_processes, read_supervisor

START_LIMIT_S = 600.0
STOP_LIMIT_S = 40.0
POLL_S = 0.25


class PlatformProcess:
    """`mlplatform up` with recorded time, in a session of its own: Ctrl-C is the demo's alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._popen: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until every part is ready.

        Raises:
            Busy: a platform runs in this home folder already.
            Unavailable: it ended, or is not ready after ten minutes; its log says why.
        """
        home = self._settings.home
        record = read_supervisor(home)
        if record is not None and record.process.alive():
            raise Busy(
                f"a platform runs in {home.root} already:"
                f" `MLPLATFORM_HOME={home.root} mlplatform down` stops it"
            )
        home.create()
        log = home.logs / "supervisor.log"
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "mlplatform.commands", "up", "--clock", "replay"],
                env={**os.environ, **self._settings.environment()},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while status(home).state != "ready":
            if not self.alive() or time.monotonic() > deadline:
                tail = log.read_text().strip().splitlines()[-3:]
                raise Unavailable(f"the platform did not come up; {log} ends: {' / '.join(tail)}")
            await asyncio.sleep(POLL_S)

    def alive(self) -> bool:
        """Whether the supervisor still runs."""
        return self._popen is not None and self._popen.poll() is None

    def restarts(self, name: str) -> int:
        """How often a child had to be started again."""
        records = read_processes(self._settings.home)
        return next((record.restarts for record in records if record.name == name), 0)

    async def stop(self) -> None:
        """End it in order."""
        if self._popen is None or not self.alive():
            return
        self._popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_S
        while self.alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        if self.alive():
            os.killpg(self._popen.pid, signal.SIGKILL)
