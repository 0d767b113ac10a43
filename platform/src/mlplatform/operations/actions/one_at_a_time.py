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


class Place:
    """The only place for a heavy run, which the run that holds it may leave for a while."""

    def __init__(self, descriptor: int, who: str, tell: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._who = who
        self._tell = tell

    def take(self) -> None:
        """Returns once the place is this run's."""
        _wait(self._descriptor, self._tell)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self._who.encode(), 0)

    @contextmanager
    def left(self) -> Iterator[None]:
        """Let others have the place; waits for it again afterwards, unless the run has failed."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        yield
        self.take()


@contextmanager
def turn(folder: Path, who: str, tell: Callable[[str], None]) -> Iterator[Place]:
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
        place = Place(descriptor, who, tell)
        place.take()
        yield place
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
