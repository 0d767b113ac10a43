"""A server as a child process: started and waited for, killed and started again on its port.

A `Place` says where a server's commands run: here, or in containers (`containers.py`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

DOWNLOADED = Path(__file__).parents[2] / "build" / "servers" / "python"
"""Where `make test-servers` installs requirements/servers.txt."""

START_S = 60.0
PROBE_S = 0.02


class ServerMissing(Exception):
    """The server's program is not to be had here; says which, and what helps."""


User = str | int | None
"""Name or number of the user whose process it is; None: ours."""


class ServerProcess(Protocol):
    """A command that is started, signalled and killed; see `Process`."""

    def start(self) -> None: ...

    def signal(self, number: int) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class Place(Protocol):
    """Where the commands of a server run; `str` of it ends the server's version."""

    def program(self, name: str, *places: Path) -> Path:
        """A program by its name.

        Raises:
            ServerMissing: names it.
        """
        ...

    def owner(self) -> User:
        """The user of a server that refuses to run as root.

        Raises:
            ServerMissing: there is none.
        """
        ...

    def output(
        self, command: Sequence[str | Path], folder: Path | None = None, user: User = None
    ) -> tuple[int, str]:
        """Exit code of a command that ends, and what it said."""
        ...

    def process(
        self, command: Sequence[str | Path], folder: Path, port: int, user: User = None
    ) -> ServerProcess: ...


class _Here:
    """This machine."""

    def __str__(self) -> str:
        return ""

    def program(self, name: str, *places: Path) -> Path:
        return program(name, *places)

    def owner(self) -> User:
        """PostgreSQL's, which its package made, where we are root."""
        if os.geteuid() != 0:
            return None
        with contextlib.suppress(KeyError):
            import pwd

            return pwd.getpwnam("postgres").pw_name
        raise ServerMissing("PostgreSQL does not run as root, and there is no user postgres here")

    def output(
        self, command: Sequence[str | Path], folder: Path | None = None, user: User = None
    ) -> tuple[int, str]:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        return done.returncode, done.stdout.strip()

    def process(
        self, command: Sequence[str | Path], folder: Path, port: int, user: User = None
    ) -> ServerProcess:
        return Process(tuple(map(str, command)), folder, port, user)


HERE: Final[Place] = _Here()


@dataclass
class Process:
    """A command that listens on `port`.

    Args:
        user: whose process it is; None: ours.
    """

    command: Sequence[str]
    folder: Path
    port: int
    user: User = None
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
        running = self._running
        if wait_until_it_listens(self.port, lambda: running.poll() is None):
            return
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

    def close(self) -> None:
        """The last kill."""
        self.kill()


def listens(port: int) -> bool:
    """Whether somebody takes connections on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_it_listens(port: int, runs: Callable[[], bool]) -> bool:
    """Returns True once the port takes connections; False if the server ended, or took too long."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and runs():
        if listens(port):
            return True
        time.sleep(PROBE_S)
    return False


def new_folder(name: str, owner: User = None) -> Path:
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


def version_of(path: Path, *flags: str, place: Place = HERE) -> str:
    """The first line that a program says about its version, and where it runs."""
    _, said_of_it = place.output([path, *flags])
    return f"{said_of_it.splitlines()[0]} {place}".strip()


def in_ci() -> bool:
    """Whether a missing server fails a test, as it does in CI, or skips it."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def said(message: str) -> None:
    """A line for whoever watches; pytest captures what goes to sys.stderr."""
    print(message, file=sys.__stderr__)
