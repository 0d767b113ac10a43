"""Runs the demo: the platform, the traffic and the story side by side, then the report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from demo import report
from demo.process import PlatformProcess
from demo.source import DAY_MS, MODEL, Source, prepare
from demo.state import DemoState, Diary, DiaryEntry, load_state
from demo.story import LoopNotClosed, Story
from demo.traffic import Player, Recording
from mlplatform.operations.actions import features
from mlplatform.operations.wiring import Platform, api_key
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.scoring import backends
from mlplatform.scoring.request.times import REPLAY_BEHIND_MS

QUIET_RATE = 1300.0  # requests a second at the most
BUSY_RATE = 450.0  # while a model is trained or ramps: flows need the same two cores
WAITING_RATE = 200.0  # while everybody waits for a model, whose validation gets a core, or a person
DRIFT_EVERY_DAYS = 2  # the schedule of a live platform is nightly
STALE_AFTER_DAYS = 1.0
CHUNK = 500  # rows between two saves of the state
CONTINUE_EXIT = 75  # EX_TEMPFAIL: `python -m demo --resume` goes on

CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo was asked for.

    Args:
        pace: of the payments, as a share of what two cores carry beside embedded stores.
    """

    transactions: Path | None
    seed: int
    keep: bool
    resume: bool
    pace: float = 1.0
    as_json: bool = False


async def run(settings: Settings, options: Options) -> int:
    """The demo's exit code: 0 where the loop closed, 1 where not, 75 where it can be resumed.

    Raises:
        Refused: the home folder holds an earlier demo, or there is none to resume; or the journal
            already has rollouts of the model, of which the demo knows nothing.
    """
    settings = replace(settings, clock="replay")
    CONSOLE.stderr = options.as_json  # standard output is the report's
    os.environ.update(settings.environment())
    folder = settings.home.demo
    state = _state(folder, options)
    settings.home.create()
    platform = Platform(settings)
    if state is None:
        _refuse_used(platform)
    folder.mkdir(mode=0o700, exist_ok=True)
    CONSOLE.print("preparing the payments")
    source = await asyncio.to_thread(prepare, options.transactions, options.seed, folder)
    if state is None:
        state = DemoState(
            model=MODEL,
            source=source.description,
            seed=options.seed,
            go_live_ms=source.go_live_ms,
            change_ms=source.change_ms,
            next_midnight_ms=source.go_live_ms + DAY_MS,
        )
    diary = Diary(folder / "state.json", state, _shown)
    process = PlatformProcess(settings)
    _end_on_sigterm()
    try:
        return await _play(platform, process, diary, source, options)
    except Unavailable as gone:
        if process.alive():
            raise
        return _stopped(diary, f"[red]the platform is gone[/]: {gone}")
    except asyncio.CancelledError:  # Ctrl-C, or a SIGTERM: who sent it knows that it was stopped
        return _stopped(diary, "stopped")
    finally:
        if not options.keep:
            await _to_its_end(process.stop())


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do the work also where the demo is asked to end meanwhile: ending is what it is about."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def _stopped(diary: Diary, why: str) -> int:
    diary.save()
    CONSOLE.print(why, soft_wrap=True)
    CONSOLE.print("nothing that was answered is lost; go on with: make demo DEMO_FLAGS=--resume")
    return CONTINUE_EXIT


async def _play(
    platform: Platform, process: PlatformProcess, diary: Diary, source: Source, options: Options
) -> int:
    state = diary.state
    CONSOLE.print("starting the platform; its processes and logs are in", soft_wrap=True, end=" ")
    CONSOLE.print(str(platform.settings.home.root), soft_wrap=True)
    started = asyncio.create_task(process.start())
    if not features.history_is_whole(platform, MODEL):
        await asyncio.to_thread(
            features.import_history, platform, MODEL, source.history, "the demo's history"
        )
    await started
    definition = platform.definition(MODEL)
    recording = Recording(source.live, tuple(definition.request))
    key = api_key(platform.settings)
    async with Player(recording, platform.settings.gateway_url, MODEL, key) as player:
        player.go_on_from(state.position, state.labelled, state.degraded, state.retries)
        story = Story(
            platform, process, diary, lambda: player.event_ms, platform.settings.home.demo
        )
        problem = await _tell(story, player, diary, process, options.pace)
        _save_counts(player, diary)
    found = report.write(platform, diary, recording, player.counts, problem)
    report.show(CONSOLE, found, platform.settings.home.demo)
    if options.as_json:
        print(canonical_json(found).decode())
    home = platform.settings.home.root
    if options.keep:
        CONSOLE.print(f"the platform stays up: {platform.settings.page_url}; stop it with")
        CONSOLE.print(f"  MLPLATFORM_HOME={home} mlplatform down", soft_wrap=True)
    else:
        CONSOLE.print("its state stays; start the platform on it again with")
        CONSOLE.print(f"  MLPLATFORM_HOME={home} mlplatform up --clock replay", soft_wrap=True)
    return 0 if found["closed"] else 1


