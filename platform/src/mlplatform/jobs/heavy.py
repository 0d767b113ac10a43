"""One heavy run at a time: training and batch scoring would take each other's cores and memory, and
payments the rest."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_AGAIN_S = 0.5
SAY_AGAIN_S = 60.0
SHOWN_CHARACTERS = 200
LOCK = "heavy.lock"


@contextmanager
def turn(folder: Path, who: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the only place for a heavy run; waits for it as long as another one has it.

    The kernel frees the place of a run that was killed.

    Args:
        folder: of the platform's running state; all runs of one home folder share it.
        who: what holds the place, for whoever waits.
        tell: told what is waited for, at once and then each minute.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(descriptor, tell)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, who.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, tell: Callable[[str], None]) -> None:
    said_s = -SAY_AGAIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - said_s >= SAY_AGAIN_S:
                said_s = time.monotonic()
                holder = os.pread(descriptor, SHOWN_CHARACTERS, 0).decode(errors="replace")
                tell(f"waits for {holder or 'another heavy run'}: one heavy run at a time")
            time.sleep(LOOK_AGAIN_S)
        else:
            return
