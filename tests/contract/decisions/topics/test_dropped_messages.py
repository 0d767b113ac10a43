"""Messages that are gone before a group read them: found once, in the embedded log and in Kafka."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.local import LocalTopics, sweep
from mlplatform.decisions.topics.messages import (
    DroppedRange,
    Message,
    Progress,
    Subscription,
    Topics,
    TopicSpec,
)
from mlplatform.runtime.units import HOUR_MS
from support.scoring_world import wait_for

KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)
WAIT_S = 60.0


@dataclass(frozen=True)
class World:
    """A topic of one partition whose head may be deleted.

    Args:
        delete: all messages before an offset.
    """

    topic: str
    topics: Topics
    delete: Callable[[int], None]

    @property
    def group(self) -> str:
        return f"g-{self.topic}"

    def publish(self, first: int, last: int) -> None:
        numbers = range(first, last + 1)
        self.topics.publish([Message(self.topic, b"k", str(n).encode()) for n in numbers])

    def subscribe(self, group: str = "") -> Any:
        return closing(self.topics.subscribe([self.topic], group or self.group, "member"))

    def gone(self, first: int | None, last: int) -> list[DroppedRange]:
        return [DroppedRange(self.topic, 0, first, last)]


@pytest.fixture(params=["embedded", KAFKA])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    name = f"topic-{uuid.uuid4().hex[:8]}"
    specs = [TopicSpec(name, partitions=1)]
    if request.param == "embedded":
        topics: Topics = LocalTopics(tmp_path / "topics.db", specs, session_ms=2_000)

        def delete(before: int) -> None:
            with closing(sqlite3.connect(tmp_path / "topics.db")) as db, db:
                db.execute("DELETE FROM messages WHERE topic = ? AND offset < ?", (name, before))
                db.execute("UPDATE partitions SET first_offset = ? WHERE topic = ?", (before, name))
    else:
        brokers = request.getfixturevalue("kafka")
        topics = KafkaTopics(brokers, specs)
        admin = Access(brokers).client(AdminClient)

        def delete(before: int) -> None:
            for done in admin.delete_records([TopicPartition(name, 0, before)]).values():
                assert done.result().low_watermark == before

    yield World(name, topics, delete)
    topics.close()


def read(reader: Subscription, *, until: int) -> list[int]:
    """Numbers of messages up to one of them."""
    found: list[int] = []
    until_s = time.monotonic() + WAIT_S
    while until not in found and time.monotonic() < until_s:
        found += [int(m.value) for m in reader.consume(100, 0.2)]
    assert until in found
    return found


def dropped(reader: Subscription) -> list[DroppedRange]:
    """What is found while nothing is delivered."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        assert reader.consume(100, 0.2) == []
        if found := reader.dropped_ranges():
            return list(found)
    return []


def is_deleted(admin: AdminClient, group: str) -> bool:
    (done,) = admin.delete_consumer_groups([group]).values()
    try:
        done.result()
    except KafkaException:
        return False
    return True


def test_what_went_while_the_group_was_away_is_found_once(world: World) -> None:
    world.publish(0, 9)
    with world.subscribe() as reader:
        assert read(reader, until=9) == [*range(10)]
        assert reader.dropped_ranges() == []
        reader.commit([])
    world.publish(10, 29)
    world.delete(25)
    with world.subscribe() as reader:
        assert read(reader, until=29) == [*range(25, 30)]
        assert reader.dropped_ranges() == world.gone(10, 24)
        assert reader.dropped_ranges() == world.gone(10, 24)
        reader.commit([])
        assert reader.dropped_ranges() == []
    with world.subscribe() as reader:
        world.publish(30, 30)
        assert read(reader, until=30) == [30]
        assert reader.dropped_ranges() == []


def test_what_goes_while_the_group_reads_is_found(world: World) -> None:
    world.publish(0, 9)
    with world.subscribe() as reader:
        read(reader, until=9)
        reader.commit([])
        reader.consume(0, 0.0)
        world.publish(10, 19)
        world.delete(15)
        found = read(reader, until=19)
        # Kafka's client may have fetched some before they went: these are delivered
        missing = sorted({*range(10, 20)} - {*found})
        assert reader.dropped_ranges() == (world.gone(missing[0], missing[-1]) if missing else [])


