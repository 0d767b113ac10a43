"""Holders of ports of this machine: the process, and the platform of which home it belongs to.

Another home's platform that answers on a port must get no key or token of this home.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from mlplatform.runtime.configuration.declarations import DEFAULTS, PORTS, PREFIX
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.processes.records import is_running, read_processes

PACKAGE: Final = "mlplatform"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on a port.

    Args:
        pid: the process id; None if the system does not report it.
        name: name of the program; empty if it is not known.
        home: home folder of the platform to which it belongs; None if it belongs to no platform.
    """

    pid: int | None
    name: str
    home: Path | None


def port_numbers(environment: Mapping[str, str]) -> dict[str, int]:
    """Variable of each of the platform's ports → its number; 0 means any free one."""
    return {p.variable: int(environment.get(p.variable, p.default)) for p in PORTS}


def holders(ports: Collection[int], home: Home) -> dict[int, Holder]:
    """Port → the process that listens on it, in the given order, for those of which the system
    reports one; the supervisor holds the sockets of its children."""
    pids: dict[int, set[int]] = {}
    with contextlib.suppress(psutil.Error):  # macOS shows them only to root
        for found in psutil.net_connections("tcp"):
            if found.status != psutil.CONN_LISTEN or not found.laddr or found.pid is None:
                continue
            if (port := found.laddr.port) in ports:
                pids.setdefault(port, set()).add(found.pid)
    ours = {p.pid for record in read_processes(home) for p in (record.process,) if p is not None}
    asked = ((port, pids[port]) for port in ports if port in pids)
    return {port: held for port, of in asked for held in _first(of, ours, home.root)}


def other_home(held: Collection[Holder], root: Path) -> Path | None:
    """The home of another platform among the holders of a home's ports; None if there is none."""
    return next((one.home for one in held if one.home not in (None, root)), None)


def running_elsewhere(settings: Settings) -> Path | None:
    """The home of the platform that runs on the ports of this home, in which none runs; None if
    there is none, and where the settings name servers of a platform elsewhere."""
    if settings.is_elsewhere or is_running(settings.home):
        return None
    ports = port_numbers(settings.environment()).values()
    return other_home(holders(ports, settings.home).values(), settings.home.root)


def require_own(home: Home, port: int, what: str) -> None:
    """Raises if the platform of another home would get what is meant for that of this home.

    Args:
        what: the part of the platform that is asked on the port.

    Raises:
        Unavailable: this home's platform is stopped, and another's holds the port; the error names
            its home.
    """
    if is_running(home):
        return
    if other := other_home(holders({port}, home).values(), home.root):
        raise Unavailable(
            f"{what} of {home.root} does not run; the platform of {other} answers on port {port},"
            " and no key or token was sent to it"
        )


def way_to(other: Path) -> str:
    """The way of a person whose platform runs in another home than the named one."""
    return f"a platform runs in {other}: export {PREFIX}HOME={shlex.quote(str(other))}"


def _first(pids: Collection[int], ours: Collection[int], root: Path) -> Iterator[Holder]:
    for pid in sorted(pids):
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            home = root if pid in ours else _home_of(process)
            own = home is not None and os.path.realpath(home) == os.path.realpath(root)
            yield Holder(pid, process.name(), root if own else home)
            return


def _home_of(process: psutil.Process) -> Path | None:
    """The home of the platform that a process belongs to; None if it belongs to none."""
    if not any(map(_is_of_package, process.cmdline())):
        return None
    named = process.environ().get(f"{PREFIX}HOME", DEFAULTS["HOME"])
    return Path(process.cwd(), named)


def _is_of_package(word: str) -> bool:
    """Whether a word of a command line starts the platform: its command, or a module of it. A
    folder of that name, in which a checkout may be, does not count."""
    name = os.path.basename(word)
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")
