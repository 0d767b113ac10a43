"""Erased payloads: gone from every file of the log, on record, and the log is whole as before."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlplatform.commands.log import app
from mlplatform.decisions.log import erasure, seal, sealed_files, segments
from mlplatform.decisions.log.erasure_acts import ErasureRequest, erase
from mlplatform.decisions.log.lookup import erased_by, logged_records
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import unsealed_records
from mlplatform.decisions.records.erasures import Erasure, erasure_of, erasure_record
from mlplatform.decisions.records.port import Entry, Idempotency, RecordQuery
from mlplatform.decisions.records.prepared_record import prepared
from mlplatform.decisions.records.record import COLUMNS, SCALARS, Kind, Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.decisions.replication.continuation import Gap
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.decisions.replication.replicated_records import ReplicationReader
from mlplatform.decisions.spill.files import SpillFile, framed, spill_path
from mlplatform.operations.review.queue_file import file_of as queue_file
from mlplatform.runtime.errors import Busy, Corrupt, InputInvalid
from mlplatform.runtime.storage import sqlite

EVERYTHING = RecordQuery(columns=tuple(COLUMNS))
UNIT = 3
SECRET = "where she lives"
LIMITS = seal.SealLimits(minimum_rows=1, maximum_rows=20)
ASKED = ErasureRequest("a1", "Ann Lee", "request 4711", unit=UNIT)


def entry(
    number: int, kind: Kind = "decision", *, note: str = "of others", model: str = "fraud"
) -> Entry:
    """Every seventh decision is about the customer; a label has no unit."""
    about = number % 7 == UNIT
    record = Record(
        kind=kind,
        decision_id=f"{number:032x}0123456789",
        model=model,
        event_ms=1_000 + number,
        recorded_ms=2_000 + number,
        unit=None if kind == "label" else number % 7,
        payload={"request": {"note": SECRET if about else note}, "filler": "x" * 500},
    )
    if kind == "label":
        return Entry(record)
    answer = (SECRET if about else note).encode()
    return Entry(record, Idempotency("app", f"k{number}", "", answer))


def filled(folder: Path) -> SqliteDecisionLog:
    """Merged files, small ones, rows that no file holds, and pages that held what was sealed."""
    log = SqliteDecisionLog(folder, lambda: 5_000, segment_rows=(1, 20))
    for start in range(1, 41, 4):
        log.append("gw", [entry(number) for number in range(start, start + 4)])
        log.seal()
    log.append("gw", [entry(3, "label"), entry(4, "label")])
    log.seal()
    log.append("gw", [entry(number) for number in range(41, 50)])
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
    return SqliteDecisionLog(folder, lambda: 5_000, segment_rows=(1, 20))


@pytest.fixture
def log(made: Path, folder: Path) -> Iterator[SqliteDecisionLog]:
    with closing(copied(made, folder)) as opened:
        yield opened


def rows(log: SqliteDecisionLog, query: RecordQuery = EVERYTHING) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = log.read(query).to_pylist()
    return found


def is_about(row: dict[str, Any]) -> bool:
    return int(row["decision_id"][:32], 16) % 7 == UNIT


def without_erasures(log: SqliteDecisionLog) -> list[dict[str, Any]]:
    return [row for row in rows(log) if row["kind"] != "erasure"]


def assert_erased(folder: Path, log: SqliteDecisionLog, before: list[dict[str, Any]]) -> None:
    """The customer's payloads are in no file of the log, and all else is as it was, and whole."""
    after = without_erasures(log)
    assert after == [row | {"payload": None} if is_about(row) else row for row in before]
    for path in folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    with closing(sqlite.connect(folder / DATABASE)) as db:
        listed = {file.path(folder) for file in sealed_files.present(db)}
        assert erasure.pending_erasures(db, folder) is None
    assert {*folder.glob("segments/*/*"), *folder.glob("segments/*.*")} - {
        *folder.glob("segments/catalogue*")
    } <= listed
    for path in listed:
        payloads = segments.read_table(path).column("payload").to_pylist()
        assert not any(SECRET in payload for payload in payloads if payload is not None)
    assert len(log.seal().writers) == 2
    report = log.verify()
    assert (report.findings, report.erased) == ((), sum(map(is_about, before)))


