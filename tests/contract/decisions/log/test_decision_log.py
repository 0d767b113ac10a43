"""What every decision log promises, on real files: nothing lost, doubled or changed unnoticed."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log import seal, segments
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import (
    KEEP_MS,
    AppendReceipt,
    DuplicateKey,
    Entry,
    Idempotency,
    ManifestHead,
    NamedHead,
    RecordQuery,
    WriterHead,
)
from mlplatform.decisions.records.record import COLUMNS, Record
from mlplatform.runtime.errors import Busy, Corrupt, InputInvalid, PlatformError, StaleFence
from mlplatform.runtime.units import HOUR_MS
from support.rewritten_log import rewrite, with_values
from support.wall import Wall

EVERYTHING = RecordQuery(columns=tuple(COLUMNS))
NOW_MS = 1_700_000_000_000


@pytest.fixture
def wall() -> Wall:
    return Wall(NOW_MS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


@pytest.fixture
def log(folder: Path, wall: Wall) -> Iterator[SqliteDecisionLog]:
    with closing(open_log(folder, wall)) as opened:
        yield opened


def open_log(folder: Path, wall: Wall | None = None) -> SqliteDecisionLog:
    return SqliteDecisionLog(folder, wall or Wall(NOW_MS), segment_rows=(1, 20))


def entry(name: str, key: str | None = None, **fields: Any) -> Entry:
    defaults: dict[str, Any] = {
        "kind": "decision",
        "model": "fraud",
        "event_ms": 1_000,
        "recorded_ms": 2_000,
        "score": 0.25,
        "payload": {"request": {"amount": 12.5}},
    }
    record = Record(decision_id=name, **{**defaults, **fields})
    given = None if key is None else Idempotency("app", key, f"body of {key}", name.encode())
    return Entry(record, given)


def filled(log: SqliteDecisionLog, count: int = 50, writer: str = "gw") -> None:
    log.append(writer, [entry(f"d{i}", event_ms=1_000 + i) for i in range(1, count + 1)])


def rows(log: SqliteDecisionLog, query: RecordQuery = EVERYTHING) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = log.read(query).to_pylist()
    return found


def database(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "decisions.db", isolation_level=None)


# Appending


def test_each_writer_numbers_its_records_from_one(log: SqliteDecisionLog) -> None:
    """Numbers have no gaps, whatever the batches were."""
    assert log.append("a", [entry("d1"), entry("d2")]) == [AppendReceipt(1), AppendReceipt(2)]
    assert log.append("b", [entry("d3")]) == [AppendReceipt(1)]
    assert log.append("a", [entry("d4")]) == [AppendReceipt(3)]
    assert log.append("a", []) == []
    assert [(r["writer"], r["seq"], r["decision_id"]) for r in rows(log)] == [
        ("a", 1, "d1"),
        ("a", 2, "d2"),
        ("a", 3, "d4"),
        ("b", 1, "d3"),
    ]


def test_a_reopened_log_goes_on_where_it_was(folder: Path, log: SqliteDecisionLog) -> None:
    """A restart changes neither numbers nor chain."""
    filled(log, 3)
    log.close()
    with closing(open_log(folder)) as again:
        assert again.append("gw", [entry("d4")]) == [AppendReceipt(4)]
        assert again.verify().ok


def test_a_batch_is_written_whole_or_not_at_all(log: SqliteDecisionLog) -> None:
    """A record that can't be stored takes its batch with it, and the log goes on."""
    with pytest.raises(InputInvalid, match="d2"):
        log.append("gw", [entry("d1"), entry("d2", score=float("nan"))])
    assert rows(log) == []
    assert log.append("gw", [entry("d3")]) == [AppendReceipt(1)]


@pytest.mark.parametrize("fields", [{"unit": 2**63}, {"bundle": "\ud800"}], ids=["int", "text"])
def test_what_sqlite_cannot_hold_is_refused(log: SqliteDecisionLog, fields: dict[str, Any]) -> None:
    """A number beyond 64 bits, text that is not Unicode."""
    with pytest.raises(InputInvalid):
        log.append("gw", [entry("d1", **fields)])
    assert log.append("gw", [entry("d2")]) == [AppendReceipt(1)]


