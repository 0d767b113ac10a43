"""Payloads that are kept for days: what is due goes, on record, file by file, and nothing else."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.decisions.log import erasure, retention_acts, sealed_files
from mlplatform.decisions.log.erasure_acts import ErasureRequest, erase
from mlplatform.decisions.log.lookup import erased_by, logged_records
from mlplatform.decisions.log.retention import (
    MOST_DAYS,
    DuePayloads,
    HeldPayloads,
    due_payloads,
    reached_ms,
)
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import unsealed_records
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import COLUMNS, SCALARS, Kind, Record
from mlplatform.decisions.records.retention import (
    AbsentPayload,
    ExpiredRange,
    Retention,
    RetentionRule,
    expired_ranges,
    retention_record,
)
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.decisions.replication.continuation import Gap
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.decisions.replication.replicated_records import ReplicationReader
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

EVERYTHING = RecordQuery(columns=tuple(COLUMNS))
SECRET = "what she bought"
WALL_MS = 400 * DAY_MS
DAYS = 60


def entry(day: int, *, model: str = "fraud", kind: Kind = "decision") -> Entry:
    return Entry(
        Record(
            kind=kind,
            decision_id=f"{day:032x}{model}",
            model=model,
            event_ms=day * DAY_MS,
            recorded_ms=day * DAY_MS + 1,
            unit=day % 7,
            payload={
                "request": {"note": f"{SECRET} {model} {day}"},
                "filler": random.Random(day).randbytes(250).hex(),
            },
        )
    )


def filled(folder: Path) -> SqliteDecisionLog:
    """100 days of two models in files of 10 days, the last ones in rows; one file holds fraud of
    days 1 to 5 and credit of day 99, so it is not due of credit."""
    log = SqliteDecisionLog(folder, lambda: WALL_MS, segment_rows=(10, 20))
    mixed = [entry(day) for day in range(1, 6)] + [entry(99, model="credit") for _ in range(5)]
    log.append("gw", mixed)
    log.seal()
    for start in range(6, 96, 10):
        days = range(start, start + 10)
        log.append("gw", [entry(d, model="fraud" if d % 2 else "credit") for d in days])
        log.seal()
    log.append("gw", [entry(96), entry(97, kind="label"), entry(98), entry(100)])
    return log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "decisions"
    filled(folder).close()
    return folder


def copied(made: Path, folder: Path) -> SqliteDecisionLog:
    shutil.copytree(made, folder)
    return SqliteDecisionLog(folder, lambda: WALL_MS, segment_rows=(10, 20))


@pytest.fixture
def log(made: Path, folder: Path) -> Iterator[SqliteDecisionLog]:
    with closing(copied(made, folder)) as opened:
        yield opened


def expire(
    log: SqliteDecisionLog,
    folder: Path,
    *,
    model: str = "fraud",
    days: int = DAYS,
    wall_ms: int = WALL_MS,
) -> DuePayloads:
    found = retention_acts.record(
        log, folder, model, act=f"act{wall_ms}", payload_days=days, wall_ms=wall_ms
    )
    assert found is not None
    return found


def rows(log: SqliteDecisionLog) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = log.read(EVERYTHING).to_pylist()
    return [row for row in found if row["kind"] not in ("erasure", "retention")]


def days_without(log: SqliteDecisionLog, model: str = "fraud") -> list[int]:
    own = [row for row in rows(log) if row["model"] == model and row["payload"] is None]
    return sorted(row["event_ms"] // DAY_MS for row in own)


def assert_expired(
    folder: Path, log: SqliteDecisionLog, before: list[dict[str, Any]], gone: set[int]
) -> None:
    """Of fraud, payloads of these days are in no file, and all else is as it was, and whole."""
    goes = [row["model"] == "fraud" and row["event_ms"] // DAY_MS in gone for row in before]
    expected = [row | {"payload": None} if g else row for row, g in zip(before, goes, strict=True)]
    assert rows(log) == expected
    for path in folder.rglob("*"):
        data = b"" if path.is_dir() else path.read_bytes()
        for day in gone:
            assert f'{SECRET} fraud {day}"'.encode() not in data, path
    with closing(sqlite.connect(folder / DATABASE)) as db:
        assert erasure.pending_erasures(db, folder) is None
        listed = {file.path(folder) for file in sealed_files.present(db)}
    assert {path for path in folder.rglob("*.parquet")} == listed
    report = log.verify()
    assert (report.findings, report.erased) == ((), sum(goes))


# What is due


NOW = 1_000 * DAY_MS


def held(*to_days: int) -> list[HeldPayloads]:
    """A file of one payload for each day."""
    return [
        HeldPayloads("gw", number, number, 1, day * DAY_MS, day * DAY_MS)
        for number, day in enumerate(to_days, 1)
    ]


def rule(
    *, before_day: int, recorded_ms: int, ranges: Sequence[tuple[int, int]] = ()
) -> RetentionRule:
    said = Retention("a", 400, before_day * DAY_MS, 1, {"gw": list(ranges)} if ranges else {})
    return RetentionRule("fraud", recorded_ms, said)


def decided(units: Sequence[HeldPayloads], *rules: RetentionRule, days: int = 400) -> DuePayloads:
    return due_payloads(units, rules, payload_days=days, now_ms=NOW, wall_ms=NOW)


def test_one_pass_goes_a_month_on_from_where_the_last_one_ended() -> None:
    """All of the first 600 days are due; 31 of them go, and the rest is told."""
    first = decided(held(*range(1, 1001)))
    assert (first.payloads, first.later) == (MOST_DAYS, 599 - MOST_DAYS)
    assert first.ranges == {"gw": [(1, MOST_DAYS)]}
    assert (first.oldest_ms, first.due_ms) == (DAY_MS, 600 * DAY_MS)
    next_day = decided(held(*range(1, 1001))[31:], rule(before_day=32, recorded_ms=NOW - DAY_MS))
    assert next_day.ranges == {"gw": [(32, 62)]}


def test_there_is_one_pass_a_day() -> None:
    units = held(*range(1, 1001))
    waits = decided(units, rule(before_day=32, recorded_ms=NOW - DAY_MS + 1))
    assert (waits.before_ms, waits.payloads, waits.ranges) == (None, 0, {})
    assert (waits.later, waits.rests_until_ms) == (599, NOW + 1)
    of_a_clock_that_was_wrong = rule(before_day=32, recorded_ms=NOW + 1)
    assert decided(units, of_a_clock_that_was_wrong).payloads > 0


def test_what_is_not_due_stays_and_says_when_it_is() -> None:
    kept = decided(held(600, 601))
    assert (kept.before_ms, kept.payloads, kept.later) == (None, 0, 0)
    assert kept.next_ms == NOW + 1
    assert decided(held(599, 601)).ranges == {"gw": [(1, 1)]}
    assert decided([]).oldest_ms is None


def test_a_clock_that_jumps_takes_the_other_with_it_or_nothing() -> None:
    assert reached_ms(5, 9) == reached_ms(9, 5) == 5
    assert reached_ms(None, 9) is None


def test_one_record_of_long_ago_does_not_hold_up_the_others() -> None:
    """Where a pass begins is where the oldest file ends."""
    strange = HeldPayloads("gw", 1, 9, 9, 0, 590 * DAY_MS)
    assert decided([strange]).payloads == 9


@given(st.lists(st.integers(1, 1_200), max_size=20), st.integers(1, 900))
def test_no_younger_payload_is_within_what_goes(days: list[int], kept_days: int) -> None:
    units = held(*days)
    found = decided(units, days=kept_days)
    inside = [
        u for u in units for first, last in found.ranges.get("gw", ()) if first <= u.first <= last
    ]
    assert found.payloads == len(inside)
    assert all(one.to_ms < (found.before_ms or 0) <= NOW - kept_days * DAY_MS for one in inside)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=8), st.integers(1, 40))
def test_ranges_of_many_rules_are_few_and_cover_the_same(
    ranges: list[tuple[int, int]], seq: int
) -> None:
    rules = [
        rule(before_day=1 + n, recorded_ms=0, ranges=[(first, first + more)])
        for n, (first, more) in enumerate(ranges)
    ]
    one = AbsentPayload(seq, "d", "decision", "fraud", 0)
    covered = any(first <= seq <= first + more for first, more in ranges)
    joined = expired_ranges(rules).get("gw", ())
    assert any(r.covers(one) for r in joined) == covered
    assert not any(r.covers(one._replace(model="credit")) for r in joined)
    assert not any(r.covers(one._replace(kind="erasure")) for r in joined)
    assert not any(r.covers(one._replace(event_ms=NOW)) for r in joined)
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(joined))


# In the log


def test_what_is_due_goes_from_every_file_and_nothing_else_does(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Day 100 less 60: whole files up to day 35 go, of a mixed one fraud alone."""
    before, anchor = rows(log), log.seal()
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    found = expire(log, folder)
    gone = {1, 2, 3, 4, 5, *range(7, 36, 2)}
    assert (found.payloads, found.before_ms) == (len(gone), 5 * DAY_MS + MOST_DAYS * DAY_MS)
    assert {one["payload"] is None for one in before} == {False}
    log.seal()
    assert_expired(folder, log, before, gone)
    assert log.verify(anchor).findings == ()
    assert log.check(anchor, cores=2) == log.verify(anchor)
    assert sum(path.stat().st_size for path in folder.rglob("*.parquet")) < size


