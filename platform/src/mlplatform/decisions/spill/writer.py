"""Writing to the decision log; if that fails or is slow, to a spill file, and later to the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from mlplatform.decisions.records.port import (
    AppendReceipt,
    DuplicateKey,
    Entry,
    Outcome,
    RecordingFailure,
    SpillReceipt,
    StoredAnswer,
    StoredAnswers,
    UnloggedAnswer,
)
from mlplatform.decisions.records.prepared_record import (
    Key,
    StorableRecord,
    check_storable,
    prepared,
)
from mlplatform.decisions.spill import files
from mlplatform.decisions.spill.files import SpillFile, SpillFull
from mlplatform.decisions.spill.key_locks import KeyLocks
from mlplatform.decisions.spill.keys import SpilledKeys
from mlplatform.decisions.spill.recovery import Mark
from mlplatform.runtime.errors import Busy, Corrupt, PlatformError, Unavailable
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

MOVED_AT_ONCE: Final = 128
"""Records of one transaction while catching up; new records wait for that long."""
RETRY_S: Final = 0.1
RETRY_MAX_S: Final = 1.0
KEYS_WAIT_S: Final = 0.2
"""Seconds for which a spill of keys waits for processes that write keys into the log."""
TAKE_OVER_WAIT_S: Final = 10.0
ADOPT_S: Final = 1.0
CLOSE_WAIT_S: Final = 3.0
CREATE_TRIES: Final = 3
"""Tries to make a spill, which a sibling that looks for orphans may hold for a moment."""

_logger = logging.getLogger(__name__)
_logger.addFilter(RateLimitFilter())


class Log(Protocol):
    """The calls of the log behind a spill; SqliteDecisionLog has them all."""

    @property
    def spills(self) -> Path: ...

    def append_prepared(
        self, writer: str, items: Sequence[StorableRecord], known: dict[int, DuplicateKey]
    ) -> list[Outcome]: ...

    def catch_up(self, writer: str, mark: Mark, spilled: Sequence[StorableRecord]) -> int: ...

    def spill_mark(self, spill: str) -> int | None: ...

    def forget_spill(self, spill: str) -> None: ...

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None: ...

    def find_all(self, keys: Sequence[Key]) -> list[StoredAnswer | None]: ...

    def heartbeat(self, writer: str, event_ms: int | None = None) -> None: ...

    def close_writer(self, writer: str) -> None: ...

    def checkpoint(self, is_over: Callable[[], bool]) -> None: ...


@dataclass(frozen=True, slots=True)
class SpillPolicy:
    """How much may wait for the log, and what happens to further records.

    Args:
        answer_unlogged: models whose decisions are answered even if nothing can record them.
        durable: fsync spilled records before they count as recorded (`durability: disk`).
    """

    maximum_bytes: int
    answer_unlogged: frozenset[str] = frozenset()
    durable: bool = False


@dataclass(slots=True)
class Counts:
    """Counts of the records handed in, by what became of them; totals since the process began.

    At rest `accepted + recovered == written + waiting + unlogged`.

    Args:
        accepted: records whose answer may be given: written, spilled or declared unlogged.
        recovered: records that a predecessor or sibling had spilled and this process took over.
        written: records in the log, written at once or moved there from the spill.
        waiting: records that are in the spill now.
        refused: records that could not be stored anywhere; their answers were not given.
        conflicts: moved decisions for whose key the log had another decision already.
    """

    accepted: int = 0
    recovered: int = 0
    written: int = 0
    spilled: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    unlogged: int = 0
    refused: int = 0
    repeated: int = 0
    conflicts: int = 0


class SpillingLog:
    """Appends to the log, and to a spill while the log is down, locked or slow.

    Once something is spilled, everything goes through the spill until the log has all of it, so
    that records keep their order. One thread appends and catches up; another may `relieve` it while
    the log holds it up.

    A key is spilled only if it can be known that no process has answered it: no other process
    writes keys into the log at that moment, no spill has it, and the log, which can be read, has
    not. Otherwise its record is refused, as a second decision for one key cannot be taken back.

    Args:
        committed: called with the number of records in each transaction of the log.

    Raises:
        Busy: a process that writes under this name is alive.
    """

    def __init__(
        self,
        log: Log,
        writer: str,
        policy: SpillPolicy,
        committed: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.counts = Counts()
        self._log = log
        self._writer = writer
        self.policy = policy
        self._committed = committed
        self._path = files.spill_path(log.spills, writer)
        self._locks = KeyLocks(log.spills)
        self._keys = SpilledKeys(log.spills)
        self._mutex = threading.Lock()
        self._writing: Sequence[StorableRecord] = ()
        self._file: SpillFile | None = None
        self._marked = True
        self._moved_itself = False
        self._retry_s = RETRY_S
        self._retry_at_s = 0.0
        self._adopt_at_s = 0.0
        self._own(_take_over(self._path))
        self._keys.refresh()

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]:
        """Record the entries in the log, or else in the spill; outcomes tell which are in neither.

        Raises:
            StaleFence: another process has written under this writer's name; stop appending.
            InputInvalid: a record cannot be stored; nothing of the batch was recorded.
        """
        items = [prepared(entry) for entry in entries]
        with self._mutex:
            free = self._file is None
            if free:
                self._writing = items
        if free:
            try:
                return self._counted(self._written(items))
            except (Unavailable, Corrupt) as error:
                _logger.warning("%s spills: %s", self._writer, error)
            finally:
                self._writing = ()
        return self._counted(self._spilled(items))

    def relieve(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Spill the entries while the log holds up the thread that appends."""
        return self._counted(self._spilled([prepared(entry) for entry in entries]))

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None:
        """The answer given under a key, from the spills known here or from the log."""
        spilled = self._keys.find(client, model, key)
        if spilled is not None or self._keys.has_ended((client, model, key)):
            return spilled
        return self._log.find(client, model, key)

    def find_all(self, keys: Sequence[Key]) -> list[StoredAnswer | None]:
        """The answers for keys, as `find` gives each; one read of the log if nothing is spilled."""
        if self._keys.are_none:
            return self._log.find_all(keys)
        return [self.find(*key) for key in keys]

    def catch_up(self) -> bool:
        """Move some spilled records into the log. Returns whether more of them wait.

        Whatever prevents it, files that can't be opened or read included, it is tried again.
        """
        now_s = time.monotonic()
        try:
            if self._file is None:
                self._adopt(now_s)
            file = self._file
            if file is not None and now_s >= self._retry_at_s:
                self._move(file)
                self._retry_s = RETRY_S
        except (Unavailable, Corrupt, OSError) as error:
            level = logging.WARNING if isinstance(error, OSError) else logging.INFO
            waiting = self.counts.waiting
            _logger.log(level, "%s has %d records to catch up: %s", self._writer, waiting, error)
            if self._file is not None and self._marked:
                self._marked, self._moved_itself = False, True  # the log may have it already
            self._retry_at_s = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        return self._file is not None

    def heartbeat(self, writer: str, event_ms: int | None = None) -> None:
        """Report that the writer lives; while it has spilled records, its spill reports it."""
        if self._file is None:
            try:
                self._log.heartbeat(writer, event_ms)
            except (Unavailable, Corrupt) as error:
                _logger.warning("no heartbeat for %s: %s", writer, error)

    def checkpoint(self, is_over: Callable[[], bool]) -> None:
        self._log.checkpoint(is_over)

    def close_writer(self, writer: str) -> None:
        """Catch up within seconds if the log allows it; the rest waits for the next start."""
        end_s = time.monotonic() + CLOSE_WAIT_S
        while self._file is not None and self.catch_up() and time.monotonic() < end_s:
            time.sleep(max(0.0, min(self._retry_at_s - time.monotonic(), RETRY_S)))
        if self._file is not None:
            _logger.warning("%s leaves %d spilled records", writer, self._file.records)
            self._file.close()
            self._file = None
        else:
            self._log.close_writer(writer)
        self._keys.close()
        self._locks.close()

    def _written(self, items: Sequence[StorableRecord]) -> list[Outcome]:
        if any(item.idempotency is not None for item in items):
            with self._locks.writing():
                known: dict[int, DuplicateKey] = {}
                if self._keys.refresh():
                    known = self._known_keys(items)
                    # The log does not know yet that these claims ended: store records without.
                    items = [
                        StorableRecord(item.form) if self._keys.has_ended(item.key) else item
                        for item in items
                    ]
                outcomes = self._log.append_prepared(self._writer, items, known)
        else:
            outcomes = self._log.append_prepared(self._writer, items, {})
        self._committed(len(items))
        return outcomes

    def _known_keys(self, items: Sequence[StorableRecord]) -> dict[int, DuplicateKey]:
        found = ((index, item, _answer_of(self._keys, item)) for index, item in enumerate(items))
        return {index: _repeated(item, stored) for index, item, stored in found if stored}

    def _spilled(self, items: Sequence[StorableRecord]) -> list[Outcome]:
        for item in items:
            check_storable(item)
        with self._mutex:
            if all(item.idempotency is None for item in items):
                return self._put(items, [None] * len(items))
            with self._locks.spilling(KEYS_WAIT_S) as alone:
                self._keys.refresh()
                outcomes = self._put(items, list(self._keyed(items, alone=alone)))
                self._keys.refresh()
                return outcomes

    def _keyed(self, items: Sequence[StorableRecord], *, alone: bool) -> Iterator[Outcome | None]:
        """The outcome that each entry's key decides; None if the entry may be spilled."""
        in_doubt = {item.key for item in self._writing if item.idempotency is not None}
        first: dict[Key, StorableRecord] = {}
        ended: set[Key] = set()
        for item in items:
            key = item.key
            if key is None:
                yield None
                continue
            if key in first:
                idempotency = first[key].idempotency
                assert idempotency is not None
                yield _repeated(item, StoredAnswer(idempotency.answer, idempotency.body_digest, ""))
                continue
            outcome = None
            if key not in ended:
                outcome = self._one_keyed(item, is_in_doubt=key in in_doubt, alone=alone)
            if outcome is None:
                first[key] = item
                for gone in item.ended:
                    first.pop(gone, None)
                    ended.add(gone)
            yield outcome

    def _one_keyed(self, item: StorableRecord, *, is_in_doubt: bool, alone: bool) -> Outcome | None:
        if not alone or is_in_doubt:
            return RecordingFailure(
                "a request with this key may be under way, and the log does not say"
            )
        try:
            stored = _answer_of(self, item)
        except PlatformError as error:
            return RecordingFailure(f"whether this key was answered cannot be known: {error}")
        return None if stored is None else _repeated(item, stored)

    def _put(self, items: Sequence[StorableRecord], known: list[Outcome | None]) -> list[Outcome]:
        fresh = [item for item, outcome in zip(items, known, strict=True) if outcome is None]
        problem, unstored = None, set[Key | None]()
        if fresh:
            try:
                self._append_to_spill([files.framed(item) for item in fresh])
            except (SpillFull, Busy) as error:
                problem, unstored = str(error), {item.key for item in fresh} - {None}
                what = "%d records of %s could not be stored: %s"
                _logger.error(what, len(fresh), self._writer, problem)
        return [
            # one that repeats a key of these repeats an answer that is on no record
            self._fresh(item, problem) if outcome is None or item.key in unstored else outcome
            for item, outcome in zip(items, known, strict=True)
        ]

    def _fresh(self, item: StorableRecord, problem: str | None) -> Outcome:
        if problem is None:
            return SpillReceipt()
        if item.kind == "decision" and item.model in self.policy.answer_unlogged:
            return UnloggedAnswer()
        return RecordingFailure(problem)

    def _append_to_spill(self, parts: Sequence[bytes]) -> None:
        policy, file = self.policy, self._file
        if file is None:
            file = self._create_file()
        try:
            file.append(parts, maximum_bytes=policy.maximum_bytes, durable=policy.durable)
        except SpillFull:
            if self._file is None:
                with suppress(OSError):  # catching up tries again
                    self._drop(file)
            raise
        if self._file is None:
            self._file, self._marked = file, True
        self._weigh(file)

    def _create_file(self) -> SpillFile:
        for _ in range(CREATE_TRIES - 1):
            try:
                return SpillFile.create(self._path, durable=self.policy.durable)
            except Busy:
                time.sleep(0.005)
        return SpillFile.create(self._path, durable=self.policy.durable)

    def _move(self, file: SpillFile) -> None:
        if not self._marked:
            self._skip_what_was_moved(file)
        frames = file.next(MOVED_AT_ONCE)
        conflicts = 0
        if frames:
            mark = Mark(file.name, frames[0].start, frames[-1].end)
            with self._locks.writing():
                conflicts = self._log.catch_up(self._writer, mark, [f.record for f in frames])
            self._committed(len(frames))
        with self._mutex:
            if frames:
                file.advance(len(frames), frames[-1].end)
            self.counts.written += len(frames)
            self.counts.conflicts += conflicts
            self._weigh(file)
            if file.records > 0:
                return
            self._drop(file)
        self._weigh(None)
        self._keys.refresh()
        _logger.info("%s has caught up: all that was spilled is in the log", self._writer)
        self._log.forget_spill(file.name)

    def _drop(self, file: SpillFile) -> None:
        """Remove an empty spill, so that records bypass it. One that can't be removed stays."""
        try:
            file.remove()
        except OSError:
            self._file = file
            raise
        self._file = None

    def _skip_what_was_moved(self, file: SpillFile) -> None:
        mark = self._log.spill_mark(file.name)
        with self._mutex:
            if mark is not None:
                before = file.records
                file.advance(sum(1 for _ in file.between(mark)), mark)
                if self._moved_itself:
                    self.counts.written += before - file.records
                else:
                    self.counts.recovered -= before - file.records
            self._marked, self._moved_itself = True, False

    def _adopt(self, now_s: float) -> None:
        """Take over the spill of a writer that does not run any more."""
        if now_s < self._adopt_at_s:
            return
        self._adopt_at_s = now_s + ADOPT_S
        for path in self._log.spills.glob(f"*{files.SUFFIX}"):
            try:
                file = SpillFile.take_over(path)
            except Busy:
                continue
            except OSError as error:
                _logger.warning("%s does not take over %s: %s", self._writer, path.name, error)
                continue
            if file is not None:
                self._continue_with(file)
                return

    def _continue_with(self, file: SpillFile) -> None:
        with self._mutex:
            if self._file is not None:  # records were spilled meanwhile
                file.close()
                return
            try:
                file.rename(self._path)
            except OSError:
                file.close()
                raise
            self._own(file)

    def _own(self, file: SpillFile | None) -> None:
        if file is None:
            return
        _logger.warning("%s takes over %d spilled records", self._writer, file.records)
        self._file, self._marked, self._moved_itself = file, False, False
        self.counts.recovered += file.records
        self._weigh(file)

    def _weigh(self, file: SpillFile | None) -> None:
        self.counts.waiting = 0 if file is None else file.records
        self.counts.waiting_bytes = 0 if file is None else file.end - file.start

    def _counted(self, outcomes: list[Outcome]) -> list[Outcome]:
        counts = self.counts
        others = [outcome for outcome in outcomes if type(outcome) is not AppendReceipt]
        with self._mutex:
            counts.written += len(outcomes) - len(others)
            counts.accepted += len(outcomes) - len(others)
            for outcome in others:
                match outcome:
                    case SpillReceipt():
                        counts.spilled += 1
                        counts.accepted += 1
                    case UnloggedAnswer():
                        counts.unlogged += 1
                        counts.accepted += 1
                    case DuplicateKey():
                        counts.repeated += 1
                    case RecordingFailure():
                        counts.refused += 1
        return outcomes


def _answer_of(answers: StoredAnswers, item: StorableRecord) -> StoredAnswer | None:
    idempotency = item.idempotency
    return (
        None
        if idempotency is None
        else answers.find(idempotency.client, item.model, idempotency.key)
    )


def _repeated(item: StorableRecord, stored: StoredAnswer) -> DuplicateKey:
    idempotency = item.idempotency
    is_same = idempotency is not None and stored.is_of(idempotency.body_digest)
    return DuplicateKey(stored.answer, is_same)


def _take_over(path: Path) -> SpillFile | None:
    """The spill left under this name; waits a little for a predecessor that is ending."""
    end_s = time.monotonic() + TAKE_OVER_WAIT_S
    while True:
        try:
            return SpillFile.take_over(path)
        except Busy:
            if time.monotonic() >= end_s:
                raise
            time.sleep(0.05)
