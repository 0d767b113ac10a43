"""Topics on Apache Kafka: results and offsets of a group are one transaction of the broker."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.kafka_group import KafkaSubscription
from mlplatform.decisions.topics.kafka_progress import PROGRESS_TOPIC, last_value
from mlplatform.decisions.topics.kafka_transactions import (
    TIMEOUT_S,
    error_of,
    in_transaction,
    produce,
    transactional,
    translated,
)
from mlplatform.decisions.topics.messages import Message, Progress, TopicSpec
from mlplatform.runtime.errors import StaleFence, Unavailable
from mlplatform.runtime.storage.addresses import Brokers
from mlplatform.runtime.units import HOUR_MS

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka import Producer

UNREAD_KEPT_MS = 72 * HOUR_MS
"""Least retention of topics. Kafka drops messages by age, read or not; a worker that is away over a
weekend loses none."""


class KafkaTopics:
    """Topics of Kafka. Kafka does the fencing: only the latest process with a transactional id
    counts.

    Args:
        specs: topics to create if they are missing.
        options: settings of librdkafka for every client, besides those of the brokers; None means
            none.
        replication: replication factor of the topics that are created; -1 means the broker's
            default.

    Raises:
        ConfigInvalid: the brokers refuse the user or the password, or their certificate is not
            trusted. Later calls may raise it too, because a password may change.
        Unavailable: no broker answered.
    """

    def __init__(
        self,
        brokers: Brokers,
        specs: Sequence[TopicSpec] = (),
        *,
        options: Mapping[str, Any] | None = None,
        replication: int = -1,
    ) -> None:
        self._access = Access(brokers, options)
        self._publisher: Producer | None = None
        self._projections: dict[str, Producer] = {}
        self._lock = threading.Lock()
        progress = TopicSpec(PROGRESS_TOPIC, partitions=1)
        _create(self._access, [*specs, progress], replication)

    def publish(self, messages: Sequence[Message], progress: Progress | None = None) -> None:
        """Publish messages that every in-sync replica acknowledges; with progress in one
        transaction."""
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
            producer = transactional(self._access, f"mlplatform.{name}")
            self._projections[name] = producer
            return last_value(self._access, producer, name)

    def subscribe(self, topics: Sequence[str], group: str, member: str) -> KafkaSubscription:
        """Join a group as a static member: its next life gets its partitions back at once."""
        return KafkaSubscription(self._access, tuple(topics), group, member)

    def close(self) -> None:
        with self._lock:
            if self._publisher is not None:
                self._publisher.flush(TIMEOUT_S)
            self._publisher, self._projections = None, {}

    def _publish_plainly(self, messages: Sequence[Message]) -> None:
        from confluent_kafka import Producer

        if self._publisher is None:
            self._publisher = self._access.client(Producer, enable_idempotence=True, linger_ms=2)
        errors: list[Any] = []
        with translated():
            for message in messages:
                produce(self._publisher, message, lambda e, _: errors.append(e) if e else None)
            left = self._publisher.flush(TIMEOUT_S)
        if errors or left:
            self._access.check()
        if errors:
            raise error_of(errors[0])
        if left:
            raise Unavailable(f"Kafka has not acknowledged {left} messages in {TIMEOUT_S:.0f} s")


def _create(access: Access, specs: Sequence[TopicSpec], replication: int) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = access.client(AdminClient)
    there = access.topics(admin)
    with translated():
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
        # Kafka compacts a segment once it ends, by default after a week. In a week a publisher that
        # reports its progress each second would write far too much to read.
        return {"cleanup.policy": "compact", "segment.ms": str(HOUR_MS)}
    return {
        "retention.ms": str(max(spec.retention_ms, UNREAD_KEPT_MS)),
        "message.timestamp.type": "LogAppendTime",
    }
