"""How far the readers of feature topics are behind, partition by partition."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlplatform.decisions.topics.messages import PartitionLag, ReceivedMessage, TopicPartition
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.prometheus import Collector, Family, gauge_family


@dataclass(frozen=True, slots=True)
class PartitionBacklog:
    """The messages that one partition's reader has not served yet.

    Args:
        messages: number of messages that the online store does not have.
        seconds: upper bound on how long the oldest of them has waited.
    """

    topic: str
    partition: int
    messages: int
    seconds: float


@dataclass(slots=True)
class _Partition:
    """The state of a partition; times are wall times in milliseconds.

    Args:
        messages: number of messages behind, at the last count.
        waiting: number of delivered messages that are not committed.
        oldest_ms: when the first of those was published; None if there is none.
        reached_ms: time up to which every published message was read, as far as is known.
    """

    reached_ms: int
    messages: int = 0
    waiting: int = 0
    oldest_ms: int | None = None
    newest_ms: int = 0


class StreamLag:
    """The lag of one reader; safe for threads.

    Args:
        wall_ms: returns the wall time in milliseconds, of the clock by which topics date messages.
    """

    def __init__(self, model: str, view: str, wall_ms: Callable[[], int]) -> None:
        self.labels = (model, view)
        self._wall_ms = wall_ms
        self._lock = threading.Lock()
        self._known: dict[TopicPartition, _Partition] = {}

    def on_delivered(self, messages: Sequence[ReceivedMessage]) -> None:
        """Note messages that were delivered, perhaps again."""
        now_ms = self._wall_ms()
        with self._lock:
            for partition in self._known.values():
                partition.waiting = 0  # uncommitted messages are delivered again
            for message in messages:
                place = (message.topic, message.partition)
                known = self._known.setdefault(place, _Partition(now_ms))
                known.waiting += 1
                known.newest_ms = max(known.newest_ms, message.published_ms)
                if known.oldest_ms is None or message.published_ms < known.oldest_ms:
                    known.oldest_ms = message.published_ms

    def on_committed(self) -> None:
        """Note that the delivered messages count as read."""
        with self._lock:
            for known in self._known.values():
                known.messages = max(0, known.messages - known.waiting)
                if known.waiting:
                    known.reached_ms = known.newest_ms
                known.waiting, known.oldest_ms = 0, None

    def on_counted(self, lags: Sequence[PartitionLag]) -> None:
        """Note the topics' counts for this reader's partitions; other partitions are no longer its
        own."""
        now_ms = self._wall_ms()
        with self._lock:
            before, self._known = self._known, {}
            for lag in lags:
                place = (lag.topic, lag.partition)
                known = before.get(place) or _Partition(now_ms)
                known.messages = lag.messages
                if lag.messages == 0:
                    known.reached_ms = now_ms
                self._known[place] = known

    def behind(self) -> list[PartitionBacklog]:
        """The present lag of each partition."""
        now_ms = self._wall_ms()
        with self._lock:
            found = []
            for (topic, partition), known in sorted(self._known.items()):
                messages = max(known.messages, known.waiting)
                since_ms = known.reached_ms if known.oldest_ms is None else known.oldest_ms
                seconds = max(0.0, (now_ms - since_ms) / 1000) if messages else 0.0
                found.append(PartitionBacklog(topic, partition, messages, seconds))
            return found


class StreamLags(Collector):
    """`mlplatform_feature_stream_*` of the readers of one process."""

    def __init__(self) -> None:
        self._readers: Sequence[StreamLag] = ()

    def show(self, readers: Sequence[StreamLag]) -> None:
        """Show these readers in place of those before."""
        self._readers = readers

    def collect(self) -> Iterable[Family]:
        found = [
            ((*reader.labels, one.topic, str(one.partition)), one)
            for reader in self._readers
            for one in reader.behind()
        ]
        yield gauge_family(signals.STREAM_LAG, [(of, one.messages) for of, one in found])
        yield gauge_family(signals.STREAM_BEHIND, [(of, one.seconds) for of, one in found])
