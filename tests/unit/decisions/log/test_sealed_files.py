"""Files of sealed records: which are merged, which opened, and that none goes while it is read."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log import (
    catalogue,
    compaction,
    file_checks,
    reader,
    seal,
    sealed_files,
    segments,
)
from mlplatform.decisions.log.file_checks import FileCheck, FileFinding
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.log.sealed_form import id_columns
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import COLUMNS, Record
from mlplatform.decisions.records.tables import DATABASE, SCHEMA
from mlplatform.runtime.storage import sqlite

EVERYTHING = RecordQuery(columns=tuple(COLUMNS))
LIMITS = seal.SealLimits(minimum_rows=1, maximum_rows=20)


def entry(number: int, note: str = "") -> Entry:
    record = Record(
        kind="void" if number == 7 else "decision",
        decision_id=f"{number:032x}0123456789",
        model="fraud" if number % 2 else "other",
        event_ms=1_000 + number,
        recorded_ms=2_000 + number,
        generation=number // 3,
        rollout_id="r1" if number > 30 else None,
        unit=number if number < 30 else number % 7,
        payload={"amount": number, "note": note},
    )
    return Entry(record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


@pytest.fixture
def log(folder: Path) -> Iterator[SqliteDecisionLog]:
    with closing(SqliteDecisionLog(folder, segment_rows=(1, 20))) as opened:
        yield opened


def in_segments(log: SqliteDecisionLog, folder: Path, count: int, rows: int = 2) -> None:
    """Seal so many segments, one after another, without merging any."""
    last = max((mark.seq for mark in log.watermarks()), default=0)
    for start in range(last + 1, last + count * rows + 1, rows):
        log.append("gw", [entry(number) for number in range(start, start + rows)])
        with closing(sqlite.connect(folder / DATABASE)) as db:
            for step in seal.steps(db, folder, LIMITS, now_ms=0):
                if step == "manifest written":
                    break


def files(folder: Path) -> list[SealedFile]:
    with closing(sqlite.connect(folder / DATABASE)) as db:
        return sealed_files.present(db)


def on_disk(folder: Path) -> set[Path]:
    return {*folder.glob("segments/*/*"), *folder.glob("segments/*.parquet")}


def opened(folder: Path, query: RecordQuery) -> list[SealedFile]:
    with closing(sqlite.connect(folder / DATABASE)) as db:
        catalogue.attach(db, folder)
        return catalogue.files_of_query(db, query)


def adjacent(sizes: list[int]) -> list[SealedFile]:
    ends = list(itertools.accumulate(sizes))
    return [
        SealedFile(number, "gw", end - rows + 1, end, rows, 0, 1, "")
        for number, (rows, end) in enumerate(zip(sizes, ends, strict=True))
    ]


# Merging


@settings(max_examples=50)
@given(st.lists(st.integers(1, 120), max_size=60))
def test_what_is_merged_is_adjacent_and_no_larger_than_allowed(sizes: list[int]) -> None:
    """No file is in two groups, and a file that is large already is in none."""
    found = list(compaction.groups(adjacent(sizes), 100))
    names = [file.file for group in found for file in group]
    assert len(names) == len(set(names))
    for group in found:
        assert len(group) >= 2
        assert sum(file.rows for file in group) <= 100
        assert max(file.rows for file in group) < 50
        assert [f.first for f in group[1:]] == [f.last + 1 for f in group[:-1]]


def test_a_merged_file_spans_a_month_at_most() -> None:
    """What is due by its age waits for the last of its file."""
    day_ms = 86_400_000
    files = [
        replace(file, from_ms=10 * day_ms * n, to_ms=10 * day_ms * (n + 1))
        for n, file in enumerate(adjacent([5] * 12))
    ]
    found = [[file.first for file in group] for group in compaction.groups(files, 100)]
    assert found == [[1, 6, 11], [16, 21, 26], [31, 36, 41]]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 120), max_size=60))
def test_merging_ends_and_leaves_few_small_files_side_by_side(sizes: list[int]) -> None:
    """Merged again and again, it comes to rest, with less than eight small neighbours."""
    for _ in range(60):
        groups = list(compaction.groups(adjacent(sizes), 100))
        if not groups:
            break
        by_start = {group[0].file: group for group in groups}
        merged, index = [], 0
        while index < len(sizes):
            group = by_start.get(index)
            merged.append(sizes[index] if group is None else sum(f.rows for f in group))
            index += 1 if group is None else len(group)
        sizes = merged
    assert not groups
    runs = itertools.groupby(sizes, key=lambda rows: 2 * rows < 100)
    assert all(len(list(run)) < 8 for small, run in runs if small)


def test_small_segments_become_one_file_that_reads_and_verifies_as_before(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Records, chains, manifest and anchors are the same; a change in the file is named."""
    in_segments(log, folder, 30)
    before, anchor = log.read(EVERYTHING), log.seal()
    assert anchor.count == 30
    assert len(files(folder)) == len(on_disk(folder)) < 6
    assert log.read(EVERYTHING).equals(before)
    report = log.verify(anchor)
    assert (report.findings, report.records, report.segments) == ((), 60, 30)
    path = files(folder)[0].path(folder)
    stored = [list(row) for rows in segments.records(path) for row in rows]
    stored[4][5] += 1
    segments.write(path, stored)
    changed, record, *_ = log.verify(anchor).findings
    assert "was changed: it holds records 1 to" in changed
    assert record.startswith("record 5 of writer gw")


