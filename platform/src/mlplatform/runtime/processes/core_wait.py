"""How long a process has waited for a core: a busy machine makes a healthy process look dead."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

_NS: Final = 1e9


def core_wait_s(pid: int) -> float:
    """Seconds for which the threads of a process have been ready to run without a core, in total.

    Linux counts them (`schedstat` in proc(5)); 0.0 elsewhere, and for a process that is gone.
    """
    waited_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # the thread has ended meanwhile
            waited_ns += int(thread.read_text().split()[1])
    return waited_ns / _NS
