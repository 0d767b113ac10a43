"""/metrics for who has the token, /healthz for anybody, of a process that serves nothing else."""

from __future__ import annotations

import hmac
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from mlplatform.errors import ConfigInvalid
from mlplatform.files import write_atomically
from mlplatform.telemetry.prometheus import Registry

REQUEST_S = 10.0
"""How long a caller may say nothing."""


def listen(registry: Registry, token: str, *, port: int = 0, host: str = "127.0.0.1") -> int:
    """Serve from now on, in threads of its own; returns the port.

    Args:
        port: 0: any that is free.

    Raises:
        ConfigInvalid: the token is empty.
    """
    if not token:
        raise ConfigInvalid("the token of /metrics", "an empty file", "a secret")

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.path == "/healthz":
                self._reply(200, b"ok")
            elif self.path != "/metrics":
                self._reply(404, b"")
            elif hmac.compare_digest(given.encode(), token.encode()):
                self._reply(200, registry.text())
            else:
                self._reply(401, b"")

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    taken: int = server.server_address[1]
    return taken


def tell(address_file: Path, port: int) -> None:
    """Say in a file where this process listens."""
    address = {"port": port, "pid": os.getpid()}
    write_atomically(address_file, msgspec.json.encode(address))
