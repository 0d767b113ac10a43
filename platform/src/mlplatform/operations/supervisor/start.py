"""Preparations before the first process of a platform starts, which also work on a full disk."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mlplatform.operations.supervisor.listeners import port_in_use, ports_in_use
from mlplatform.operations.supervisor.spec import ChildSpec, HttpCheck
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Busy, PlatformError
from mlplatform.runtime.processes.port_holders import holders, other_home, way_to
from mlplatform.runtime.processes.records import sweep
from mlplatform.runtime.storage.disk import says_full
from mlplatform.runtime.storage.files import sweep_drafts, write_atomically

FULL_DISK_RETRY_S: Final = 1.0
"""Seconds between two attempts on a full disk; nothing signals that it has room again."""
SAY_S: Final = 60.0

log = logging.getLogger(__name__)


def prepare(home: Home, specs: Sequence[ChildSpec]) -> None:
    """End processes of an earlier life, and write the files that children read; may be repeated.

    Raises:
        Busy: a port is taken, or a process of an earlier supervisor does not end.
        OSError: nothing can be written to the disk.
    """
    left = sweep(home)
    if left:
        log.warning("killed what an earlier supervisor left: %s", ", ".join(left))
    for folder in (home.run, home.serving, home.secrets, home.measured):
        sweep_drafts(folder)
    check_ports(home, specs)
    for path in (
        home.predictor_token,
        home.mlflow_token,
        home.prefect_token,
        home.page_token,
        home.worker_token,
        home.exporter_token,
    ):
        new_token(path)


def check_ports(home: Home, specs: Sequence[ChildSpec]) -> None:
    """Raises unless every fixed port is free.

    Raises:
        Busy: ports are taken; the message names each, and the setting that changes it, and the
            other home whose platform holds them.
    """
    taken = []
    for port, (spec, setting) in _fixed_ports(specs).items():
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError as error:
            taken.append((spec, port, error, setting))
    if not taken:
        return
    spec, port, why, setting = taken[0]
    refusal = port_in_use(spec, port, why, setting=setting)
    if len(taken) > 1:
        refusal = ports_in_use([(port, setting) for _, port, _, setting in taken])
    other = other_home(holders([port for _, port, _, _ in taken], home).values(), home.root)
    raise refusal if other is None else Busy(f"{refusal}; {way_to(other)}")


def _fixed_ports(specs: Sequence[ChildSpec]) -> dict[int, tuple[ChildSpec, str | None]]:
    """Fixed port → the child that uses it, and the setting that changes it."""
    ports: dict[int, tuple[ChildSpec, str | None]] = {}
    for spec in specs:
        own = spec.check.port if isinstance(spec.check, HttpCheck) else None
        for port in (own, spec.shared_port):
            if port is not None:
                ports.setdefault(port, (spec, spec.port_setting))
        if spec.kept_port is not None:
            ports.setdefault(spec.kept_port, (spec, spec.kept_port_setting))
    return ports


def new_token(path: Path) -> None:
    """Write a new random token to a file of mode 0600; it is valid for one life of the platform."""
    write_atomically(path, secrets.token_urlsafe(32).encode())


def when_there_is_room(
    home: Home, do: Callable[[], None], pause: Callable[[float], None] = time.sleep
) -> None:
    """Call `do`, again and again until the disk has room for it.

    Raises:
        OSError, PlatformError: for another reason than a full disk.
    """
    logged_s = float("-inf")
    while True:
        try:
            return do()
        except (OSError, PlatformError) as error:
            if not says_full(error):
                raise
            if time.monotonic() - logged_s > SAY_S:
                logged_s = time.monotonic()
                log.warning(
                    "the disk of %s is full (%s); the start goes on when there is room",
                    home.root,
                    error,
                )
            pause(FULL_DISK_RETRY_S)