def test_merging_is_safe_to_kill_at_every_step(tmp_path: Path) -> None:
    """After any number of steps the log reads the same, is whole, and seals to the same files."""
    names: set[tuple[str, ...]] = set()
    for steps in itertools.count():
        folder = tmp_path / str(steps)
        with closing(SqliteDecisionLog(folder, segment_rows=(1, 20))) as log:
            in_segments(log, folder, 8)
            wanted = log.read(EVERYTHING)
            with closing(sqlite.connect(folder / DATABASE)) as db:
                work = seal.steps(db, folder, LIMITS, now_ms=0)
                done = list(itertools.islice(work, steps))
                work.close()
            assert log.read(EVERYTHING).equals(wanted)
            assert log.verify().findings == ()
            log.seal()
            assert log.read(EVERYTHING).equals(wanted)
            assert on_disk(folder) == {file.path(folder) for file in files(folder)}
            assert not sealed_files.is_unfinished(folder)
            assert len(opened(folder, RecordQuery(kinds=("void",)))) == 1
            names.add(tuple(sorted(file.name for file in files(folder))))
        if len(done) < steps:
            break
    assert steps > 8
    assert len(names) == 1


def test_files_that_are_read_stay_until_they_are_not(folder: Path, log: SqliteDecisionLog) -> None:
    """What was listed is there to its reader, and goes at the next seal."""
    in_segments(log, folder, 20)
    before = on_disk(folder)
    with sealed_files.hold_files(folder):
        log.seal()
        assert before < on_disk(folder)
    log.seal()
    assert on_disk(folder) == {file.path(folder) for file in files(folder)}
    assert not before & on_disk(folder)


