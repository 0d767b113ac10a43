"""Idempotency keys in narrow tables: the first answer to the byte, and the end of many at once."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log.erasure_acts import ErasureRequest, erase
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import kept_keys, recent_keys
from mlplatform.decisions.records.port import (
    KEEP_MS,
    AppendReceipt,
    DuplicateKey,
    Entry,
    Idempotency,
    RecordQuery,
    StoredAnswer,
)
from mlplatform.decisions.records.prepared_record import prepared
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE, SCHEMA
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.request.answers import ScoreBody
from support.wall import Wall

START_MS = 1_760_054_400_000 + DAY_MS // 3
ID = f"{7:032x}0123456789"
LONGER_MS = KEEP_MS // 2
"""By as much more than its promise is a key of a week kept at most."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


@pytest.fixture
def wall() -> Wall:
    return Wall(START_MS)


@pytest.fixture
def log(folder: Path, wall: Wall) -> Iterator[SqliteDecisionLog]:
    with closing(opened(folder, wall)) as log:
        yield log


def opened(folder: Path, wall: Wall) -> SqliteDecisionLog:
    return SqliteDecisionLog(folder, wall, segment_rows=(1, 20))


def answer(decision_id: str, score: float | None) -> bytes:
    """As a gateway writes it."""
    made = ScoreBody(
        decision="approve",
        score=score,
        reasons=[],
        model_version=3,
        bundle="9f" * 32,
        route="champion",
        answered_by="champion",
        generation=3,
        decision_id=decision_id,
        degraded=False,
        degraded_reason=None,
        reasons_omitted=None,
    )
    return msgspec.json.encode(made)


def entry(
    key: str,
    decision_id: str = ID,
    score: float | None = 0.25,
    given: bytes | None = None,
    *,
    keep_ms: int = KEEP_MS,
    impersonal: bool = True,
    unit: int | None = None,
) -> Entry:
    record = Record(
        kind="decision",
        decision_id=decision_id,
        model="fraud",
        event_ms=1_000,
        recorded_ms=2_000,
        score=score,
        unit=unit,
        payload={"request": {"amount": 1.5}},
    )
    body = answer(decision_id, score) if given is None else given
    idempotency = Idempotency("app", key, digest(key), body, keep_ms, impersonal=impersonal)
    return Entry(record, idempotency)


def digest(key: str) -> str:
    return f"{len(key):02x}" * 32


def named(number: int) -> str:
    return f"{number:032x}0123456789"


def found(log: SqliteDecisionLog, key: str) -> bytes | None:
    stored = log.find("app", "fraud", key)
    return None if stored is None else stored.answer


def tables(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '*keys_[0-9]*'"
        return [name for (name,) in db.execute(query)]


# The answer


TEXTS = st.text(st.sampled_from('0.5e-"7\x00\x01\x02ab'), max_size=12).map(str.encode)
SCORES = st.one_of(
    st.none(),
    st.floats(0, 1),
    st.floats(1e-8, 1e-3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-5, 9.99e-6, 1e-4, 1e16, 1e22, 1.0, 0.1 + 0.2]),
)


