"""A member of a Kafka group whose offsets are committed in the transaction of its results."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.kafka_ids import topic_ids
from mlplatform.decisions.topics.kafka_skips import Skip, Skips, dropped_of, oldest_offsets
from mlplatform.decisions.topics.kafka_transactions import (
    TIMEOUT_S,
    error_of,
    in_transaction,
    transactional,
    translated,
)
from mlplatform.decisions.topics.messages import (
    DroppedRange,
    Message,
    PartitionLag,
    ReceivedMessage,
)
from mlplatform.decisions.topics.messages import TopicPartition as Place
from mlplatform.runtime.errors import PlatformError, StaleFence

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka import Message as KafkaMessage
    from confluent_kafka.admin import AdminClient

SESSION_TIMEOUT_MS: Final = 10_000
QUEUED_KB: Final = 16_384
WATCHED_S: Final = TIMEOUT_S + 5
HANGS: Final = "Kafka's client hangs in a commit: subscribe again"
log = logging.getLogger(__name__)


class KafkaSubscription:
    """A member of a group that consumes, transforms and produces (KIP-447): results appear exactly
    once.

    The member is static (group.instance.id): killed and started again within the session, it goes
    on without a rebalance. Its transactional id is made from its group and name, so a transaction
    that an earlier start left open is aborted before this start reads an offset.
    """

    def __init__(self, access: Access, topics: tuple[str, ...], group: str, member: str) -> None:
        from confluent_kafka import Consumer

        self._access, self._topics = access, topics
        self._producer = transactional(access, f"mlplatform.{group}.{member}")
        self._admin: AdminClient | None = None
        self._starts: dict[Place, int] = {}
        self._next: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._seeks: dict[Place, int] = {}
        self._skips = Skips()
        self._dropped: list[DroppedRange] = []
        self._is_stale = False
        self._is_paused = False
        self._is_lost = False
        self._consumer: Consumer = access.client(
            Consumer,
            group_id=group,
            group_instance_id=member,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            queued_max_messages_kbytes=QUEUED_KB,
        )
        with translated():
            self._consumer.subscribe(
                list(topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )

    def consume(self, limit: int, wait_s: float) -> list[ReceivedMessage]:
        """Messages of committed transactions. The partitions are paused while the caller wants
        none."""
        if self._is_lost:
            raise StaleFence(HANGS)
        self._seek()
        self._pause(limit == 0)
        until_s = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            with translated():
                found = self._consumer.consume(max(1, limit), left_s)
            try:
                self._access.check()
                received = self._received(found)
            except StaleFence:
                raise
            except PlatformError:  # earlier messages are read again
                self.rewind()
                raise
            if received or not found or time.monotonic() >= until_s:
                return received

    def commit(self, results: Sequence[Message]) -> None:
        """Publish results and commit offsets in one transaction."""
        if self._is_stale:
            self.rewind()
            raise StaleFence(
                "partitions went to another member while their messages were being processed"
            )
        try:
            in_transaction(self._producer, results, self._send_offsets)
        except BaseException:
            if not self._is_lost:
                self.rewind()
            raise
        self._starts, self._next, self._dropped = {}, {}, []

    def dropped_ranges(self) -> list[DroppedRange]:
        """Ranges that the topics dropped before the group read them; marks of transactions are not
        reported. It is free if no offset was skipped, and else asks the brokers once."""
        if skips := self._skips.found:
            committed = self._committed([skip.place for skip in skips if skip.start is None])
            oldest = oldest_offsets(self._admin_client(), {skip.place for skip in skips})
            self._note(skips, committed, oldest)
        return list(self._dropped)

    def rewind(self) -> None:
        """Seek each partition that is still this member's to its last commit.

        Raises:
            Unavailable: the client refuses to seek now; `consume` seeks before it reads.
        """
        for place, offset in self._starts.items():
            self._seeks.setdefault(place, offset)
        self._starts, self._next = {}, {}
        self._is_stale = False
        self._forget_skips()
        self._seek()

    def _seek(self) -> None:
        """Carry out what remains of a rewind."""
        from confluent_kafka import TopicPartition

        if not self._seeks:
            return
        with translated():
            mine = {(p.topic, p.partition) for p in self._consumer.assignment()}
            for place, offset in list(self._seeks.items()):
                if place in mine:
                    self._consumer.seek(TopicPartition(*place, offset))
                del self._seeks[place]

    def topic_ids(self) -> dict[str, str]:
        """Ids of the topics; none from brokers before Kafka 2.8."""
        return topic_ids(self._admin_client(), self._topics)

    def restart(self, places: Collection[Place]) -> None:
        """Commit the first offsets of these partitions before anything is read."""
        from confluent_kafka import TopicPartition

        self.rewind()
        with translated():
            begun = [
                TopicPartition(
                    *place,
                    self._consumer.get_watermark_offsets(TopicPartition(*place), TIMEOUT_S)[0],
                )
                for place in places
            ]
            self._consumer.commit(offsets=begun, asynchronous=False)
            for partition in begun:
                self._consumer.seek(partition)

    def lags(self) -> list[PartitionLag]:
        """Visible messages beyond the committed offset, for each of this member's partitions."""
        with translated():
            mine = self._consumer.assignment()
            committed = self._consumer.committed(mine, TIMEOUT_S) if mine else []
            return [PartitionLag(p.topic, p.partition, self._behind(p)) for p in committed]

    def lag(self) -> int:
        return sum(one.messages for one in self.lags())

    def close(self) -> None:
        """Stop; a static member's partitions are kept for its next start, for one session."""
        self._consumer.close()

    def _admin_client(self) -> AdminClient:
        from confluent_kafka.admin import AdminClient

        if self._admin is None:
            self._admin = self._access.client(AdminClient)
        return self._admin

    def _committed(self, places: Sequence[Place]) -> dict[Place, int]:
        """The committed offset of each of these partitions that has one."""
        from confluent_kafka import TopicPartition

        if not places:
            return {}
        with translated():
            found = self._consumer.committed([TopicPartition(*p) for p in places], TIMEOUT_S)
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def _note(
        self, skips: Sequence[Skip], committed: dict[Place, int], oldest: Mapping[Place, int]
    ) -> None:
        """Keep the dropped ranges, and let the next commit move the offsets past them."""
        for skip in skips:
            found = dropped_of(skip, committed.get(skip.place), oldest[skip.place])
            if found is not None:
                self._dropped.append(found)
                self._starts.setdefault(skip.place, skip.end)
                self._next[skip.place] = max(skip.end, self._next.get(skip.place, 0))
        self._skips.settle()

    def _forget_skips(self) -> None:
        self._skips.forget()
        self._dropped = []

    def _send_offsets(self) -> None:
        from confluent_kafka import TopicPartition

        offsets = [TopicPartition(*place, offset) for place, offset in self._next.items()]
        if offsets:
            metadata = self._consumer.consumer_group_metadata()
            self._send_in_thread(
                lambda: self._producer.send_offsets_to_transaction(offsets, metadata, TIMEOUT_S)
            )

    def _send_in_thread(self, send: Callable[[], None]) -> None:
        """Send in a thread, which is given up if it hangs, and with it this subscription.

        A broker that is killed at this moment may keep the client waiting for ever, whatever the
        timeout.
        """
        from confluent_kafka import KafkaException

        failed: list[KafkaException] = []

        def act() -> None:
            try:
                send()
            except KafkaException as error:
                failed.append(error)

        sender = threading.Thread(target=act, name="offsets", daemon=True)
        sender.start()
        sender.join(WATCHED_S)
        if sender.is_alive():
            self._is_lost = True
            raise StaleFence(HANGS)
        for error in failed:
            raise error

    def _received(self, found: Sequence[KafkaMessage]) -> list[ReceivedMessage]:
        from confluent_kafka import KafkaError

        received = []
        for message in found:
            place = (message.topic() or "", message.partition() or 0)
            offset, error = message.offset() or 0, message.error()
            if error is None:
                self._starts.setdefault(place, offset)
                self._next[place] = offset + 1
                self._skips.note(place, offset, offset + 1)
                received.append(_received(message, place, offset))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ends[place] = offset
                self._skips.note(place, offset, offset)
            elif error.code() == KafkaError._FATAL:
                # This can happen without another process: if a broker ends while a static member
                # joins, the group may have another id for the member later. This consumer then
                # reads nothing any more; a new one does.
                raise StaleFence(
                    f"Kafka does not know this member of the group any more: {error.str()}"
                )
            else:
                raise error_of(error)
        return received

    def _behind(self, committed: TopicPartition) -> int:
        low, high = self._consumer.get_watermark_offsets(committed, TIMEOUT_S)
        place = (committed.topic, committed.partition)
        position = max(committed.offset, low)
        if place not in self._starts:
            # after the last message there may be transaction markers, which nobody reads
            position = max(position, self._ends.get(place, 0))
        return max(0, high - position)

    def _pause(self, wanted: bool) -> None:
        if wanted == self._is_paused:
            return
        with translated():
            mine = self._consumer.assignment()
            if mine:
                (self._consumer.pause if wanted else self._consumer.resume)(mine)
        self._is_paused = wanted

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.info("reads %s", [f"{p.topic}-{p.partition}" for p in partitions])
        self._ends = {}
        self._forget_skips()
        if self._is_paused:
            consumer.assign(partitions)
            consumer.pause(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._is_stale |= bool(self._next)
        self._starts, self._next, self._ends, self._seeks = {}, {}, {}, {}
        self._forget_skips()


def _received(message: KafkaMessage, place: Place, offset: int) -> ReceivedMessage:
    headers = {
        name: value if isinstance(value, bytes) else str(value or "").encode()
        for name, value in _pairs(message)
    }
    key, value = message.key(), message.value()
    _, published_ms = message.timestamp()
    return ReceivedMessage(*place, offset, _bytes(key), _bytes(value), headers, published_ms)


def _pairs(message: KafkaMessage) -> list[tuple[str, Any]]:
    pairs: Any = message.headers()
    return pairs or []


def _bytes(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
