"""A member that gives up goes back to what it has not committed, whatever the client refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from mlplatform.decisions.topics import kafka_group
from mlplatform.decisions.topics.kafka_group import KafkaSubscription
from mlplatform.runtime.errors import Unavailable

PLACES = [("requests", 0), ("requests", 1)]


class Event:
    """What librdkafka's consumer gives: a message, or an error in its place."""

    def __init__(self, partition: int, offset: int, error: int | None = None) -> None:
        self._at = (partition, offset)
        self._error = None if error is None else KafkaError(error)

    def topic(self) -> str:
        return "requests"

    def partition(self) -> int:
        return self._at[0]

    def offset(self) -> int:
        return self._at[1]

    def error(self) -> KafkaError | None:
        return self._error

    def headers(self) -> None:
        return None

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"%d" % self._at[1]

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


class Consumer:
    """Two partitions; seeks are refused as often as a test says."""

    def __init__(self) -> None:
        self.found: list[list[Event]] = []
        self.refused = 0
        self.sought: list[tuple[int, int]] = []

    def subscribe(self, topics: list[str], **_: Any) -> None:
        pass

    def assignment(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(topic=topic, partition=number) for topic, number in PLACES]

    def consume(self, count: int, timeout: float) -> list[Event]:
        return self.found.pop(0) if self.found else []

    def seek(self, to: Any) -> None:
        if self.refused:
            self.refused -= 1
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.sought.append((to.partition, to.offset))


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
def member(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> KafkaSubscription:
    monkeypatch.setattr(kafka_group, "transactional", lambda *_: None)
    access = SimpleNamespace(client=lambda *_, **__: consumer, check=lambda: None)
    return KafkaSubscription(cast(Any, access), ("requests",), "group", "m")


def test_messages_before_an_error_are_read_again(
    member: KafkaSubscription, consumer: Consumer
) -> None:
    consumer.found = [[Event(0, 7), Event(0, 8), Event(0, 0, KafkaError._TRANSPORT)]]
    with pytest.raises(Unavailable):
        member.consume(10, 0.0)
    assert consumer.sought == [(0, 7)]


def test_a_seek_that_is_refused_is_done_before_anything_is_read(
    member: KafkaSubscription, consumer: Consumer
) -> None:
    """During an outage the client may refuse to seek, for one partition or for all."""
    consumer.found = [[Event(0, 7), Event(1, 3)], [Event(0, 7)]]
    assert len(member.consume(10, 0.0)) == 2
    consumer.refused = 2
    for _ in range(2):
        with pytest.raises(Unavailable):
            member.rewind()
    assert [m.offset for m in member.consume(10, 0.0)] == [7]
    assert sorted(consumer.sought) == [(0, 7), (1, 3)]