def test_the_payloads_of_a_customer_are_gone_from_every_file_and_nothing_else_is(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Rows, merged and small files, kept answers and free pages, and what is anchored holds."""
    before, anchor = rows(log), log.seal()
    assert SECRET.encode() in (folder / DATABASE).read_bytes() + _wal(folder)
    done = erase(log, folder, ASKED, now_ms=9_000)
    assert (done.decisions, done.records, done.is_done) == (7, 8, True)
    assert (done.known, done.spilled, done.models) == (0, 0, ("fraud",))
    assert_erased(folder, log, before)
    assert log.verify(anchor).findings == ()
    assert log.find("app", "fraud", "k3") is None
    assert log.find("app", "fraud", "k4") is not None


def test_an_act_is_on_record_in_the_chain(folder: Path, log: SqliteDecisionLog) -> None:
    """Beside each decision there is who, why and which records; earlier acts stay as they are."""
    one = f"{3:032x}0123456789"
    erase(
        log, folder, ErasureRequest("a1", "Ann Lee", "request 4711", decision_id=one), now_ms=9_000
    )
    found = rows(log, RecordQuery(decision_id=one, columns=tuple(COLUMNS)))
    assert [row["kind"] for row in found] == ["erasure", "decision", "label"]
    said = erasure_of(found[0]["payload"])
    assert (said.by, said.reason, said.records) == ("Ann Lee", "request 4711", {"gw": [3, 41]})
    assert erased_by(log, logged_records(log, one)) == (
        "was erased on 1970-01-01 by Ann Lee (act a1): request 4711"
    )
    assert erased_by(log, logged_records(log, f"{4:032x}0123456789")) is None
    again = erase(log, folder, ErasureRequest("a2", "Bo", "once more", unit=UNIT), now_ms=9_000)
    assert (again.known, again.records, again.is_done) == (2, 6, True)
    assert [mark.live for mark in log.watermarks() if mark.writer != "gw"] == [False]


def test_an_erasure_is_safe_to_kill_at_every_step(tmp_path: Path, made: Path) -> None:
    """Whatever was done when its process died, the next seal goes on to the same end."""
    names: set[tuple[str, ...]] = set()
    on_record = tmp_path / "on record"
    with closing(copied(made, on_record)) as log, pytest.MonkeyPatch.context() as patch:
        before = rows(log)
        patch.setattr(erasure, "steps", lambda *_: iter(()))
        assert not erase(log, on_record, ASKED, now_ms=9_000).is_done
        assert log.verify().findings == ()
    for count in itertools.count():
        folder = tmp_path / str(count)
        with closing(copied(on_record, folder)) as log:
            with closing(sqlite.connect(folder / DATABASE)) as db:
                work = erasure.steps(db, folder)
                done = list(itertools.islice(work, count))
                work.close()
            scalars = [{k: row[k] for k in SCALARS} for row in without_erasures(log)]
            assert scalars == [{k: row[k] for k in SCALARS} for row in before]
            assert log.verify().findings == ()
            log.seal()
            assert_erased(folder, log, before)
            names.add(tuple(sorted(path.name for path in folder.glob("segments/*.parquet"))))
        if len(done) < count:
            break
    assert count > 10
    assert len(names) == 1


def test_a_lost_note_of_what_is_done_costs_time_alone(folder: Path, log: SqliteDecisionLog) -> None:
    before = rows(log)
    erase(log, folder, ASKED, now_ms=9_000)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        db.execute("DROP TABLE erasures_done")
    log.seal()
    assert_erased(folder, log, before)


def test_a_payload_that_is_gone_without_an_act_is_named(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """An erasure of other records is no excuse."""
    erase(log, folder, ASKED, now_ms=9_000)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        unsealed_records.remove_payloads(db, "gw", [48])
    (finding,) = log.verify().findings
    assert finding.startswith("record 48 of writer gw (decision 0")
    assert finding.endswith("has lost its payload, and no erasure is on record")


def test_an_act_that_was_changed_covers_nothing(folder: Path, log: SqliteDecisionLog) -> None:
    erase(log, folder, ASKED, now_ms=9_000)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        db.execute("UPDATE unsealed_records SET payload = replace(payload, 'Ann', 'Eve')")
    assert any("was changed" in finding for finding in log.verify().findings)


def test_of_one_model_alone(folder: Path) -> None:
    """The same customer may be known to several models."""
    with closing(SqliteDecisionLog(folder)) as log:
        log.append("gw", [entry(3), entry(10, model="credit")])
        done = erase(
            log, folder, ErasureRequest("a1", "Ann", "why", unit=UNIT, model="credit"), now_ms=1
        )
        assert (done.records, done.models) == (1, ("credit",))
        payloads = [row["payload"] for row in without_erasures(log)]
        assert SECRET in payloads[0]
        assert payloads[1] is None


def test_files_that_are_read_are_waited_for(folder: Path, log: SqliteDecisionLog) -> None:
    """The act says that it is not done, and the next seal ends it."""
    before = rows(log)
    with sealed_files.hold_files(folder):
        assert not erase(log, folder, ASKED, now_ms=9_000).is_done
    log.seal()
    assert_erased(folder, log, before)


def test_a_long_read_of_the_database_is_waited_for(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is not written anew while the write-ahead log would keep it all."""
    monkeypatch.setattr(erasure, "_CHECKPOINT_WAIT_MS", 1)
    before = rows(log)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM unsealed_records").fetchone()
        assert not erase(log, folder, ASKED, now_ms=9_000).is_done
        reading.execute("COMMIT")
    log.seal()
    assert_erased(folder, log, before)


def test_a_damaged_file_holds_up_what_is_in_it_alone(folder: Path, log: SqliteDecisionLog) -> None:
    with closing(sqlite.connect(folder / DATABASE)) as db:
        path = next(file.path(folder) for file in sealed_files.present(db) if file.first <= 3)
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"x" + good[-8:])
    one = ErasureRequest("a1", "Ann", "why", decision_id=f"{45:032x}0123456789")
    assert erase(log, folder, one, now_ms=9_000).is_done
    with closing(sqlite.connect(folder / DATABASE)) as db:
        reached = erasure.pending_erasures(db, folder)
    assert reached is None
    with pytest.raises(Corrupt, match="log verify"):
        erase(log, folder, ASKED, now_ms=9_000)


