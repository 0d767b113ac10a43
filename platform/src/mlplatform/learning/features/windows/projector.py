"""The projector, which adds the records of one home's log to the windows that gateways share on a
server.

It follows the log after the commit: no answer waits for it, and no record fails with it. The state
alone holds how far it has come, so a projector that dies, is cut off or repeats itself continues
from there. Each gateway process projects at once what it writes; what other processes left in the
log, it adds at each refresh.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from mlplatform.decisions.records import unsealed_records
from mlplatform.decisions.records.projection import ProjectedRecord, committed
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.decisions.replication.replicated_records import opened
from mlplatform.learning.features.windows.state import log_stale
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

if TYPE_CHECKING:  # imports the client of Redis
    from mlplatform.learning.features.windows.redis import Position, RedisWindows, State

BATCH: Final = 64
"""Records of one round trip; the server does nothing else for a millisecond or two."""
REFRESH_S: Final = 1.0
STALLED_MS: Final = 5_000
"""Milliseconds without a refresh after which a projector counts as not working."""
REPORT_S: Final = 60.0
"""Seconds between two reports that a state without requests is still wanted."""
BACK_OFF_S: Final = 0.5
CLOSE_S: Final = 3.0
"""Seconds for which an ending projector tries to add the rest."""
_HEADS: Final = "SELECT writer, seq FROM writers WHERE seq > 0"
_HEAD: Final = "SELECT seq FROM writers WHERE writer = ?"

_logger = logging.getLogger(__name__)
_logger.addFilter(RateLimitFilter())


class Lag(NamedTuple):
    """The lag of a model's windows behind a writer of this log.

    Args:
        records: number of records that the windows lack.
        since_ms: when the first of those records was written; None if there is none.
    """

    records: int
    since_ms: int | None

    def behind_s(self, now_ms: int) -> float:
        return 0.0 if self.since_ms is None else max(now_ms - self.since_ms, 0) / 1000


class WindowProjector:
    """Follows one log. Only `lags` may be called by several threads.

    Args:
        folder: the folder of the log; a writer must have created the log in it.
        writer: name of the writer whose records are added at once.
        stores: the stores of the models that have windows.
        refresh_s: seconds between two checks for new states, for other writers of the log, and for
            the lag of each state.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        stores: Sequence[RedisWindows],
        clock: Clock,
        *,
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._stores = stores
        self._retired: list[RedisWindows] = []
        self._is_new = False
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._states: dict[tuple[RedisWindows, State], Position] = {}
        self._stuck: set[tuple[RedisWindows, State, str]] = set()
        self._behind: set[str] = set()
        self._refresh_s = refresh_s
        self._next_refresh_s = self._reported_s = 0.0
        self._lags: Mapping[tuple[str, str], Lag] = {}
        self._refreshed_ms = 0

    @property
    def has_stores(self) -> bool:
        """Whether any model has windows."""
        return bool(self._stores)

    def use(self, stores: Sequence[RedisWindows]) -> None:
        """Follow these stores from the next refresh on; it may be called by another thread."""
        self._retired += [store for store in self._stores if store not in stores]
        self._stores, self._is_new = stores, True

    def step(self) -> bool:
        """Add some of the log's records that the states lack. Returns whether more may wait.

        A state that lacks what its log no longer has is named, and holds up no other.

        Raises:
            Unavailable, sqlite3.Error: the log or the server does not answer.
        """
        if not (self._stores or self._retired):
            return False
        now_s = time.monotonic()
        if self._is_new or now_s >= self._next_refresh_s:
            self._is_new = False
            self._refresh(now_s)
            self._next_refresh_s = now_s + self._refresh_s
        writers, self._behind = {self._writer, *self._behind}, set()
        for writer in writers:
            row = self._connection().execute(_HEAD, (writer,)).fetchone()
            self._bring_forward(writer, 0 if row is None else int(row[0]))
        return bool(self._behind)

    def lags(self, now_ms: int) -> Mapping[tuple[str, str], Lag]:
        """Lags by model and writer at the last refresh; if that was long ago, the lag began
        then."""
        refreshed_ms = self._refreshed_ms
        if now_ms - refreshed_ms < STALLED_MS:
            return self._lags
        return {
            place: Lag(lag.records, refreshed_ms if lag.since_ms is None else lag.since_ms)
            for place, lag in self._lags.items()
        }

    def close(self) -> None:
        """Close the connection to the log, and the stores."""
        self._forget()
        for store in (*self._stores, *self._retired):
            store.close()

    def _refresh(self, now_s: float) -> None:
        """Find new states, and add the records of every writer of this log."""
        while self._retired:
            self._retired.pop().close()
        heads = dict(self._connection().execute(_HEADS).fetchall())
        found: dict[tuple[RedisWindows, State], Position] = {}
        for store in self._stores:
            for state in store.states():
                position = store.position(state)
                if position is not None:
                    found[store, state] = position
            if (store, store.own) not in found:
                log_stale(_logger, store.model)
        self._states, self._stuck = found, set()
        is_due = now_s - self._reported_s >= REPORT_S
        for writer, head in heads.items():
            self._bring_forward(writer, head, is_due=is_due)
        if is_due:
            self._reported_s = now_s
        self._measure(heads)

    def _bring_forward(self, writer: str, head: int, *, is_due: bool = False) -> None:
        for place in list(self._states):
            if self._advance(place, writer, head, is_due=is_due):
                self._behind.add(writer)

    def _advance(
        self, place: tuple[RedisWindows, State], writer: str, head: int, *, is_due: bool = False
    ) -> bool:
        position = self._states.get(place)
        if position is None or (*place, writer) in self._stuck:
            return False
        store, state = place
        seq = position.seqs.get(writer, 0)
        if head < seq and writer == self._writer:
            problem = f"windows of {store.model} hold record {seq} of {writer}, whose log ends at"
            _logger.error("%s %d; run `mlplatform history windows %s`", problem, head, store.model)
        if head <= seq and not is_due:
            return False
        records = self._records(writer, seq) if head > seq else []
        if records is None:
            lacked = f"windows of {store.model} lack record {seq + 1} of {writer}"
            todo = "which its log lacks too; run `mlplatform history windows %s`"
            _logger.error("%s, " + todo, lacked, store.model)
            self._stuck.add((*place, writer))
            return False
        reached = max(head, records[-1].seq) if records else head
        moved = store.advance(state, position, writer, records, reached)
        if moved is None:
            del self._states[place]
            return False
        self._states[place] = moved
        return moved.seqs.get(writer, 0) < reached

    def _records(self, writer: str, after: int) -> list[ProjectedRecord] | None:
        """The next records; None if the log no longer has them."""
        db = self._connection()
        rows = unsealed_records.select(
            db, ProjectedRecord._fields, writer, after=after, limit=BATCH
        )
        if rows and rows[0][0] == after + 1:
            return [ProjectedRecord(*row) for row in rows]
        with opened(self._folder) as reader:  # the records were sealed meanwhile
            records = reader.records(writer, after=after, limit=BATCH)
        if not records or records[0].seq != after + 1:
            return None
        return [committed(record.row()) for record in records]

    def _measure(self, heads: Mapping[str, int]) -> None:
        now_ms, found = self._clock.wall_ms(), {}
        for (store, state), position in self._states.items():
            if state != store.own:
                continue
            for writer, head in heads.items():
                lacking = max(head - position.seqs.get(writer, 0), 0)
                since_ms = self._since_ms(writer, head - lacking, now_ms) if lacking else None
                found[store.model, writer] = Lag(lacking, since_ms)
        self._lags, self._refreshed_ms = found, now_ms

    def _since_ms(self, writer: str, after: int, now_ms: int) -> int:
        rows = unsealed_records.select(
            self._connection(), ("recorded_ms",), writer, after=after, limit=1
        )
        return int(rows[0][0]) if rows else now_ms

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = sqlite.connect(self._folder / DATABASE, threads=True)
        return self._db

    def _forget(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class ProjectorThread:
    """Runs a projector beside the code that commits records, until it is stopped.

    Args:
        poll_s: seconds between two reads of the log, if nothing wakes the thread.
    """

    def __init__(self, projector: WindowProjector, *, poll_s: float = 0.1) -> None:
        self._projector = projector
        self._poll_s = poll_s
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def use(self, stores: Sequence[RedisWindows]) -> None:
        """Follow these stores from now on."""
        self._projector.use(stores)
        self._changed.set()

    def wake(self) -> None:
        """Note that records were committed."""
        if self._projector.has_stores:
            self._changed.set()

    def stop(self) -> None:
        """Add the rest for a limited time, and end."""
        self._stopping.set()
        self._changed.set()
        self._thread.join()
        self._projector.close()

    def _run(self) -> None:
        until_s: float | None = None
        while until_s is None or time.monotonic() < until_s:
            if until_s is None and self._stopping.is_set():
                until_s = time.monotonic() + CLOSE_S
            self._changed.clear()
            try:
                if not self._projector.step():
                    if until_s is not None:
                        return
                    self._changed.wait(self._poll_s)
            except (PlatformError, sqlite3.Error) as error:
                _logger.warning("records wait for their windows: %s", error)
                (self._stopping.wait if until_s is None else time.sleep)(BACK_OFF_S)