def test_an_act_is_one_record_and_the_next_one_begins_after_it(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Files are written again once: those of the first pass are as they were after the second."""
    expire(log, folder, days=70)
    log.seal()
    with closing(sqlite.connect(folder / DATABASE)) as db:
        first = {file.name: file.sha256 for file in sealed_files.present(db)}
    assert expire(log, folder, days=DAYS).rests_until_ms == WALL_MS + DAY_MS
    assert expire(log, folder, days=DAYS, wall_ms=WALL_MS + DAY_MS).payloads == 5
    log.seal()
    with closing(sqlite.connect(folder / DATABASE)) as db:
        changed = {file.name for file in sealed_files.present(db)} - {*first}
    assert len(changed) == 1
    acts = log.read(RecordQuery(kinds=("retention",), columns=("decision_id", "model"))).to_pylist()
    assert [act["model"] for act in acts] == ["fraud", "fraud"]
    assert log.verify().findings == ()


def test_rows_that_no_file_holds_go_up_to_the_first_that_is_kept(folder: Path) -> None:
    """Of few payments a year, none waits until there are enough for a file."""
    with closing(SqliteDecisionLog(folder, lambda: WALL_MS)) as log:
        log.append("gw", [entry(day) for day in (1, 2, 3, 70, 4, 100)])
        before = rows(log)
        expire(log, folder)
        log.seal()
        assert days_without(log) == [1, 2, 3]
        assert_expired(folder, log, before, {1, 2, 3})
        assert expire(log, folder, wall_ms=WALL_MS + DAY_MS).payloads == 0
        log.append("gw", [entry(140)])
        assert expire(log, folder, wall_ms=WALL_MS + 2 * DAY_MS).payloads == 2
        log.seal()
        assert days_without(log) == [1, 2, 3, 4, 70]


def test_retention_is_safe_to_kill_at_every_step(tmp_path: Path, made: Path) -> None:
    """Whatever was done when its process died, the next seal goes on to the same end."""
    on_record, gone = tmp_path / "on record", {1, 2, 3, 4, 5, *range(7, 36, 2)}
    with closing(copied(made, on_record)) as log:
        before = rows(log)
        expire(log, on_record)
        assert log.verify().findings == ()
    for count in itertools.count():
        folder = tmp_path / str(count)
        with closing(copied(on_record, folder)) as log:
            with closing(sqlite.connect(folder / DATABASE)) as db:
                work = erasure.steps(db, folder)
                done = list(itertools.islice(work, count))
                work.close()
            scalars = [{k: row[k] for k in SCALARS} for row in rows(log)]
            assert scalars == [{k: row[k] for k in SCALARS} for row in before]
            assert log.verify().findings == ()
            log.seal()
            assert_expired(folder, log, before, gone)
        if len(done) < count:
            break
    assert count > 10


def test_a_seal_writes_so_many_records_again_and_the_next_one_goes_on(
    folder: Path, log: SqliteDecisionLog
) -> None:
    before = rows(log)
    expire(log, folder)
    seals = 0
    while True:
        with closing(sqlite.connect(folder / DATABASE)) as db:
            if erasure.pending_erasures(db, folder) is None:
                break
            done = [*erasure.steps(db, folder, most_records=1)]
        assert done.count("file without payloads listed") <= 1
        seals += 1
    assert seals > 2
    log.seal()
    assert_expired(folder, log, before, {1, 2, 3, 4, 5, *range(7, 36, 2)})


def test_an_erasure_that_comes_meanwhile_reaches_files_that_are_done(
    folder: Path, log: SqliteDecisionLog
) -> None:
    expire(log, folder)
    with closing(sqlite.connect(folder / DATABASE)) as db:
        assert [*erasure.steps(db, folder, most_records=1)]
    one = f"{99:032x}credit"
    asked = ErasureRequest("a1", "Ann Lee", "request 4711", decision_id=one)
    assert erase(log, folder, asked, now_ms=WALL_MS).is_done
    assert days_without(log, "credit") == [99] * 5
    again = erase(log, folder, ErasureRequest("a2", "Bo", "twice", unit=1), now_ms=WALL_MS)
    assert again.known >= 3
    assert log.verify().findings == ()


def test_a_payload_that_is_gone_without_a_rule_is_named(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """A rule is no excuse for a younger one, one of another model, or one beyond its ranges."""
    expire(log, folder)
    log.seal()
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        of_day = {"where": "event_ms = ?", "values": (100 * DAY_MS,)}
        numbers = [seq for (seq,) in unsealed_records.select(db, ("seq",), "gw", **of_day)]
        unsealed_records.remove_payloads(db, "gw", numbers)
    (finding,) = log.verify().findings
    assert finding.endswith("has lost its payload, and no erasure is on record")


def test_a_rule_that_was_changed_is_named(folder: Path, log: SqliteDecisionLog) -> None:
    expire(log, folder)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        db.execute(
            "UPDATE unsealed_records SET payload = replace(payload, '60', '61') WHERE context IN"
            " (SELECT number FROM record_contexts WHERE kind = 'retention')"
        )
    assert any("was changed" in finding for finding in log.verify().findings)


def test_a_restored_log_expires_again(tmp_path: Path, made: Path, folder: Path) -> None:
    """A backup of before brings payloads back, and no rule: the next pass makes one."""
    with closing(copied(made, folder)) as log:
        expire(log, folder)
        log.seal()
    with closing(copied(made, tmp_path / "restored")) as log:
        before = rows(log)
        expire(log, tmp_path / "restored", wall_ms=WALL_MS + 5 * DAY_MS)
        log.seal()
        assert_expired(tmp_path / "restored", log, before, {1, 2, 3, 4, 5, *range(7, 36, 2)})


def test_the_wall_clock_alone_takes_nothing(folder: Path, log: SqliteDecisionLog) -> None:
    found = expire(log, folder, days=101, wall_ms=100_000 * DAY_MS)
    assert (found.payloads, found.later) == (0, 0)


def test_a_damaged_file_stays_and_the_others_go(folder: Path, log: SqliteDecisionLog) -> None:
    with closing(sqlite.connect(folder / DATABASE)) as db:
        path = next(file.path(folder) for file in sealed_files.present(db) if file.first == 11)
    path.write_bytes(b"PAR1")
    assert expire(log, folder).payloads > 0
    log.seal()
    with closing(sqlite.connect(folder / DATABASE)) as db:
        assert erasure.pending_erasures(db, folder) is None
    assert path.read_bytes() == b"PAR1"


def test_a_decision_says_that_its_payload_went_by_age(folder: Path, log: SqliteDecisionLog) -> None:
    expire(log, folder)
    log.seal()
    words = erased_by(log, logged_records(log, f"{1:032x}fraud"))
    assert words == (
        f"was removed by retention on 1971-02-05, after the 60 days for which fraud keeps payloads"
        f" (act act{WALL_MS})"
    )
    assert erased_by(log, logged_records(log, f"{6:032x}credit")) is None


def test_nothing_is_recorded_while_another_process_seals(
    folder: Path, log: SqliteDecisionLog
) -> None:
    from mlplatform.decisions.log import seal

    with seal.lock(folder), pytest.raises(Busy):
        expire(log, folder)
    assert erasure.rules_of(folder, "fraud") == []


def test_a_log_that_gathers_takes_expired_records_with_their_rule(tmp_path: Path) -> None:
    """One that comes without its payload before the rule came is asked for again."""
    own, home = tmp_path / "own", tmp_path / "home"
    with closing(SqliteDecisionLog(own, lambda: WALL_MS)) as log:
        log.append("gw", [entry(1), entry(2), entry(100)])
        source, into = ReplicationReader(own, log), ReplicaLog(home)
        expire(log, own)
        log.seal()
        (writer,) = (mark.writer for mark in log.watermarks() if mark.writer != "gw")
        (position,) = into.replicate(source.records("gw", after=0, limit=10))
        assert (position.seq, position.finding) == (0, Gap(1, 1))
        into.replicate(source.records(writer, after=0, limit=10))
        (position,) = into.replicate(source.records("gw", after=0, limit=10))
        assert (position.seq, position.finding) == (3, None)
        into.close()
    with closing(SqliteDecisionLog(home, lambda: WALL_MS)) as replica:
        replica.seal()
        report = replica.verify()
        assert (report.findings, report.erased) == ((), 2)


def test_a_rule_waits_for_records_that_come_later_with_their_payload(tmp_path: Path) -> None:
    with closing(SqliteDecisionLog(tmp_path)) as log:
        said = Retention("a1", DAYS, 50 * DAY_MS, 2, {"gw": [(1, 2)]})
        log.append("erasure-x", [retention_record("fraud", said, event_ms=1, recorded_ms=1)])
        log.append("gw", [entry(1)])
        with closing(sqlite.connect(tmp_path / DATABASE)) as db:
            assert list(erasure.steps(db, tmp_path)) == []
        log.append("gw", [entry(2)])
        log.seal()
        assert days_without(log) == [1, 2]


def test_ranges_name_the_model_of_their_rule() -> None:
    found = expired_ranges([rule(before_day=3, recorded_ms=0, ranges=[(1, 2)])])
    assert found == {"gw": (ExpiredRange("fraud", 1, 2, 3 * DAY_MS),)}


def test_a_long_read_of_the_database_is_waited_for(folder: Path, log: SqliteDecisionLog) -> None:
    """The write-ahead log keeps payloads until nobody reads it; the next seal goes on."""
    before = rows(log)
    expire(log, folder)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM unsealed_records").fetchone()
        log.seal()
        with closing(sqlite.connect(folder / DATABASE)) as db:
            assert erasure.pending_erasures(db, folder) is not None
        reading.execute("COMMIT")
    log.seal()
    assert_expired(folder, log, before, {1, 2, 3, 4, 5, *range(7, 36, 2)})


def replica(home: Path, said: Retention) -> ReplicaLog:
    """A home with payments of its own and of gateway gw, and a rule from the log that gw is of."""
    own = home.parent / "own"
    with closing(SqliteDecisionLog(own, lambda: WALL_MS)) as log:
        log.append("gw", [entry(day) for day in (1, 2, 99, 100)])
        rule = retention_record("fraud", said, event_ms=1, recorded_ms=WALL_MS)
        log.append("erasure-gw", [rule])
        source, into = ReplicationReader(own, log), ReplicaLog(home)
        for writer in ("gw", "erasure-gw"):
            into.replicate(source.records(writer, after=0, limit=10))
    with closing(SqliteDecisionLog(home, lambda: WALL_MS)) as log:
        log.append("home-gw", [entry(day) for day in (1, 2, 99, 100)])
    return into


def test_a_rule_from_elsewhere_takes_nothing_here(tmp_path: Path) -> None:
    """It may name everything, and be of a clock that is wrong: this log has a rule of its own."""
    home, everything = tmp_path / "home", [(1, 2**62)]
    ranges = {"gw": [*everything, (1, 1)], "home-gw": [(1, 4)], "erasure-gw": everything}
    said = Retention("a1", 1, 2**62, 8, ranges)
    replica(home, said).close()
    with closing(SqliteDecisionLog(home, lambda: WALL_MS)) as log:
        before = rows(log)
        log.seal()
        assert days_without(log) == []
        found = expire(log, home)
        assert (found.payloads, found.rests_until_ms) == (4, None)
        log.seal()
        assert_expired(home, log, before, {1, 2})


def test_a_rule_from_elsewhere_excuses_no_record_of_this_log(tmp_path: Path) -> None:
    said = Retention("a1", 1, 2**62, 8, {"gw": [(1, 4)], "home-gw": [(1, 4)]})
    replica(tmp_path / "home", said).close()
    with closing(sqlite3.connect(tmp_path / "home" / DATABASE, isolation_level=None)) as db:
        for writer in ("gw", "home-gw"):
            unsealed_records.remove_payloads(db, writer, [1])
    with closing(SqliteDecisionLog(tmp_path / "home", lambda: WALL_MS)) as log:
        assert sum("home-gw" in finding for finding in log.verify().findings) == 1
        assert not any("writer gw" in finding for finding in log.verify().findings)


def test_a_rule_from_elsewhere_that_is_none_holds_up_no_erasure(tmp_path: Path) -> None:
    said = Retention("a1", -1, 2**62, 8, {"gw": [(0, 4)]})
    replica(tmp_path / "home", said).close()
    with closing(SqliteDecisionLog(tmp_path / "home", lambda: WALL_MS)) as log:
        asked = ErasureRequest("a2", "Ann Lee", "request 4711", decision_id=f"{1:032x}fraud")
        assert erase(log, tmp_path / "home", asked, now_ms=WALL_MS).is_done
        assert log.verify().findings == ()


def test_a_rule_of_no_time_explains_nothing_and_stops_nothing(
    folder: Path, log: SqliteDecisionLog
) -> None:
    expire(log, folder)
    log.seal()
    strange = retention_record(
        "fraud", Retention("a2", 1, 2**62, 1, {"gw": [(1, 99)]}), event_ms=1, recorded_ms=2**62
    )
    log.append("elsewhere", [strange])
    words = erased_by(log, logged_records(log, f"{1:032x}fraud"))
    assert words is not None
    assert words.count("was removed by retention") == 1