def test_what_is_spilled_is_counted_and_erased_once_it_is_in_the_log(
    folder: Path, log: SqliteDecisionLog
) -> None:
    late = prepared(entry(52))
    spill = SpillFile.create(spill_path(log.spills, "gw"), durable=False)
    spill.append([framed(late), framed(prepared(entry(53)))], maximum_bytes=10**6, durable=False)
    assert erase(log, folder, ASKED, now_ms=9_000).spilled == 1
    log.append_prepared("gw", [late])
    spill.remove()
    done = erase(log, folder, ASKED, now_ms=9_000)
    assert (done.records, done.known, done.spilled) == (1, 8, 0)


def test_only_one_erases_or_seals(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.decisions.log.erasure_acts._TRIES", 1)
    with seal.lock(folder), pytest.raises(Busy):
        erase(log, folder, ASKED, now_ms=9_000)
    assert [row for row in rows(log) if row["kind"] == "erasure"] == []


def test_an_act_is_about_a_decision_or_a_customer(folder: Path, log: SqliteDecisionLog) -> None:
    for asked in (
        ErasureRequest("a", "Ann", "why"),
        ErasureRequest("a", "Ann", "why", decision_id="d", unit=1),
    ):
        with pytest.raises(InputInvalid, match="a decision, or a unit"):
            erase(log, folder, asked, now_ms=1)


# Logs elsewhere


def test_an_erasure_reaches_the_log_that_gathers(tmp_path: Path) -> None:
    """It may come before or after the records; what comes without payload waits for it."""
    own, home = tmp_path / "own", tmp_path / "home"
    with closing(SqliteDecisionLog(own)) as log, closing(SqliteDecisionLog(home)) as replica:
        log.append("gw", [entry(number) for number in range(1, 6)])
        source, into = ReplicationReader(own, log), ReplicaLog(home)
        first = source.records("gw", after=0, limit=2)
        into.replicate(first)
        assert erase(log, own, ASKED, now_ms=9_000).is_done
        (writer,) = (mark.writer for mark in log.watermarks() if mark.writer != "gw")
        rest = source.records("gw", after=2, limit=10)
        (position,) = into.replicate(rest)
        assert (position.seq, position.finding) == (2, Gap(3, 3))
        into.replicate(source.records(writer, after=0, limit=10))
        replica.seal()
        (position,) = into.replicate(rest)
        assert (position.seq, position.finding) == (5, None)
        replica.seal()
        assert [row["payload"] is None for row in without_erasures(replica)] == [
            False, False, True, False, False,
        ]  # fmt: skip
        assert replica.verify().findings == ()
        with closing(sqlite.connect(home / DATABASE)) as db:
            assert erasure.pending_erasures(db, home) is None
        into.close()


def test_an_erasure_waits_for_records_that_come_later_with_their_payload(tmp_path: Path) -> None:
    with closing(SqliteDecisionLog(tmp_path)) as log:
        act = Erasure("a1", "Ann", "why", {"gw": [2]})
        log.append("erasure-x", [erasure_record("d", "fraud", act, event_ms=1, recorded_ms=1)])
        log.append("gw", [entry(1)])
        with closing(sqlite.connect(tmp_path / DATABASE)) as db:
            assert list(erasure.steps(db, tmp_path)) == []
        log.append("gw", [entry(3)])
        log.seal()
        assert [row["payload"] is None for row in without_erasures(log)] == [False, True]


# By command


def test_a_person_is_told_what_was_erased_and_which_copies_remain(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 once it is done; explaining such a decision names the act, with exit code 2."""
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    (tmp_path / "offline" / "fraud").mkdir(parents=True)
    queue = queue_file(tmp_path / "counted", "fraud")
    queue.parent.mkdir(parents=True)
    queue.touch()
    shutil.copytree(made, tmp_path / "decisions")
    by = ["--reason", "request 4711", "--actor", "Ann Lee"]
    run = CliRunner().invoke
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "decisions").rglob("*.parquet")}
    told = json.loads(run(app, ["erase", "--unit", str(UNIT), *by, "--dry-run", "--json"]).stdout)
    assert (told["records"], told["decisions"], told["models"]) == (8, 7, ["fraud"])
    assert "Nothing was erased" in run(app, ["erase", "--unit", str(UNIT), *by, "--dry-run"]).stdout
    assert run(app, ["erase", "--unit", "99", *by, "--dry-run"]).exit_code == 2
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "decisions").rglob("*.parquet")}
    assert "erased" not in run(app, ["verify"], env={"COLUMNS": "300"}).output
    result = run(app, ["erase", "--unit", str(UNIT), *by, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["records"], told["is_done"]) == (8, True)
    assert any("offline/fraud: requests and snapshots" in one for one in told["remaining"])
    assert any(f"{queue}: what analysts see" in one for one in told["remaining"])
    for copy in ("backups", "online store", "inputs of batches and fits"):
        assert any(copy in one for one in told["remaining"])
    result = run(app, ["explain", f"{3:032x}0123456789"], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert "was erased on" in result.stderr
    assert "by Ann Lee" in result.stderr
    assert "erased payloads 8, findings 0" in run(app, ["verify"], env={"COLUMNS": "300"}).output
    assert run(app, ["erase", "--unit", "99", *by]).exit_code == 2
    assert run(app, ["erase", *by]).exit_code == 2


def _wal(folder: Path) -> bytes:
    path = folder / f"{DATABASE}-wal"
    return path.read_bytes() if path.exists() else b""
