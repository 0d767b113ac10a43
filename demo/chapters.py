"""What happens beside what in a demo, and how much of the recording is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from demo.process import PlatformProcess
from demo.state import Diary
from demo.story import LoopNotClosed, Story
from demo.traffic import Player
from mlplatform.scoring.request.times import REPLAY_BEHIND_MS

CHUNK = 500  # rows between two saves of the state

Tasks = list[asyncio.Task[None]]


async def told(scene: Scene, chapters: Chapters) -> str | None:
    """Play the chapters to their end, beside passes and what they start; returns what went
    otherwise, if anything did."""
    running: Tasks = [asyncio.create_task(scene.story.passes())]
    try:
        await chapters(running, scene)
    except LoopNotClosed as problem:
        return str(problem)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return None


async def beside(running: Tasks, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; a failure of what runs beside it is a failure of the work."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            done, _ = await asyncio.wait([task, *running], return_when=asyncio.FIRST_COMPLETED)
            for other in done - {task}:
                other.result()
                running.remove(other)
        task.result()
    finally:
        task.cancel()


async def reached(player: Player, event_ms: float) -> None:
    """Returns once traffic has come to an event time."""
    while player.event_ms < event_ms:
        await asyncio.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Scene:
    """What chapters are played with.

    Args:
        pace: of the requests, as a share of what two cores carry.
    """

    story: Story
    player: Player
    diary: Diary
    process: PlatformProcess
    pace: float

    async def day(self, rate: Callable[[], float]) -> bool:
        """Play the requests up to the next midnight; False where the player stops before it.

        Args:
            rate: requests a second at the most, asked before each chunk.
        """
        player = self.player
        end = player.recording.first_row_at(self.diary.state.next_midnight_ms)
        while player.position < end and not player.stopping:
            await self.story.passed()
            await player.play(min(_chunk_end(player), end), rate() * self.pace, self.process.alive)
            self.save_counts()
        return not player.stopping

    def save_counts(self) -> None:
        """Save how far traffic has come."""
        self.diary.save_counts(self.player.position, self.player.labelled, self.player.counts)


Chapters = Callable[[Tasks, Scene], Awaitable[None]]


def _chunk_end(player: Player) -> int:
    """The end of the next chunk: one row may be held up while all others of it are answered, and
    must still be in time for the clock that they move."""
    first_ms = int(player.recording.event_ms[player.position])
    in_time = player.recording.first_row_at(first_ms + REPLAY_BEHIND_MS)
    return min(player.position + CHUNK, in_time)
