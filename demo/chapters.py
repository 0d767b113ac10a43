"""What happens beside what in a demo, and how much of the recording is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from demo.next_model import LoopNotClosed
from demo.process import PlatformProcess
from demo.source import Source
from demo.state import Diary
from demo.story import Story
from demo.traffic import Player
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.request.times import REPLAY_BEHIND_MS

SILENCE_S = 20.0
PROGRESS_POLL_S = 1.0
CHUNK = 500  # rows between two saves of the state

Tasks = list[asyncio.Task[None]]


async def play(scene: Scene, chapters: Chapters) -> str | None:
    """Play the chapters to their end, beside passes and what they start; returns what went
    otherwise, if anything did."""
    running: Tasks = [
        asyncio.create_task(scene.story.passes()),
        asyncio.create_task(show_progress(scene)),
    ]
    found: str | None = None
    try:
        await chapters(running, scene)
    except LoopNotClosed as problem:
        found = str(problem)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    scene.story.tell_phases()  # the last pass may have ended a rollout that ends the story
    return found


async def show_progress(scene: Scene) -> None:
    """Show a line of progress whenever nothing was shown for `SILENCE_S`; it is not kept."""
    while True:
        await asyncio.sleep(PROGRESS_POLL_S)
        if scene.diary.silent_s >= SILENCE_S:
            text = f"… {scene.player.counts.answers:,} requests answered; {doing(scene.story)}"
            scene.diary.show(scene.player.event_ms, text)


def doing(story: Story) -> str:
    """What the story waits for, in words."""
    if story.awaits_an_answer():
        return "a person is asked for an approval"
    if story.awaits_a_model():
        return "a model is being made"
    return "a rollout is under way" if story.is_ramping() else "no rollout is under way"


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


async def wait_for_task(task: asyncio.Task[None]) -> None:
    """Returns once the task is done; a failure of it is this one's."""
    await task


async def wait_for_event_time(player: Player, event_ms: float) -> None:
    """Returns once traffic has come to an event time."""
    while player.event_ms < event_ms:
        await asyncio.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Scene:
    """What chapters are played with.

    Args:
        pace: of the requests, as a share of what two cores carry.
    """

    platform: Platform
    story: Story
    player: Player
    diary: Diary
    process: PlatformProcess
    source: Source
    pace: float

    async def day(self, rate: Callable[[], float]) -> bool:
        """Play the requests up to the next midnight; False where the player stops before it.

        Args:
            rate: requests a second at the most, asked before each chunk.
        """
        player = self.player
        end = player.recording.first_row_at(self.diary.state.next_midnight_ms)
        while player.position < end and not player.stopping:
            await self.story.wait_for_pass()
            await self.story.awaited.wait()
            await self.chunk(rate, end)
        return not player.stopping

    async def play_labelled_day(self, rate: Callable[[], float]) -> None:
        """Play a day, and send the labels that have arrived by its end."""
        state = self.diary.state
        await self.day(rate)
        await self.player.send_labels(state.next_midnight_ms, self.process.alive)
        state.next_midnight_ms += DAY_MS
        self.save_counts()

    async def chunk(self, rate: Callable[[], float], end: int) -> None:
        """Play the next requests before row `end`, those of an hour of event time at the most."""
        last = min(_chunk_end(self.player), end)
        await self.player.play(last, rate() * self.pace, self.process.alive)
        self.save_counts()

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
