"""The memory of this machine, or of the container in which this process runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")


def memory_bytes() -> int:
    """All memory: the machine's, or the limit of this process's control group if that is less.

    The tighter of limits of the groups above counts.
    """
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _groups())])


def free_memory_bytes() -> int:
    """Memory that this process can get without taking it from another one; caches of files count as
    free.

    Within a control group, the result is at most the group's limit less what the group holds
    besides caches.
    """
    rooms = [max(0, limit - held) for limit, held in _groups()]
    return min([psutil.virtual_memory().available, *rooms])


def _groups() -> list[tuple[int, int]]:
    """Control groups of this process that have a limit: the limit, and the bytes held."""
    found = []
    with suppress(OSError, ValueError):
        for line in OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::/"):
                own = CGROUPS / line.removeprefix("0::/")
                for folder in (own, *own.parents):
                    if not folder.is_relative_to(CGROUPS):
                        break
                    if (limit := _limit(folder / "memory.max")) is not None:
                        found.append((limit, _held_bytes(folder / "memory.stat")))
    return found


def _limit(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text())  # "max" means no limit
    return None


def _held_bytes(file: Path) -> int:
    """Bytes of a group that are no cache of files."""
    with suppress(OSError, ValueError):
        stats = dict(line.split() for line in file.read_text().splitlines())
        return int(stats["anon"]) + int(stats.get("kernel", 0))
    return 0
