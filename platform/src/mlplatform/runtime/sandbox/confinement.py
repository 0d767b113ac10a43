"""The confinement of a process: first its files, and once it is loaded its limits and system
calls."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlplatform.runtime.sandbox import kernel, landlock, seccomp
from mlplatform.runtime.sandbox.limits import ProcessLimits, take_limits

_FIRST_TO_GO: Final = "1000"
"""Score by which the kernel ends a confined process before any other when memory runs out."""
_SYSTEM: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null",
                  "/dev/urandom", "/proc/self/statm", "/proc/cpuinfo",
                  "/sys/devices/system/cpu")  # fmt: skip
_WIDEST: Final = ("/", "/home", "/root", "/etc", "/var", "/tmp")  # noqa: S108 -- never readable


def end_with(parent_fd: int) -> None:
    """Make the kernel kill this process when the parent's end of a pipe is closed, however the
    parent ends.

    PR_SET_PDEATHSIG is not used, because it comes when the thread that started the process ends.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(parent_fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent_fd, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(parent_fd, fcntl.F_GETFL)
        fcntl.fcntl(parent_fd, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([parent_fd], [], [], 0)[0]:
            os._exit(1)
    else:
        threading.Thread(target=_wait_for_end, args=(parent_fd,), daemon=True).start()


def hide_files() -> list[str]:
    """Restrict this process to reading Python and its libraries. Returns the names of what is in
    force.

    Called before any library makes a thread of its own: Landlock binds the calling one.
    """
    with suppress(OSError):  # it protects other processes and is not a limit
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    if not kernel.machine():
        return []
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    found = ["no_new_privs"]
    with suppress(OSError):  # the parent reports that it is missing
        if abi := landlock.restrict_to(_readable()):
            found.append(f"landlock {abi}")
    return found


def lock(limits: ProcessLimits) -> list[str]:
    """Set the limits and the filter of system calls. Returns the names of what is in force.

    After this nothing can be imported, opened, started or connected to.
    """
    found = take_limits(limits)
    if kernel.machine():
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        with suppress(OSError):
            if seccomp.confine():
                found.append("seccomp")
    return found


def _readable() -> list[Path]:
    """The folders of this interpreter and of what it imports."""
    roots = [sys.prefix, sys.base_prefix, *sys.path, *_SYSTEM]
    found = {Path(root).resolve() for root in roots if root}
    return sorted(path for path in found if str(path) not in _WIDEST)


def _wait_for_end(parent_fd: int) -> None:
    os.read(parent_fd, 1)
    os._exit(1)
