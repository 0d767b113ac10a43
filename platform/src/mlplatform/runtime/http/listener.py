"""The listener of a process that serves nothing else: /metrics with a token, and /healthz
without."""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable
from mlplatform.runtime.http.connection import Answer, HttpLimits
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.messages import Refusal, Reply, Request, line
from mlplatform.runtime.http.server import BACKLOG, Server
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.runtime.telemetry.refusals import Refusals

LIMITS: Final = HttpLimits(connections=256, strangers=64, body_bytes=1024)
_TEXT: Final = (line(b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)


def add_options(parser: argparse.ArgumentParser, *, must_be_read: bool) -> None:
    """Add the options for where a process shows its metrics, and who may read them.

    Args:
        must_be_read: whether a token is required; if not, the process can start without one, and
            nobody can read its metrics.
    """
    parser.add_argument(
        "--host", default="127.0.0.1", help="The address on which Prometheus reads the metrics."
    )
    parser.add_argument(
        "--port", type=int, default=0, help="The port of the metrics; 0 takes any free one."
    )
    parser.add_argument(
        "--address-file", type=Path, help='A file that gets {"port": ..., "pid": ...}.'
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        required=must_be_read,
        help="A file with the bearer token of /metrics.",
    )


class MetricsListener:
    """The metrics of one process, and the listener that shows them once the process works."""

    def __init__(self, process: str, options: argparse.Namespace) -> None:
        self.registry = MetricRegistry()
        self._process = process
        self._options = options

    def begin(self, refusals: Refusals) -> None:
        """Start to show the metrics, and write where into the address file.

        Args:
            refusals: where connections are reported that were ended because of a limit.

        Raises:
            ConfigInvalid: the token's file can't be read, or is empty.
        """
        options = self._options
        token = read_token(options.token_file) if options.token_file else secrets.token_hex(16)
        ended = EndedConnections(self._process, refusals)
        port = listen(self.registry, token, port=options.port, host=options.host, ended=ended)
        if options.address_file is not None:
            address = {"port": port, "pid": os.getpid()}
            write_atomically(options.address_file, msgspec.json.encode(address))


def listen(
    registry: MetricRegistry,
    token: str,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    ended: EndedConnections | None = None,
) -> int:
    """Serve on a thread of its own. Returns the port.

    Args:
        port: the port; 0: any free port.
        ended: counts connections that were ended because of a limit.

    Raises:
        ConfigInvalid: the token is empty.
    """
    if not token:
        raise ConfigUnusable(
            "the token of /metrics", "its file is empty", "a file that holds a secret"
        )
    sock = socket.create_server((host, port), backlog=BACKLOG)
    server = Server(_Metrics(registry, token), [sock], limits=LIMITS, ended=ended)

    def serve() -> None:
        # The end of the process interrupts this thread. With uvloop, a timer that is due then would
        # call into an interpreter that no longer exists, and crash the process. The standard
        # library's loop does not.
        asyncio.run(server.serve())

    threading.Thread(target=serve, name="metrics", daemon=True).start()
    taken: int = sock.getsockname()[1]
    return taken


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigInvalid: the file can't be read.
    """
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigInvalid("--token-file", str(path), f"a file ({error.strerror})") from error


class _Metrics:
    """An application that shows a registry."""

    def __init__(self, registry: MetricRegistry, token: str) -> None:
        self._registry = registry
        self._authorization = f"Bearer {token}".encode()

    def answer(self, request: Request) -> Answer:
        if request.path == "/healthz":
            return Reply(b"ok", _TEXT)
        if request.path != "/metrics":
            return Reply(b"", _TEXT, 404)
        header = request.headers.get(b"authorization", b"")
        if not hmac.compare_digest(header, self._authorization):
            return Reply(b"", _TEXT, 401)
        request.admit()
        if request.method not in ("GET", "HEAD"):
            return Reply(b"", (*_TEXT, line(b"allow", b"GET, HEAD")), 405)
        return self._metrics_text()

    def refusal(self, refused: Refusal) -> Reply:
        return Reply(str(refused).encode(), _TEXT, refused.status)

    def on_ended(self, reason: str) -> None:
        """Does nothing: only the caller is informed."""

    async def _metrics_text(self) -> Reply:
        # The values are read from databases; other requests need not wait for that.
        return Reply(await asyncio.to_thread(self._registry.text), _TEXT)