def test_the_list_is_on_disk_before_what_it_replaced_goes(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that stops at any moment starts with a list of files that are there."""
    in_segments(log, folder, 8)
    parts, synced = {file.path(folder) for file in files(folder)}, list[Path]()

    def sync(path: Path) -> None:
        assert parts <= on_disk(folder)
        synced.append(path)

    monkeypatch.setattr(sealed_files, "sync", sync)
    log.seal()
    assert synced == [folder / f"{DATABASE}-wal"]
    assert not parts & on_disk(folder)


def test_a_damaged_part_is_not_merged(folder: Path, log: SqliteDecisionLog) -> None:
    """It stays where it is, so that it can be named, and new records are sealed all the same."""
    in_segments(log, folder, 8)
    path = files(folder)[3].path(folder)
    path.write_bytes(path.read_bytes()[:-1])
    assert log.seal().count == 8
    assert len(files(folder)) == 8
    (finding, *_) = log.verify().findings
    assert "gw/000000000007-000000000008.parquet was changed" in finding


# The catalogue

QUERIES = {
    "void": RecordQuery(kinds=("void",)),
    "generation": RecordQuery(generation=4),
    "no such generation": RecordQuery(generation=99),
    "model": RecordQuery("fraud"),
    "rollout": RecordQuery("fraud", rollout_id="r1"),
    "id": RecordQuery(decision_id=f"{12:032x}0123456789"),
    "ids": RecordQuery(decision_ids=(f"{12:032x}0123456789", f"{35:032x}0123456789", "none")),
    "trace": RecordQuery(decision_id_starts=f"{12:032x}"),
    "first digits": RecordQuery(decision_id_starts="0000"),
    "after": RecordQuery("other", after={"gw": 30}, generation=12),
    "times": RecordQuery(from_ms=1_010, to_ms=1_013),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("state", ["catalogued", "missing", "damaged", "stale"])
def test_reads_are_the_same_with_a_catalogue_or_without(
    folder: Path, log: SqliteDecisionLog, query: RecordQuery, state: str
) -> None:
    """It says which files need not be opened; without it, or where it is of others, all are."""
    in_segments(log, folder, 5, rows=10)
    wanted = log.read(query)
    log.seal()
    path = folder / "segments" / catalogue.DATABASE
    match state:
        case "missing":
            catalogue.discard(folder)
        case "damaged":
            catalogue.discard(folder)
            path.write_bytes(b"no database" * 1_000)
        case "stale":
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE entries SET sha256 = 'of another file', kind = '', model = ''")
                db.execute("DELETE FROM prints")
                db.execute("UPDATE whole SET token = x'00'")
    assert log.read(query).equals(wanted)
    log.seal()
    assert log.read(query).equals(wanted)


def test_a_read_opens_only_the_files_that_may_hold_what_it_asks(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Of five files of ten records."""
    in_segments(log, folder, 5, rows=10)
    assert len(opened(folder, QUERIES["void"])) == 5
    log.seal()
    counts = {name: len(opened(folder, query)) for name, query in QUERIES.items()}
    assert counts == {
        "void": 1,
        "generation": 1,
        "no such generation": 0,
        "model": 5,
        "rollout": 2,
        "id": 1,
        "ids": 2,
        "trace": 1,
        "first digits": 5,
        "after": 1,
        "times": 2,
    }


@settings(max_examples=30)
@given(st.lists(st.text(max_size=50), min_size=1, max_size=40, unique=True), st.booleans())
def test_no_id_that_is_there_is_missed(ids: list[str], many: bool) -> None:
    """Whatever ids are made of: of one that is there, its piece holds its print."""
    columns = {"decision_id": ids * (-(-8_200 // len(ids)) if many else 1)}
    size = len(columns["decision_id"])
    columns |= {name: ["x"] * size for name in ("kind", "model", "generation", "rollout_id")}
    units = pa.array([None] * size, pa.int64())
    found = catalogue.contents(pa.table(columns).append_column("unit", units)).prints
    for one in ids:
        piece, shape = catalogue.place(one[: catalogue.ID_LENGTH], few=size <= 8_192)
        assert shape in found[piece]


@pytest.mark.parametrize("by", ["decision_id", "unit"])
def test_one_key_costs_the_keys_of_a_file_and_one_row_group(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """All other columns of all other records of the file stay as they are on disk."""
    monkeypatch.setattr(segments, "_GROUP_ROWS", 4)
    in_segments(log, folder, 10)
    log.seal()
    wanted = log.read(RecordQuery(columns=("seq", "decision_id", "unit"))).to_pylist()[9]
    keys: list[list[str]] = []
    groups: list[int] = []
    iter_batches, read_row_group = pq.ParquetFile.iter_batches, pq.ParquetFile.read_row_group

    def of_keys(file: Any, rows: int, columns: list[str], **how: Any) -> Any:
        keys.append(columns)
        return iter_batches(file, rows, columns=columns, **how)

    def of_group(file: Any, group: int, columns: list[str], **how: Any) -> pa.Table:
        groups.append(group)
        return read_row_group(file, group, columns, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", of_keys)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", of_group)
    query = RecordQuery(columns=tuple(COLUMNS), **{by: wanted[by]})
    (row,) = log.read(query).to_pylist()
    assert (row[by], row["seq"]) == (wanted[by], 10)
    assert keys == [id_columns([by])]
    assert groups == [2]


def test_records_of_one_customer_cost_the_files_that_hold_some(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Of few records a file and of many, and of no file where there is no such customer."""
    for turn, unit in enumerate((7, -7, 7, 2**63 - 1)):
        made = [entry(number).record for number in range(40 + 9 * turn, 49 + 9 * turn)]
        log.append("gw", [Entry(msgspec.structs.replace(one, unit=unit)) for one in made])
        log.seal()
    assert len(opened(folder, RecordQuery(unit=7))) == 2
    assert len(opened(folder, RecordQuery(unit=-7))) == 1
    assert len(opened(folder, RecordQuery(unit=2**63 - 1))) == 1
    assert opened(folder, RecordQuery(unit=70)) == []
    assert len(log.read(RecordQuery(unit=7))) == 18


def test_a_catalogue_of_an_earlier_form_goes(folder: Path, log: SqliteDecisionLog) -> None:
    former = folder / "segments" / "catalogue-1.db"
    in_segments(log, folder, 2)
    former.write_bytes(b"entries of before")
    log.append("gw", [entry(number) for number in range(40, 50)])
    log.seal()
    assert not former.exists()


def test_records_of_one_customer_are_the_first_ones_in_order_up_to_the_limit(
    folder: Path, log: SqliteDecisionLog
) -> None:
    in_segments(log, folder, 30, rows=10)
    assert len(files(folder)) == 30, "more than are read ahead"
    every = log.read(EVERYTHING)
    for unit in range(7):
        of_unit = every.filter(pc.field("unit") == unit)
        assert len(of_unit) > 30
        for limit in (None, 0, 1, 3, 20, len(of_unit), 1_000):
            found = log.read(replace(EVERYTHING, unit=unit, limit=limit))
            assert found.equals(of_unit.slice(0, limit))


def test_a_read_up_to_a_limit_decodes_no_file_behind_it(
    folder: Path, log: SqliteDecisionLog
) -> None:
    in_segments(log, folder, 3, rows=10)
    every = log.read(EVERYTHING)
    _, second, last = (one.path(folder) for one in files(folder))
    last.write_bytes(b"no file of records")
    for limit in (0, 1, 10, 15, 20):
        assert log.read(replace(EVERYTHING, limit=limit)).equals(every.slice(0, limit))
    second.write_bytes(b"no file of records")
    assert log.read(replace(EVERYTHING, limit=10)).equals(every.slice(0, 10))
    with pytest.raises(pa.ArrowInvalid):
        log.read(replace(EVERYTHING, limit=11))


@pytest.mark.parametrize(
    "wrong", ["UPDATE entries SET kind = '\"decision\"'", "DELETE FROM entries"]
)
def test_what_the_catalogue_says_wrongly_is_found_and_made_again(
    folder: Path, log: SqliteDecisionLog, wrong: str
) -> None:
    """A read that it misled has missed records: a finding, once."""
    in_segments(log, folder, 5, rows=10)
    log.seal()
    with closing(sqlite3.connect(folder / "segments" / catalogue.DATABASE)) as db, db:
        db.execute(f"{wrong} WHERE file = 1")
    assert log.read(RecordQuery(kinds=("void",))).num_rows == 0
    (finding,) = log.verify().findings
    assert "the catalogue was wrong about segment gw/000000000001-000000000010" in finding
    assert log.read(RecordQuery(kinds=("void",))).num_rows == 1
    log.seal()
    assert log.verify().findings == ()
    assert len(opened(folder, RecordQuery(kinds=("void",)))) == 1


def test_files_that_are_merged_while_they_are_checked_mislead_nobody(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seal beside a check takes them out of the catalogue, and that is no finding."""
    in_segments(log, folder, 5)
    log.seal()
    checked, before = file_checks.file_findings, files(folder)

    def beside(checks: Sequence[FileCheck], cores: int) -> Iterator[FileFinding]:
        in_segments(log, folder, 5)
        log.seal()
        return checked(checks, cores)

    monkeypatch.setattr(file_checks, "file_findings", beside)
    assert log.verify().findings == ()
    assert not set(before) & set(files(folder))


def test_the_release_before_goes_on_beside_this_one(folder: Path, log: SqliteDecisionLog) -> None:
    """What it seals is listed, and no merged file is where it removes what it does not know."""
    in_segments(log, folder, 8)
    log.seal()
    assert len(files(folder)) == 1
    in_segments(log, folder, 1)
    wanted = log.read(EVERYTHING)
    with closing(sqlite.connect(folder / DATABASE)) as db:
        known = {segment.path(folder) for segment in segments.manifest(db)}
    for path in folder.glob("segments/*/*"):
        if path not in known:
            path.unlink()
    assert log.read(EVERYTHING).equals(wanted)
    assert log.verify().findings == ()


def test_a_log_of_before_there_were_merged_files_goes_on(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """Its manifest says which files it has, and the next seal makes the catalogue."""
    in_segments(log, folder, 5, rows=10)
    wanted = log.read(EVERYTHING)
    log.close()
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        db.execute("DROP TRIGGER sealed_files")
        db.execute("DROP TABLE files")
        db.execute(SCHEMA.steps[0][0])
        db.execute("UPDATE schema_versions SET version = 3 WHERE part = 'decisions'")
        assert len(sealed_files.names(db)) == 5
    with closing(SqliteDecisionLog(folder, segment_rows=(1, 20))) as again:
        assert again.read(EVERYTHING).equals(wanted)
        again.seal()
        assert again.verify().findings == ()
        assert len(opened(folder, RecordQuery(kinds=("void",)))) == 1


# Verifying


def test_only_what_is_new_is_checked_where_an_earlier_check_found_the_rest_whole(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """What was changed since is found; what was changed before is found by a whole check."""
    in_segments(log, folder, 3, rows=12)
    assert log.check(log.seal(), new_only=True).records == 36
    log.append("gw", [entry(number) for number in range(37, 49)])
    assert log.check(None, new_only=True).records == 12
    in_segments(log, folder, 1, rows=1)
    old, new = files(folder)[1], files(folder)[-1]
    for file in (old, new):
        file.path(folder).write_bytes(file.path(folder).read_bytes()[:-1] + b"0")
    found = log.check(None, new_only=True)
    assert found.findings
    assert all(new.name in finding for finding in found.findings[:2])
    assert any(old.name in finding for finding in log.verify().findings)


def test_a_log_put_back_from_before_the_last_check_is_named(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """The last head that was whole is not in it."""
    in_segments(log, folder, 3, rows=12)
    assert log.verify().ok
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        db.execute("DELETE FROM segments WHERE number = 3")
    found = log.check(None, new_only=True).findings
    assert any("manifest entry 3 is not the one that was verified before" in f for f in found)


def test_several_cores_find_what_one_finds(folder: Path, log: SqliteDecisionLog) -> None:
    """In the same order."""
    in_segments(log, folder, 6, rows=12)
    for number in (1, 4):
        path = files(folder)[number].path(folder)
        path.write_bytes(path.read_bytes()[:-1] + b"0")
    assert log.check(None, cores=2) == log.check(None, cores=1)


def test_a_long_read_keeps_no_transaction_open(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While files are read the write-ahead log can be begun anew by whoever writes."""
    in_segments(log, folder, 3)
    log.append("gw", [entry(7)])
    seen: list[Any] = []
    from_files = reader._from_files

    def beside(*given: Any) -> Any:
        with closing(sqlite3.connect(folder / DATABASE)) as db:
            seen.append(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        return from_files(*given)

    monkeypatch.setattr(reader, "_from_files", beside)
    assert log.read(EVERYTHING).num_rows == 7
    assert seen == [(0, 0, 0)]


# Space


def test_the_database_gives_back_what_was_sealed(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between any two bites, it goes on with the next seal."""
    monkeypatch.setattr(seal, "_FREE_PAGES", 8)
    log.append("gw", [entry(number, "x" * 20_000) for number in range(1, 201)])
    log.checkpoint()
    before = (folder / DATABASE).stat().st_size
    with closing(sqlite.connect(folder / DATABASE)) as db:
        work = seal.steps(db, folder, LIMITS, now_ms=0)
        assert "free pages given back" in list(itertools.islice(work, 50))
        work.close()
    log.seal()
    log.checkpoint()
    after = (folder / DATABASE).stat().st_size
    assert (before > 4_000_000, after < 400_000) == (True, True), (before, after)
    assert log.read(EVERYTHING).num_rows == 200
    assert log.verify().findings == ()


def test_bites_are_whole_and_a_rest_follows_each(
    folder: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free pages go 32 at a time, not one; who appends finds the lock free between two bites."""
    rests: list[float] = []
    monkeypatch.setattr(seal, "_FREE_PAGES", 8)
    monkeypatch.setattr(sqlite.time, "sleep", rests.append)
    log.append("gw", [entry(number, "x" * 20_000) for number in range(1, 201)])
    with closing(sqlite.connect(folder / DATABASE)) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        work = list(seal.steps(db, folder, LIMITS, now_ms=0))
        assert db.execute("PRAGMA freelist_count").fetchone() == (8,)
    bites = work.count("free pages given back")
    assert pages > 1_000
    assert 2 <= bites <= pages // 32 + 1
    assert len(rests) >= bites + work.count("sealed rows deleted")
    assert min(rests) > 0


def test_a_database_of_before_keeps_its_pages_and_uses_them_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a file that was made to shrink does."""
    monkeypatch.setattr(seal, "_FREE_PAGES", 8)
    with closing(sqlite.connect(folder / DATABASE)):
        pass
    with closing(SqliteDecisionLog(folder, segment_rows=(1, 20))) as log:
        log.append("gw", [entry(number, "x" * 20_000) for number in range(1, 41)])
        log.checkpoint()
        before = (folder / DATABASE).stat().st_size
        log.seal()
        log.checkpoint()
        assert (folder / DATABASE).stat().st_size >= before
        assert log.verify().findings == ()
