"""Status of the platform's processes, read from records and the process table."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import psutil

from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.records import (
    ProcessId,
    ProcessRecord,
    read_processes,
    read_supervisor,
)
from mlplatform.runtime.storage.disk import disk_space


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the platform.

    Args:
        state: starting, ready, not ready, restarting, stopping or stopped; or gone if the record
            names a process that no longer runs.
        ended: what ended its last process unexpectedly, at `ended_ms`; empty if nothing did.
        memory_mb: memory in MB of the process and its descendants; where the system tells it, a
            page that processes share counts once (PSS).
    """

    name: str
    pid: int | None
    state: str
    reason: str
    restarts: int
    memory_mb: float
    uptime_s: float
    port: int | None
    ended: str = ""
    ended_ms: int | None = None

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
    def complaints(self) -> tuple[str, ...]:
        """Problems that ready processes report nevertheless, for example stale features."""
        ready = (p for p in self.processes if p.state == "ready")
        return tuple(f"{p.name}: {p.reason}" for p in ready if p.reason)

    @property
    def memory_mb(self) -> float:
        return sum(process.memory_mb for process in self.processes)


def status(home: Home) -> PlatformStatus:
    """The status of the platform of a home folder; starts and changes nothing."""
    supervisor = read_supervisor(home)
    if supervisor is None or not supervisor.process.alive():
        left = [r for r in read_processes(home) if r.process is not None and r.process.alive()]
        return PlatformStatus("stopped", tuple(map(_status, left)), _disk(home))
    own = ProcessStatus(
        "supervisor",
        supervisor.process.pid,
        supervisor.state,
        "",
        0,
        _memory_mb([supervisor.process]),
        time.time() - supervisor.process.started_s,
        None,
    )
    children = map(_status, read_processes(home))
    return PlatformStatus(supervisor.state, (own, *children), _disk(home))


def _disk(home: Home) -> str:
    try:
        return disk_space(home.root).warning(home.root)
    except FileNotFoundError:  # no platform was ever here
        return ""


def _status(record: ProcessRecord) -> ProcessStatus:
    process = record.process
    alive = process is not None and process.alive()
    state = "gone" if process is not None and not alive else record.state
    return ProcessStatus(
        name=record.name,
        pid=process.pid if process is not None and alive else None,
        state=state,
        reason=record.reason,
        restarts=record.restarts,
        memory_mb=_memory_mb([process, *record.descendants]) if process is not None else 0.0,
        uptime_s=time.time() - process.started_s if process is not None and alive else 0.0,
        port=record.port,
        ended=record.ended,
        ended_ms=record.ended_ms,
    )


def _memory_mb(processes: list[ProcessId]) -> float:
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
