"""The reads of a platform's journal and log: each is opened when it is first needed."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.events.stream import Lag
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring import wiring as scoring_wiring

T = TypeVar("T")


class PlatformReads:
    """Reads that create no file. Safe for threads."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._opening = threading.Lock()

    def event_lags(self) -> list[Lag]:
        """The lag of each receiver of events.

        Raises:
            Unavailable: the journal does not answer.
        """
        if not scoring_wiring.has_rollouts(self.platform.settings):
            return []
        with translated(), self._opening:
            stream = self.platform.stream
        with translated():
            return stream.lags()

    def event_ms(self) -> int:
        """The present event time; of recorded traffic the newest in the log, without its history.

        Raises:
            Unavailable: the log can't be read now.
        """
        if self.platform.settings.clock == "system":
            return self.platform.clock.event_ms()
        log = self._log()
        return (None if log is None else log.latest_event_ms()) or 0

    def log_heads(self) -> list[Watermark]:
        """How far each writer of the log is, apart from spills; empty before there is a log.

        Raises:
            Unavailable: the log can't be read now.
        """
        log = self._log()
        return [] if log is None else log.heads()

    def spills(self) -> Path | None:
        """The folder of what waits beside the log; None before there is a log."""
        log = self._log()
        return None if log is None else log.spills

    def _of_journal(self, read: Callable[[SqlRollouts], T], nothing: T) -> T:
        """The result of a read of the journal; `nothing` before there is a journal, because reading
        creates no file."""
        if not scoring_wiring.has_rollouts(self.platform.settings):
            return nothing
        with translated(), self._opening:
            journal = self.platform.rollouts
        with translated():
            return read(journal)

    def _log(self) -> SqliteDecisionLog | None:
        if not (self.platform.settings.home.decisions / DATABASE).is_file():
            return None
        with self._opening:
            return self.platform.log


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises `Unavailable` if the journal's file does not answer."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"the journal of rollouts and incidents: {error}") from error
