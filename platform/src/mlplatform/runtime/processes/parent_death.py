"""The sign by which a child learns that its supervisor is gone, even by SIGKILL: an inherited pipe
ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

VARIABLE = "MLPLATFORM_LIFELINE_FD"
_AUTOGROUP = Path("/proc/self/autogroup")

log = logging.getLogger(__name__)


class ParentDeathPipe:
    """The supervisor's end of the pipe; it closes when the process ends in any way."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a child needs in its environment, besides the inherited `read_fd`."""
        return {VARIABLE: str(self.read_fd)}

    def close(self) -> None:
        """Close the pipe: every child that still runs is killed by its own thread."""
        os.close(self._write_fd)
        os.close(self.read_fd)


def follow_parent() -> bool:
    """Make this process and its group end as soon as the supervisor is gone. Returns False without
    a supervisor.

    Called once, first thing, by the entry point of every child. The group is killed outright:
    whatever must survive is on disk by then, and half a platform must not live on.
    """
    text = os.environ.pop(VARIABLE, "")
    if not text.isdigit():
        return False
    fd = int(text)
    os.set_inheritable(fd, False)
    threading.Thread(target=_wait_for_end, args=(fd,), name="parent-death", daemon=True).start()
    return True


def lower_priority(niceness: int) -> None:
    """Lower the priority of this process and its children to the cores that requests leave, because
    their work may be late and requests may not.

    Args:
        niceness: what is added to the present one, 1 to 19.
    """
    os.nice(niceness)
    # Linux may first share the cores between sessions, and every child has its own session.
    # Niceness then counts only within a session, so the niceness of the session must be set
    # (sched(7)).
    if os.getsid(0) == os.getpid() and _AUTOGROUP.exists():
        try:
            _AUTOGROUP.write_text(str(niceness))
        except OSError as error:
            log.warning("requests may have to wait for this process: %s", error)


def _wait_for_end(fd: int) -> None:
    while os.read(fd, 1):
        pass
    # If it was started by hand inside another group, only this process may end.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
