"""Recent idempotency keys: found before, during and after their move, by every process."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import kept_keys, recent_keys
from mlplatform.decisions.records.port import (
    KEEP_MS,
    AppendReceipt,
    DuplicateKey,
    Entry,
    Idempotency,
)
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE, SCHEMA
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite, sqlite_wal
from mlplatform.runtime.storage.files import locked
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.units import DAY_MS
from support.wall import Wall

START_MS = 1_760_054_400_000
KEYS = ("k0", "k1", "k2", "k3", "k4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


@pytest.fixture
def log(folder: Path) -> Iterator[SqliteDecisionLog]:
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log:
        yield log


@pytest.fixture(autouse=True)
def _few_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_keys, "LEAST", 2)


def entry(key: str, number: int, *, ends: tuple[str, ...] = (), days: int = 7) -> Entry:
    record = Record(
        kind="decision",
        decision_id=f"{number:032x}0123456789",
        model="fraud",
        event_ms=1,
        recorded_ms=2,
        score=0.5,
        payload={},
    )
    given = Idempotency(
        "app", key, "ab" * 32, answer(number), days * DAY_MS, ends=ends, impersonal=number % 2 == 0
    )
    return Entry(record, given)


def answer(number: int) -> bytes:
    return f"answer {number:032x}0123456789".encode()


def found(log: SqliteDecisionLog, key: str) -> bytes | None:
    stored = log.find("app", "fraud", key)
    return None if stored is None else stored.answer


def rows(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class BrokenMove:
    """A move that stops between any two of its steps, and may be given up or gone on with."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite.connect(folder / DATABASE)
        self._move = kept_keys.move_recent(self._db)
        self._move._bite = 1

    def step(self) -> None:
        if self._move.has_more:
            self._move.step()
            self._move._bite = 1

    def close(self) -> None:
        self._db.close()


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 1), st.sampled_from(KEYS), st.sampled_from((1, 7))),
    st.tuples(st.just("end"), st.integers(0, 1), st.sampled_from(KEYS), st.just(7)),
    st.tuples(st.just("begin"), st.integers(0, 1), st.just(""), st.just(0)),
    st.tuples(st.just("step"), st.integers(0, 1), st.just(""), st.just(0)),
    st.tuples(st.just("restart"), st.integers(0, 1), st.just(""), st.just(0)),
)


@settings(max_examples=60, deadline=None, database=None)
@given(steps=st.lists(STEPS, min_size=8, max_size=40))
def test_every_process_finds_every_key_whatever_was_moved_ended_or_killed(
    steps: list[tuple[str, int, str, int]],
) -> None:
    """Two processes write, two others move, and any may be killed between two transactions."""
    kept: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder, wall = Path(scratch), Wall(START_MS)
        logs = [stack.enter_context(closing(SqliteDecisionLog(folder, wall))) for _ in range(2)]
        moves: list[BrokenMove | None] = [None, None]
        for number, (step, which, key, days) in enumerate(steps):
            if step == "append":
                outcome = logs[which].append(f"w{which}", [entry(key, number, days=days)])
                if key in kept:
                    assert outcome == [DuplicateKey(answer(kept[key]), True)]
                else:
                    assert isinstance(outcome[0], AppendReceipt)
                    kept[key] = number
            elif step == "end":
                logs[which].append(f"w{which}", [entry(f"ends {number}", number, ends=(key,))])
                kept.pop(key, None)
                kept[f"ends {number}"] = number
            elif step == "begin":
                moves[which] = stack.enter_context(closing(BrokenMove(folder)))
            elif step == "restart":
                logs[which].close()
                logs[which] = stack.enter_context(closing(SqliteDecisionLog(folder, wall)))
            elif (move := moves[which]) is not None:
                move.step()
            for log in logs:
                expected = {key: answer(n) for key, n in kept.items()}
                assert {key: found(log, key) for key in {*KEYS, *kept}} == {
                    key: expected.get(key) for key in {*KEYS, *kept}
                }
        assert logs[0].find_all([("app", "fraud", key) for key in kept]) == [
            logs[1].find("app", "fraud", key) for key in kept
        ]


