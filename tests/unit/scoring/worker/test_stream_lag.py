"""How far a reader of a topic is behind: never less than it is, by what a reader can know."""

from __future__ import annotations

from mlplatform.decisions.topics.messages import PartitionLag, ReceivedMessage
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.scoring.worker.stream_lag import StreamLag, StreamLags

T_MS = 1_000_000


class World:
    def __init__(self) -> None:
        self.now_ms = T_MS
        self.lag = StreamLag("fraud", "bureau", lambda: self.now_ms)

    def count(self, **messages: int) -> None:
        self.lag.on_counted([PartitionLag("bank", int(p[1:]), n) for p, n in messages.items()])

    def deliver(self, *published_ms: int, partition: int = 0) -> None:
        self.lag.on_delivered(
            [ReceivedMessage("bank", partition, 0, b"", b"", {}, one) for one in published_ms]
        )

    def behind(self) -> dict[int, tuple[int, float]]:
        return {one.partition: (one.messages, one.seconds) for one in self.lag.behind()}


def test_a_message_that_is_delivered_and_not_served_waits_since_it_was_published() -> None:
    world = World()
    world.deliver(T_MS - 40_000, T_MS - 5_000)
    assert world.behind() == {0: (2, 40.0)}
    world.now_ms += 60_000
    world.deliver(T_MS - 40_000)  # again, as the store is away
    assert world.behind() == {0: (1, 100.0)}
    world.lag.on_committed()
    assert world.behind() == {0: (0, 0.0)}


def test_what_was_not_delivered_is_no_older_than_when_nothing_waited() -> None:
    world = World()
    world.count(p0=0, p1=0)
    world.now_ms += 5_000
    world.count(p0=3, p1=0)
    world.now_ms += 2_000
    assert world.behind() == {0: (3, 7.0), 1: (0, 0.0)}


def test_of_a_backlog_what_comes_next_is_as_old_as_what_was_read_last() -> None:
    world = World()
    world.count(p0=5_000)
    world.deliver(*range(T_MS - 90_000, T_MS - 89_000))
    world.lag.on_committed()
    messages, seconds = world.behind()[0]
    assert (messages, round(seconds)) == (4_000, 89)


def test_a_partition_of_another_worker_is_shown_no_more_and_a_clock_behind_is_no_lag() -> None:
    world = World()
    world.deliver(T_MS + 5_000, partition=1)
    assert world.behind() == {1: (1, 0.0)}
    world.count(p0=0)
    assert world.behind() == {0: (0, 0.0)}


def test_both_series_are_of_each_partition() -> None:
    world, registry, lags = World(), MetricRegistry(), StreamLags()
    lags.show([world.lag])
    registry.register(lags)
    world.deliver(T_MS - 1_500, partition=3)
    labels = 'model="fraud",partition="3",topic="bank",view="bureau"'
    text = registry.text().decode()
    assert f"mlplatform_feature_stream_lag_messages{{{labels}}} 1.0" in text
    assert f"mlplatform_feature_stream_behind_seconds{{{labels}}} 1.5" in text
