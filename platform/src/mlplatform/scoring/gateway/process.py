"""`python -m mlplatform.process gateway`: the scoring API, one of several processes on a socket."""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from pathlib import Path

import msgspec

from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.server import BACKLOG, Server
from mlplatform.runtime.processes.inherited_socket import inherited_socket
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.gateway.wiring import wire_gateway

SWITCH_INTERVAL_S = 0.0005
"""Seconds after which a thread gives the interpreter lock to another that waits. With Python's 5
ms, commit thread and event loop would wait a tenth of a deadline for each other each time."""


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--name",
        default="gateway-0",
        help="The name of its writer in the decision log, which no other process has.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="The address that applications call, unless a socket is given.",
    )
    parser.add_argument(
        "--address-file",
        type=Path,
        help='A file that gets {"port": ..., "pid": ...} of a port of this process alone.',
    )
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="The supervisor says where a cluster's predictors are, not the cluster's names.",
    )
    return parser


def shared_listener(host: str, port: int) -> socket.socket:
    """The socket that applications call: the supervisor's or, without one, a new socket.

    Raises:
        Busy: another process has the port; the message names it.
    """
    handed_down = inherited_socket()
    if handed_down is not None:
        return handed_down
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        raise Busy(f"port {port} is taken; set MLPLATFORM_GATEWAY_PORT to another") from error


def own_listener(address_file: Path) -> socket.socket:
    """A free port of this gateway alone, for probes and scraping; its address is written to a
    file."""
    sock = socket.create_server(("127.0.0.1", 0))
    address = {"port": sock.getsockname()[1], "pid": os.getpid()}
    write_atomically(address_file, msgspec.json.encode(address))
    return sock


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; requests under way are finished and recorded."""
    sockets = [shared_listener(options.host, settings.gateway_port)]
    wired = wire_gateway(settings, options.name, options.host, supervised=options.supervised)
    if options.address_file is not None:
        sockets.append(own_listener(options.address_file))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    ended = EndedConnections("gateway", Refusals(settings.home.audit))
    server = Server(wired.app, sockets, wired.life, ended=ended)
    server.run()
    if server.gave_up:
        sys.exit(f"{options.name} ended: it could record nothing any more")
