"""The processes that a supervisor has started, so that the next one can end those that are left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec
import psutil

from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.storage.files import open_private, write_atomically

LOCK_FILE: Final = "supervisor.lock"
SUPERVISOR_FILE: Final = "supervisor.json"
PROCESSES_FILE: Final = "processes.json"
SAME_START_S: Final = 1.5
"""Seconds by which two start times may differ: they are computed from ticks since boot, and the
boot time may be corrected."""
SWEEP_LIMIT_S: Final = 5.0

_T = TypeVar("_T")
Write = Callable[[Path, bytes], None]


class ProcessId(msgspec.Struct, frozen=True):
    """The identity of a process: a pid is used again, but not with the same start time."""

    pid: int
    started_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The running process with that pid; None if there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) <= SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class ProcessRecord(msgspec.Struct, frozen=True):
    """The record of one child at the last write.

    Args:
        ended: what ended its last process unexpectedly; empty if nothing did.
        ended_ms: when that was, epoch milliseconds; None if there was no such end.
    """

    name: str
    state: str
    reason: str
    restarts: int
    process: ProcessId | None = None
    port: int | None = None
    descendants: tuple[ProcessId, ...] = ()
    ended: str = ""
    ended_ms: int | None = None


class SupervisorRecord(msgspec.Struct, frozen=True):
    """The record of the supervisor itself."""

    process: ProcessId
    state: str


class Lock:
    """A lock that allows at most one supervisor for a home folder; the kernel frees it when the
    process ends in any way."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Busy: another process holds the lock; the message names it.
        """
        file = open(self._home.run / LOCK_FILE, "ab", opener=open_private)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            record = read_supervisor(self._home)
            who = "another process" if record is None else f"process {record.process.pid}"
            raise Busy(
                f"the platform in {self._home.root} already runs under {who}; "
                "see `mlplatform status`, end it with `mlplatform down`"
            ) from None
        self._file = file

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_supervisor(home: Home, record: SupervisorRecord, write: Write = write_atomically) -> None:
    """Replace the record of the supervisor."""
    write(home.run / SUPERVISOR_FILE, msgspec.json.encode(record))


def read_supervisor(home: Home) -> SupervisorRecord | None:
    """The last supervisor's record; that supervisor may have ended long ago."""
    return _read(home.run / SUPERVISOR_FILE, SupervisorRecord)


def is_running(home: Home) -> bool:
    """Whether a supervisor of this home runs."""
    record = read_supervisor(home)
    return record is not None and record.process.alive()


def write_processes(
    home: Home, records: Sequence[ProcessRecord], write: Write = write_atomically
) -> None:
    """Replace the records of all children."""
    write(home.run / PROCESSES_FILE, msgspec.json.encode(records))


def read_processes(home: Home) -> list[ProcessRecord]:
    """The children's records as last written."""
    return _read(home.run / PROCESSES_FILE, list[ProcessRecord]) or []


def descendants(roots: Iterable[int]) -> dict[int, tuple[ProcessId, ...]]:
    """Processes below each root pid or in its process group, without the root."""
    wanted = set(roots)
    owner: dict[int, int] = {}
    parents: dict[int, int] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            parents[process.pid] = process.ppid()
            group = os.getpgid(process.pid)
            if group in wanted:
                owner[process.pid] = group
    found: dict[int, list[ProcessId]] = {root: [] for root in wanted}
    for pid in parents:
        root = _root(pid, parents, owner, wanted)
        if root is not None and pid != root and (identity := ProcessId.of(pid)) is not None:
            found[root].append(identity)
    return {root: tuple(pids) for root, pids in found.items()}


def kill_group(pid: int) -> None:
    """Send SIGKILL to every process of the group that a child led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def sweep(home: Home) -> list[str]:
    """Kill what an earlier supervisor left running. Returns the names of those children.

    Only processes that are the recorded ones by pid and start time, and the groups that they lead.
    """
    left = []
    remains: list[ProcessId] = []
    for record in read_processes(home):
        known = [p for p in (record.process, *record.descendants) if p is not None and p.alive()]
        if known:
            left.append(record.name)
            remains += known
        for process in known:
            if process == record.process:
                kill_group(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    _await_end(remains)
    write_processes(home, [])
    return left


def _await_end(processes: Sequence[ProcessId]) -> None:
    deadline = time.monotonic() + SWEEP_LIMIT_S
    while any(p.alive() for p in processes):
        if time.monotonic() > deadline:
            pids = [p.pid for p in processes if p.alive()]
            raise Busy(f"processes {pids} of an earlier supervisor do not end")
        time.sleep(0.05)


def _root(pid: int, parents: dict[int, int], owner: dict[int, int], wanted: set[int]) -> int | None:
    seen: set[int] = set()
    while pid and pid not in seen:
        seen.add(pid)
        if pid in wanted:
            return pid
        if pid in owner:
            return owner[pid]
        pid = parents.get(pid, 0)
    return None


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
