"""The resources of a confined process, and how the kernel limits them."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec

_STATM: Final = Path("/proc/self/statm")


class ProcessLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one confined process, beyond what its loaded libraries use.

    Args:
        memory_bytes: bytes of memory that it may map.
        cpu_s: processor seconds in its whole life.
    """

    memory_bytes: int
    cpu_s: int


def take_limits(limits: ProcessLimits) -> list[str]:
    """Bind this process to the limits for good. Returns the names of those that this system has."""
    hard = {
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,  # pipes and sockets have no file size
        "RLIMIT_NOFILE": 0,  # open files stay open
        "RLIMIT_NPROC": 0,  # root is not bound by it; the system call filter binds it
        **_memory(limits.memory_bytes),
    }
    return [name for name, value in hard.items() if _set(name, value)]


def _memory(bytes_more: int) -> dict[str, int]:
    """The two limits of memory: RLIMIT_DATA counts no shared mapping, RLIMIT_AS is what malloc
    meets."""
    if sys.platform != "linux":
        return {"RLIMIT_AS": bytes_more}
    size, *_, data, _ = (int(part) for part in _STATM.read_text().split())
    page = os.sysconf("SC_PAGE_SIZE")
    return {"RLIMIT_AS": size * page + bytes_more, "RLIMIT_DATA": data * page + bytes_more}


def _set(name: str, value: int) -> bool:
    kind = getattr(resource, name, None)
    if kind is None:
        return False
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):  # macOS has RLIMIT_AS but refuses to set it
        return False
    return True
