"""How far a projection was published: the last of its values in a compacted topic of Kafka."""

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
"""What another projection's publisher left open when it was killed ends by then, and hides the rest
from readers until it does."""


def last_value(access: Access, producer: Producer, name: str) -> bytes | None:
    """The value of a projection that was committed last, of the progress topic, which is compacted
    and short.

    The producer, which nobody else's transaction can follow, writes a mark, and everything is read
    up to that. The topic's end would not do: a broker that was killed says too low a one for a
    while after its restart.
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
    """Messages without end; raises Unavailable where none has come for READ_S."""
    while True:
        message = reader.poll(READ_S)
        if message is None:
            raise Unavailable(f"Kafka did not give {PROGRESS_TOPIC} in {READ_S:.0f} s")
        error = message.error()
        if error is not None:
            raise error_of(error)
        yield message