def test_a_move_leaves_no_key_behind_and_each_once(folder: Path, log: SqliteDecisionLog) -> None:
    for number in range(300):
        log.append("gw", [entry(f"k{number}", number, days=1 + number % 2 * 6)])
    assert rows(folder, "kept_keys") == 0
    log.checkpoint()
    assert (rows(folder, "recent_keys"), rows(folder, "kept_keys")) == (1, 300)  # the last stays
    assert [found(log, f"k{number}") for number in range(300)] == [answer(n) for n in range(300)]
    again = log.append("gw", [entry("k7", 999)])
    assert again == [DuplicateKey(answer(7), True)]


def test_a_process_that_was_idle_meanwhile_finds_keys_of_after_a_move(folder: Path) -> None:
    """It follows rows by their numbers, which must not begin anew when all of them are gone."""
    with (
        closing(SqliteDecisionLog(folder, Wall(START_MS))) as log,
        closing(SqliteDecisionLog(folder, Wall(START_MS))) as idle,
    ):
        log.append("gw", [entry("a", 1), entry("b", 2)])
        assert found(idle, "a") == answer(1)
        log.checkpoint()
        assert rows(folder, "recent_keys") == 1
        log.append("gw", [entry("c", 3)])
        assert found(idle, "c") == answer(3)
        assert idle.append("other", [entry("c", 4)]) == [DuplicateKey(answer(3), True)]


def test_a_process_that_was_idle_meanwhile_finds_keys_of_after_the_end_of_all(
    folder: Path,
) -> None:
    wall = Wall(START_MS)
    with (
        closing(SqliteDecisionLog(folder, wall)) as log,
        closing(SqliteDecisionLog(folder, wall)) as idle,
    ):
        log.append("gw", [entry("a", 1), entry("b", 2)])
        assert found(idle, "a") == answer(1)
        wall.ms += 3 * KEEP_MS
        log.seal()
        log.append("gw", [entry("c", 3)])
        assert (found(idle, "a"), found(idle, "c")) == (None, answer(3))


def test_few_keys_are_not_moved(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_keys, "LEAST", 3)
    log.append("gw", [entry("a", 1), entry("b", 2)])
    log.checkpoint()
    assert (rows(folder, "recent_keys"), rows(folder, "kept_keys")) == (2, 0)


def test_keys_are_moved_by_one_process_at_a_time(folder: Path, log: SqliteDecisionLog) -> None:
    log.append("gw", [entry("a", 1), entry("b", 2)])
    with locked(folder / "recent-keys.lock") as is_alone:
        assert is_alone
        log.checkpoint()
        assert rows(folder, "recent_keys") == 2
    log.checkpoint()
    assert rows(folder, "recent_keys") == 1


def test_a_key_that_ends_amid_its_move_is_gone_and_may_be_claimed_anew(
    folder: Path, log: SqliteDecisionLog
) -> None:
    log.append("gw", [entry("a", 1), entry("b", 2)])
    with closing(BrokenMove(folder)) as move:
        move.step()
        move.step()  # both are in the table and among the recent keys
        assert (rows(folder, "recent_keys"), rows(folder, "kept_keys")) == (2, 2)
        log.append("gw", [entry("c", 3, ends=("a", "b"))])
        assert (found(log, "a"), found(log, "b")) == (None, None)
        assert isinstance(log.append("gw", [entry("a", 4)])[0], AppendReceipt)
        for _ in range(8):
            move.step()
    assert (found(log, "a"), found(log, "b")) == (answer(4), None)
    log.checkpoint()
    assert (found(log, "a"), found(log, "b")) == (answer(4), None)


