"""A projection's progress: its last value in a compacted topic of Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.kafka_transactions import (
    TIMEOUT_S,
    TRANSACTION_TIMEOUT_MS,
    error_of,
    in_transaction,
)
from mlplatform.decisions.topics.messages import Message
from mlplatform.runtime.errors import Unavailable

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka import Consumer, Producer
    from confluent_kafka import Message as KafkaMessage

PROGRESS_TOPIC: Final = "mlplatform.progress"
READ_S: Final = TRANSACTION_TIMEOUT_MS / 1000 + TIMEOUT_S
"""Longest wait for a message in seconds. A transaction that a killed publisher left open has ended
by then; until then it hides later messages from readers."""


def last_value(access: Access, producer: Producer, name: str) -> bytes | None:
    """The value of a projection that was committed last, from the progress topic, which is
    compacted and short.

    The producer, after which no other transaction can come, writes a mark, and everything up to it
    is read. The topic's end would not do: a broker that was killed reports an end that is too low
    for a while after its restart.
    """
    mark = uuid.uuid4().bytes
    key, mark_key = name.encode(), b"\0" + name.encode()
    in_transaction(producer, [Message(PROGRESS_TOPIC, mark_key, mark)])
    found: bytes | None = None
    with closing(_reader(access)) as reader:
        for message in _read(reader):
            if message.key() == key:
                found = message.value()
            elif message.key() == mark_key and message.value() == mark:
                break
    return found


def _reader(access: Access) -> Consumer:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    reader = access.client(
        Consumer,
        group_id="mlplatform.progress-reader",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    reader.assign([TopicPartition(PROGRESS_TOPIC, 0, OFFSET_BEGINNING)])
    return reader


def _read(reader: Consumer) -> Iterator[KafkaMessage]:
    """Messages without end. Raises Unavailable if none has come for READ_S."""
    while True:
        message = reader.poll(READ_S)
        if message is None:
            raise Unavailable(f"Kafka did not give {PROGRESS_TOPIC} in {READ_S:.0f} s")
        error = message.error()
        if error is not None:
            raise error_of(error)
        yield message
