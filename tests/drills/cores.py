"""How long threads of the scoring path waited for a core: what of lateness is the machine's.

Linux counts it for each thread (`run_delay` of /proc/<pid>/task/<tid>/schedstat). Elsewhere nothing
is known, and nothing is taken off what the path itself has to answer for.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

EVERY_S = 0.02
RECHECK_S = 0.5
"""How often it is looked for processes and threads that are new."""


class Waits:
    """Samples the waits of all threads of some processes while its block runs.

    Args:
        pids: of the processes, asked now and then.
    """

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._files: dict[Path, int] = {}
        self._taken: dict[Path, tuple[list[float], list[int]]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="waits", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        for descriptor in self._files.values():
            os.close(descriptor)

    def longest_ms(self, from_s: float, to_s: float) -> float:
        """How long one thread waited between two moments: the one that waited longest.

        A wait counts when it is over, and samples lie a little outside of the moments: the answer
        may be too large by what was waited within two samples.
        """
        return max(
            (_waited_ms(*taken, from_s, to_s) for taken in list(self._taken.values())), default=0
        )

    def _sample(self) -> None:
        check_s = 0.0
        while not self._over.wait(EVERY_S):
            if time.monotonic() >= check_s:
                self._check()
                check_s = time.monotonic() + RECHECK_S
            for path, descriptor in list(self._files.items()):
                try:
                    waited_ns = int(os.pread(descriptor, 128, 0).split()[1])
                except (ProcessLookupError, IndexError):  # the thread has ended
                    os.close(self._files.pop(path))
                    continue
                at_s, waits_ns = self._taken.setdefault(path, ([], []))
                waits_ns.append(waited_ns)
                at_s.append(time.monotonic())  # last: a reader goes by the times

    def _check(self) -> None:
        for pid in self._pids():
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                if path not in self._files:
                    with contextlib.suppress(OSError):  # the thread has ended
                        self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _waited_ms(at_s: list[float], waits_ns: list[int], from_s: float, to_s: float) -> float:
    before = max(0, bisect.bisect_right(at_s, from_s) - 1)
    after = min(len(at_s) - 1, bisect.bisect_left(at_s, to_s))
    return max(0, waits_ns[after] - waits_ns[before]) / 1e6
