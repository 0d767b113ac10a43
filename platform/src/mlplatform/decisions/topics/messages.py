"""The port of topics: messages to publish, messages read, and the offsets that a group
remembers."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from mlplatform.runtime.units import HOUR_MS

TRACE_HEADER = "traceparent"
"""Header of a message: the span that it comes from, in the form of W3C Trace Context. The process
that works on the message later links its own trace with that span."""
TopicPartition: TypeAlias = tuple[str, int]
"""A topic and a partition of it."""


def requests_topic(model: str) -> str:
    """The topic of a model's requests that are to be scored later."""
    return f"{model}.requests"


class TopicSpec(msgspec.Struct, frozen=True):
    """A topic as its users declare it.

    Args:
        retention_ms: least time for which a message is kept after every group has read it. Kafka
            counts from the publication and keeps a message for at least three days.
        max_messages: limit of one partition. At the limit, the embedded log refuses further
            messages; if nobody reads the topic, it drops the oldest ones. Kafka has no such limit.
    """

    name: str
    partitions: int = 4
    retention_ms: int = HOUR_MS
    max_messages: int = 1_000_000


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message to publish; its key chooses the partition, and order holds within a partition."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, bytes] = {}


class ReceivedMessage(msgspec.Struct, frozen=True):
    """A message as it was read.

    Args:
        published_ms: wall time of the publication, from the topic. In Kafka this needs a topic with
            LogAppendTime; else it is the sender's time.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Mapping[str, bytes]
    published_ms: int

    @property
    def place(self) -> str:
        """The place of the message in one word; it is the same for every delivery."""
        return f"{self.topic}-{self.partition}-{self.offset}"


class PartitionLag(msgspec.Struct, frozen=True):
    """Messages of a partition that a group has not committed."""

    topic: str
    partition: int
    messages: int


class DroppedRange(msgspec.Struct, frozen=True):
    """Offsets of a partition that the topic dropped before a group had read them.

    Args:
        first: first offset of the range; None means that the group had no committed offset and
            began at the oldest message.
        last: last offset of the range. In Kafka a range of offsets may hold fewer messages, because
            transactions leave marks.
    """

    topic: str
    partition: int
    first: int | None
    last: int

    @property
    def most_messages(self) -> int:
        """Upper bound on the number of messages in the range; 0 if it is unknown."""
        return 0 if self.first is None else self.last - self.first + 1


class Progress(msgspec.Struct, frozen=True):
    """The progress of a projection's source, stored together with what is published.

    Args:
        name: name of the projection. A projection has one publisher at a time: the one that read
            the progress last.
        value: progress in any form, at most a few kilobytes.
    """

    name: str
    value: bytes


class Subscription(Protocol):
    """One member of a group: it reads its share of the partitions, and commits offsets together
    with results.

    A message counts as read only when a commit after its delivery succeeded. If a member dies, what
    it had not committed goes to the others, or to its next start under the same name.
    """

    def consume(self, limit: int, wait_s: float) -> list[ReceivedMessage]:
        """At most `limit` messages, in order within a partition; none after `wait_s`.

        With limit 0 nothing is delivered, but the process stays a member: while it is busy, it
        calls this at least every few seconds.

        Raises:
            StaleFence: the group has another process as this member, and that does not change:
                subscribe again.
            Unavailable: the topics did not answer.
        """
        ...

    def commit(self, results: Sequence[Message]) -> None:
        """Publish results and count delivered messages as read: both or neither.

        Raises:
            StaleFence: the partitions went to another member (or another process took this member's
                name) before the commit. Nothing was published. The delivered messages belong to
                another member, and `consume` goes on with the partitions that this member has now.
            Unavailable: the topics did not answer; nothing was published, and what was delivered
                is delivered again.
        """
        ...

    def dropped_ranges(self) -> Sequence[DroppedRange]:
        """The ranges skipped since the last commit that the topics dropped, by retention or by
        hand, before the group read them.

        They are found again until a commit succeeds, also after a restart; a commit without results
        moves the group's offsets past them. A new group begins at the oldest message. In Kafka,
        earlier messages then have `first` None, as for a group whose offset expired; embedded
        topics know what no group ever read.

        Raises:
            Unavailable: the topics did not answer.
        """
        ...

    def rewind(self) -> None:
        """Deliver the messages since the last commit again."""
        ...

    def topic_ids(self) -> Mapping[str, str]:
        """The ids of this subscription's topics; a topic that is made anew gets another. Empty if
        topics have no ids.

        Raises:
            Unavailable: the topics did not answer.
        """
        ...

    def restart(self, places: Collection[TopicPartition]) -> None:
        """Read these partitions from their first message on, also after a restart; delivered
        messages are delivered again."""
        ...

    def lags(self) -> Sequence[PartitionLag]:
        """The number of messages that the group has not read, for each of this member's
        partitions."""
        ...

    def lag(self) -> int:
        """The number of messages that the group has not read, over all of this member's
        partitions."""
        ...

    def close(self) -> None:
        """Stop; partitions go to the other members, at the latest when a session ends."""
        ...


class Topics(Protocol):
    """Topics: every group reads every published message, in order within its partition."""

    def publish(self, messages: Sequence[Message], progress: Progress | None = None) -> None:
        """Make messages durable, together with a projection's progress if there is one.

        With progress, all or nothing is published. Without, an error may leave some messages
        published.

        Raises:
            NotFound: a topic is not declared.
            Busy: a partition is full of messages that some group has not read.
            Unavailable: the topics did not answer.
            StaleFence: another publisher has taken the projection over; the caller must stop.
        """
        ...

    def progress(self, name: str) -> bytes | None:
        """The progress published last; None at first. The caller is its publisher from now on."""
        ...

    def subscribe(self, topics: Sequence[str], group: str, member: str) -> Subscription:
        """Join a group, which begins at the oldest message.

        Args:
            member: name of this process in the group: no other process has it, and it stays the
                same after a restart.
        """
        ...

    def close(self) -> None:
        """Close the connections; subscriptions are closed by the code that opened them."""
        ...


def dropped_words(topic: str, partition: int, first: int, last: int) -> str:
    """A sentence for people about messages that are gone."""
    return f"{topic}-{partition} dropped offsets {first} to {last} before they were read"


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: the same as librdkafka's default for keyed messages (CRC-32)."""
    return zlib.crc32(key) % partitions
