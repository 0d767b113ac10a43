"""Who follows a log gets every record in order, and decodes each once, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.log import segments
from mlplatform.decisions.log.erasure_acts import ErasureRequest, erase
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.replication.replicated_records import ReplicationReader

COUNT = 90


def entry(number: int) -> Entry:
    record = Record(
        kind="decision", decision_id=f"d{number}", model="fraud", event_ms=number,
        recorded_ms=number, payload={"amount": number},
    )  # fmt: skip
    return Entry(record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


@pytest.fixture
def log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteDecisionLog]:
    """One file of eighty records, in row groups of eight, and ten records that no file holds."""
    monkeypatch.setattr(segments, "_GROUP_ROWS", 8)
    monkeypatch.setattr(segments, "_BATCH_ROWS", 8)
    with closing(SqliteDecisionLog(folder, segment_rows=(20, 80))) as opened:
        opened.append("gw", [entry(number) for number in range(1, 81)])
        opened.seal()
        opened.append("gw", [entry(number) for number in range(81, COUNT + 1)])
        yield opened


@pytest.fixture
def decoded(log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of all records that are decoded from files."""
    found: list[int] = []
    records = segments.records

    def counted(path: Path, after: int = 0) -> Iterator[list[tuple[Any, ...]]]:
        for rows in records(path, after):
            found.extend(row[1] for row in rows)
            yield rows

    monkeypatch.setattr(segments, "records", counted)
    return found


@pytest.mark.parametrize("limit", [1, 3, 8, 50])
def test_each_record_is_given_once_and_decoded_once(
    folder: Path, log: SqliteDecisionLog, decoded: list[int], limit: int
) -> None:
    """However few are asked for at a time."""
    source, seen = ReplicationReader(folder, log), list[int]()
    while records := source.records("gw", after=seen[-1] if seen else 0, limit=limit):
        assert len(records) <= limit
        seen += [record.seq for record in records]
    assert seen == list(range(1, COUNT + 1))
    assert decoded == list(range(1, 81))


def test_going_back_and_forth_is_right(
    folder: Path, log: SqliteDecisionLog, decoded: list[int]
) -> None:
    source = ReplicationReader(folder, log)
    for after in (70, 3, 79, 80, 0, 15, 16, 14):
        assert source.records("gw", after=after, limit=1)[0].seq == after + 1
    assert len(decoded) < 60


def test_a_file_that_was_written_again_is_decoded_again(
    folder: Path, log: SqliteDecisionLog
) -> None:
    """What was erased meanwhile is carried nowhere."""
    source = ReplicationReader(folder, log)
    assert source.records("gw", after=0, limit=2)[1].payload is not None
    erase(log, folder, ErasureRequest("a1", "Ann", "why", decision_id="d2"), now_ms=1)
    assert source.records("gw", after=0, limit=2)[1].payload is None


def test_rows_of_few_writers_are_kept(folder: Path, log: SqliteDecisionLog) -> None:
    for name in "abcdef":
        log.append(name, [entry(number) for number in range(1, 31)])
    log.seal()
    source = ReplicationReader(folder, log)
    for name in "abcdef":
        assert len(source.records(name, after=0, limit=100)) == 8
    assert len(source._decoded) == 4
