"""Where the processes of a running platform listen, as the kernel has it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import psutil

from mlplatform.operations.supervisor.listener_table import ADDRESS, LISTENERS, Listener
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.processes.records import read_processes, read_supervisor

HANDED_DOWN = ("gateway-*", "prefect", "mlflow", "page")
"""Whose sockets the supervisor opens, and hands down."""
_LISTENS = 0x10000  # a flag of a socket in /proc/net/unix: it accepts connections


@dataclass(frozen=True, slots=True)
class Port:
    """A socket that others can reach."""

    process: str
    address: str
    port: int


def listening(settings: Settings) -> set[Port]:
    """Of the supervisor and everything below it: TCP that listens, UDP that is bound."""
    names = _names(settings)
    found = set()
    for pid, name in names.items():
        try:
            connections = psutil.Process(pid).net_connections("inet")
        except (psutil.NoSuchProcess, AttributeError):
            connections = _connections(pid)
        for one in connections:
            is_open = one.type == socket.SOCK_DGRAM or one.status == psutil.CONN_LISTEN
            if is_open and one.laddr:
                # gRPC binds a v4 address by way of a v6 socket.
                found.add(Port(name, one.laddr.ip.removeprefix("::ffff:"), one.laddr.port))
    return found


def unknown(settings: Settings) -> list[str]:
    """What listens and stands in no row of the table, or elsewhere than on loopback."""
    wrong, free = [], dict[str, list[int]]()
    for one in sorted(listening(settings), key=str):
        if one.address != ADDRESS:
            wrong.append(f"{one} is not on loopback")
        elif not _is_fixed(one, settings):
            free.setdefault(one.process, []).append(one.port)
    for process, ports in free.items():
        rows = [row for row in LISTENERS if not row.variable and _is_of(row, process)]
        if len(ports) > len(rows):
            wrong.append(f"{process} listens on {ports}, and {len(rows)} of these are in the table")
    return wrong


def missing(settings: Settings) -> list[str]:
    """Rows of the table where nothing listens."""
    here = listening(settings)
    return [
        row.name
        for row in LISTENERS
        if not any(_is_of(row, one.process) for one in here)
        and row.process != "worker-*"  # none where traffic is replayed
    ]


def unix_sockets(settings: Settings) -> Iterator[str]:
    """Names of those on which the platform's processes accept connections."""
    inodes = {inode for pid in _names(settings) for inode in _sockets(pid)}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & _LISTENS and fields[6] in inodes:
            yield fields[7] if len(fields) > 7 else ""


def is_private(name: str) -> bool:
    """Whether a socket lies in a folder that its owner alone enters; an abstract one never does."""
    if not name.startswith("/"):
        return False
    return not stat.S_IMODE(Path(name).parent.stat().st_mode) & 0o077


def _names(settings: Settings) -> dict[int, str]:
    supervisor = read_supervisor(settings.home)
    assert supervisor is not None
    children = {
        r.process.pid: r.name for r in read_processes(settings.home) if r.process is not None
    }
    names = {supervisor.process.pid: "supervisor"}
    for one in psutil.Process(supervisor.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a flow run, or a file's work, has ended meanwhile
            line = (one.pid, *(parent.pid for parent in one.parents()))
            names[one.pid] = next((children[pid] for pid in line if pid in children), "nobody's")
    return names


def _is_of(row: Listener, process: str) -> bool:
    if row.process == "predictor":
        return ServiceName.parse(process) is not None
    return fnmatch(process, row.process)


def _is_fixed(one: Port, settings: Settings) -> bool:
    """Whether it is the port that a variable names; the supervisor holds its children's too."""
    ports, is_supervisor = settings.environment(), one.process == "supervisor"
    return any(
        ports[row.variable] == str(one.port)
        and (_is_of(row, one.process) or (is_supervisor and row.process in HANDED_DOWN))
        for row in LISTENERS
        if row.variable
    )


def _connections(pid: int) -> list[object]:
    """None of a process that has ended since it was listed."""
    with suppress(psutil.NoSuchProcess):
        with_older_name: list[object] = psutil.Process(pid).connections("inet")
        return with_older_name
    return []


def _sockets(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # it has ended since it was listed
        return
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