def test_what_went_is_found_though_nothing_is_left(world: World) -> None:
    world.publish(0, 4)
    with world.subscribe() as reader:
        read(reader, until=4)
        reader.commit([])
    world.publish(5, 9)
    world.delete(10)
    with world.subscribe() as reader:
        assert dropped(reader) == world.gone(5, 9)
        reader.commit([])
        assert reader.lag() == 0
    with world.subscribe() as reader:
        world.publish(10, 10)
        read(reader, until=10)
        assert reader.dropped_ranges() == []


@pytest.mark.parametrize("how", ["rewound", "in the next life"])
def test_what_was_not_committed_is_found_again(world: World, how: str) -> None:
    world.publish(0, 9)
    with world.subscribe() as reader:
        read(reader, until=9)
        reader.commit([])
    world.publish(10, 29)
    world.delete(20)
    with world.subscribe() as reader:
        assert read(reader, until=29) == [*range(20, 30)]
        assert reader.dropped_ranges() == world.gone(10, 19)
        if how == "rewound":
            reader.rewind()
            assert read(reader, until=29) == [*range(20, 30)]
            assert reader.dropped_ranges() == world.gone(10, 19)
    if how != "rewound":
        world.delete(25)
        with world.subscribe() as reader:
            assert read(reader, until=29) == [*range(25, 30)]
            assert reader.dropped_ranges() == world.gone(10, 24)


def test_a_group_that_read_to_the_end_lost_nothing_when_all_went(world: World) -> None:
    world.publish(0, 9)
    with world.subscribe() as reader:
        read(reader, until=9)
        reader.commit([])
    world.delete(10)
    with world.subscribe() as reader:
        world.publish(10, 12)
        assert read(reader, until=12) == [10, 11, 12]
        assert reader.dropped_ranges() == []


def test_what_no_group_of_embedded_topics_ever_read_is_told_to_the_first_one(
    tmp_path: Path,
) -> None:
    now_ms = [HOUR_MS]
    specs = [TopicSpec("t", partitions=1)]
    topics = LocalTopics(tmp_path / "topics.db", specs, wall_ms=lambda: now_ms[0])
    topics.publish([Message("t", b"k", str(n).encode()) for n in range(5)])
    now_ms[0] += 2 * HOUR_MS
    with closing(sqlite3.connect(tmp_path / "topics.db")) as db, db:
        assert sweep(db, now_ms[0]) == 5
    topics.publish([Message("t", b"k", b"5")])
    for group, gone in (("first", [DroppedRange("t", 0, 0, 4)]), ("second", [])):
        with closing(topics.subscribe(["t"], group, "m")) as reader:
            assert read(reader, until=5) == [5]
            assert reader.lag() == 1
            assert reader.dropped_ranges() == gone
            reader.commit([])
            assert reader.lag() == 0
    topics.close()


def test_a_hole_in_the_embedded_log_is_found(tmp_path: Path) -> None:
    topics = LocalTopics(tmp_path / "topics.db", [TopicSpec("t", partitions=1)])
    topics.publish([Message("t", b"k", str(n).encode()) for n in range(10)])
    with closing(sqlite3.connect(tmp_path / "topics.db")) as db, db:
        db.execute("DELETE FROM messages WHERE offset IN (2, 3, 6)")
    with closing(topics.subscribe(["t"], "g", "m")) as reader:
        assert read(reader, until=9) == [0, 1, 4, 5, 7, 8, 9]
        assert reader.dropped_ranges() == [DroppedRange("t", 0, 2, 3), DroppedRange("t", 0, 6, 6)]
    topics.close()


@pytest.mark.kafka
@pytest.mark.parametrize("world", [KAFKA], indirect=True)
def test_marks_of_transactions_are_no_loss_and_a_group_without_an_offset_begins_anew(
    world: World, kafka: Any
) -> None:
    name = f"p-{world.topic}"
    world.topics.progress(name)
    for n in range(5):
        world.topics.publish(
            [Message(world.topic, b"k", str(n).encode())], Progress(name, str(n).encode())
        )
    with world.subscribe() as reader:
        assert read(reader, until=4) == [*range(5)]
        reader.consume(10, 1.0)
        assert reader.dropped_ranges() == []
        reader.commit([])
    world.delete(6)  # the messages 0 to 2 and their marks
    with world.subscribe("another") as reader:
        assert read(reader, until=4) == [3, 4]
        assert reader.dropped_ranges() == world.gone(None, 5)
    admin = Access(kafka).client(AdminClient)
    wait_for(lambda: is_deleted(admin, world.group), WAIT_S)  # once the member's session is over
    with world.subscribe() as reader:
        assert read(reader, until=4) == [3, 4]
        assert reader.dropped_ranges() == world.gone(None, 5)
