"""Transactions of a Kafka producer, and the client's errors as the platform's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.messages import Message
from mlplatform.runtime.errors import NotFound, StaleFence, Unavailable
from mlplatform.runtime.units import MINUTE_MS

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka import Producer

TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.2
TRANSACTION_TIMEOUT_MS: Final = MINUTE_MS
log = logging.getLogger(__name__)


def transactional(access: Access, transactional_id: str) -> Producer:
    """A producer that has fenced every other with its id, and ended the transactions that they left
    open.

    Raises:
        Unavailable: no broker coordinates transactions.
    """
    from confluent_kafka import KafkaException, Producer

    producer = access.client(
        Producer,
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        linger_ms=2,
        queue_buffering_max_messages=200_000,
    )
    try:
        producer.init_transactions(TIMEOUT_S)
    except KafkaException as error:
        producer.poll(0)
        access.check()
        raise error_of(error.args[0]) from error
    return producer


def in_transaction(
    producer: Producer,
    messages: Sequence[Message],
    offsets: Callable[[], None] = lambda: None,
) -> None:
    """Publish all of the messages, and whatever `offsets` adds, or nothing.

    Raises:
        StaleFence: another producer has taken the transactional id, or the group went on without
            this member.
        Unavailable: the transaction was aborted.
    """
    from confluent_kafka import KafkaException

    errors: list[Any] = []
    try:
        producer.begin_transaction()
        for message in messages:
            produce(producer, message, lambda e, _: errors.append(e) if e else None)
        offsets()
        _commit(producer)
    except KafkaException as error:
        raise _abort(producer, errors[0] if errors else error.args[0]) from error
    except NotFound:
        producer.abort_transaction(TIMEOUT_S)
        raise


def produce(producer: Producer, message: Message, delivered: Callable[..., Any]) -> None:
    """Hand a message to the client, waiting while its queue is full."""
    headers: list[tuple[str, Any]] = list(message.headers.items())
    while True:
        try:
            producer.produce(
                message.topic,
                key=message.key,
                value=message.value,
                headers=headers,
                on_delivery=delivered,
            )
        except BufferError:
            producer.poll(POLL_S)
        else:
            return


class translated:  # noqa: N801 -- reads as the context manager that it is
    """Kafka's errors as the platform's own."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from confluent_kafka import KafkaException

        if isinstance(error, KafkaException):
            raise error_of(error.args[0]) from error


def error_of(error: Any) -> NotFound | StaleFence | Unavailable:
    """The platform's error for an error of librdkafka, by what a caller can do about it."""
    from confluent_kafka import KafkaError

    name, text = error.name(), error.str()
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        return NotFound(f"Kafka has no such topic: {text}")
    if error.code() in _FENCING:
        return StaleFence(f"Kafka has fenced this process: {name}")
    return Unavailable(f"Kafka: {name}: {text}")


_FENCING: Final = frozenset(
    (
        -144,  # _FENCED: another producer with the same transactional id
        22,  # ILLEGAL_GENERATION: the group was rebalanced
        25,  # UNKNOWN_MEMBER_ID
        27,  # REBALANCE_IN_PROGRESS
        47,  # INVALID_PRODUCER_EPOCH
        82,  # FENCED_INSTANCE_ID: another process with the member's name
        90,  # PRODUCER_FENCED
    )
)


def _commit(producer: Producer) -> None:
    from confluent_kafka import KafkaException

    for attempt in range(3):
        try:
            producer.commit_transaction(TIMEOUT_S)
        except KafkaException as error:
            # after a timeout it is not known whether the commit succeeded; a second call shows it
            if attempt == 2 or not error.args[0].retriable():
                raise
        else:
            return


def _abort(producer: Producer, error: Any) -> NotFound | StaleFence | Unavailable:
    from confluent_kafka import KafkaException

    try:
        producer.abort_transaction(TIMEOUT_S)
    except KafkaException as failed:
        log.warning("a transaction was not aborted: %s", failed.args[0].str())
        if failed.args[0].fatal():
            return error_of(error) if error.code() in _FENCING else error_of(failed.args[0])
    return error_of(error)