def test_recent_keys_end_with_their_table(folder: Path) -> None:
    wall = Wall(START_MS)
    with closing(SqliteDecisionLog(folder, wall)) as log:
        log.append("gw", [entry("a", 1)])
        wall.ms += KEEP_MS - 1
        log.seal()
        assert found(log, "a") == answer(1)
        wall.ms += 1 + KEEP_MS // 2
        log.seal()
        assert found(log, "a") is None
        assert isinstance(log.append("gw", [entry("a", 2)])[0], AppendReceipt)


def test_keys_that_were_not_moved_are_kept_in_mind_however_many_there_are(
    log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_keys, "LEAST", 20)
    monkeypatch.setattr(recent_keys, "_SLACK", 4)
    for number in range(60):
        log.append("gw", [entry(f"k{number}", number)])
        assert found(log, "k0") == answer(0)
    assert all(found(log, f"k{number}") == answer(number) for number in range(60))
    assert log.append("gw", [entry("k3", 99)]) == [DuplicateKey(answer(3), True)]


def test_memory_does_not_grow_with_keys_that_were_moved(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_keys, "LEAST", 20)
    monkeypatch.setattr(recent_keys, "_SLACK", 4)
    for number in range(400):
        log.append("gw", [entry(f"k{number}", number)])
        log.find("app", "fraud", "another")
        log.checkpoint()
    for kept in (log._kept, log._keys.kept):
        assert len(kept.recent._places) <= 2 * 20
    assert all(found(log, f"k{number}") == answer(number) for number in range(400))


def test_a_commit_changes_few_pages_however_many_keys_there_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a page for each key, checkpoints kept the answers of a busy gateway waiting."""
    monkeypatch.setattr(recent_keys, "LEAST", 4_096)
    per_commit = []
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log, closing(opened(folder)) as db:
        for start in range(0, 16_384, 32):
            log.append("gw", [entry(f"k{n}", n) for n in range(start, start + 32)])
            if start >= 8_192 and start % 1_024 == 0:  # the log of a commit alone
                db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                log.append("gw", [entry(f"alone {start} {n}", n) for n in range(32)])
                per_commit.append(sqlite_wal.checkpoint(db).frames)
            if start % 4_096 == 0:
                log.checkpoint()
    assert rows(folder, "kept_keys") > 8_192  # of more pages than a commit has keys
    # the records themselves, their index, the writer, and as much again
    assert max(per_commit) <= 32


def opened(folder: Path) -> sqlite3.Connection:
    return sqlite.connect(folder / DATABASE)


def test_a_home_of_the_release_before_goes_on(folder: Path) -> None:
    """Its keys lie in tables, where they stay."""
    before = Schema(SCHEMA.part, SCHEMA.steps[:5])
    with closing(sqlite.connect(folder / DATABASE, schema=before)) as db:
        db.execute(
            "CREATE TABLE keys_20400_9 (key BLOB PRIMARY KEY, body ANY NOT NULL, decision ANY NOT"
            " NULL, shape INTEGER, score REAL, answer BLOB) STRICT, WITHOUT ROWID"
        )
        digest = kept_keys.key_digest("app", "fraud", "old")
        row = (digest, b"\xab" * 16, bytes.fromhex(f"{5:032x}0123456789"), None, None, answer(5))
        db.execute("INSERT INTO keys_20400_9 VALUES (?, ?, ?, ?, ?, ?)", row)
        kept_keys._show(db)
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log:
        assert found(log, "old") == answer(5)
        outcomes = log.append("gw", [entry("new", 6), entry("old", 7)])
        assert outcomes == [AppendReceipt(1), DuplicateKey(answer(5), True)]
        log.append("gw", [entry("newer", 8)])
        log.checkpoint()
        assert [found(log, key) for key in ("old", "new", "newer")] == [
            answer(5),
            answer(6),
            answer(8),
        ]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The write lock, as another process may hold it for a while."""
    with closing(opened(folder)) as db, sqlite.transaction(db):
        yield


