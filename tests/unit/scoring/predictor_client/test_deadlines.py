"""Many deadlines on one timer: each is told once, in time, and only while it matters."""

from __future__ import annotations

import asyncio

from mlplatform.scoring.predictor_client.deadlines import Deadlines

STEP_S = 0.02


class WaitingCall:
    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.is_over = False
        self._told = told

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._told.append(self.name)


async def told(*deadlines: tuple[str, int], over: str = "") -> list[str]:
    """The names in the order in which they were told; deadlines are in steps from now."""
    loop, names = asyncio.get_running_loop(), list[str]()
    every = Deadlines()
    start_s = loop.time()
    for name, steps in deadlines:
        one = WaitingCall(name, names)
        every.add(loop, start_s + steps * STEP_S, one)
        one.is_over = name in over
    wanted = len(deadlines) - len(over)
    async with asyncio.timeout(5):
        while len(names) < wanted:
            await asyncio.sleep(STEP_S)
    await asyncio.sleep(STEP_S)
    return names


async def test_deadlines_are_told_in_their_order_not_in_that_of_their_coming() -> None:
    assert await told(("late", 3), ("early", 1), ("between", 2)) == ["early", "between", "late"]


async def test_equal_deadlines_are_told_in_the_order_of_their_coming() -> None:
    assert await told(("a", 1), ("b", 1), ("c", 1)) == ["a", "b", "c"]


async def test_what_is_over_is_not_told() -> None:
    assert await told(("a", 1), ("b", 2), ("c", 3), over="ac") == ["b"]


async def test_a_deadline_that_has_passed_is_told_at_once() -> None:
    assert await told(("past", -1), ("next", 1)) == ["past", "next"]


async def test_nothing_is_told_before_its_time() -> None:
    loop, names = asyncio.get_running_loop(), list[str]()
    every, due_s = Deadlines(), loop.time() + 3 * STEP_S
    for number in range(3):
        every.add(loop, due_s, WaitingCall(str(number), names))
    every.add(loop, loop.time(), WaitingCall("first", names))
    while loop.time() < due_s - STEP_S:
        await asyncio.sleep(STEP_S / 4)
        if loop.time() < due_s - STEP_S / 10:
            assert names in ([], ["first"])
