"""Recording of analysts' opinions on the path of labels, one person at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, Outcome
from mlplatform.runtime.errors import Busy
from mlplatform.scoring.request.recording import Recorder

WRITER: Final = "review"
"""Writer of these records in this home; a lock gives it to one process at a time."""
LOCK: Final = "review.lock"
WAIT_S: Final = 5.0
AGAIN_S: Final = 0.02


@contextmanager
def turn(
    folder: Path, wait_s: float = WAIT_S, *, lock: str = LOCK, what: str = "another answer"
) -> Iterator[None]:
    """Hold the lock under which one opinion of this home is recorded; it ends with its process.

    Therefore no other opinion is recorded between the read and the write for a decision.

    Args:
        lock: name of the lock's file, for records of another writer than `WRITER`.
        what: what the holder of the lock records, in the words of `Busy`.

    Raises:
        Busy: other processes held the lock for the whole wait.
    """
    descriptor = os.open(folder / lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    until_s = time.monotonic() + wait_s
    try:
        while not _is_locked(descriptor):
            if time.monotonic() > until_s:
                raise Busy(f"{what} is being recorded: try again in a moment")
            time.sleep(AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class OwnCommit:
    """`scoring.request.recording.Commit` of a process that records few entries, one at a time.

    The writer is closed after each: no verdict waits for it. What the log does not take is refused.
    """

    alive = True

    def __init__(self, log: SqliteDecisionLog) -> None:
        self._log = log

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Outcome]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Outcome]] = loop.create_future()

        def hand_over(done: asyncio.Future[list[Outcome]]) -> None:
            if answer.done():  # the caller has given up waiting
                return
            if (error := done.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        loop.run_in_executor(None, self._append, entries).add_done_callback(hand_over)
        return answer

    async def close(self) -> None:
        """Do nothing: no entry waits, since each caller has its outcome or gave up."""

    def _append(self, entries: Sequence[Entry]) -> list[Outcome]:
        try:
            return self._log.append(WRITER, entries)
        finally:
            self._log.close_writer(WRITER)


def recorder(log: SqliteDecisionLog) -> Recorder:
    """A started recorder of the running event loop."""

    def commit(_: Callable[[], int]) -> OwnCommit:
        return OwnCommit(log)

    made = Recorder(commit, lambda event_ms: None)
    made.start()
    return made
