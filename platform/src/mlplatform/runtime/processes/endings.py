"""The cause of a process's end, in words; memory that it ran out of is named if anything tells."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from mlplatform.runtime.processes.memory import CGROUPS, OWN_CGROUP

_KERNEL: Final = Path("/proc/vmstat")
_TAIL_BYTES: Final = 4096
_MEMORY_ERROR: Final = re.compile(rb"^(?:[\w.]*\.)?\w*MemoryError\b", re.MULTILINE)


def ending(
    returncode: int, *, kills_before: int | None, kills_after: int | None, last_lines: bytes = b""
) -> str:
    """How a process ended that nobody had asked to end.

    Args:
        returncode: the return code as in subprocess: negative for a signal.
        kills_before, kills_after: the kernel's counts of processes killed for memory at the
            process's start and after its end; None if the system has no such count.
        last_lines: the end of its log.
    """
    if returncode == -signal.SIGKILL:
        return f"was killed (signal 9): {_killer(kills_before, kills_after)}"
    if returncode < 0:
        return f"was ended by signal {-returncode} ({_name(-returncode)})"
    if returncode != 0 and _MEMORY_ERROR.search(last_lines):
        return f"ran out of memory (MemoryError) and ended with status {returncode}"
    return f"ended with status {returncode}"


def memory_kills() -> int | None:
    """The number of processes that the kernel has killed for memory, in this control group or else
    in all; None if unknown."""
    with suppress(OSError, ValueError):
        for line in OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::/"):
                own = CGROUPS / line.removeprefix("0::/") / "memory.events"
                if own.exists():
                    return _kill_count(own.read_text())
    with suppress(OSError, ValueError):
        return _kill_count(_KERNEL.read_text())
    return None


def own_memory(pid: int) -> int:
    """Bytes that a process holds for itself alone, which a limit in Kubernetes counts; 0 if it is
    gone."""
    try:
        found = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    shared: int = getattr(found, "shared", 0)  # only on Linux
    return int(found.rss) - shared


def tail(log: Path, since: int) -> bytes:
    """The end of a log, of what was written after it had the size `since`."""
    with suppress(OSError), log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(since if since <= end else 0, end - _TAIL_BYTES))
        return file.read(_TAIL_BYTES)
    return b""


def _killer(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "by a person, or by the kernel for want of memory; this machine does not say which"
    if after > before:
        return "out of memory; the kernel has killed for memory while it ran"
    return "not by the platform, and the kernel counts no kill for memory while it ran"


def _kill_count(text: str) -> int | None:
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return None


def _name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return "unknown"
