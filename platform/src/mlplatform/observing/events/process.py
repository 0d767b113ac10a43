"""`python -m mlplatform.process events`: sends events of the journals to their receivers until it
is stopped."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence

from mlplatform.model.folders import personal_fields
from mlplatform.observing.events import wiring
from mlplatform.observing.events.delivery import DOWN, POLL_S, Delivery, DeliveryPorts
from mlplatform.observing.events.receivers import VARIABLE, Receiver, declared_receivers
from mlplatform.rollouts.events.stream import JournalStream
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.processes.shutdown_signals import called_at_signals
from mlplatform.scoring import wiring as scoring_wiring

START_S = 60.0
"""Longest wait for the database at the start, in seconds."""

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line, which has no options: settings say everything."""
    return argparse.ArgumentParser(description=__doc__)


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises:
        ConfigInvalid: no receivers' file is named, or something in it is wrong.
    """
    declaration = declared_receivers(settings)
    if not declaration.receivers:
        raise ConfigInvalid(VARIABLE, "", "a file of receivers (docs/events.md)")
    if settings.postgres is None:
        settings.home.create()
    names = [one.name for one in declaration.receivers]
    stream = _open(settings, names)
    log.info("events go to %s", ", ".join(names))
    asyncio.run(
        deliver(
            declaration.receivers,
            DeliveryPorts(
                stream,
                wiring.sender(),
                SystemClock(),
                holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
                page=declaration.page,
                redacted=personal_fields().applied,
            ),
        )
    )


async def deliver(to: Sequence[Receiver], ports: DeliveryPorts) -> None:
    """Deliver to all receivers at once, each at its own pace, until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    with called_at_signals(stopping.set):
        async with asyncio.TaskGroup() as group:
            for one in to:
                group.create_task(Delivery(one, ports).run(stopping))


def _open(settings: Settings, names: Sequence[str]) -> JournalStream:
    """The stream with these receivers declared; a database that is away is waited for."""
    until_s = time.monotonic() + START_S
    while True:
        try:
            stream = scoring_wiring.journal_stream(settings)
            stream.positions.declare(names, stream.head())
            return stream
        except DOWN as error:
            if time.monotonic() > until_s:
                raise
            log.warning("the journals can't be opened yet: %r", error)
            time.sleep(POLL_S)