def test_a_move_neither_waits_for_another_writer_nor_keeps_appends_waiting(folder: Path) -> None:
    with closing(SqliteDecisionLog(folder, Wall(START_MS), lock_wait_ms=20)) as log:
        fill(log, 0)
        mover = threading.Thread(target=log.checkpoint)
        with held(folder):
            mover.start()
            time.sleep(0.05)
            began_s = time.monotonic()
            with pytest.raises(Unavailable):
                log.append("gw", [entry("another", 99)])
            assert time.monotonic() - began_s < 5  # and not the ten seconds of a plain connection
        mover.join()
        assert rows(folder, "kept_keys") == 40


def test_a_step_that_finds_another_writer_changes_nothing_and_is_made_again(folder: Path) -> None:
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log:
        fill(log, 0)
    with closing(opened(folder)) as db:
        move = kept_keys.move_recent(db)
        with held(folder):
            for _ in range(20):
                move.step()
        assert (move.has_more, move._bite, rows(folder, "kept_keys")) == (True, 64, 0)
        while move.has_more:
            move.step()
        assert rows(folder, "kept_keys") == 40


def test_a_move_ends_when_its_process_does(folder: Path, log: SqliteDecisionLog) -> None:
    fill(log, 0)
    log.checkpoint(lambda: True)
    assert (rows(folder, "recent_keys"), rows(folder, "kept_keys")) == (40, 0)


def test_keys_are_moved_though_the_one_who_should_hangs(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(folder / "recent-keys.lock") as is_alone:
        assert is_alone
        fill(log, 0, count=8)
        log.checkpoint()
        assert rows(folder, "kept_keys") == 0
        fill(log, 8, count=1)
        log.checkpoint()
        assert rows(folder, "kept_keys") == 9


def test_keys_that_were_not_taken_in_are_found_later(
    log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("gw", [entry("a", 1)])

    def fails(_: str) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(recent_keys, "bytes", type("Full", (), {"fromhex": fails}), raising=False)
        with pytest.raises(MemoryError):
            log.find("app", "fraud", "a")
    assert found(log, "a") == answer(1)


def test_many_keys_are_followed_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_keys, "_FOLLOWED", 7)
    monkeypatch.setattr(recent_keys, "_ADDED", recent_keys._ADDED.replace("16384", "7"))
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log:
        fill(log, 0)
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log:
        assert all(found(log, f"k{number}") == answer(number) for number in range(40))


def test_the_end_of_a_table_does_not_remove_all_recent_keys_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 30,000 rows costs a writer that waits some microseconds."""
    monkeypatch.setattr(recent_keys, "_FEW", 20)
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log:
        fill(log, 0)
    with closing(opened(folder)) as db:
        steps = [rows(folder, "recent_keys") for _ in kept_keys.expire(db, START_MS + 30 * DAY_MS)]
        assert steps[0] == 40
        assert max(before - after for before, after in pairwise(steps)) <= 39
        assert rows(folder, "recent_keys") == 1


def test_a_large_write_ahead_log_starts_anew_unless_a_reader_needs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.runtime.storage.sqlite_wal.RESTART_FRAMES", 40)
    monkeypatch.setattr("mlplatform.runtime.storage.sqlite_wal.LEFT_FRAMES", 8)
    with closing(SqliteDecisionLog(folder, Wall(START_MS))) as log, closing(opened(folder)) as db:
        with reading(db):
            fill(log, 0)
            log.checkpoint()
            fill(log, 40)
            held = frames(folder)
            assert held > 40
        sqlite_wal.copy(db, folder / DATABASE, nullcontext())
        assert db.execute("PRAGMA busy_timeout").fetchone() == (sqlite.BUSY_TIMEOUT_MS,)
        fill(log, 80, count=1)
        assert frames(folder) < 20
        assert log.verify().ok


@contextmanager
def reading(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM writers").fetchone()
    yield
    db.execute("ROLLBACK")


def fill(log: SqliteDecisionLog, start: int, count: int = 40) -> None:
    for number in range(start, start + count):
        log.append("gw", [entry(f"k{number}", number)])


def frames(folder: Path) -> int:
    with closing(opened(folder)) as db:
        return sqlite_wal.checkpoint(db).frames
