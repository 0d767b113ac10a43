"""A PostgreSQL server of one test run: TLS, passwords by SCRAM, nothing that outlives it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

import pg8000.native
from pg8000.exceptions import Error
from tests.servers import certificates
from tests.servers.process import (
    Process,
    ServerMissing,
    new_folder,
    program,
    version_of,
)

from support.ports import free_ports

USER = "platform"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # a power cut is not among the faults that tests make
    "max_connections": "60",
    "shared_buffers": "16MB",
    "ssl": "on",
    "ssl_cert_file": "../server.pem",
    "ssl_key_file": "../server.key",
    "password_encryption": "scram-sha-256",
    "logging_collector": "off",
}
HBA = """
hostssl all all 127.0.0.1/32 scram-sha-256
hostnossl all all 127.0.0.1/32 scram-sha-256
"""
RESTART_S = 20.0


class PostgresServer:
    """Started when made; its data go when it is closed.

    Raises:
        ServerMissing: initdb or postgres is not on this machine.
    """

    def __init__(self) -> None:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        binary, initdb = program("postgres", *places), program("initdb", *places)
        self.version = version_of(binary, "--version")
        self.password = secrets.token_urlsafe(16)
        owner = _owner()
        self.folder = new_folder("postgres", owner)
        self.certificates = certificates.make(self.folder)
        self.password_file = self.folder / "password"
        self.password_file.write_text(self.password)
        if owner is not None:
            for file in (self.certificates.key, self.password_file):
                shutil.chown(file, owner, owner)
        (self.port,) = free_ports(1)
        self._initialise(initdb, owner)
        settings = [f for name, value in SETTINGS.items() for f in ("-c", f"{name}={value}")]
        command = [str(binary), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]
        self._process = Process(command, self.folder, self.port, user=owner)
        self.start()

    def kill(self) -> None:
        self._process.kill()

    def start(self) -> None:
        """Returns once it answers; after `kill`, orphans hold the shared memory a moment."""
        until_s = time.monotonic() + RESTART_S
        while True:
            try:
                self._process.start()
                break
            except RuntimeError:
                if time.monotonic() > until_s:
                    raise
        while not self._answers():  # it takes connections before it has recovered
            if time.monotonic() > until_s:
                raise RuntimeError("PostgreSQL did not recover in time")
            time.sleep(0.02)

    def close(self) -> None:
        self._process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            pg8000.native.Connection(
                USER, host="127.0.0.1", port=self.port, database="postgres", password=self.password
            ).close()
        except (Error, OSError):
            return False
        return True

    def _initialise(self, initdb: Path, owner: str | None) -> None:
        command = [initdb, "-D", self.folder / "data", "-U", USER, "--no-sync", "-E", "UTF8"]
        command += ["--locale=C", "--pwfile", self.password_file, "--auth=scram-sha-256"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=owner,
            group=owner,
            extra_groups=[] if owner else None,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr[-500:]}")
        (self.folder / "data" / "pg_hba.conf").write_text(HBA)


def _owner() -> str | None:
    """PostgreSQL does not run as root: then it runs as the user that its package made."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        import pwd

        return pwd.getpwnam("postgres").pw_name
    raise ServerMissing("PostgreSQL does not run as root, and there is no user postgres here")