@settings(max_examples=60, deadline=None, database=None)
@given(
    given_=st.lists(
        st.tuples(
            SCORES,
            st.none() | TEXTS,
            st.booleans(),
            st.sampled_from([ID, "d1", "", "AB", "a", "0"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_answer_is_kept_to_the_byte(
    given_: list[tuple[float | None, bytes | None, bool, str]],
) -> None:
    """Whatever it holds beside or like its score and id, after sealing and a new start too."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, wall = Path(scratch), Wall(START_MS)
        entries = [
            entry(f"k{number}", decision_id, score, text, impersonal=impersonal)
            for number, (score, text, impersonal, decision_id) in enumerate(given_)
        ]
        with closing(opened(folder, wall)) as log:
            log.append("gw", entries)
            log.seal()
        with closing(opened(folder, wall)) as log:
            for one in entries:
                assert one.idempotency is not None
                stored = log.find("app", "fraud", one.idempotency.key)
                assert stored is not None
                assert (stored.answer, stored.decision_id) == (
                    one.idempotency.answer,
                    one.record.decision_id,
                )
            repeats = [
                DuplicateKey(one.idempotency.answer, True) for one in entries if one.idempotency
            ]
            assert log.append("gw", entries) == repeats


@settings(max_examples=300, deadline=None, database=None)
@given(st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False))
def test_a_score_is_written_as_the_gateway_writes_it(score: float) -> None:
    """Else each answer would be a shape of its own."""
    assert kept_keys._number(score) == msgspec.json.encode(score)


def test_a_key_of_a_gateway_takes_a_hundred_bytes_at_most(
    folder: Path, log: SqliteDecisionLog
) -> None:
    count = 20_000
    with closing(sqlite.connect(folder / DATABASE)) as db:
        before = pages(db)
        writer = kept_keys.KeyWriter(db)
        for start in range(0, count, 64):
            items = [
                prepared(entry(f"k{n}", f"{n * 2654435761 % 2**32:032x}0123456789", n / count))
                for n in range(start, min(start + 64, count))
            ]
            with sqlite.transaction(db):
                writer.write(items, START_MS)
        assert (pages(db) - before) * 4096 / count < 100
        assert db.execute("SELECT count(*) FROM answer_shapes").fetchone() == (2,)  # 0.0 has none


def pages(db: sqlite3.Connection) -> int:
    used: int = db.execute("PRAGMA page_count").fetchone()[0]
    return used - int(db.execute("PRAGMA freelist_count").fetchone()[0])


def test_answers_of_too_many_shapes_are_kept_whole(
    log: SqliteDecisionLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_keys, "_MOST_SHAPES", 3)
    for number in range(6):
        log.append("gw", [entry(f"k{number}", named(number), 0.5, f"shape {number}".encode())])
    assert [found(log, f"k{n}") for n in range(6)] == [f"shape {n}".encode() for n in range(6)]
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        assert db.execute("SELECT count(*) FROM answer_shapes").fetchone() == (3,)


def test_another_body_is_told_apart_by_what_is_kept_of_its_digest(log: SqliteDecisionLog) -> None:
    log.append("gw", [entry("k")])
    stored = log.find("app", "fraud", "k")
    assert stored is not None
    assert stored.is_of(digest("k"))
    assert not stored.is_of("ff" * 32)
    assert not stored.is_of("")
    assert not StoredAnswer(b"", "", "d").is_of(digest("k"))


def test_a_personal_answer_is_gone_with_its_erasure_and_an_impersonal_one_s_key(
    folder: Path, log: SqliteDecisionLog
) -> None:
    secret = b"she lives there"
    log.append(
        "gw",
        [
            entry("hers", named(1), 0.5, secret, impersonal=False, unit=3),
            entry("too", named(2), unit=3),
            entry("his", named(3), unit=4),
        ],
    )
    erase(log, folder, ErasureRequest("a1", "Ann Lee", "request 1", unit=3), now_ms=START_MS)
    assert [found(log, key) is None for key in ("hers", "too", "his")] == [True, True, False]
    assert not [p for p in folder.glob(f"{DATABASE}*") if secret in p.read_bytes()]
    assert log.append("gw", [entry("hers", named(4))]) == [AppendReceipt(4)]


# The end


@pytest.mark.parametrize("keep_ms", [3_600_000, DAY_MS, KEEP_MS, 30 * DAY_MS, 81 * DAY_MS])
@pytest.mark.parametrize("at_ms", [0, 1, DAY_MS // 2, DAY_MS - 1, 5 * DAY_MS + 17])
def test_a_key_is_kept_as_promised_and_half_of_it_or_a_day_longer_at_most(
    log: SqliteDecisionLog, folder: Path, wall: Wall, keep_ms: int, at_ms: int
) -> None:
    wall.ms = START_MS + at_ms
    log.append("gw", [entry("k", keep_ms=keep_ms)])
    wall.ms += keep_ms - 1
    log.seal()
    assert log.append("gw", [entry("k")]) == [DuplicateKey(answer(ID, 0.25), True)]
    wall.ms += 1 + max(DAY_MS, keep_ms // 2)
    log.seal()
    assert found(log, "k") is None
    assert tables(folder) == []
    assert log.append("gw", [entry("k", named(8))]) == [AppendReceipt(2)]


def test_a_week_s_look_up_reads_five_tables_at_most(
    log: SqliteDecisionLog, folder: Path, wall: Wall
) -> None:
    for day in range(30):
        wall.ms = START_MS + day * DAY_MS
        log.append("gw", [entry(f"k{day}")])
        log.seal()
        assert len(tables(folder)) <= 5
        assert all(found(log, f"k{back}") for back in range(max(0, day - 6), day + 1))


@pytest.mark.parametrize("count", [1, 2, 16, 64])
def test_a_look_up_scans_no_table(
    log: SqliteDecisionLog, folder: Path, wall: Wall, count: int
) -> None:
    """Else its cost would be that of all keys, as with an SQLite that does not flatten the view."""
    for day in range(10):
        wall.ms = START_MS + day * DAY_MS
        log.append("gw", [entry(f"k{day}")])
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        for query, asked in ((kept_keys._FIND, 1), (kept_keys._are_any(count), count)):
            plan = db.execute(f"EXPLAIN QUERY PLAN {query}", [b"key"] * asked).fetchall()
            steps = [step for *_, step in plan if "keys_" in step]
            assert len(steps) == len(tables(folder))
            assert all(step.startswith("SEARCH keys_") for step in steps)


def test_keys_that_are_looked_for_together_are_found_as_each_alone(
    log: SqliteDecisionLog, wall: Wall
) -> None:
    for day in range(4):
        wall.ms = START_MS + day * DAY_MS
        log.append("gw", [entry(f"k{day}", named(day))])
    names = ["k0", "new", "k3", "another", "k1"]
    alone = [log.find("app", "fraud", name) for name in names]
    assert [one is not None for one in alone] == [True, False, True, False, True]
    assert log.find_all([("app", "fraud", name) for name in names]) == alone
    assert log.find_all([("app", "fraud", "new"), ("app", "other", "k0")]) == [None, None]
    assert log.find_all([]) == []


@pytest.mark.parametrize(("before_d", "beside_d"), [(7, 7), (7, 30), (30, 7), (30, 30)])
def test_a_key_has_one_answer_however_long_the_claims_of_its_batch_hold(
    log: SqliteDecisionLog, wall: Wall, before_d: int, beside_d: int
) -> None:
    """Claims of different lengths lie in different tables."""
    first = entry("k", named(1), keep_ms=before_d * DAY_MS)
    assert log.append("gw", [first]) == [AppendReceipt(1)]
    again = entry("k", named(2), keep_ms=7 * DAY_MS)
    beside = entry("other", named(3), keep_ms=beside_d * DAY_MS)
    outcomes = log.append("gw", [beside, again])
    assert outcomes == [AppendReceipt(2), DuplicateKey(answer(named(1), 0.25), True)]
    assert found(log, "k") is not None
    assert found(log, "other") is not None


def test_many_keys_end_at_once_and_their_pages_are_used_again(
    log: SqliteDecisionLog, folder: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is found from the first step on; a kill between any two steps is gone on with."""
    monkeypatch.setattr(kept_keys, "_BITE_KEYS", 10)
    monkeypatch.setattr(recent_keys, "LEAST", 1)
    filled(log, 0, 50)
    log.checkpoint()
    wall.ms += KEEP_MS + LONGER_MS - DAY_MS
    filled(log, 50, 60)
    wall.ms += DAY_MS
    steps = 0
    with closing(sqlite.connect(folder / DATABASE)) as db:
        most = pages(db)
    while True:
        with closing(sqlite.connect(folder / DATABASE)) as db:
            if next(kept_keys.expire(db, wall.ms), None) is None:
                break
        steps += 1
        assert [found(log, f"k{n}") is not None for n in (0, 49, 50, 59)] == [False] * 2 + [
            True
        ] * 2
        again = entry(f"k{steps}", named(100 + steps))
        assert isinstance(log.append("gw", [again])[0], AppendReceipt)
    assert 50 / 10 <= steps <= 50 / 10 + 2
    assert not [one for one in tables(folder) if one.startswith("ended")]
    with closing(sqlite.connect(folder / DATABASE)) as db:
        assert pages(db) <= most
    assert log.verify().ok


def filled(log: SqliteDecisionLog, start: int, end: int) -> None:
    for number in range(start, end):
        log.append("gw", [entry(f"k{number}", named(number))])


def test_shapes_stay_as_long_as_a_key_has_them(
    log: SqliteDecisionLog, folder: Path, wall: Wall
) -> None:
    """Also where a long promise and a short one share one, and a process knows it from before."""
    for _ in range(40):
        log.append(
            "gw",
            [
                entry(f"long {wall.ms}", keep_ms=30 * DAY_MS),
                entry(f"short {wall.ms}", keep_ms=3_600_000),
            ],
        )
        wall.ms += DAY_MS
        log.seal()
    last = [wall.ms - days * DAY_MS for days in range(1, 30)]
    assert {found(log, f"long {ms}") for ms in last} == {answer(ID, 0.25)}
    wall.ms += 60 * DAY_MS
    log.seal()
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        assert db.execute("SELECT count(*) FROM answer_shapes").fetchone() == (0,)


def test_a_process_with_a_wrong_clock_costs_promises_and_doubles_nothing_after(
    log: SqliteDecisionLog, folder: Path
) -> None:
    """One that lives on with the tables in mind that another has ended makes them anew."""
    log.append("gw", [entry("k0", named(0))])
    with closing(sqlite.connect(folder / DATABASE)) as db:
        assert list(kept_keys.expire(db, START_MS + 30 * DAY_MS))
    with pytest.raises(Unavailable):
        log.append("gw", [entry("k1", named(1))])
    assert log.append("gw", [entry("k1", named(1))]) == [AppendReceipt(2)]
    assert log.append("gw", [entry("k1", named(2))]) == [DuplicateKey(answer(named(1), 0.25), True)]
    assert log.verify().ok


def test_a_process_that_slept_through_the_end_of_a_table_gives_no_answer_of_another(
    log: SqliteDecisionLog, folder: Path, wall: Wall
) -> None:
    """The table is there anew, and the numbers of its shapes are those of other texts by then."""
    log.append("a", [entry("k0", named(0))])
    with closing(opened(folder, wall)) as other:
        with closing(sqlite.connect(folder / DATABASE)) as db:
            assert list(kept_keys.expire(db, START_MS + 30 * DAY_MS))
        refusal = answer(named(1), 0.25).replace(b"approve", b"decline")
        other.append("b", [entry("k1", named(1), given=refusal)])
        with pytest.raises(Unavailable):
            log.append("a", [entry("k2", named(2))])
        assert log.append("a", [entry("k2", named(2))]) == [AppendReceipt(2)]
        assert found(other, "k1") == refusal
        assert found(other, "k2") == answer(named(2), 0.25)


@pytest.mark.parametrize("step", range(5))
def test_keys_that_two_processes_end_at_once_are_ended_once(
    log: SqliteDecisionLog, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A seal and the publisher of a gateway, which have no lock in common, at any step."""
    monkeypatch.setattr(kept_keys, "_BITE_KEYS", 2)
    late_ms, begun = START_MS + 30 * DAY_MS, 0

    @contextmanager
    def overtaken() -> Iterator[None]:
        nonlocal begun
        begun += 1
        if begun == step + 1:
            with closing(sqlite.connect(folder / DATABASE)) as other:
                list(kept_keys.expire(other, late_ms))
        yield

    filled(log, 0, 6)
    monkeypatch.setattr(recent_keys, "LEAST", 1)
    log.checkpoint()
    monkeypatch.setattr(sqlite, "throttled", overtaken)
    with closing(sqlite.connect(folder / DATABASE)) as db:
        list(kept_keys.expire(db, late_ms))
    assert begun > step
    assert tables(folder) == []
    assert found(log, "k0") is None


def test_two_processes_make_tables_and_see_each_other_s_keys(
    log: SqliteDecisionLog, folder: Path, wall: Wall
) -> None:
    with closing(opened(folder, wall)) as other:
        for day in range(12):
            wall.ms = START_MS + day * DAY_MS
            first, second = (log, other) if day % 2 else (other, log)
            name = "a" if first is log else "b"
            first.append(name, [entry(f"k{day}", named(day))])
            twin = entry(f"k{day}", named(1000))
            assert second.append("b" if second is other else "a", [twin]) == [
                DuplicateKey(answer(named(day), 0.25), True)
            ]
            assert found(second, f"k{day}") == answer(named(day), 0.25)


def test_a_transaction_that_fails_leaves_neither_table_nor_shape_in_mind(
    log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or refused between its key and its record, a decision has neither."""
    with monkeypatch.context() as patch:
        patch.setattr("mlplatform.decisions.records.unsealed_records.UnsealedWriter.insert", _dies)
        with pytest.raises(KeyboardInterrupt):
            log.append("gw", [entry("k0", named(0))])
    assert found(log, "k0") is None
    assert log.append("gw", [entry("k0", named(1))]) == [AppendReceipt(1)]
    assert found(log, "k0") == answer(named(1), 0.25)
    rows = log.read(RecordQuery(columns=("decision_id",))).to_pylist()
    assert rows == [{"decision_id": named(1)}]


def _dies(*_: object) -> int:
    raise KeyboardInterrupt


# A home of before


EARLIER = Schema(SCHEMA.part, SCHEMA.steps[:4])


@pytest.fixture
def earlier(folder: Path) -> Path:
    """What the release before this kept: three keys, one of which ends an hour from now."""
    with closing(sqlite.connect(folder / DATABASE, schema=EARLIER, shrinks=True)) as db:
        for number, keep_ms in ((0, KEEP_MS), (1, 3_600_000), (2, KEEP_MS)):
            row = ("app", "fraud", f"old{number}", digest("old0"), f"first {number}".encode())
            values = (*row, named(number), START_MS + keep_ms)
            db.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return folder


def test_keys_of_an_earlier_release_hold_until_their_time(earlier: Path, wall: Wall) -> None:
    with closing(opened(earlier, wall)) as log:
        assert [found(log, f"old{n}") for n in range(3)] == [b"first 0", b"first 1", b"first 2"]
        outcomes = log.append("gw", [entry("new", named(9)), entry("old0", named(10))])
        assert outcomes == [AppendReceipt(1), DuplicateKey(b"first 0", same_body=True)]
        other = Entry(entry("x").record, Idempotency("app", "old0", "ff" * 32, b"x"))
        assert log.append("gw", [other]) == [DuplicateKey(b"first 0", same_body=False)]
        wall.ms += 3_600_000
        log.seal()
        assert [found(log, f"old{n}") is None for n in range(3)] == [False, True, False]
        assert log.append("gw", [entry("old1", named(11))]) == [AppendReceipt(2)]
        ending = Idempotency("app", "y", "", b"{}", ends=("old2",))
        assert log.append("gw", [Entry(entry("y").record, ending)]) == [AppendReceipt(3)]
        assert found(log, "old2") is None
        wall.ms += KEEP_MS
        log.seal()
        assert found(log, "old0") is None
    with closing(sqlite3.connect(earlier / DATABASE)) as db:
        assert db.execute("SELECT count(*) FROM idempotency").fetchone() == (0,)


def test_a_key_that_takes_the_place_of_an_erased_one_meanwhile_is_kept(earlier: Path) -> None:
    """SQLite gives the number of a row that is gone to the next one."""
    with (
        closing(opened(earlier, Wall(START_MS))),
        closing(sqlite.connect(earlier / DATABASE)) as db,
    ):
        work = kept_keys.erase(db, {named(0), named(2)}, bite=1)
        next(work)
        db.execute("UPDATE idempotency SET decision_id = 'another' WHERE key = 'old2'")
        list(work)
        kept = db.execute("SELECT key FROM idempotency ORDER BY key").fetchall()
    assert kept == [("old1",), ("old2",)]
