"""What topics keep to, embedded and on a real Kafka broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import (
    Message,
    Progress,
    ReceivedMessage,
    Subscription,
    Topics,
    TopicSpec,
)
from mlplatform.runtime.errors import Busy, NotFound, StaleFence
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Brokers
from mlplatform.scoring.worker.outbox import Outbox, decisions_of, topic_of
from support import outbox_process
from support.local_backlog import backlog

Open = Callable[[], Topics]
WAIT_S = 30.0
OPTIONS = {"topic.metadata.propagation.max.ms": 3_000}
"""How long a producer believes that a topic it does not find may still come; 30 s by default."""


@pytest.fixture
def names() -> tuple[str, str]:
    tag = uuid.uuid4().hex[:8]
    return f"requests-{tag}", f"results-{tag}"


KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)


@pytest.fixture(params=["local", KAFKA])
def open_topics(
    request: pytest.FixtureRequest, tmp_path: Path, names: tuple[str, str]
) -> Iterator[Open]:
    """Each call is another process's connection to the same two topics."""
    specs = [TopicSpec(name, partitions=4) for name in names]
    opened: list[Topics] = []

    def open_one() -> Topics:
        if request.param == "local":
            opened.append(LocalTopics(tmp_path / "topics.db", specs, session_ms=2_000))
        else:
            opened.append(KafkaTopics(request.getfixturevalue("kafka"), specs, options=OPTIONS))
        return opened[-1]

    yield open_one
    for topics in opened:
        topics.close()


def numbered(topic: str, count: int, start: int = 0) -> list[Message]:
    return [
        Message(topic, f"k{n % 10}".encode(), str(n).encode(), {"n": str(n).encode()})
        for n in range(start, start + count)
    ]


def read(subscription: Subscription, count: int, limit: int = 100) -> list[ReceivedMessage]:
    """The next `count` messages; fails if they do not come."""
    found: list[ReceivedMessage] = []
    until_s = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < until_s:
        found += subscription.consume(min(limit, count - len(found)), 0.2)
    assert len(found) == count
    return found


def values(messages: list[ReceivedMessage]) -> list[int]:
    return sorted(int(m.value) for m in messages)


def results(topics: Topics, name: str, count: int) -> list[int]:
    """All results, and a moment in which no more came."""
    reader = topics.subscribe([name], f"reader-{uuid.uuid4().hex[:6]}", "reader")
    try:
        found = read(reader, count) + reader.consume(100, 1.0)
    finally:
        reader.close()
    return values(found)