def test_a_writer_needs_a_plain_name(log: SqliteDecisionLog) -> None:
    """The name becomes a folder."""
    with pytest.raises(InputInvalid, match=r"\.\./gw"):
        log.append("../gw", [entry("d1")])


def test_one_of_two_processes_with_one_name_is_refused(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """The later one owns the name; the chain never forks."""
    log.append("gw", [entry("d1")])
    with closing(open_log(folder)) as other:
        assert other.append("gw", [entry("d2")]) == [AppendReceipt(2)]
        for _ in range(2):
            with pytest.raises(StaleFence, match="gw"):
                log.append("gw", [entry("d3")])
        with pytest.raises(StaleFence):
            log.heartbeat("gw")
        assert other.append("gw", [entry("d4")]) == [AppendReceipt(3)]
        assert other.verify().ok


# Idempotency


def test_a_key_is_answered_once(log: SqliteDecisionLog) -> None:
    """The retry gets the first answer and writes no record."""
    assert log.append("gw", [entry("d1", "k")]) == [AppendReceipt(1)]
    assert log.append("gw", [entry("d2", "k")]) == [DuplicateKey(b"d1", same_body=True)]
    assert [r["decision_id"] for r in rows(log)] == ["d1"]
    stored = log.find("app", "fraud", "k")
    assert stored is not None
    assert (stored.answer, stored.decision_id) == (b"d1", "d1")
    assert log.find("app", "fraud", "other") is None


def test_another_body_under_the_same_key_is_told_apart(log: SqliteDecisionLog) -> None:
    """The caller has to refuse it."""
    log.append("gw", [entry("d1", "k")])
    other = Entry(entry("d2").record, Idempotency("app", "k", "another body", b"d2"))
    assert log.append("gw", [other]) == [DuplicateKey(b"d1", same_body=False)]


def test_a_key_twice_in_one_batch_is_one_record(log: SqliteDecisionLog) -> None:
    """The second of the batch is a retry of the first; the others keep their order."""
    batch = [entry("d1", "k"), entry("d2"), entry("d3", "k"), entry("d4", "l")]
    assert log.append("gw", batch) == [
        AppendReceipt(1),
        AppendReceipt(2),
        DuplicateKey(b"d1", same_body=True),
        AppendReceipt(3),
    ]
    assert [r["decision_id"] for r in rows(log)] == ["d1", "d2", "d4"]
    assert log.verify().ok


def test_keys_belong_to_a_client_and_a_model(log: SqliteDecisionLog) -> None:
    """Two applications may use the same key."""
    log.append("gw", [entry("d1", "k")])
    assert log.append("gw", [entry("d2", "k", model="other")]) == [AppendReceipt(2)]
    mine = Entry(entry("d3").record, Idempotency("another app", "k", "body", b"d3"))
    assert log.append("gw", [mine]) == [AppendReceipt(3)]


def test_keys_outlive_the_process_and_sealing_until_their_time(
    folder: Path, log: SqliteDecisionLog, wall: Wall
) -> None:
    """Sealing drops each at most a day or half of its time later than promised, never before."""
    short = Entry(entry("d0").record, Idempotency("app", "short", "body", b"d0", keep_ms=HOUR_MS))
    log.append("gw", [entry("d1", "k"), short])
    wall.ms += HOUR_MS - 1
    log.seal()
    assert log.find("app", "fraud", "short")
    wall.ms += 1 + 24 * HOUR_MS
    log.seal()
    assert log.find("app", "fraud", "short") is None
    wall.ms += KEEP_MS - 25 * HOUR_MS - 1
    log.seal()
    log.close()
    with closing(open_log(folder, wall)) as again:
        assert again.append("gw", [entry("d2", "k")]) == [DuplicateKey(b"d1", same_body=True)]
        wall.ms += 1 + KEEP_MS // 2
        again.seal()
        assert again.find("app", "fraud", "k") is None


# Reading

QUERIES = [
    RecordQuery(columns=tuple(COLUMNS)),
    RecordQuery("fraud"),
    RecordQuery("fraud", ("decision",)),
    RecordQuery("fraud", ("label", "shadow"), columns=("decision_id", "kind", "label", "degraded")),
    RecordQuery(from_ms=1_010, to_ms=1_040, columns=("event_ms", "seq")),
    RecordQuery(generation=2, columns=("generation", "payload")),
    RecordQuery(rollout_id="r1"),
    RecordQuery(decision_id="d7", columns=tuple(COLUMNS)),
    RecordQuery(decision_ids=("d7", "d30", "d99")),
    RecordQuery("other", decision_ids=("d3", "d4"), columns=("decision_id", "payload")),
    RecordQuery(decision_id_starts="d4"),
    RecordQuery(after={"a": 13, "b": 0}),
    RecordQuery(after={"a": 1_000, "b": 29}),
    RecordQuery("nothing"),
]


def varied(log: SqliteDecisionLog) -> None:
    kinds = ("decision", "shadow", "label", "void")
    for writer, count in (("a", 45), ("b", 30)):
        log.append(
            writer,
            [
                entry(
                    f"d{i}",
                    kind=kinds[i % 4],
                    model="fraud" if i % 3 else "other",
                    event_ms=1_000 + i,
                    generation=i % 3,
                    rollout_id="r1" if i % 2 else None,
                    score=i / 100 if i % 5 else None,
                    degraded=i % 2 == 0,
                    label=i % 2 if i % 4 == 2 else None,
                )
                for i in range(1, count + 1)
            ],
        )


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_a_span_reads_the_same_before_during_and_after_sealing(
    folder: Path, log: SqliteDecisionLog, query: RecordQuery
) -> None:
    """Where a record lies is nobody's business; order, types and values are the same."""
    varied(log)
    before = log.read(query)
    assert before.column_names == list(query.columns)
    with closing(database(folder)) as db:
        limits = seal.SealLimits(minimum_rows=1, maximum_rows=20)
        for _ in itertools.islice(seal.steps(db, folder, limits, now_ms=0), 6):
            assert log.read(query).equals(before)
    log.seal()
    assert log.read(query).equals(before)


def test_filters_do_what_they_say(log: SqliteDecisionLog) -> None:
    """Against the same question asked in Python."""
    varied(log)
    log.seal()
    everything = rows(log)
    assert len(everything) == 75
    for query in QUERIES:
        wanted = [
            {name: row[name] for name in query.columns} for row in everything if _in(row, query)
        ]
        assert rows(log, query) == wanted


def test_an_unknown_column_is_an_error(log: SqliteDecisionLog) -> None:
    """It is named; nothing is silently left out."""
    with pytest.raises(InputInvalid, match="prediction"):
        log.read(RecordQuery(columns=("seq", "prediction")))


# Sealing


def test_sealing_is_safe_to_kill_at_every_step(tmp_path: Path) -> None:
    """After any number of steps the log reads the same, is whole, and seals to the end."""
    for steps in itertools.count():
        folder = tmp_path / str(steps)
        with closing(open_log(folder)) as log:
            filled(log, 45)
            wanted = rows(log)
        with closing(database(folder)) as db:
            limits = seal.SealLimits(minimum_rows=1, maximum_rows=20)
            done = list(itertools.islice(seal.steps(db, folder, limits, now_ms=NOW_MS), steps))
        with closing(open_log(folder)) as log:
            assert rows(log) == wanted
            assert log.verify().findings == ()
            log.append("gw", [entry("late")])
            head = log.seal()
            assert [r["seq"] for r in rows(log)] == list(range(1, 47))
            assert log.verify(head).findings == ()
            assert len(list(folder.glob("segments/*/*"))) == head.count
        if len(done) < steps:
            assert steps > 12
            return


def test_a_torn_draft_is_swept(folder: Path, log: SqliteDecisionLog) -> None:
    """A file that was being written when its process died counts for nothing."""
    filled(log, 5)
    draft = folder / "segments" / "gw" / "000000000001-000000000005.tmp"
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"PAR1 and not much more")
    head = log.seal()
    assert head.count == 1
    assert not draft.exists()
    assert log.verify(head).ok


