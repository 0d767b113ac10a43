"""Event time across gateways: the clock is the platform's, and idle ones hold up nobody."""

from __future__ import annotations

import asyncio

import pytest

from mlplatform.runtime.clock import SYSTEM_TOLERANCE_MS
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.units import HOUR_MS
from mlplatform.scoring.arms import watermark as watermark_module
from mlplatform.scoring.arms.watermark import LatestEventTime
from mlplatform.scoring.request.times import IN_FLIGHT_MS, EventTimes

T_MS = 1_600_000_000_000


class World:
    """The platform's event clock, and a wall clock, both set by hand."""

    def __init__(self, mode: str = "replay") -> None:
        self.event_ms = 0
        self.wall_s = 100.0
        self.times = EventTimes(mode, lambda: self.event_ms, lambda: self.wall_s)  # type: ignore[arg-type]

    def beats(self, seconds: int) -> int | None:
        """What the heartbeats of so many seconds promise in the end."""
        promised = None
        for _ in range(seconds):
            self.wall_s += 1.0
            promised = self.times.passed_ms()
        return promised


def test_a_live_gateway_has_passed_what_it_would_refuse() -> None:
    world = World("system")
    world.event_ms = T_MS
    assert world.times.passed_ms() == T_MS - SYSTEM_TOLERANCE_MS - IN_FLIGHT_MS


def test_an_idle_gateway_of_a_replay_follows_the_platform_after_a_while() -> None:
    world = World()
    assert world.beats(5) is None
    world.event_ms = T_MS
    assert world.beats(1) is None
    assert world.beats(3) == T_MS
    world.event_ms = T_MS + HOUR_MS
    assert world.beats(1) == T_MS
    assert world.beats(3) == T_MS + HOUR_MS


def test_a_request_that_is_still_answered_holds_the_promise_back() -> None:
    world = World()
    world.event_ms = T_MS
    world.beats(5)
    with world.times.answering(T_MS - 50), world.times.answering(T_MS - 10):
        assert world.beats(5) == T_MS - 50
    assert world.beats(1) == T_MS


async def test_the_clock_of_a_replay_is_that_of_all_gateways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watermark_module, "POLL_S", 0.001)
    recorded: list[int | None] = [None]
    watermark = LatestEventTime(lambda: recorded[0])
    times = EventTimes("replay", lambda: watermark.event_ms or 0)
    times.check(1)
    watermark.start()
    recorded[0] = T_MS
    async with asyncio.timeout(10):
        while watermark.event_ms != T_MS:
            await asyncio.sleep(0.001)
    with pytest.raises(Problem):
        times.check(T_MS - 2 * HOUR_MS)
    watermark.advance(T_MS + HOUR_MS)
    await asyncio.sleep(0.01)
    assert watermark.event_ms == T_MS + HOUR_MS
    await watermark.stop()


@pytest.mark.parametrize(
    ("event_ms", "said"),
    [
        (T_MS - 3 * HOUR_MS,
         "event_time is 2020-09-13T09:26:40.000Z, 3 h before the platform's clock; accepted now: "
         "2020-09-13T12:21:40.000Z to 2020-09-13T12:31:40.000Z; send the time at which the request"
         " is made; `mlplatform batch` scores past ones as a table"),
        (T_MS + 10 * 60_000,
         "event_time is 2020-09-13T12:36:40.000Z, 10 min after the platform's clock; accepted"),
        (T_MS // 1000, "event_time is 1970-01-19T12:26:40.000Z, 18,500 days before"),
        (T_MS // 1000, "; event_time counts milliseconds since 1970: multiply seconds by 1000"),
        (T_MS * 1000, "event_time is 1600000000000000 ms, "),
    ],
    ids=["3 hours ago", "in 10 minutes", "a date", "seconds", "beyond the calendar"],
)  # fmt: skip
def test_a_refused_time_is_told_as_a_date_with_the_range_and_the_way_out(
    event_ms: int, said: str
) -> None:
    world = World("system")
    world.event_ms = T_MS
    with pytest.raises(Problem) as refused:
        world.times.check(event_ms)
    assert said in (refused.value.details.detail or "")


def test_a_refused_arrival_of_a_label_says_that_it_may_be_left_out() -> None:
    world = World("system")
    world.event_ms = T_MS
    with pytest.raises(Problem, match=r"; leave it out for a label of now$"):
        world.times.check_arrival(T_MS - HOUR_MS)
