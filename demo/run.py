"""Runs the demo: the platform, the traffic and the story side by side, then the report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from demo import drift, report, team
from demo.chapters import Scene, Tasks, beside, play, wait_for_event_time, wait_for_task
from demo.late_runs import resume_command
from demo.next_model import LoopNotClosed
from demo.process import PlatformProcess
from demo.source import MODEL, Source, prepare
from demo.state import DemoState, Diary, DiaryEntry, load_state
from demo.story import Story
from demo.traffic import Player, Recording
from mlplatform.operations.actions import features
from mlplatform.operations.supervisor.platform import children
from mlplatform.operations.supervisor.start import check_ports
from mlplatform.operations.supervisor.status import status
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy, Refused, Unavailable
from mlplatform.runtime.processes.credentials import api_key
from mlplatform.runtime.times import minute_text
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring import wiring as scoring_wiring

QUIET_RATE = 1300.0  # requests a second at the most
BUSY_RATE = 450.0  # while a model is trained or ramps: flows need the same two cores
WAITING_RATE = 200.0  # while everybody waits for a model, whose validation gets a core, or a person
DRIFT_EVERY_DAYS = 2  # the schedule of a live platform is nightly
STALE_AFTER_DAYS = 1.0
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
    model: str = MODEL


async def run(settings: Settings, options: Options) -> int:
    """The demo's exit code: 0 where the loop closed, 1 where not, 75 where it can be resumed.

    Raises:
        Busy: another platform has the ports.
        Refused: the home folder holds an earlier demo, or there is none to resume; or the journal
            already has rollouts of the model, of which the demo knows nothing.
    """
    settings = replace(settings, clock="replay")
    CONSOLE.stderr = options.as_json  # standard output is the report's
    os.environ.update(settings.environment())
    folder = settings.home.demo
    state = _state(folder, options)
    platform = Platform(settings)
    with settings.home.created():
        if state is None:
            _refuse_used(platform, options.model)
        _check_ports(settings)
        folder.mkdir(mode=0o700, exist_ok=True)
        CONSOLE.print(f"preparing the requests of {options.model}")
        if options.model == MODEL:
            source = await asyncio.to_thread(prepare, options.transactions, options.seed, folder)
        else:
            source = await asyncio.to_thread(team.prepare, options.model, options.seed, folder)
    if state is None:
        state = DemoState(
            model=options.model,
            source=source.description,
            seed=options.seed,
            go_live_ms=source.go_live_ms,
            change_ms=source.change_ms,
            next_midnight_ms=source.go_live_ms + DAY_MS,
        )
    diary = Diary(folder / "state.json", state, _print_entry)
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
    command = resume_command(diary.state.model)
    CONSOLE.print(f"nothing that was answered is lost; go on with: {command}", soft_wrap=True)
    return CONTINUE_EXIT


async def _play(
    platform: Platform, process: PlatformProcess, diary: Diary, source: Source, options: Options
) -> int:
    state = diary.state
    CONSOLE.print("starting the platform; its processes and logs are in", soft_wrap=True, end=" ")
    CONSOLE.print(str(platform.settings.home.root), soft_wrap=True)
    started = asyncio.create_task(process.start())
    model = options.model
    if not features.history_is_whole(platform, model):
        await asyncio.to_thread(
            features.import_history, platform, model, source.history, "the demo's history"
        )
    await started
    definition = platform.definition(model)
    live = drift.live_requests(source.live, state, platform.settings.home.demo)
    recording = Recording(live, tuple(definition.request))
    key = api_key(platform.settings)
    async with Player(recording, platform.settings.gateway_url, model, key) as player:
        player.go_on_from(state.position, state.labelled, state.degraded, state.retries)
        story = Story(
            platform, process, diary, lambda: player.event_ms, platform.settings.home.demo
        )
        chapters = _chapters if options.model == MODEL else team.chapters
        scene = Scene(platform, story, player, diary, process, source, options.pace)
        problem = await play(scene, chapters)
        scene.save_counts()
    found = report.write(platform, diary, player.recording, player.counts, problem)
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


async def _chapters(running: Tasks, scene: Scene) -> None:
    story, player = scene.story, scene.player
    await beside(running, story.bootstrap())
    days = asyncio.create_task(_days(scene))
    running.append(days)
    stale_ms = scene.diary.state.go_live_ms + STALE_AFTER_DAYS * DAY_MS
    await beside(running, wait_for_event_time(player, stale_ms))
    await beside(running, story.stale_candidate())
    slow_model = asyncio.create_task(story.slow_candidate())  # once there is a twin to make
    running.append(slow_model)
    await beside(running, story.follow_learned_challenger())
    await beside(running, story.stale_challenger())
    await beside(running, wait_for_task(slow_model))
    await beside(running, story.slow_challenger())
    player.stopping = True
    await days


async def _days(scene: Scene) -> None:
    """Traffic, day by day: payments, the labels that arrived, the snapshot, the drift check."""
    story, player, state = scene.story, scene.player, scene.diary.state
    checks: asyncio.Task[None] | None = None
    while player.position < len(player.recording):
        midnight = state.next_midnight_ms
        if midnight - DAY_MS == state.change_ms:
            changes = "the fraud pattern changes (the platform is not told)"
            scene.diary.tell(state.change_ms, changes)
        if not await scene.day(partial(_rate, story)):
            return
        await player.send_labels(midnight, scene.process.alive)
        if checks is not None:
            await checks
        await story.midnight(midnight)
        state.next_midnight_ms = midnight + DAY_MS
        scene.save_counts()
        if (midnight - state.go_live_ms) // DAY_MS % DRIFT_EVERY_DAYS == 0:
            checks = asyncio.create_task(_check(story, player, midnight))
    raise LoopNotClosed(
        f"the recorded requests ended while {story.awaited.under_way()}: this machine was too slow"
        ' for their pace; begin again with less beside it, or with DEMO_FLAGS="--fresh --pace 0.5"'
    )


def _rate(story: Story) -> float:
    if story.awaits_a_model() or story.awaits_an_answer():
        return WAITING_RATE
    return BUSY_RATE if story.busy() else QUIET_RATE


async def _check(story: Story, player: Player, midnight: int) -> None:
    """Tonight's drift check, once the log has passed midnight."""
    while player.event_ms < midnight:
        await asyncio.sleep(0.05)
    await story.watch_drift()


