"""Topics on Apache Kafka: results and offsets of a group are one transaction of the broker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlplatform.errors import NotFound, StaleFence, Unavailable
from mlplatform.topics.messages import HOUR_MS, Message, Progress, TopicSpec

if TYPE_CHECKING:
    from confluent_kafka import Producer

    from mlplatform.topics.kafka_group import KafkaSubscription

PROGRESS_TOPIC: Final = "mlplatform.progress"
TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.2
TRANSACTION_TIMEOUT_MS: Final = 60_000
log = logging.getLogger(__name__)


class KafkaTopics:
    """Fencing is Kafka's: the latest process with a transactional id is the only one that counts.

    Args:
        bootstrap: `host:port` of brokers, separated by commas.
        specs: topics to create where they are missing.
        options: settings of librdkafka for every client (security.protocol and the like).
        replication: of topics that are created; -1 takes the broker's default.
    """

    def __init__(
        self,
        bootstrap: str,
        specs: Sequence[TopicSpec] = (),
        *,
        options: Mapping[str, Any] | None = None,
        replication: int = -1,
    ) -> None:
        self._options = {**(options or {}), "bootstrap.servers": bootstrap}
        self._publisher: Producer | None = None
        self._projections: dict[str, Producer] = {}
        self._lock = threading.Lock()
        progress = TopicSpec(PROGRESS_TOPIC, partitions=1)
        _create(self._options, [*specs, progress], replication)

    def publish(self, messages: Sequence[Message], progress: Progress | None = None) -> None:
        """Acknowledged by every in-sync replica; with progress, one transaction."""
        with self._lock:
            if progress is None:
                self._publish_plainly(messages)
                return
            producer = self._projections.get(progress.name)
            if producer is None:
                raise StaleFence(f"ask for the progress of {progress.name!r} before publishing")
            note = Message(PROGRESS_TOPIC, progress.name.encode(), progress.value)
            try:
                in_transaction(producer, [*messages, note])
            except StaleFence:
                del self._projections[progress.name]
                raise

    def progress(self, name: str) -> bytes | None:
        """The progress published last; other publishers of that name are fenced from now on."""
        with self._lock:
            # the transaction that an earlier publisher left open is ended before its trace is read
            self._projections[name] = transactional(self._options, f"mlplatform.{name}")
            return _last_value(self._options, name.encode())

    def subscribe(self, topics: Sequence[str], group: str, member: str) -> KafkaSubscription:
        """Join a group as a static member: its next life gets its partitions back at once."""
        from mlplatform.topics.kafka_group import KafkaSubscription

        return KafkaSubscription(self._options, tuple(topics), group, member)

    def close(self) -> None:
        with self._lock:
            if self._publisher is not None:
                self._publisher.flush(TIMEOUT_S)
            self._publisher, self._projections = None, {}

    def _publish_plainly(self, messages: Sequence[Message]) -> None:
        from confluent_kafka import Producer

        if self._publisher is None:
            self._publisher = Producer(
                {**self._options, "enable.idempotence": True, "linger.ms": 2}
            )
        errors: list[Any] = []
        with translated():
            for message in messages:
                produce(self._publisher, message, lambda e, _: errors.append(e) if e else None)
            left = self._publisher.flush(TIMEOUT_S)
        if errors:
            raise error_of(errors[0])
        if left:
            raise Unavailable(f"Kafka has not acknowledged {left} messages in {TIMEOUT_S:.0f} s")


def transactional(options: Mapping[str, Any], transactional_id: str) -> Producer:
    """A producer that has fenced every other with its id, and ended what they left open.

    Raises:
        Unavailable: no broker coordinates transactions.
    """
    from confluent_kafka import Producer

    producer = Producer(
        {
            **options,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "linger.ms": 2,
            "queue.buffering.max.messages": 200_000,
        }
    )
    with translated():
        producer.init_transactions(TIMEOUT_S)
    return producer


def in_transaction(
    producer: Producer,
    messages: Sequence[Message],
    offsets: Callable[[], None] = lambda: None,
) -> None:
    """Publish all of the messages, and what `offsets` adds, or none.

    Raises:
        StaleFence: another producer has taken the transactional id, or the group went on without
            this member.
        Unavailable: the transaction was given up.
    """
    from confluent_kafka import KafkaException

    errors: list[Any] = []
    try:
        producer.begin_transaction()
        for message in messages:
            produce(producer, message, lambda e, _: errors.append(e) if e else None)
        offsets()
        _committed(producer)
    except KafkaException as error:
        raise _given_up(producer, errors[0] if errors else error.args[0]) from error
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
    """Kafka's errors as those of the platform."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from confluent_kafka import KafkaException

        if isinstance(error, KafkaException):
            raise error_of(error.args[0]) from error


def error_of(error: Any) -> NotFound | StaleFence | Unavailable:
    """What a caller can do about an error of librdkafka."""
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


def _committed(producer: Producer) -> None:
    from confluent_kafka import KafkaException

    for attempt in range(3):
        try:
            producer.commit_transaction(TIMEOUT_S)
        except KafkaException as error:
            # a timeout leaves it open whether the commit went through: asking again tells
            if attempt == 2 or not error.args[0].retriable():
                raise
        else:
            return


def _given_up(producer: Producer, error: Any) -> NotFound | StaleFence | Unavailable:
    from confluent_kafka import KafkaException

    try:
        producer.abort_transaction(TIMEOUT_S)
    except KafkaException as failed:
        log.warning("a transaction was not aborted: %s", failed.args[0].str())
        if failed.args[0].fatal():
            return error_of(error) if error.code() in _FENCING else error_of(failed.args[0])
    return error_of(error)


def _create(options: Mapping[str, Any], specs: Sequence[TopicSpec], replication: int) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient(dict(options))
    with translated():
        there = admin.list_topics(timeout=TIMEOUT_S).topics
        missing = [
            NewTopic(s.name, s.partitions, replication, config=_config(s))
            for s in specs
            if s.name not in there
        ]
        created = admin.create_topics(missing, operation_timeout=TIMEOUT_S) if missing else {}
        for future in created.values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise


def _config(spec: TopicSpec) -> dict[str, str]:
    if spec.name == PROGRESS_TOPIC:
        # A segment is compacted once it ends: by default after a week, in which a publisher that
        # tells its stand each second writes more than anybody wants to read.
        return {"cleanup.policy": "compact", "segment.ms": str(HOUR_MS)}
    return {
        "retention.ms": str(spec.retention_ms),
        "message.timestamp.type": "LogAppendTime",
    }


def _last_value(options: Mapping[str, Any], key: bytes) -> bytes | None:
    """The last committed value of a key in the progress topic, which is compacted and short."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {
            **options,
            "group.id": "mlplatform.progress-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    found: bytes | None = None
    try:
        consumer.assign([TopicPartition(PROGRESS_TOPIC, 0, OFFSET_BEGINNING)])
        while True:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise Unavailable(f"Kafka did not give {PROGRESS_TOPIC} in {TIMEOUT_S:.0f} s")
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return found
                raise error_of(error)
            if message.key() == key:
                found = message.value()
    finally:
        consumer.close()
