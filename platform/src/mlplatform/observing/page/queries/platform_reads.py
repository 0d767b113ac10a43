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
from mlplatform.model.folders import model_names
from mlplatform.observing.page.queries.search import Query, stretch_ms
from mlplatform.operations.actions import traffic
from mlplatform.operations.traffic.projection import TrafficReport
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.events.stream import Lag
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.units import DAY_MS
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

    def traffic(self, model: str, back_ms: int) -> TrafficReport | None:
        """The counts of a model's newest traffic, by passes; None before there are any.

        Raises:
            Unavailable: it can't be read now.
        """
        return traffic.read(self.platform, model, back_ms)

    def first_stretch_ms(self, query: Query, newest_ms: int) -> int:
        """The length of the stretch of event time that a search begins with, by the traffic of the
        day before its end."""
        end_ms = min(query.to_ms or newest_ms + 1, newest_ms + 1)
        found = []
        for name in model_names() if query.model is None else [query.model]:
            with contextlib.suppress(Unavailable):
                found.append(self.traffic(name, newest_ms - end_ms + DAY_MS))
        return stretch_ms(found, end_ms, of_unit=query.unit is not None)

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