def test_only_one_seals(folder: Path, log: SqliteDecisionLog) -> None:
    """The other one is told, at once."""
    filled(log, 5)
    with seal.lock(folder), pytest.raises(Busy):
        log.seal()
    assert log.seal().count == 1


def test_few_records_wait_for_more(folder: Path) -> None:
    """Small files cost every reader; the head still vouches for the records not sealed."""
    with closing(SqliteDecisionLog(folder, segment_rows=(10, 20))) as log:
        filled(log, 9)
        head = log.seal()
        assert (head.count, head.writers["gw"].seq) == (0, 9)
        log.append("gw", [entry("d10")])
        assert log.seal().count == 1


def test_a_changed_record_is_not_sealed(folder: Path, log: SqliteDecisionLog) -> None:
    """Sealing must not put a good seal on a bad record."""
    filled(log, 5)
    with closing(database(folder)) as db:
        db.execute("UPDATE unsealed_records SET score = 0.9 WHERE place & 255 = 3")
    with pytest.raises(Corrupt, match="record 3 of writer gw"):
        log.seal()


# Verifying


def test_a_whole_log_counts_what_it_checked(log: SqliteDecisionLog) -> None:
    """Sealed and unsealed records, two writers, and an anchor that is older than the log."""
    varied(log)
    head = log.seal()
    filled(log, 5, "a")
    report = log.verify(head)
    assert (report.records, report.segments, report.writers) == (80, 5, 2)
    assert report.findings == ()