async def _tell(
    story: Story, player: Player, diary: Diary, process: PlatformProcess, pace: float
) -> str | None:
    """Play the story to its end; returns what went otherwise, if anything did."""
    running = [asyncio.create_task(story.passes())]
    try:
        await _beside(running, story.bootstrap())
        days = asyncio.create_task(_days(story, player, diary, process, pace))
        running.append(days)
        await _beside(running, _reached(player, diary, STALE_AFTER_DAYS))
        await _beside(running, story.stale_candidate())
        slow_model = asyncio.create_task(story.slow_candidate())  # once there is a twin to make
        running.append(slow_model)
        await _beside(running, story.learned_challenger())
        await _beside(running, story.stale_challenger())
        await _beside(running, _finished(slow_model))
        await _beside(running, story.slow_challenger())
        player.stopping = True
        await days
    except LoopNotClosed as problem:
        return str(problem)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return None


async def _days(
    story: Story, player: Player, diary: Diary, process: PlatformProcess, pace: float
) -> None:
    """Traffic, day by day: payments, the labels that arrived, the snapshot, the drift check."""
    state = diary.state
    checks: asyncio.Task[None] | None = None
    while player.position < len(player.recording):
        midnight = state.next_midnight_ms
        if midnight - DAY_MS == state.change_ms:
            diary.tell(state.change_ms, "the fraud pattern changes (the platform is not told)")
        end = player.recording.first_row_at(midnight)
        while player.position < end and not player.stopping:
            await story.passed()
            rate = _rate(story) * pace
            await player.play(min(_chunk_end(player), end), rate, process.alive)
            _save_counts(player, diary)
        if player.stopping:
            return
        await player.send_labels(midnight, process.alive)
        if checks is not None:
            await checks
        await story.midnight(midnight)
        state.next_midnight_ms = midnight + DAY_MS
        _save_counts(player, diary)
        if (midnight - state.go_live_ms) // DAY_MS % DRIFT_EVERY_DAYS == 0:
            checks = asyncio.create_task(_check(story, player, midnight))
    raise LoopNotClosed("the recording ended before the story did")


def _rate(story: Story) -> float:
    if story.awaits_a_model() or story.awaits_an_answer():
        return WAITING_RATE
    return BUSY_RATE if story.busy() else QUIET_RATE


def _chunk_end(player: Player) -> int:
    """The end of the next chunk: one row may be held up while all others of it are answered, and
    must still be in time for the clock that they move."""
    first_ms = int(player.recording.event_ms[player.position])
    in_time = player.recording.first_row_at(first_ms + REPLAY_BEHIND_MS)
    return min(player.position + CHUNK, in_time)


async def _check(story: Story, player: Player, midnight: int) -> None:
    """Tonight's drift check, once the log has passed midnight."""
    while player.event_ms < midnight:
        await asyncio.sleep(0.05)
    await story.watch_drift()


async def _finished(task: asyncio.Task[None]) -> None:
    await task


async def _reached(player: Player, diary: Diary, days: float) -> None:
    """Returns once traffic has come so many days beyond going live."""
    while player.event_ms < diary.state.go_live_ms + days * DAY_MS:
        await asyncio.sleep(0.2)


async def _beside(running: list[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
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


def _end_on_sigterm() -> None:
    """A SIGTERM ends the demo as Ctrl-C does: the platform is stopped, the state is kept."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _state(folder: Path, options: Options) -> DemoState | None:
    state = load_state(folder / "state.json")
    if options.resume and state is None:
        raise Refused(f"there is no demo to resume in {folder}")
    if not options.resume and state is not None:
        raise Refused(
            f"{folder} holds an earlier demo: go on with --resume, or begin anew with --fresh"
        )
    return state


def _refuse_used(platform: Platform) -> None:
    settings = platform.settings
    if backends.has_rollouts(settings) and platform.rollouts.active(MODEL, finished=True):
        where = settings.postgres or settings.home.rollouts_db
        raise Refused(f"{where} has rollouts of {MODEL} already: a demo begins with an empty one")


def _save_counts(player: Player, diary: Diary) -> None:
    state = diary.state
    state.position, state.labelled = player.position, player.labelled
    state.degraded, state.retries = player.counts.degraded, player.counts.retries
    diary.save()


def _shown(entry: DiaryEntry) -> None:
    CONSOLE.print(
        f"{report.event_time(entry.event_ms)}  {entry.elapsed_s:6.1f} s  {entry.text}",
        soft_wrap=True,
    )
