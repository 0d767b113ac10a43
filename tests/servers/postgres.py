"""A PostgreSQL server of one test run: TLS, passwords by SCRAM, nothing that outlives it."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

import pg8000.native
from pg8000.exceptions import Error
from tests.servers import certificates
from tests.servers.process import HERE, Place, User, new_folder, version_of

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
        ServerMissing: initdb or postgres is not to be had there.
    """

    def __init__(self, place: Place = HERE) -> None:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        binary, initdb = (place.program(name, *places) for name in ("postgres", "initdb"))
        self.version = version_of(binary, "--version", place=place)
        self.password = secrets.token_urlsafe(16)
        owner = place.owner()
        self.folder = new_folder("postgres", owner)
        self.certificates = certificates.make(self.folder)
        self.password_file = self.folder / "password"
        self.password_file.write_text(self.password)
        if owner is not None:
            for file in (self.certificates.key, self.password_file):
                shutil.chown(file, owner, owner)
        (self.port,) = free_ports(1)
        self._initialise(place, initdb, owner)
        settings = [f for name, value in SETTINGS.items() for f in ("-c", f"{name}={value}")]
        command = [str(binary), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]
        self._process = place.process(command, self.folder, self.port, owner)
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
        self._process.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            pg8000.native.Connection(
                USER, host="127.0.0.1", port=self.port, database="postgres", password=self.password
            ).close()
        except (Error, OSError):
            return False
        return True

    def _initialise(self, place: Place, initdb: Path, owner: User) -> None:
        command = [initdb, "-D", self.folder / "data", "-U", USER, "--no-sync", "-E", "UTF8"]
        command += ["--locale=C", "--pwfile", self.password_file, "--auth=scram-sha-256"]
        code, said_of_it = place.output(command, self.folder, owner)
        if code != 0:
            raise RuntimeError(f"initdb failed: {said_of_it[-500:]}")
        (self.folder / "data" / "pg_hba.conf").write_text(HBA)
