"""The decision log while it is locked, slow, full or killed: nothing lost, nothing doubled."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import (
    AppendReceipt,
    DuplicateKey,
    Entry,
    Idempotency,
    Outcome,
    RecordingFailure,
    RecordQuery,
    SpillReceipt,
    StoredAnswer,
    UnloggedAnswer,
)
from mlplatform.decisions.records.prepared_record import prepared
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.spill import files, writer
from mlplatform.decisions.spill.files import SpillFile, SpillFull
from mlplatform.decisions.spill.key_locks import KeyLocks
from mlplatform.decisions.spill.recovery import resolved
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.runtime.errors import Busy, InputInvalid, Unavailable
from mlplatform.runtime.units import MIB
from support.stopped_writer import stopped_writer
from support.thread_commit import ThreadCommit

WRITER = "gateway-0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


def entry(name: str, key: str | None = None, **fields: Any) -> Entry:
    defaults: dict[str, Any] = {
        "kind": "decision",
        "model": "fraud",
        "event_ms": 1_000,
        "recorded_ms": 2_000,
        "score": 0.25,
        "payload": {"request": {"amount": 12.5}},
    }
    given = None if key is None else Idempotency("app", key, f"body of {key}", name.encode())
    return Entry(Record(decision_id=name, **{**defaults, **fields}), given)


@contextmanager
def opened(folder: Path, writer: str = WRITER, **policy: Any) -> Iterator[SpillingLog]:
    """A log with a spill, as a gateway opens it; left as a killed process leaves it."""
    values = {"maximum_bytes": MIB, **policy}
    with closing(SqliteDecisionLog(folder, lock_wait_ms=5)) as log:
        spilling = SpillingLog(log, writer, SpillPolicy(**values))
        try:
            yield spilling
        finally:
            killed(spilling)


def killed(spilling: SpillingLog) -> None:
    if spilling._file is not None:
        spilling._file.close()
    spilling._keys.close()
    spilling._locks.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Somebody holds the write lock of the log."""
    with closing(sqlite3.connect(folder / "decisions.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def caught_up(log: SpillingLog, within_s: float = 20.0) -> None:
    end_s = time.monotonic() + within_s
    while log.catch_up():
        assert time.monotonic() < end_s, "it never caught up"
        time.sleep(0.005)


def recorded(folder: Path) -> list[tuple[int, str]]:
    """Numbers and names of all records of the writer, after the whole log was checked."""
    with closing(SqliteDecisionLog(folder)) as log:
        assert log.verify().findings == ()
        rows = log.read(RecordQuery(columns=("seq", "decision_id"))).to_pylist()
    return [(row["seq"], row["decision_id"]) for row in rows]


def names(count: int, start: int = 0) -> list[str]:
    return [f"d{i}" for i in range(start, start + count)]


def adds_up(log: SpillingLog) -> bool:
    c = log.counts
    return c.accepted + c.recovered == c.written + c.waiting + c.unlogged


# Spilling and catching up


def test_what_a_locked_log_does_not_take_is_spilled_and_catches_up_in_order(folder: Path) -> None:
    """With the writer's numbers and chain; what came before and after is in its place."""
    with opened(folder) as log:
        assert log.append(WRITER, [entry("d0")]) == [AppendReceipt(1)]
        with locked(folder):
            for name in names(300, 1):
                assert log.append(WRITER, [entry(name, f"key of {name}")]) == [SpillReceipt()]
            assert log.catch_up()
            assert recorded(folder) == [(1, "d0")]
        assert log.append(WRITER, [entry("d301")]) == [SpillReceipt()]  # not before those that wait
        caught_up(log)
        assert log.append(WRITER, [entry("d302")]) == [AppendReceipt(303)]
        assert recorded(folder) == list(enumerate(names(303), start=1))
        assert list((folder / "spill").glob("*.spill")) == []
        assert (log.counts.written, log.counts.spilled, log.counts.waiting) == (303, 301, 0)
        assert adds_up(log)


class UnavailableLog(SqliteDecisionLog):
    """A log that can be neither written nor read."""

    def append_prepared(self, *arguments: Any) -> list[Outcome]:
        raise Unavailable("the decision log is gone")

    def find(self, *key: str) -> StoredAnswer | None:
        raise Unavailable("the decision log is gone")


def test_while_the_log_cannot_be_read_no_key_is_promised(folder: Path) -> None:
    """Records without a key are kept; with one nobody can know whether it was answered before."""
    with closing(UnavailableLog(folder)) as down:
        log = SpillingLog(down, WRITER, SpillPolicy(MIB))
        assert log.append(WRITER, [entry("d1")]) == [SpillReceipt()]
        (outcome,) = log.append(WRITER, [entry("d2", "k2")])
        assert isinstance(outcome, RecordingFailure)
        assert "cannot be known" in outcome.reason
        assert log.counts.refused == 1
        assert adds_up(log)
        killed(log)


def test_a_key_is_not_looked_for_while_a_stopped_process_holds_up_readers(folder: Path) -> None:
    """SQLite would wait for ten seconds, and an event loop with it."""
    with opened(folder) as log:
        log.append(WRITER, [entry("d1", "k1")])
        with stopped_writer(folder / "decisions.db"):
            began_s = time.monotonic()
            with pytest.raises(Unavailable, match="blocks its readers"):
                log.find("app", "fraud", "k1")
            assert time.monotonic() - began_s < 1.0
        assert log.find("app", "fraud", "k1") == StoredAnswer(b"d1", "body of k1", "d1")


def test_who_asks_again_while_readers_are_held_up_is_told_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait at each look-up would take an event loop more time than there is; one does no harm,
    and each time that readers are held up has its own."""
    waits: list[float] = []
    with opened(folder) as log:
        log.append(WRITER, [entry("d1", "k1")])
        monkeypatch.setattr("mlplatform.decisions.log.sqlite.time.sleep", waits.append)
        for times in (1, 2):
            with stopped_writer(folder / "decisions.db"):
                waits.clear()
                for _ in range(20):
                    with pytest.raises(Unavailable, match="blocks its readers"):
                        log.find("app", "fraud", "k1")
                assert len(waits) == 1, f"hold number {times}"
            assert log.find("app", "fraud", "k1") == StoredAnswer(b"d1", "body of k1", "d1")


def test_what_no_log_can_hold_is_not_spilled(folder: Path) -> None:
    """It would come back for ever; it is refused as the log refuses it."""
    with opened(folder) as log, locked(folder):
        for fields in ({"unit": 2**63}, {"bundle": "\ud800"}, {"score": float("nan")}):
            with pytest.raises(InputInvalid):
                log.append(WRITER, [entry("bad", **fields)])
        assert log.append(WRITER, [entry("good")]) == [SpillReceipt()]


# Keys


def test_a_spilled_key_keeps_its_answer(folder: Path) -> None:
    """For retries in the same batch, later, after a restart, and after catching up."""
    retry = DuplicateKey(b"d1", same_body=True)
    other = Entry(entry("d9").record, Idempotency("app", "k1", "another body", b"d9"))
    with opened(folder) as log:
        log.append(WRITER, [entry("d0", "k0")])
        with locked(folder):
            first = log.append(WRITER, [entry("d1", "k1"), entry("d2", "k1")])
            assert first == [SpillReceipt(), retry]
            assert log.append(WRITER, [entry("d3", "k1")]) == [retry]
            assert log.append(WRITER, [entry("d4", "k0")]) == [DuplicateKey(b"d0", same_body=True)]
            assert log.append(WRITER, [other]) == [DuplicateKey(b"d1", same_body=False)]
            assert log.find("app", "fraud", "k1") == StoredAnswer(b"d1", "body of k1", "d1")
    with locked(folder), opened(folder) as log:
        assert log.find("app", "fraud", "k1") == StoredAnswer(b"d1", "body of k1", "d1")
        assert log.append(WRITER, [entry("d5", "k1")]) == [retry]
    with opened(folder) as log:
        caught_up(log)
        assert log.append(WRITER, [entry("d6", "k1")]) == [retry]
        assert recorded(folder) == [(1, "d0"), (2, "d1")]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/contract/decisions/spill")
from test_log_spill import *
folder, writer = Path(sys.argv[1]), sys.argv[2]
with opened(folder, writer) as log:
    for line in sys.stdin:
        command, *words = line.split()
        if command == "append":
            print(repr(log.append(writer, [entry(*words)])[0]), flush=True)
        elif command == "hold":
            with log._locks.writing():
                print("held", flush=True)
                sys.stdin.readline()
        else:
            caught_up(log)
            print(log.counts.conflicts, flush=True)
"""


class Sibling:
    """Another gateway process on the same log."""

    def __init__(self, folder: Path, writer: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), writer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def told(self, *words: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def siblings(folder: Path) -> Iterator[tuple[Sibling, Sibling]]:
    SqliteDecisionLog(folder).close()
    pair = Sibling(folder, "gateway-1"), Sibling(folder, "gateway-2")
    yield pair
    for one in pair:
        one.kill()


def test_no_other_process_decides_a_spilled_key_again(
    folder: Path, siblings: tuple[Sibling, Sibling]
) -> None:
    """Whether it spills too, the log is back for it alone, or the first one was killed."""
    one, two = siblings
    retry = repr(DuplicateKey(b"d1", same_body=True))
    with locked(folder):
        assert one.told("append", "d1", "k1") == repr(SpillReceipt())
        assert two.told("append", "d2", "k1") == retry
        assert two.told("append", "d3", "k3") == repr(SpillReceipt())
    assert two.told("catch-up") == "0"
    assert two.told("append", "d4", "k1") == retry
    one.kill()
    assert two.told("append", "d5", "k1") == retry
    with closing(SqliteDecisionLog(folder)) as log:
        assert [w.spilled for w in log.watermarks() if w.writer == "gateway-1"] == [1]


def test_what_a_process_left_is_adopted_by_its_sibling(
    folder: Path, siblings: tuple[Sibling, Sibling]
) -> None:
    """A gateway that is not started again does not keep its records from the log."""
    one, two = siblings
    with locked(folder):
        assert one.told("append", "d1", "k1") == repr(SpillReceipt())
    one.kill()
    time.sleep(0.1)
    end_s = time.monotonic() + 20
    while list((folder / "spill").glob("*.spill")):
        assert time.monotonic() < end_s
        assert two.told("catch-up") == "0"
        time.sleep(0.1)
    assert recorded(folder) == [(1, "d1")]


def test_a_key_is_not_spilled_while_another_process_may_be_writing_it(
    folder: Path, siblings: tuple[Sibling, Sibling]
) -> None:
    """It is refused: the other's transaction may still come true."""
    one, two = siblings
    assert one.told("hold") == "held"
    with locked(folder):
        assert "may be under way" in two.told("append", "d1", "k1")
        assert two.told("append", "d2") == repr(SpillReceipt())


def test_a_key_answered_otherwise_in_the_log_is_a_conflict_that_is_counted(folder: Path) -> None:
    """The log's answer stands; the other decision is kept, voided, and counted."""
    with opened(folder) as log:
        log.append(WRITER, [entry("d0")])
        with locked(folder):
            log.append(WRITER, [entry("d1", "k"), entry("d2")])
        with closing(SqliteDecisionLog(folder)) as other:  # knows nothing of spills
            other.append("elsewhere", [entry("d9", "k")])
        caught_up(log)
        assert log.counts.conflicts == 1
        assert adds_up(log)
        stored = log.find("app", "fraud", "k")
        assert stored is not None
        assert stored.decision_id == "d9"
    with closing(SqliteDecisionLog(folder)) as reader:
        rows = reader.read(
            RecordQuery(columns=("writer", "kind", "decision_id", "payload"))
        ).to_pylist()
        assert reader.verify().ok
    mine = [(r["kind"], r["decision_id"]) for r in rows if r["writer"] == WRITER]
    assert mine == [("decision", "d0"), ("decision", "d1"), ("void", "d1"), ("decision", "d2")]
    (void,) = [json.loads(r["payload"]) for r in rows if r["kind"] == "void"]
    assert void == {"reason": "key-answered-elsewhere", "stands": "d9"}


def test_a_label_that_is_there_already_voids_nothing() -> None:
    """It is the same fact twice."""
    label = prepared(entry("d1", "d1:1:", kind="label", label=1))
    result = resolved([label], lambda *key: StoredAnswer(b"{}", "", "d1"), now_ms=5)
    assert (result.items, result.conflicts) == ((), 0)


# Killed


def said(value: int, number: int) -> Entry:
    """A label without a time: its key ends that of its opposite."""
    record = Record(
        kind="label", decision_id="d1", model="fraud", event_ms=number, recorded_ms=number,
        label=value,
    )  # fmt: skip
    ends = (f"d1:{1 - value}:",)
    return Entry(record, Idempotency("app/labels", f"d1:{value}:", "", b"{}", ends=ends))


@pytest.mark.parametrize("seed", range(8))
def test_a_label_is_a_record_whenever_it_says_something_else_than_the_one_before(
    folder: Path, seed: int
) -> None:
    """One by one and several at once, in the log, in its spill, and across both."""
    chance, expected, told = random.Random(seed), [], []
    with opened(folder) as log:
        for turn in range(12):
            batch = [chance.randint(0, 1) for _ in range(chance.randint(1, 4))]
            before = told[-1] if told else None
            told += batch
            new = [v for v, last in zip(batch, [before, *batch], strict=False) if v != last]
            expected += new
            entries = [said(value, turn) for value in batch]
            with locked(folder) if turn % 3 == 1 else open(os.devnull):
                outcomes = log.append(WRITER, entries)
            assert sum(not isinstance(one, DuplicateKey) for one in outcomes) == len(new)
            if turn % 3 == 2:
                caught_up(log)
        caught_up(log)
    with closing(SqliteDecisionLog(folder)) as log:
        rows = log.read(RecordQuery(columns=("seq", "label"))).to_pylist()
    assert [row["label"] for row in rows] == expected


def test_a_spill_killed_at_any_byte_keeps_every_whole_record(tmp_path: Path) -> None:
    """Cut anywhere, it is read up to the last whole frame, and goes on from there."""
    path = tmp_path / "whole.spill"
    items = [prepared(entry(name, name)) for name in names(3)]
    whole = SpillFile.create(path, durable=False)
    whole.append([files.framed(i) for i in items], maximum_bytes=MIB, durable=False)
    whole.close()
    data = path.read_bytes()
    ends = [frame.end for frame in frames_of(path)]
    assert ends[-1] == len(data)
    for size in range(len(data) + 1):
        torn = tmp_path / "torn.spill"
        torn.write_bytes(data[:size])
        file = SpillFile.take_over(torn)
        expected = sum(end <= size for end in ends)
        if size < files.START:
            assert file is None
            assert not torn.exists()
            continue
        assert file is not None
        file.append([files.framed(items[0])], maximum_bytes=MIB, durable=False)
        found = [frame.record for frame in file.next(10)]
        assert found == [*items[:expected], items[0]]
        file.remove()
    assert list(tmp_path.glob("*.damaged")) == []


def test_damage_inside_a_spill_is_kept_and_told(folder: Path) -> None:
    """What follows the damage is not thrown away, and `verify` names the file."""
    with opened(folder) as log, locked(folder):
        for name in names(3):
            log.append(WRITER, [entry(name)])
    path = folder / "spill" / f"{WRITER}.spill"
    data = bytearray(path.read_bytes())
    data[frames_of(path)[1].start + 30] ^= 1
    path.write_bytes(data)
    with opened(folder) as log:
        caught_up(log)
        (kept,) = (folder / "spill").glob("*.damaged")
        assert kept.read_bytes() == bytes(data)
    with closing(SqliteDecisionLog(folder)) as reader:
        (finding,) = reader.verify().findings
        assert kept.name in finding
        assert reader.read(RecordQuery(columns=("decision_id",))).to_pylist() == [
            {"decision_id": "d0"}
        ]


@pytest.mark.parametrize("step", ["spill_mark", "catch_up", "forget_spill"])
def test_killed_between_any_two_steps_of_catching_up_nothing_is_doubled(
    folder: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the log has taken the records and before the spill knows."""
    with opened(folder) as log, locked(folder):
        for name in names(300):
            log.append(WRITER, [entry(name)])
    for _ in range(4):
        with opened(folder) as log:
            original = getattr(SqliteDecisionLog, step)

            def die_after(*arguments: Any, original: Any = original) -> Any:
                original(*arguments)
                raise KeyboardInterrupt

            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(SqliteDecisionLog, step, die_after)
                caught_up(log)
    with opened(folder) as log:
        caught_up(log)
        assert recorded(folder) == list(enumerate(names(300), start=1))
        assert adds_up(log)


def all_adopted(folder: Path, log: SpillingLog, within_s: float = 20.0) -> None:
    end_s = time.monotonic() + within_s
    while log.catch_up() or list((folder / "spill").glob("*.spill")):
        assert time.monotonic() < end_s, "something stays in a spill"
        time.sleep(0.005)


FILE_ERRORS = [
    pytest.param(SpillFile, "take_over", id="no file can be opened"),
    pytest.param(files, "frames", id="a spill can't be read"),
    pytest.param(SpillFile, "rename", id="it can't be renamed"),
    pytest.param(SpillFile, "next", id="what is adopted can't be read"),
    pytest.param(SpillFile, "remove", id="it can't be removed"),
    pytest.param(Path, "glob", id="the folder can't be listed"),
]


@pytest.mark.parametrize(("owner", "step"), FILE_ERRORS)
def test_what_a_file_error_keeps_from_the_log_enters_it_once_the_error_is_over(
    folder: Path, owner: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catching up goes on, as does whoever appends; nothing is lost, doubled or held by a lock."""
    monkeypatch.setattr(writer, "ADOPT_S", 0.0)
    monkeypatch.setattr(writer, "RETRY_S", 0.0)
    with opened(folder, "gateway-1") as left, locked(folder):
        for name in names(3):
            left.append("gateway-1", [entry(name, name)])
    failures = 0

    def fail(*arguments: Any) -> Any:
        nonlocal failures
        failures += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with opened(folder) as log:
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, fail)
            for _ in range(6):
                log.catch_up()
            assert failures >= 2
        (answer,) = log.append(WRITER, [entry("own", "own")])
        assert isinstance(answer, AppendReceipt | SpillReceipt)
        all_adopted(folder, log)
        found = [name for _, name in recorded(folder)]
        assert sorted(found) == [*names(3), "own"]
        assert adds_up(log)


def test_a_thread_that_commits_outlives_file_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ADOPT_S", 0.0)
    failures = threading.Semaphore(0)

    def fail(*arguments: Any) -> Any:
        failures.release()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "glob", fail)
    with closing(SqliteDecisionLog(folder)) as inner:
        log = SpillingLog(inner, WRITER, SpillPolicy(MIB))
        committer = ThreadCommit(log, WRITER, relief=log)
        for name in names(3):
            assert committer.submit([entry(name)]).result(10) != []
            assert failures.acquire(timeout=10)
        assert committer.alive
        committer.close()
    assert recorded(folder) == list(enumerate(names(3), start=1))


def test_what_entered_the_log_before_an_error_enters_it_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is over, and what follows it fails: the spill's mark says how far it came."""
    writing = KeyLocks.writing

    @contextmanager
    def fail_at_the_end(locks: KeyLocks) -> Iterator[None]:
        with writing(locks):
            yield
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(folder) as log:
        with locked(folder):
            for name in names(3):
                log.append(WRITER, [entry(name, name)])
        with monkeypatch.context() as patch:
            patch.setattr(KeyLocks, "writing", fail_at_the_end)
            assert log.catch_up()
        caught_up(log)
        assert recorded(folder) == list(enumerate(names(3), start=1))
        assert (log.counts.written, log.counts.recovered) == (3, 0)
        assert adds_up(log)


def test_what_is_spilled_while_a_siblings_spill_is_adopted_is_not_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a long one takes so long that others relieve the thread meanwhile."""
    monkeypatch.setattr(writer, "ADOPT_S", 0.0)
    with opened(folder, "gateway-1") as left, locked(folder):
        left.append("gateway-1", [entry("d0", "k0")])
    take_over = SpillFile.take_over
    with opened(folder) as log:

        def slowly(path: Path) -> SpillFile | None:
            file = take_over(path)
            log.relieve([entry("d1", "k1")])
            return file

        with monkeypatch.context() as patch:
            patch.setattr(SpillFile, "take_over", slowly)
            log.catch_up()
        all_adopted(folder, log)
        assert sorted(name for _, name in recorded(folder)) == ["d0", "d1"]
        assert adds_up(log)


WRITER_PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/contract/decisions/spill")
from test_log_spill import *
folder, start = Path(sys.argv[1]), int(sys.argv[2])
log = SpillingLog(SqliteDecisionLog(folder, lock_wait_ms=5), WRITER, SpillPolicy(64 * MIB))
committer = ThreadCommit(log, WRITER, relief=log)
for batch in range(start, 1_000_000):
    sent = [f"{batch}-{i}" for i in range(7)]
    answers = [committer.submit([entry(name, name)]) for name in sent]
    for name, answer in zip(sent, answers):
        print(name, type(answer.result()[0]).__name__, flush=True)
"""


def test_a_gateway_killed_while_it_spills_and_catches_up_loses_and_doubles_nothing(
    folder: Path,
) -> None:
    """SIGKILL at random moments, the log locked half of the time."""
    SqliteDecisionLog(folder).close()
    random.seed(7)
    acknowledged: set[str] = set()
    kinds: set[str] = set()
    start = 0
    for round_ in range(8):
        program = [sys.executable, "-c", WRITER_PROGRAM, str(folder), str(start)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with subprocess.Popen(
            program, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            lines = list(itertools.islice(process.stdout, 20))
            if round_ % 2:
                with locked(folder):
                    lines += list(itertools.islice(process.stdout, random.randrange(50, 400)))
            lines += list(itertools.islice(process.stdout, random.randrange(50, 400)))
            process.send_signal(signal.SIGKILL)
            lines += [line for line in process.stdout if line.endswith("\n")]
        acknowledged |= {line.split()[0] for line in lines}
        kinds |= {line.split()[1] for line in lines}
        start = int(lines[-1].split("-")[0])
    with opened(folder, maximum_bytes=64 * MIB) as log:
        caught_up(log)
    found = recorded(folder)
    assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
    assert len({name for _, name in found}) == len(found)
    assert acknowledged <= {name for _, name in found}
    durable = {"AppendReceipt", "SpillReceipt"}
    assert durable <= kinds <= durable | {"DuplicateKey"}


# Full


def test_at_its_limit_the_declared_mode_applies(folder: Path) -> None:
    """Decisions of a model that answers unlogged are answered; all else is refused."""
    size = len(files.framed(prepared(entry("d0"))))
    policy = {"maximum_bytes": files.START + 2 * size, "answer_unlogged": frozenset({"fraud"})}
    with opened(folder, **policy) as log:
        with locked(folder):
            assert log.append(WRITER, [entry("d0"), entry("d1")]) == [
                SpillReceipt(),
                SpillReceipt(),
            ]
            unlogged, label, other = log.append(
                WRITER,
                [entry("d2"), entry("d1", kind="label", label=1), entry("d3", model="other")],
            )
            assert unlogged == UnloggedAnswer()
            assert isinstance(label, RecordingFailure)
            assert isinstance(other, RecordingFailure)
            assert "limit" in other.reason
        caught_up(log)
        assert log.append(WRITER, [entry("d4")]) == [AppendReceipt(3)]
        assert recorded(folder) == [(1, "d0"), (2, "d1"), (3, "d4")]
        counts = log.counts
        assert (counts.accepted, counts.unlogged, counts.refused) == (4, 1, 2)
        assert adds_up(log)


@pytest.mark.parametrize("limit", [1, MIB])
def test_who_repeats_a_key_in_the_batch_of_the_first_gets_no_answer_that_is_on_no_record(
    folder: Path, limit: int
) -> None:
    """Who asked first had given up on a slow log, so both wait together as it fails."""
    batch = [entry("d0", "k"), entry("d1", "other"), entry("d2", "k")]
    with opened(folder, maximum_bytes=limit) as log:
        with locked(folder):
            outcomes = log.append(WRITER, batch)
            kept = [type(outcome) for outcome in outcomes]
            assert log.find("app", "fraud", "k") == (
                None if limit == 1 else StoredAnswer(b"d0", "body of k", "d0")
            )
        caught_up(log)
    if limit == 1:
        assert kept == [RecordingFailure] * 3
        assert recorded(folder) == []
    else:
        assert kept == [SpillReceipt, SpillReceipt, DuplicateKey]
        assert recorded(folder) == [(1, "d0"), (2, "d1")]


def test_a_disk_that_takes_half_a_batch_has_taken_none(tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: a part is written, then nothing."""
    file = SpillFile.create(tmp_path / "a.spill", durable=False)
    part = files.framed(prepared(entry("d0")))
    file.append([part], maximum_bytes=MIB, durable=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.end + 2 * len(part) + 5, hard))
    try:
        with pytest.raises(SpillFull, match="large"):
            file.append([part] * 5, maximum_bytes=MIB, durable=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.spill").stat().st_size == file.end
    file.append([part], maximum_bytes=MIB, durable=False)
    assert len(file.next(10)) == 2
    file.close()


FULL_DISK = """
import shutil, sys
from pathlib import Path
sys.path.insert(0, "tests/contract/decisions/spill")
from test_log_spill import *
disk = Path(sys.argv[1])
folder, ballast = disk / "decisions", disk / "ballast"
with opened(folder, maximum_bytes=64 * MIB, answer_unlogged=frozenset({"lenient"})) as log:
    assert log.append(WRITER, [entry("d0")]) == [AppendReceipt(1)]
    kept, given = ["d0"], []
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        pass
    for number in range(1, 400):
        model = "lenient" if number % 2 else "fraud"
        (outcome,) = log.append(WRITER, [entry(f"d{number}", model=model)])
        given.append(type(outcome).__name__)
        if isinstance(outcome, AppendReceipt | SpillReceipt):
            kept.append(f"d{number}")
    assert {"UnloggedAnswer", "RecordingFailure"} <= set(given), given
    assert adds_up(log), log.counts
    ballast.unlink()
    caught_up(log)
    assert log.append(WRITER, [entry("last")]) == [AppendReceipt(len(kept) + 1)]
    assert [name for _, name in recorded(folder)] == [*kept, "last"]
    assert adds_up(log), log.counts
    assert log.counts.unlogged == given.count("UnloggedAnswer")
print("whole")
"""


def test_on_a_disk_that_is_really_full_records_are_kept_or_declared(tmp_path: Path) -> None:
    """A file system of a megabyte, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None or not _may_mount(disk):
        pytest.skip("this user may not mount a file system in a namespace of its own")
    mount = f'mount -t tmpfs -o size=1m tmpfs "{disk}" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", FULL_DISK]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [*command, str(disk)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "whole\n", done.stderr


def _may_mount(disk: Path) -> bool:
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    return subprocess.run(probe, capture_output=True).returncode == 0


# Watermarks and the counts


def test_a_watermark_claims_nothing_of_what_is_spilled(folder: Path) -> None:
    """Whoever writes it lives or not; and everything again after catching up."""
    with opened(folder) as log, closing(SqliteDecisionLog(folder)) as reader:
        log.append(WRITER, [entry("d0", event_ms=9_000)])
        with locked(folder):
            log.append(WRITER, [entry("d1", event_ms=8_000), entry("d2", event_ms=9_500)])
            log.heartbeat(WRITER, 9_900)
            (mark,) = reader.watermarks()
            assert (mark.event_ms, mark.live, mark.spilled) == (8_000, True, 2)
            assert reader.verify().spilled == 2
        caught_up(log)
        (mark,) = reader.watermarks()
        assert (mark.event_ms, mark.spilled) == (9_500, 0)
        log.heartbeat(WRITER, 9_900)
        assert reader.watermarks()[0].event_ms == 9_900


def test_a_writer_has_one_living_process(folder: Path, siblings: tuple[Sibling, Sibling]) -> None:
    """Another one cannot take over a spill that is being written."""
    one, _ = siblings
    with locked(folder):
        assert one.told("append", "d1") == repr(SpillReceipt())
        with pytest.raises(Busy):
            SpillFile.take_over(folder / "spill" / "gateway-1.spill")


class Faulty(SqliteDecisionLog):
    """A log whose appends can be held up."""

    gate: threading.Event

    def append_prepared(self, *arguments: Any) -> list[Outcome]:
        assert self.gate.wait(20)
        return super().append_prepared(*arguments)


def test_what_queues_behind_a_slow_log_is_spilled(folder: Path) -> None:
    """And keys of what the log still holds are not answered a second time."""
    with closing(Faulty(folder)) as inner:
        inner.gate = threading.Event()
        inner.gate.set()
        log = SpillingLog(inner, WRITER, SpillPolicy(MIB))
        committer = ThreadCommit(log, WRITER, relief=log)
        inner.gate.clear()
        stuck = committer.submit([entry("d0", "k0")])
        wait_until(lambda: bool(log._writing))
        behind = committer.submit([entry("d1", "k1")])
        again = committer.submit([entry("d2", "k0")])
        assert behind.result(10) == [SpillReceipt()]
        (outcome,) = again.result(10)
        assert isinstance(outcome, RecordingFailure)
        assert not stuck.done()
        inner.gate.set()
        assert stuck.result(10) == [AppendReceipt(1)]
        committer.close()
        assert adds_up(log)
    assert recorded(folder) == [(1, "d0"), (2, "d1")]


def test_accepted_is_written_and_spilled_and_declared_unlogged_whatever_fails(
    folder: Path,
) -> None:
    """Locks, a limit and clients that repeat themselves; counted against what is really there."""
    random.seed(11)
    unlogged: list[str] = []
    kept: list[str] = []
    refused: list[str] = []
    policy = SpillPolicy(60_000, answer_unlogged=frozenset({"fraud"}))
    with closing(SqliteDecisionLog(folder, lock_wait_ms=5)) as inner:
        log = SpillingLog(inner, WRITER, policy)
        committer = ThreadCommit(log, WRITER, relief=log)
        sent: list[tuple[str, Any]] = []
        for round_ in range(12):
            with locked(folder) if round_ % 2 else open(os.devnull):
                for i in range(random.randrange(20, 160)):
                    name = f"{round_}-{i}"
                    model = random.choice(("fraud", "strict"))
                    key = random.choice((None, f"key {round_} {i // 2}"))
                    sent.append((name, committer.submit([entry(name, key, model=model)])))
                outcomes = [(name, answer.result(20)[0]) for name, answer in sent]
                sent.clear()
            for name, outcome in outcomes:
                if isinstance(outcome, AppendReceipt | SpillReceipt):
                    kept.append(name)
                elif isinstance(outcome, UnloggedAnswer):
                    unlogged.append(name)
                elif isinstance(outcome, RecordingFailure):
                    refused.append(name)
            with log._mutex:
                assert adds_up(log), log.counts
        committer.close()
        counts = log.counts
    assert sorted(name for _, name in recorded(folder)) == sorted(kept)
    assert counts.accepted == len(kept) + len(unlogged)
    assert counts.written == len(kept)
    assert (counts.unlogged, counts.refused) == (len(unlogged), len(refused))
    assert unlogged
    assert refused
    assert counts.spilled


def frames_of(path: Path) -> list[files.Frame]:
    with path.open("rb") as file:
        return list(files.frames(file.fileno()))


def wait_until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)
