"""A server as a child process: started and waited for, killed and started again on its port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DOWNLOADED = Path(__file__).parents[2] / "build" / "servers" / "python"
"""Where `make test-servers` installs requirements/servers.txt."""

START_S = 60.0
PROBE_S = 0.02


class ServerMissing(Exception):
    """The server's program is not to be had here; says which, and what helps."""


@dataclass
class Process:
    """A command that listens on `port`.

    Args:
        user: whose process it is; None: ours.
        wait_for_exit: how many seconds its children may hold what the next start needs.
    """

    command: Sequence[str]
    folder: Path
    port: int
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    _running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once the port takes connections.

        Raises:
            RuntimeError: with the end of its log, where it ended or took too long.
        """
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._running = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
            )
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s and self._running.poll() is None:
            if listens(self.port):
                return
            time.sleep(PROBE_S)
        self.kill()
        raise RuntimeError(f"{self.command[0]} did not start:\n{log.read_text()[-2000:]}")

    def signal(self, number: int) -> None:
        if self._running is not None:
            self._running.send_signal(number)

    def kill(self) -> None:
        """As a power cut would: SIGKILL, no goodbye."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None


def listens(port: int) -> bool:
    """Whether somebody takes connections on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def new_folder(name: str, owner: str | None = None) -> Path:
    """A folder of its own for a server's state, outside of ours that others may not enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"mlplatform-{name}-"))
    if owner is not None:
        shutil.chown(folder, owner, owner)
    return folder


def program(name: str, *places: Path) -> Path:
    """A program by its name: on PATH, or in one of the places.

    Raises:
        ServerMissing: names it.
    """
    found = shutil.which(name) or next((str(p / name) for p in places if (p / name).exists()), None)
    if found is None:
        raise ServerMissing(f"no {name} on PATH; `make test-servers` fetches what it can")
    return Path(found)


def version_of(path: Path, *flags: str) -> str:
    """The first line that a program says about its version."""
    done = subprocess.run([path, *flags], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def in_ci() -> bool:
    """Whether a missing server fails a test, as it does in CI, or skips it."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def said(message: str) -> None:
    """A line for whoever watches; pytest captures what goes to sys.stderr."""
    print(message, file=sys.__stderr__)
