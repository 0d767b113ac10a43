"""A Dex of one test run: an identity provider that is built from its module, once."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.servers.process import Process, ServerMissing, new_folder, said, version_of

from support.ports import free_port

HERE: Final = Path(__file__).parent
PACKAGE: Final = "github.com/dexidp/dex/cmd/dex"
CLIENT: Final = "page"
SOMEBODY: Final = "somebody@bank.example"
PASSWORD: Final = "password"
_HASH: Final = "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W"
"""Of that password, as Dex's own example has it; the account is on loopback, for one test run."""


class DexServer:
    """Started when made; its state goes when it is closed.

    Its connector `mock` signs in Kilgore Trout of group `authors` and asks for nothing; its local
    account `SOMEBODY` has a password and no group.

    Args:
        returns_to: the address that browsers may be sent back to.

    Raises:
        ServerMissing: it is not built, and Go or a C compiler is not here.
    """

    def __init__(self, returns_to: str) -> None:
        binary = _built()
        self.version = version_of(binary, "version")
        self.folder, self.port = new_folder("dex"), free_port()
        self.secret = secrets.token_urlsafe(16)
        config = self.folder / "dex.yaml"
        config.write_text(json.dumps(self._config(returns_to)))  # YAML has JSON in it
        command = [str(binary), "serve", str(config)]
        self._process = Process(command, self.folder, self.port)
        self._process.start()

    @property
    def url(self) -> str:
        """Its issuer."""
        return f"http://127.0.0.1:{self.port}/dex"

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self, returns_to: str) -> dict[str, object]:
        client = {"id": CLIENT, "name": "page", "secret": self.secret, "redirectURIs": [returns_to]}
        account = {"email": SOMEBODY, "hash": _HASH, "username": "somebody", "userID": "1"}
        return {
            "issuer": self.url,
            "storage": {"type": "memory"},
            "web": {"http": f"127.0.0.1:{self.port}"},
            "oauth2": {"skipApprovalScreen": True},
            "expiry": {"idTokens": "10m"},
            "staticClients": [client],
            "connectors": [{"type": "mockCallback", "id": "mock", "name": "mock"}],
            "enablePasswordDB": True,
            "staticPasswords": [account],
        }


def _built() -> Path:
    """The program, built if it is not in the cache as its lock has it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home).absolute() / "mlplatform" / "servers"
    binary, mark = cache / "dex", cache / "dex.made-of"
    parts = [(HERE / name).read_bytes() for name in ("go.mod", "go.sum")]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if binary.exists() and mark.exists() and mark.read_text() == digest:
        return binary
    lacking = [name for name in ("go", "cc") if shutil.which(name) is None]
    if lacking:
        raise ServerMissing(f"no {' and no '.join(lacking)} to build Dex with, once")
    said("build: Dex (minutes the first time)")
    cache.mkdir(parents=True, exist_ok=True)
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=readonly -buildvcs=false".strip()
    # Its store in SQLite, which no test uses, is C.
    environment = {**os.environ, "CGO_ENABLED": "1", "GOFLAGS": flags}
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(binary), PACKAGE]
    built = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    if built.returncode:
        raise ServerMissing(f"Dex is not built: {built.stderr[-500:]}")
    mark.write_text(digest)
    return binary