def _end_on_sigterm() -> None:
    """A SIGTERM ends the demo as Ctrl-C does: the platform is stopped, the state is kept."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _check_ports(settings: Settings) -> None:
    """
    Raises:
        Busy: another platform has the ports; the error says how to stop it.
    """
    if status(settings.home).running:
        return
    try:
        check_ports(settings.home, children(settings))
    except Busy as error:
        way = "`mlplatform down` with that home stops it"
        raise Busy(f"{error}. Nothing was begun; {way}, then run this again") from None


def _state(folder: Path, options: Options) -> DemoState | None:
    state = load_state(folder / "state.json")
    if options.resume and state is None:
        raise Refused(f"there is no demo to resume in {folder}")
    if not options.resume and state is not None:
        raise Refused(
            f"{folder} holds an earlier demo: `{resume_command(options.model)}` goes on with it,"
            " and --fresh in place of --resume begins anew"
        )
    if state is not None and state.model != options.model:
        raise Refused(
            f"{folder} holds a demo of {state.model}, not of {options.model}: --fresh begins anew"
        )
    return state


def _refuse_used(platform: Platform, model: str) -> None:
    settings = platform.settings
    if scoring_wiring.has_rollouts(settings) and platform.rollouts.active(model, finished=True):
        where = settings.postgres or settings.home.rollouts_db
        raise Refused(f"{where} has rollouts of {model} already: a demo begins with an empty one")


def _print_entry(entry: DiaryEntry) -> None:
    CONSOLE.print(
        f"{entry.elapsed_s:6.1f} s  {minute_text(entry.event_ms)}  {entry.text}",
        soft_wrap=True,
    )