TAMPERINGS = {
    "score": (
        "UPDATE unsealed_records SET score = 0.9 WHERE place & 255 = 7",
        "record 7 of writer gw (decision d7)",
    ),
    "payload": (
        "UPDATE unsealed_records SET numbers = x'1f' WHERE place & 255 = 7",
        "record 7 of writer gw (decision d7) does not follow record 6",
    ),
    "payload of another shape": (
        "UPDATE unsealed_records SET payload = '1' WHERE place & 255 = 7",
        "record 7 of writer gw (decision d7) was changed: its payload can't be read",
    ),
    "shape": (
        "UPDATE unsealed_records SET shape = 99 WHERE place & 255 = 7",
        "record 7 of writer gw (decision d7) was changed: its payload can't be read",
    ),
    "context": (
        "UPDATE unsealed_records SET context = 99 WHERE place & 255 = 7",
        "record 7 of writer gw (decision d7) does not follow record 6",
    ),
    "removed": (
        "DELETE FROM unsealed_records WHERE place & 255 = 7",
        "record 7 of writer gw is missing",
    ),
    "range removed": (
        "DELETE FROM unsealed_records WHERE place & 255 BETWEEN 7 AND 9",
        "records 7 to 9 of writer gw are missing",
    ),
    "tail cut": (
        "DELETE FROM unsealed_records WHERE place & 255 > 45",
        "records 46 to 50 of writer gw are missing at the end; the writer's head ends at 50",
    ),
    "everything removed": (
        "DELETE FROM unsealed_records",
        "records 1 to 50 of writer gw are missing at the end",
    ),
    "head removed": ("DELETE FROM writers", "writer gw has records and no head"),
}


