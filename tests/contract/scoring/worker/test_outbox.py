"""The decision log as a topic: everything once, whatever fails between two writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Message, Progress, ReceivedMessage
from mlplatform.runtime.errors import StaleFence, Unavailable
from mlplatform.scoring.worker.outbox import Outbox, decisions_of, topic_of

MODEL = "fraud"


class FailingTopics(LocalTopics):
    """Fails before or after a publication, when told to."""

    fails: str = ""

    def publish(self, messages: Sequence[Message], progress: Progress | None = None) -> None:
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise Unavailable("before")
        super().publish(messages, progress)
        if fails == "after":
            raise Unavailable("after")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    opened = SqliteDecisionLog(tmp_path / "decisions", segment_rows=(10, 40))
    yield opened
    opened.close()


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[FailingTopics]:
    opened = FailingTopics(tmp_path / "topics.db", [topic_of(MODEL)])
    yield opened
    opened.close()


def append(
    log: SqliteDecisionLog, count: int, *, kind: Any = "decision", writer: str = "gw-0"
) -> None:
    first = log.read(RecordQuery(kinds=(kind,))).num_rows
    log.append(
        writer,
        [
            Entry(
                Record(
                    kind=kind, decision_id=f"d{n}", model=MODEL, event_ms=n, recorded_ms=n,
                    payload={"request": {"amount": 1.0}},
                )
            )
            for n in range(first, first + count)
        ],
    )  # fmt: skip


def drain(outbox: Outbox) -> int:
    total = 0
    while published := outbox.step():
        total += published
    return total


def published(topics: LocalTopics) -> list[ReceivedMessage]:
    reader = topics.subscribe([topic_of(MODEL).name], f"t{time.monotonic_ns()}", "r")
    try:
        return reader.consume(100_000, 0.1)
    finally:
        reader.close()


def test_every_record_is_published_once_in_the_order_of_its_writer(
    log: SqliteDecisionLog, topics: FailingTopics
) -> None:
    append(log, 95)
    log.seal()
    append(log, 20)
    append(log, 7, kind="void", writer="gw-1")
    append(log, 5, kind="shadow")
    outbox = Outbox(log, topics, decisions_of(MODEL), batch=9)
    assert drain(outbox) == 122
    found = published(topics)
    assert sorted(f"d{n}" for n in range(115)) == sorted(
        m.key.decode() for m in found if m.headers["kind"] == b"decision"
    )
    assert sum(m.headers["kind"] == b"void" for m in found) == 7
    assert len({m.headers["log"] for m in found}) == len(found)
    assert all("payload" not in json.loads(m.value) for m in found)
    assert outbox.step() == 0


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_failure_between_two_writes_repeats_and_loses_nothing(
    log: SqliteDecisionLog, topics: FailingTopics, fails: str
) -> None:
    append(log, 30)
    outbox = Outbox(log, topics, decisions_of(MODEL), batch=4)
    for _ in range(3):
        topics.fails = fails
        with pytest.raises(Unavailable):
            outbox.step()
        outbox.step()
    drain(outbox)
    assert [f"d{n}" for n in range(30)] == sorted(
        (m.key.decode() for m in published(topics)), key=lambda key: int(key[1:])
    )


def test_another_life_goes_on_where_the_former_stopped_and_fences_it(
    log: SqliteDecisionLog, topics: FailingTopics, tmp_path: Path
) -> None:
    append(log, 10)
    first = Outbox(log, topics, decisions_of(MODEL))
    first.step()
    append(log, 5)
    others = LocalTopics(tmp_path / "topics.db")  # as another process opens it
    second = Outbox(log, others, decisions_of(MODEL))
    with pytest.raises(StaleFence):
        first.step()
    assert drain(second) == 5
    assert len(published(topics)) == 15
    others.close()


def test_a_limit_takes_the_first_records_of_each_writer(log: SqliteDecisionLog) -> None:
    append(log, 50)
    log.seal()
    append(log, 10)
    append(log, 3, kind="void", writer="gw-1")
    table = log.read(RecordQuery(after={"gw-0": 35}, limit=20))
    rows = [(r["writer"], r["seq"]) for r in table.to_pylist()]
    assert [seq for writer, seq in rows if writer == "gw-0"] == list(range(36, 56))
    assert [seq for writer, seq in rows if writer == "gw-1"] == [1, 2, 3]
