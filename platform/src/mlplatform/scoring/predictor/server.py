"""The life of a predictor process: it listens at once, loads, serves, and drains when told to
end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.http.connection import HttpLimits
from mlplatform.runtime.http.grpc_connections import GrpcConnections
from mlplatform.runtime.http.server import Life, Server
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.scoring.predictor import grpc_server
from mlplatform.scoring.predictor.app import RestApplication
from mlplatform.scoring.predictor.batching import SWITCH_INTERVAL_S, BatchLimits
from mlplatform.scoring.predictor.model import RuntimeFailure, load
from mlplatform.scoring.predictor.providers import Accelerator
from mlplatform.scoring.predictor.state import ServedModel

IN_FLIGHT_LIMIT_S: Final = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The values of the command line.

    Args:
        digest: digest of the bundle that the service is for; empty: whichever its name is for.
        grpc_port: the port for gRPC; None: no gRPC; 0: any free port.
        drain_s: seconds after SIGTERM for which requests are accepted, while the server reports
            that it is not ready.
        termination_log: file from which a kubelet reads why a container ended. With it, a model
            that can't be served ends the process; without it, the process runs on and reports the
            reason.
    """

    model_dir: Path
    model_name: str
    digest: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    grpc_port: int | None = None
    address_file: Path | None = None
    token_file: Path | None = None
    drain_s: float = 0.5
    termination_log: Path | None = None
    accelerator: Accelerator = "cpu"
    batch_rows: int = 1024
    batch_delay_us: int = 300
    queue_limit: int = 256

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(self.queue_limit, self.batch_rows, self.batch_delay_us)


class Address(msgspec.Struct, omit_defaults=True):
    """The content of an address file."""

    port: int
    pid: int
    grpc_port: int | None = None


def serve(arguments: Arguments) -> None:
    """Serves until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        SystemExit: 1 if the model can't be served and there is a termination log for the reason, or
            if the scoring thread has ended.
    """
    token = arguments.token_file.read_text().strip() if arguments.token_file else None
    predictor = ServedModel(arguments.model_name, token, arguments.limits)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    listener = listen(arguments)
    serving = _PredictorLifecycle(predictor, arguments, listener)
    life = Life(
        serving.start,
        predictor.drain,
        serving.stop,
        is_useful=lambda: predictor.alive and not serving.gave_up,
        linger_s=arguments.drain_s,
    )
    limits = HttpLimits(body_bytes=predictor.max_body_bytes)
    server = Server(RestApplication(predictor), [listener], life, limits)
    server.run()
    if server.gave_up:
        raise SystemExit(1)


def listen(arguments: Arguments) -> socket.socket:
    """A listening socket. Port 0 takes the port of this predictor's last start, or any free one.

    A caller that knows its address finds it there again after a restart.
    """
    former = _former(arguments) if arguments.port == 0 else None
    if former is not None:
        with contextlib.suppress(OSError):
            return socket.create_server((arguments.host, former.port))
    is_kept = _is_kept(arguments, arguments.port)
    return socket.create_server((arguments.host, arguments.port), reuse_port=is_kept)


def _is_kept(arguments: Arguments, port: int | None) -> bool:
    """Whether a supervisor, which reads the address file, holds the named port, so that no other
    process takes it while this one restarts."""
    return bool(port) and arguments.address_file is not None


def _former(arguments: Arguments) -> Address | None:
    if arguments.address_file is None:
        return None
    with contextlib.suppress(OSError, *NOT_JSON):
        return msgspec.json.decode(arguments.address_file.read_bytes(), type=Address)
    return None


class _PredictorLifecycle:
    """The parts of a predictor around HTTP: an address file, gRPC, and a model to load."""

    def __init__(
        self, predictor: ServedModel, arguments: Arguments, listener: socket.socket
    ) -> None:
        self._predictor = predictor
        self._arguments = arguments
        self._listener = listener
        self._loading: asyncio.Task[None] | None = None
        self._grpc: grpc.aio.Server | None = None
        self._connections = GrpcConnections()
        self.gave_up = False

    async def start(self) -> None:
        grpc_port = await self._start_grpc()
        if self._arguments.address_file is not None:
            address = Address(self._listener.getsockname()[1], os.getpid(), grpc_port)
            write_atomically(self._arguments.address_file, msgspec.json.encode(address))
        self._loading = asyncio.create_task(self._load())

    async def stop(self) -> None:
        # gRPC asks its clients to leave and answers calls that they have sent: no call is lost.
        if self._grpc is not None:
            await self._grpc.stop(IN_FLIGHT_LIMIT_S)
        self._connections.stop()

    async def _start_grpc(self) -> int | None:
        """The port of gRPC; None if it was not asked for."""
        if self._arguments.grpc_port is None:
            return None
        shared = _is_kept(self._arguments, self._arguments.grpc_port)
        self._grpc = grpc_server.server(self._predictor, self._connections, shares_port=shared)
        former = _former(self._arguments) if self._arguments.grpc_port == 0 else None
        port = self._arguments.grpc_port if former is None else former.grpc_port or 0
        host = self._arguments.host
        try:
            port = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            if former is None:
                raise
            port = self._grpc.add_insecure_port(f"{host}:0")
        await self._grpc.start()
        self._connections.start(port)
        return port

    async def _load(self) -> None:
        asked = self._arguments
        name, folder = asked.model_name, asked.model_dir
        try:
            model = await asyncio.to_thread(load, folder, name, asked.accelerator, asked.digest)
        except (PlatformError, OSError, *RuntimeFailure) as error:
            log.exception("%s can't be loaded, so it stays not ready until it is replaced", name)
            self._predictor.fail(str(error))
            if self._arguments.termination_log is not None:
                self._arguments.termination_log.write_text(f"{error}\n")
                self.gave_up = True
            return
        # Objects made so far live as long as the process, so collections can skip them.
        gc.collect()
        gc.freeze()
        self._predictor.serve(model)
        log.info(
            "%s is ready on %s, mode %s: up to %d rows are scored on the event loop",
            *(name, model.accelerator, model.mode, model.inline_rows),
        )
