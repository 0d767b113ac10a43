"""An S3 server of one test run (SeaweedFS), which checks signatures."""

from __future__ import annotations

import json
import secrets
import shutil
import time
import urllib.error
import urllib.request

from tests.servers.process import DOWNLOADED, HERE, Place, new_folder, version_of

from support.ports import free_ports

READY_S = 60.0
PROGRAM = DOWNLOADED / "bin" / "weed"


class SeaweedServer:
    """Started when made; its data go when it is closed.

    Raises:
        ServerMissing: weed is not to be had there.
    """

    def __init__(self, place: Place = HERE) -> None:
        binary = place.program(PROGRAM.name, PROGRAM.parent)
        version = version_of(binary, "version", place=place).split()[2]
        self.version = f"SeaweedFS {version} {place}".strip()
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_urlsafe(16)
        self.folder = new_folder("seaweed")
        self.port, *internal = free_ports(8)
        config = self.folder / "s3.json"
        config.write_text(json.dumps(self._identities()))
        command = self._command(str(binary), str(config), internal)
        self._process = place.process(command, self.folder, self.port)
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.kill()

    def start(self) -> None:
        self._process.start()
        self._wait_until_it_answers()

    def close(self) -> None:
        self._process.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _identities(self) -> dict[str, object]:
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "tests", "credentials": keys, "actions": actions}]}

    def _command(self, binary: str, config: str, ports: list[int]) -> list[str]:
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        names += ("filer.port", "filer.port.grpc", "s3.port.grpc")
        return [
            binary, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder}",
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
            "-s3", f"-s3.port={self.port}", f"-s3.config={config}",
            # each bucket takes some volumes, and each of these listens on a port of everybody's
            "-volume.max=400", "-master.volumeSizeLimitMB=64",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip

    def _wait_until_it_answers(self) -> None:
        """It listens before it can store: a write is tried until one is taken."""
        until_s = time.monotonic() + READY_S
        while True:
            try:
                urllib.request.urlopen(self.endpoint, timeout=5.0)
            except urllib.error.HTTPError as error:
                if error.code == 403:  # signatures are checked: it is up
                    return
            except OSError:
                if time.monotonic() > until_s:
                    raise
            time.sleep(0.1)
