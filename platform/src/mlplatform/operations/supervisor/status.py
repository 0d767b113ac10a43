"""Status of the platform's processes, read from records and the process table."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final

import psutil

from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.records import (
    ProcessId,
    ProcessRecord,
    read_processes,
    read_supervisor,
)
from mlplatform.runtime.storage.disk import disk_space

ENDED: Final = ("gone", "not ready")
"""States of a process that needs a look, whatever the platform's state is."""
SCHEDULER: Final = "prefect"
"""The process that starts schedules and runs. No answer to a request needs it."""
MOST_NAMED: Final = 3
KEPT_S: Final = 15.0
"""Seconds for which the memory of a process is kept: to measure it, the system goes through all of
its pages."""
MEASURED_WITHIN_S: Final = 0.2
"""Seconds that a view waits for memory that was never measured."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the platform.

    Args:
        state: starting, ready, not ready, restarting, stopping or stopped; or gone if the record
            names a process that no longer runs.
        ended: what ended its last process unexpectedly, at `ended_ms`; empty if nothing did.
        memory_mb: memory in MB of the process and its descendants; where the system tells it, a
            page that processes share counts once (PSS). None if it is not measured yet.
    """

    name: str
    pid: int | None
    state: str
    reason: str
    restarts: int
    memory_mb: float | None
    uptime_s: float
    port: int | None
    ended: str = ""
    ended_ms: int | None = None

    @property
    def is_needed(self) -> bool:
        """Whether answers to requests suffer while the process is not ready."""
        return self.name != SCHEDULER

    @property
    def why(self) -> str:
        """A sentence for people: why the process is not ready, or what ended it last."""
        if self.reason or self.state != "ready" or not self.ended:
            return self.reason
        at = time.strftime("%m-%d %H:%M", time.gmtime((self.ended_ms or 0) / 1000))
        return f"its last process {self.ended} ({at} UTC)"


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """The status of the supervisor and of its children, in this order.

    Args:
        state: stopped, starting, ready or stopping.
        disk: a message about the home folder's disk; empty while it has room. On a full disk the
            states may be old.
    """

    state: str
    processes: tuple[ProcessStatus, ...]
    disk: str = ""

    @property
    def running(self) -> bool:
        return self.state != "stopped"

    @property
    def unready(self) -> tuple[ProcessStatus, ...]:
        """The processes that have ended or are not ready; of a platform that is ready also those
        that start again."""
        return tuple(
            one
            for one in self.processes
            if one.state in ENDED or (self.state == "ready" and one.state != "ready")
        )

    @property
    def headline(self) -> str:
        """The state in a few words, with the names of what is not ready and of what warns."""
        lacking = self._lacking
        warning = [one.name for one in self.processes if one.state == "ready" and one.reason]
        if not warning:
            return lacking or self.state
        verb = "warns" if len(warning) == 1 else "warn"
        if lacking:
            return f"{lacking}, and {_listed(warning)} {verb}"
        return f"{self.state}, but {_listed(warning)} {verb}"

    @property
    def _lacking(self) -> str:
        names = [one.name for one in self.unready]
        if self.state != "ready" or not names:
            return ""
        able = "ready" if any(one.is_needed for one in self.unready) else "ready to answer"
        return f"{able}, but {_listed(names)} {'is' if len(names) == 1 else 'are'} not"

    def unanswered(self, name: str, why: str) -> PlatformStatus:
        """The status with a process as not ready that the supervisor found ready, but that has not
        answered the reader.

        Args:
            why: what was asked and did not come; empty if the process answered.
        """
        if not why:
            return self
        silent = [
            replace(one, state="not ready", reason=why)
            if (one.name, one.state) == (name, "ready")
            else one
            for one in self.processes
        ]
        return replace(self, processes=tuple(silent))

    @property
    def complaints(self) -> tuple[str, ...]:
        """Problems that ready processes report nevertheless, for example stale features."""
        ready = (p for p in self.processes if p.state == "ready")
        return tuple(f"{p.name}: {p.reason}" for p in ready if p.reason)

    @property
    def memory_mb(self) -> float:
        """Memory in MB of all processes that are measured."""
        return sum(process.memory_mb or 0.0 for process in self.processes)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    shown = [*names[:MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


Group = tuple[ProcessId, ...]
"""A process, by which its memory is known, and its descendants."""


def measure(groups: Sequence[Group]) -> Mapping[ProcessId, float]:
    """The memory of each group of processes in MB; a large process takes 10 ms and more."""
    return {group[0]: _memory_mb(group) for group in groups if group}


class KeptMemory:
    """Measured memory that views show without measuring it again. Safe for threads.

    Args:
        measured: measures groups; called on a thread of its own.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        measured: Callable[[Sequence[Group]], Mapping[ProcessId, float]] = measure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measured, self._clock = measured, clock
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "memory")
        self._known: Mapping[ProcessId, float] = {}
        self._known_s = -KEPT_S
        self._measuring: Future[None] | None = None

    def __call__(self, groups: Sequence[Group]) -> Mapping[ProcessId, float]:
        """The memory of those groups that were measured, `KEPT_S` ago or since the last view."""
        with self._lock:
            is_new = not self._known
            is_due = is_new or self._clock() - self._known_s >= KEPT_S
            idle = self._measuring is None or self._measuring.done()
            if is_due and idle:
                self._measuring = self._thread.submit(self._measure, tuple(groups))
            measuring = self._measuring
        if is_new and measuring is not None:
            wait([measuring], MEASURED_WITHIN_S)
        return self._known

    def _measure(self, groups: Sequence[Group]) -> None:
        self._known, self._known_s = self._measured(groups), self._clock()


def status(
    home: Home, memory: Callable[[Sequence[Group]], Mapping[ProcessId, float]] = measure
) -> PlatformStatus:
    """The status of the platform of a home folder; starts and changes nothing.

    Args:
        memory: returns the memory in MB of each group of processes, as far as it is known.
    """
    supervisor, records = read_supervisor(home), read_processes(home)
    if supervisor is None or not supervisor.process.alive():
        left = [r for r in records if r.process is not None and r.process.alive()]
        known = memory([_group(one) for one in left])
        return PlatformStatus("stopped", tuple(_status(r, known) for r in left), _disk(home))
    whole = (supervisor.process,)
    known = memory([whole, *map(_group, records)])
    own = ProcessStatus(
        "supervisor",
        supervisor.process.pid,
        supervisor.state,
        "",
        0,
        known.get(supervisor.process),
        time.time() - supervisor.process.started_s,
        None,
    )
    children = (_status(record, known) for record in records)
    return PlatformStatus(supervisor.state, (own, *children), _disk(home))


def _disk(home: Home) -> str:
    if not home.root.is_dir():  # no platform was ever here
        return ""
    return disk_space(home.root).warning(home.root)


def _group(record: ProcessRecord) -> Group:
    return () if record.process is None else (record.process, *record.descendants)


def _status(record: ProcessRecord, memory: Mapping[ProcessId, float]) -> ProcessStatus:
    process = record.process
    alive = process is not None and process.alive()
    state = "gone" if process is not None and not alive else record.state
    return ProcessStatus(
        name=record.name,
        pid=process.pid if process is not None and alive else None,
        state=state,
        reason=record.reason,
        restarts=record.restarts,
        memory_mb=0.0 if process is None else memory.get(process),
        uptime_s=time.time() - process.started_s if process is not None and alive else 0.0,
        port=record.port,
        ended=record.ended,
        ended_ms=record.ended_ms,
    )


def _memory_mb(processes: Group) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.alive():
                total += _memory(psutil.Process(process.pid))
    return total / 1e6


def _memory(process: psutil.Process) -> int:
    """Bytes of the process's own memory and its share of common memory; resident bytes if the
    system does not report more."""
    with contextlib.suppress(psutil.AccessDenied):
        proportional: int | None = getattr(process.memory_full_info(), "pss", None)
        if proportional is not None:
            return proportional
    resident: int = process.memory_info().rss
    return resident