@pytest.mark.parametrize(("sql", "finding"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_tampering_with_rows_is_named(
    folder: Path, log: SqliteDecisionLog, sql: str, finding: str
) -> None:
    """One change, one sentence that says which record."""
    filled(log)
    with closing(database(folder)) as db:
        db.execute(sql)
    (found,) = log.verify().findings
    assert found.startswith(finding)


def test_a_tail_cut_together_with_its_head_is_behind_the_anchor(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Only what lies outside the log can tell; that is why the head is anchored."""
    filled(log)
    with closing(SqliteDecisionLog(folder, segment_rows=(1_000, 1_000))) as sealing:
        anchor = sealing.seal()
    with closing(database(folder)) as db:
        db.execute("DELETE FROM unsealed_records WHERE place & 255 > 45")
        db.execute(
            "UPDATE writers SET seq = 45, chain = (SELECT chain FROM unsealed WHERE seq = 45)"
        )
    assert log.verify().ok
    (found,) = log.verify(anchor).findings
    assert (
        found == "the log is older than its anchor: writer gw ends at record 45, the anchor at 50"
    )


def test_a_history_rewritten_with_a_fitting_chain_is_not_the_anchored_one(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Whoever can recompute everything in the log still can't change the anchor."""
    filled(log)
    anchor = ManifestHead(0, "", log.seal().writers)
    rewrite(folder, "gw", seq=7, score=0.9)
    with closing(open_log(folder)) as again:
        assert again.verify().ok
        (found,) = again.verify(anchor).findings
    assert found == "record 50 of writer gw is not the one that was anchored"


def test_a_history_rewritten_after_a_verdict_is_not_the_one_that_it_was_based_on(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """The journal keeps each writer's chain as far as the log was read for a verdict."""
    filled(log, 30)
    (mark,) = log.watermarks()
    assert mark.chain is not None
    heads = [
        NamedHead("gw", WriterHead(mark.seq, mark.chain), "the verdict"),
        NamedHead("gw", WriterHead(90, mark.chain), "the next verdict"),
    ]
    filled(log)
    assert log.verify(heads=heads[:1]).ok
    log.seal()
    assert log.verify(heads=heads[:1]).ok
    rewrite(folder, "gw", seq=7, score=0.9)
    with closing(open_log(folder)) as again:
        assert again.verify().ok
        found = again.verify(heads=heads).findings
    assert found == (
        "record 30 of writer gw is not the one that the verdict was based on",
        "the log lacks records: writer gw ends at record 80, the next verdict was based on it up"
        " to 90",
    )


def test_a_changed_byte_in_a_segment_is_named(folder: Path, log: SqliteDecisionLog) -> None:
    """The file, its records, and the one that differs where the file can still be read."""
    filled(log)
    log.seal()
    path = _segment(folder, 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = log.verify().findings
    assert found[0].startswith("segment gw/000000000021-000000000040.parquet was changed")


def test_a_changed_byte_in_the_database_file_is_named(folder: Path, log: SqliteDecisionLog) -> None:
    """One character of one name, changed behind SQLite's back."""
    log.append("gw", [entry(f"d{i}", payload={"name": f"Ann {1000 + i}"}) for i in range(1, 31)])
    log.close()
    path = folder / "decisions.db"
    data = path.read_bytes()
    assert data.count(b"Ann 1007") == 1
    path.write_bytes(data.replace(b"Ann 1007", b"Ann 1107"))
    with closing(open_log(folder)) as again:
        (found,) = again.verify().findings
    assert found.startswith("record 7 of writer gw (decision d7) does not follow record 6")


def test_a_record_changed_inside_a_segment_is_named(folder: Path, log: SqliteDecisionLog) -> None:
    """A file rewritten by somebody who knows Parquet is still not what the chain says."""
    filled(log)
    log.seal()
    path = _segment(folder, 2)
    stored = [row for batch in segments.records(path) for row in batch]
    stored[4] = with_values(stored[4], score=0.9)
    segments.write(path, stored)
    changed, record = log.verify().findings
    assert "segment gw/000000000021-000000000040.parquet was changed" in changed
    assert record.startswith("record 25 of writer gw (decision d25) does not follow record 24")


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("file", "segment gw/000000000021-000000000040.parquet is missing: records 21 to 40"),
        ("entry", "manifest entry 3 (gw/000000000041-000000000050.parquet) does not follow"),
        ("sha256", "manifest entry 2 (gw/000000000021-000000000040.parquet) was changed"),
        ("last", "the log is older than its anchor: the manifest has 2 entries, the anchor 3"),
    ],
)
def test_damage_to_the_manifest_and_its_files_is_named(
    folder: Path, log: SqliteDecisionLog, damage: str, finding: str
) -> None:
    """A missing file, a missing entry, a changed entry, a manifest cut short."""
    filled(log)
    anchor = log.seal()
    with closing(database(folder)) as db:
        match damage:
            case "file":
                _segment(folder, 2).unlink()
            case "entry":
                db.execute("DELETE FROM segments WHERE number = 2")
            case "sha256":
                db.execute("UPDATE segments SET sha256 = 'other' WHERE number = 2")
            case "last":
                db.execute("DELETE FROM segments WHERE number = 3")
    found = log.verify(anchor).findings
    assert any(f.startswith(finding) for f in found), found


def test_a_log_put_back_from_an_older_copy_is_behind_its_anchor(
    tmp_path: Path, folder: Path, log: SqliteDecisionLog
) -> None:
    """The copy is whole in itself."""
    filled(log, 20)
    log.seal()
    log.close()
    shutil.copytree(folder, tmp_path / "copy")
    with closing(open_log(folder)) as later:
        filled(later, 20)
        anchor = later.seal()
    with closing(open_log(tmp_path / "copy")) as copy:
        assert copy.verify().ok
        assert len(copy.verify(anchor).findings) == 2


@pytest.mark.parametrize("file", ["decisions.db", "segment"])
def test_damaged_bytes_never_break_the_check(folder: Path, file: str) -> None:
    """Whatever byte is hit, verify answers; in a segment it always finds something."""
    with closing(open_log(folder)) as log:
        filled(log, 60)
        if file == "segment":
            log.seal()
    with closing(database(folder)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = folder / file if file == "decisions.db" else _segment(folder, 2)
    whole = path.read_bytes()
    dice = random.Random(7)
    for _ in range(60):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        for leftover in folder.glob("decisions.db-*"):
            leftover.unlink()
        try:
            with closing(open_log(folder)) as log:
                found = log.verify().findings
        except PlatformError:
            continue
        assert found or file == "decisions.db"


# Watermarks


def test_a_watermark_follows_records_heartbeats_and_the_wall_clock(
    log: SqliteDecisionLog, wall: Wall
) -> None:
    """Event time never goes back; silence for more than ten seconds is death."""
    log.append("gw", [entry("d1", event_ms=500), entry("d2", event_ms=300)])
    (mark,) = log.watermarks()
    assert (mark.seq, mark.event_ms, mark.heartbeat_at_ms, mark.live) == (2, 500, NOW_MS, True)
    log.heartbeat("gw", 400)
    assert log.latest_event_ms() == 500
    log.heartbeat("gw", 900)
    assert log.latest_event_ms() == 900
    wall.ms += 10_001
    assert not log.watermarks()[0].live
    log.heartbeat("gw")
    (mark,) = log.watermarks()
    assert (mark.seq, mark.event_ms, mark.live) == (2, 900, True)


def test_a_closed_writer_is_not_waited_for(log: SqliteDecisionLog) -> None:
    """Until it writes again."""
    log.append("gw", [entry("d1")])
    log.close_writer("gw")
    assert not log.watermarks()[0].live
    log.append("gw", [entry("d2")])
    assert log.watermarks()[0].live


def test_an_empty_log_has_no_time(log: SqliteDecisionLog) -> None:
    """A writer that has only said hello has no event time."""
    assert log.latest_event_ms() is None
    log.heartbeat("gw")
    assert log.watermarks()[0].event_ms is None
    assert log.verify().ok


# Round trips and kills

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.builds(
    Record,
    kind=st.sampled_from(("decision", "shadow", "label", "void")),
    decision_id=TEXT,
    model=TEXT,
    event_ms=INT64,
    recorded_ms=INT64,
    generation=INT64,
    rollout_id=st.none() | TEXT,
    unit=st.none() | INT64,
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    decision=st.none() | TEXT,
    degraded=st.booleans(),
    latency_us=st.none() | INT64,
    label=st.none() | st.integers(0, 1),
    payload=st.dictionaries(TEXT, JSON, max_size=4),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_digests_can_be_computed_again_from_sqlite_and_from_parquet(records: list[Record]) -> None:
    """Any record reads back bit for bit, so a finding is never the log's own doing."""
    with tempfile.TemporaryDirectory() as scratch, closing(open_log(Path(scratch))) as log:
        log.append("gw", [Entry(record) for record in records])
        from_sqlite = log.read(EVERYTHING)
        assert log.verify().findings == ()
        head = log.seal()
        assert log.verify(head).findings == ()
        assert log.read(EVERYTHING).equals(from_sqlite)


WRITER_PROGRAM = """
import sys
from pathlib import Path
from support.thread_commit import ThreadCommit
from mlplatform.decisions.records.port import AppendReceipt, Entry, Idempotency
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.log.sqlite import SqliteDecisionLog

committer = ThreadCommit(SqliteDecisionLog(Path(sys.argv[1])), "gw")
for batch in range(int(sys.argv[2]), 1_000_000):
    names = [f"{batch}-{i}" for i in range(7)]
    records = [
        Record(kind="decision", decision_id=n, model="fraud", event_ms=batch, recorded_ms=1)
        for n in names
    ]
    answers = [
        committer.submit([Entry(r, Idempotency("app", r.decision_id, "body", b"answer"))])
        for r in records
    ]
    for name, answer in zip(names, answers):
        (outcome,) = answer.result()
        print(name, outcome.seq if isinstance(outcome, AppendReceipt) else "repeated", flush=True)
"""


def test_a_killed_writer_loses_and_doubles_nothing(folder: Path) -> None:
    """Every record that was acknowledged before SIGKILL is there once, under its number."""
    acknowledged: dict[str, str] = {}
    start = 0
    for kill_after in (3, 50, 333):
        program = [sys.executable, "-c", WRITER_PROGRAM, str(folder), str(start)]
        with subprocess.Popen(
            program, stdout=subprocess.PIPE, text=True, env=_environment()
        ) as process:
            assert process.stdout is not None
            lines = list(itertools.islice(process.stdout, kill_after))
            process.send_signal(signal.SIGKILL)
            lines += [line for line in process.stdout if line.endswith("\n")]
        acknowledged |= dict(line.split() for line in lines)
        # the batch in which it died is sent again, as a client would
        start = int(lines[-1].split("-")[0])
    with closing(SqliteDecisionLog(folder)) as log:
        found = rows(log, RecordQuery(columns=("seq", "decision_id")))
        assert log.verify().findings == ()
        assert log.verify(log.seal()).findings == ()
    numbers = {row["decision_id"]: str(row["seq"]) for row in found}
    assert len(numbers) == len(found)
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    kept = {name: seq for name, seq in acknowledged.items() if seq != "repeated"}
    with closing(SqliteDecisionLog(folder)) as log:
        # no key without its record, and none of another decision
        stored = {name: log.find("app", "fraud", name) for name in acknowledged.keys() | numbers}
    assert {name for name, one in stored.items() if one is not None} == set(numbers)
    assert all(one.decision_id == name for name, one in stored.items() if one is not None)
    assert len(kept) > 300
    assert kept.items() <= numbers.items()
    assert set(acknowledged) <= set(numbers)


def test_many_processes_and_a_sealer_share_one_log(folder: Path) -> None:
    """Writers under their own names, one sealing meanwhile: every record once, in order."""
    program = """
import sys
from pathlib import Path
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
log = SqliteDecisionLog(Path(sys.argv[1]))
for batch in range(60):
    log.append(sys.argv[2], [
        Entry(Record(kind="decision", decision_id=f"{batch}", model="m", event_ms=1, recorded_ms=1))
        for _ in range(10)
    ])
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(folder), name], env=_environment())
        for name in ("a", "b")
    ]
    with closing(open_log(folder)) as log:
        while any(process.poll() is None for process in writers):
            log.seal()
        assert [process.returncode for process in writers] == [0, 0]
        head = log.seal()
        found = [
            (row["writer"], row["seq"]) for row in rows(log, RecordQuery(columns=("writer", "seq")))
        ]
        assert found == [(w, s) for w in "ab" for s in range(1, 601)]
        assert log.verify(head).findings == ()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _in(row: dict[str, Any], query: RecordQuery) -> bool:
    equal = {
        "model": query.model,
        "generation": query.generation,
        "rollout_id": query.rollout_id,
        "decision_id": query.decision_id,
    }
    return (
        row["kind"] in query.kinds
        and all(row[name] == value for name, value in equal.items() if value is not None)
        and (query.decision_ids is None or row["decision_id"] in query.decision_ids)
        and row["decision_id"].startswith(query.decision_id_starts or "")
        and (query.from_ms is None or row["event_ms"] >= query.from_ms)
        and (query.to_ms is None or row["event_ms"] < query.to_ms)
        and row["seq"] > (query.after or {}).get(row["writer"], 0)
    )


def _segment(folder: Path, number: int) -> Path:
    with closing(database(folder)) as db:
        return segments.manifest(db)[number - 1].path(folder)
