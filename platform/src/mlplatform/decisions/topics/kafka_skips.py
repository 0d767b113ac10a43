"""Offsets that a consumer of Kafka skipped: marks of transactions, or messages that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlplatform.decisions.topics.kafka_transactions import TIMEOUT_S, translated
from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.decisions.topics.messages import TopicPartition as Place

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka.admin import AdminClient


@dataclass(frozen=True, slots=True)
class Skip:
    """A range of offsets that was skipped without a message.

    Args:
        start: first offset of the range; None means the offset that the group has committed.
        end: offset after the last one of the range.
    """

    place: Place
    start: int | None
    end: int


class Skips:
    """The offsets that one consumer has skipped since `settle`."""

    def __init__(self) -> None:
        self._expected: dict[Place, int] = {}
        self._found: list[Skip] = []

    @property
    def found(self) -> tuple[Skip, ...]:
        return tuple(self._found)

    def note(self, place: Place, offset: int, following: int) -> None:
        """Note that a message or the end of the partition was reached.

        Args:
            offset: offset of the message, or of the partition's end.
            following: offset that is read next.
        """
        expected = self._expected.get(place)
        if expected is None or offset > expected:
            self._found.append(Skip(place, expected, offset))
        self._expected[place] = following

    def settle(self) -> None:
        """Drop all skips, because each was examined."""
        self._found = []

    def forget(self) -> None:
        """Start anew, at the offsets that the group has committed."""
        self._expected, self._found = {}, []


def dropped_of(skip: Skip, committed: int | None, oldest: int) -> DroppedRange | None:
    """The part of a skip that is gone from the topic; None if the skip is only marks of
    transactions.

    Args:
        committed: offset that the group has committed in this partition; None means that there is
            none, or that it expired.
        oldest: first offset that the partition still has.
    """
    start = committed if skip.start is None else skip.start
    last = min(oldest, skip.end) - 1
    return DroppedRange(*skip.place, start, last) if last >= (start or 0) else None


def oldest_offsets(admin: AdminClient, places: Iterable[Place]) -> Mapping[Place, int]:
    """The first offset of each partition, asked of the brokers together.

    Raises:
        Unavailable: a broker does not answer.
    """
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    wanted = {TopicPartition(*place): earliest for place in places}
    with translated():
        asked = admin.list_offsets(wanted, request_timeout=TIMEOUT_S)
        return {(p.topic, p.partition): int(one.result().offset) for p, one in asked.items()}
