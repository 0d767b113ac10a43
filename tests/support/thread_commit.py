"""Group commit for threads, as tests and the programs that they kill want it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from mlplatform.decisions.log.commit import Committer, Fallback, Ticket, WriterLog, settle
from mlplatform.decisions.records.port import Entry, Outcome


class ThreadCommit:
    """As `decisions.log.commit.AsyncGroupCommit`, without an event loop."""

    def __init__(
        self,
        log: WriterLog,
        writer: str,
        max_batch: int = 64,
        *,
        reached_ms: Callable[[], int | None] | None = None,
        relief: Fallback | None = None,
    ) -> None:
        self._committer = Committer(log, writer, max_batch, reached_ms, settle, relief)

    @property
    def alive(self) -> bool:
        return self._committer.alive

    def submit(self, entries: Sequence[Entry]) -> Future[list[Outcome]]:
        answer: Future[list[Outcome]] = Future()
        answer.set_running_or_notify_cancel()
        self._committer.put([Ticket(entries, answer)])
        return answer

    def close(self) -> None:
        self._committer.close()