def test_a_message_comes_as_it_was_published_and_in_order_of_its_key(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    before_ms = time.time_ns() // 1_000_000
    topics.publish(numbered(names[0], 500))
    reader = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    found = read(reader, 500)
    reader.close()
    assert list(range(500)) == values(found)
    assert all(m.headers == {"n": m.value} and m.topic == names[0] for m in found)
    assert all(before_ms - 5_000 < m.published_ms < before_ms + 60_000 for m in found)
    for key in {m.key for m in found}:
        mine = [int(m.value) for m in found if m.key == key]
        assert mine == sorted(mine)
        assert len({m.partition for m in found if m.key == key}) == 1


@pytest.mark.kafka
def test_both_adapters_put_a_key_into_the_same_partition(
    tmp_path: Path, kafka: Brokers, names: tuple[str, str]
) -> None:
    placed = []
    for topics in (
        LocalTopics(tmp_path / "t.db", [TopicSpec(names[0])]),
        KafkaTopics(kafka, [TopicSpec(names[0])]),
    ):
        topics.publish(numbered(names[0], 10))
        reader = topics.subscribe(names[:1], f"g-{names[0]}", "m")
        placed.append({m.key: m.partition for m in read(reader, 10)})
        reader.close()
        topics.close()
    assert placed[0] == placed[1]


@pytest.mark.kafka
def test_a_member_whose_name_another_took_is_told_so_for_good(
    kafka: Brokers, names: tuple[str, str]
) -> None:
    """At its next look; `test_a_member_whose_name_was_taken_over_commits_nothing` says the rest."""
    topics = KafkaTopics(kafka, [TopicSpec(names[0])])
    topics.publish(numbered(names[0], 10))
    first = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    assert len(read(first, 10)) == 10
    second = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    assert len(read(second, 10)) == 10  # the first had committed nothing

    with pytest.raises(StaleFence):
        read(first, 1)

    for one in (first, second):
        one.close()
    topics.close()


def test_each_group_reads_everything(open_topics: Open, names: tuple[str, str]) -> None:
    topics = open_topics()
    topics.publish(numbered(names[0], 20))
    for group in ("g1", "g2"):
        reader = topics.subscribe(names[:1], f"{group}-{names[0]}", "m")
        assert list(range(20)) == values(read(reader, 20))
        reader.close()


def test_what_was_not_committed_comes_again_in_the_members_next_life(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    topics.publish(numbered(names[0], 40))
    first = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    done = values(read(first, 15, limit=5))
    first.commit([Message(names[1], b"r", str(n).encode()) for n in done])
    read(first, 10)  # in work when it dies
    second = open_topics().subscribe(names[:1], f"g-{names[0]}", "m")
    assert sorted(set(range(40)) - set(done)) == values(read(second, 25))
    second.close()
    assert done == results(topics, names[1], 15)


def test_a_member_whose_name_was_taken_over_commits_nothing(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    topics.publish(numbered(names[0], 10))
    first = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    found = read(first, 10)
    second = open_topics().subscribe(names[:1], f"g-{names[0]}", "m")
    again = read(second, 10)
    with pytest.raises(StaleFence):
        first.commit([Message(names[1], m.key, m.value) for m in found])
    second.commit([Message(names[1], m.key, m.value) for m in again])
    second.close()
    assert list(range(10)) == results(topics, names[1], 10)


def test_rewinding_delivers_again_and_publishes_nothing(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    topics.publish(numbered(names[0], 10))
    reader = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    read(reader, 10)
    reader.rewind()
    assert list(range(10)) == values(read(reader, 10))
    reader.commit([])
    assert reader.consume(10, 0.5) == []
    reader.close()


def test_results_for_a_topic_that_is_not_there_leave_nothing_read(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    topics.publish(numbered(names[0], 3))
    reader = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    read(reader, 3)
    with pytest.raises(NotFound):
        reader.commit([Message("nowhere", b"k", b"v")])
    assert values(read(reader, 3)) == [0, 1, 2]
    reader.close()


def test_partitions_move_to_a_second_member_and_nothing_is_read_twice(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics, other = open_topics(), open_topics()
    topics.publish(numbered(names[0], 400))
    members = [topics.subscribe(names[:1], f"g-{names[0]}", "a")]
    counts, until_s = [0, 0], time.monotonic() + 60
    while sum(counts) < 400 and time.monotonic() < until_s:
        for index, member in enumerate(members):
            found = member.consume(10, 0.2)
            try:
                member.commit([Message(names[1], m.key, m.value) for m in found])
            except StaleFence:
                continue
            counts[index] += len(found)
        if sum(counts) >= 30 and len(members) == 1:
            members.append(other.subscribe(names[:1], f"g-{names[0]}", "b"))
    topics.publish(numbered(names[0], 200, start=400))
    while sum(counts) < 600 and time.monotonic() < until_s:
        for index, member in enumerate(members):
            found = member.consume(10, 0.2)
            try:
                member.commit([Message(names[1], m.key, m.value) for m in found])
            except StaleFence:
                continue
            counts[index] += len(found)
    for member in members:
        member.close()
    assert list(range(600)) == results(topics, names[1], 600)
    assert all(counts)


def test_lag_is_what_the_group_has_not_committed(open_topics: Open, names: tuple[str, str]) -> None:
    topics = open_topics()
    topics.progress("p")
    topics.publish(numbered(names[0], 30), Progress("p", b"1"))
    reader = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    read(reader, 10, limit=10)
    assert reader.lag() >= 30  # a transaction's marker may count
    assert sum(one.messages for one in reader.lags()) == reader.lag()
    places = [(one.topic, one.partition) for one in reader.lags()]
    assert len(set(places)) == len(places) > 1
    reader.commit([])
    read(reader, 20)
    reader.commit([])
    assert reader.consume(10, 1.0) == []
    assert {one.messages for one in reader.lags()} == {0}
    assert reader.lag() == 0
    reader.close()


def test_a_member_that_wants_nothing_gets_nothing_and_stays_a_member(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    topics.publish(numbered(names[0], 50))
    reader = topics.subscribe(names[:1], f"g-{names[0]}", "m")
    first = read(reader, 10, limit=10)
    for _ in range(5):
        assert reader.consume(0, 0.2) == []
    reader.commit([])
    assert sorted(set(range(50)) - set(values(first))) == values(read(reader, 40))
    reader.close()


def test_progress_is_published_together_with_its_messages(
    open_topics: Open, names: tuple[str, str]
) -> None:
    topics = open_topics()
    name = f"projection-{names[0]}"
    assert topics.progress(name) is None
    topics.publish(numbered(names[0], 2), Progress(name, b"two"))
    with pytest.raises(NotFound):
        topics.publish([Message("nowhere", b"", b"")], Progress(name, b"three"))
    assert open_topics().progress(name) == b"two"


def test_only_the_latest_publisher_of_a_projection_publishes(
    open_topics: Open, names: tuple[str, str]
) -> None:
    first, second = open_topics(), open_topics()
    name = f"projection-{names[0]}"
    first.progress(name)
    second.progress(name)
    with pytest.raises(StaleFence):
        first.publish(numbered(names[0], 5), Progress(name, b"first"))
    second.publish(numbered(names[0], 5), Progress(name, b"second"))
    assert list(range(5)) == results(second, names[0], 5)
    assert second.progress(name) == b"second"


def test_nothing_is_published_to_a_topic_that_is_not_there(open_topics: Open) -> None:
    with pytest.raises(NotFound):
        open_topics().publish([Message("nowhere", b"k", b"v")])


def test_the_embedded_log_is_bounded_and_loses_nothing_unread(tmp_path: Path) -> None:
    now = [1_000_000]
    spec = TopicSpec("t", partitions=1, max_messages=10)
    topics = LocalTopics(tmp_path / "t.db", [spec], wall_ms=lambda: now[0])
    topics.publish(numbered("t", 25)[:10])
    topics.publish(numbered("t", 5, start=10))  # nobody reads: the oldest go
    reader = topics.subscribe(["t"], "g", "m")
    with pytest.raises(Busy):
        topics.publish(numbered("t", 1))
    assert backlog(tmp_path / "t.db", "t", "g") == 10
    assert list(range(5, 15)) == values(read(reader, 10))
    reader.commit([])
    topics.publish(numbered("t", 8))  # what was read makes room
    assert backlog(tmp_path / "t.db", "t", "g") == 8
    reader.close()
    topics.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("adapter", ["local", KAFKA])
def test_an_outbox_killed_around_its_commit_repeats_and_loses_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, adapter: str, when: str
) -> None:
    model, folder = f"m{uuid.uuid4().hex[:8]}", tmp_path / "decisions"
    brokers = request.getfixturevalue("kafka") if adapter == "kafka" else None
    place = tmp_path / "topics.db"
    log = SqliteDecisionLog(folder)
    records = [
        Record(kind="decision", decision_id=f"d{n}", model=model, event_ms=n, recorded_ms=n)
        for n in range(50)
    ]
    log.append("gw-0", [Entry(record) for record in records])
    told = [str(folder), model, "" if brokers else str(place), when]
    killed = subprocess.run(
        [sys.executable, outbox_process.__file__, *told],
        env={**os.environ, **addresses.variables("KAFKA", brokers)},
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL

    topics = outbox_process.open_topics(brokers or place, model)
    outbox = Outbox(log, topics, decisions_of(model), batch=outbox_process.BATCH)
    left = 0
    while published := outbox.step():
        left += published
    done = outbox_process.BATCH * (outbox_process.STEPS_BEFORE + (when == "after"))
    assert left == len(records) - done
    reader = topics.subscribe([topic_of(model).name], f"reader-{model}", "reader")
    found = read(reader, len(records)) + reader.consume(100, 1.0)
    assert sorted(r.decision_id for r in records) == sorted(m.key.decode() for m in found)
    reader.close()
    topics.close()
    log.close()
