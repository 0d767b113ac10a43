"""How a predictor process lives: listens at once, loads, serves, and drains when told to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import uvicorn

from mlplatform.errors import PlatformError
from mlplatform.files import write_atomically
from mlplatform.predictor.app import Predictor
from mlplatform.predictor.model import RuntimeFailure, load

KEEP_ALIVE_S: Final = 75
IN_FLIGHT_LIMIT_S: Final = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says.

    Args:
        drain_s: how long requests are still taken after SIGTERM, while readiness says no.
    """

    model_dir: Path
    model_name: str
    host: str = "127.0.0.1"
    port: int = 0
    address_file: Path | None = None
    token_file: Path | None = None
    drain_s: float = 0.5


class Address(msgspec.Struct):
    """The content of an address file."""

    port: int
    pid: int


def run(arguments: Arguments) -> None:
    """Serves until SIGTERM or SIGINT; a second signal ends it at once."""
    token = arguments.token_file.read_text().strip() if arguments.token_file else None
    predictor = Predictor(arguments.model_name, token)
    listener = listen(arguments)
    config = uvicorn.Config(
        predictor,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=IN_FLIGHT_LIMIT_S,
    )
    _Server(config, predictor, arguments).run(sockets=[listener])


def listen(arguments: Arguments) -> socket.socket:
    """A listening socket; port 0 takes the port of this predictor's earlier life, or any.

    Whoever knew its address finds it there again after a restart.
    """
    if arguments.port == 0 and arguments.address_file is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            former = msgspec.json.decode(arguments.address_file.read_bytes(), type=Address)
            return socket.create_server((arguments.host, former.port))
    return socket.create_server((arguments.host, arguments.port))


class _Server(uvicorn.Server):
    """Uvicorn, with an address file, a model to load and a drain before the end."""

    def __init__(self, config: uvicorn.Config, predictor: Predictor, arguments: Arguments) -> None:
        super().__init__(config)
        self._predictor = predictor
        self._arguments = arguments
        self._loading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._arguments.address_file is not None and sockets:
            address = Address(sockets[0].getsockname()[1], os.getpid())
            write_atomically(self._arguments.address_file, msgspec.json.encode(address))
        self._loading = asyncio.create_task(self._load())

    async def main_loop(self) -> None:
        """Until told to end; then readiness is withdrawn first, so that callers turn away."""
        await super().main_loop()
        self._predictor.drain()
        if not self.force_exit:
            await asyncio.sleep(self._arguments.drain_s)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Uvicorn would raise the signal again after a clean end; ours ends with status 0.
        self.force_exit = self.should_exit
        self.should_exit = True

    async def _load(self) -> None:
        name, folder = self._arguments.model_name, self._arguments.model_dir
        try:
            model = await asyncio.to_thread(load, folder, name)
        except (PlatformError, OSError, *RuntimeFailure) as error:
            log.exception("%s can never be ready", name)
            self._predictor.fail(str(error))
            return
        # What was made so far lives as long as the process: no collection looks at it again.
        gc.collect()
        gc.freeze()
        self._predictor.serve(model)
        log.info("%s is ready; up to %d rows are scored at once", name, model.inline_rows)
