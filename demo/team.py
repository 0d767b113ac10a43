"""The demo of any model that can make up its requests: a first version, the next, and back again;
then a third one, which drift asks for.

Versions go the whole way by flows and by a second person's approval; nothing of the model's policy
is made easier. What is special to fraud (versions that are stopped) is not told.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from demo import drift, drift_chapter
from demo.chapters import Scene, Tasks, beside, wait_for_event_time, wait_for_task
from demo.next_model import LoopNotClosed
from demo.source import FIRST_DAY_MS, Source, keep
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition, model_folder, model_names
from mlplatform.model.folds import history_days
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.units import DAY_MS

TEAMS: Final = Path(__file__).parents[1] / "teams"
MORE_DAYS: Final = 14
"""Of history than training needs."""
LIVE_DAYS: Final = 20
REQUESTS_A_DAY: Final = 8_000
"""More than the generator's own: a ramp takes 60,000 requests, and days of event time are few."""
RATE_SHARE: Final = 0.9
"""Of the rate that model.yaml admits."""
MOST_RATE: Final = 300.0
"""Requests a second beside the platform on two cores, with a deadline of 50 ms."""
BEFORE_NEXT_DAYS: Final = 1


def name_folder(model: str) -> None:
    """Have the platform find a model of `teams/`, where `MLPLATFORM_MODELS` names no folder."""
    found = sorted(TEAMS.glob(f"*/{model}/model.yaml"))
    if found:
        os.environ.setdefault(f"{PREFIX}MODELS", str(found[0].parents[1]))


def prepare(model: str, seed: int, cache: Path) -> Source:
    """Made-up requests before and after going live, the same for the same arguments; kept in
    `cache` for `--resume`.

    Raises:
        Refused: there is no such model, or its folder makes up no requests.
    """
    if model not in model_names():
        raise Refused(f"there is no model {model!r}; there are {', '.join(model_names())}")
    definition = load_definition(model)
    days = history_days(definition) + MORE_DAYS
    go_live = FIRST_DAY_MS + days * DAY_MS
    files = [cache / f"{name}.parquet" for name in ("history", "live")]
    if not all(file.exists() for file in files):
        sources = load_module(model, "sources")
        if not hasattr(sources, "generate"):
            folder = model_folder(model)
            raise Refused(f"{model} can't make up requests: {folder}/sources.py has no `generate`")
        made_up = partial(drift.generated, definition)
        history = made_up(seed=seed, start_ms=FIRST_DAY_MS, days=days)
        live = made_up(
            seed=seed + 1, start_ms=go_live, days=LIVE_DAYS, requests_a_day=REQUESTS_A_DAY
        )
        for file, table in zip(files, (history, live), strict=True):
            keep(file, table)
    history, live = map(pq.read_table, files)
    return Source(
        history=history,
        live=live,
        go_live_ms=go_live,
        change_ms=go_live,
        description=f"requests that {model}'s generator makes up, at last with a changed pattern"
        if drift.changes(model)
        else f"requests that {model}'s generator makes up; nothing changes in them",
    )


async def chapters(running: Tasks, scene: Scene) -> None:
    """The story to its end.

    Raises:
        LoopNotClosed: a version was to be promoted, or taken back, and was not; or drift was to be
            found and answered.
    """
    story, player, state = scene.story, scene.player, scene.diary.state
    await beside(running, story.bootstrap())
    if state.changed_row is None:
        over = asyncio.Event()
        traffic = asyncio.create_task(_days(scene, over))
        running.append(traffic)
        if not state.is_back:
            next_ms = state.go_live_ms + BEFORE_NEXT_DAYS * DAY_MS
            await beside(running, wait_for_event_time(player, next_ms))
            await beside(running, story.next_version())
            await beside(running, story.take_back())
        over.set()
        await beside(running, wait_for_task(traffic))
    if drift.changes(story.model):
        await beside(running, drift_chapter.play(scene, lambda: _rate(scene)))


async def _days(scene: Scene, over: asyncio.Event) -> None:
    """Traffic and labels day by day, until the end of the one in which the story is over."""
    while scene.player.position < len(scene.player.recording):
        await scene.play_labelled_day(lambda: _rate(scene))
        if over.is_set():
            return
    raise LoopNotClosed("the made-up requests ended before the story did")


def _rate(scene: Scene) -> float:
    admitted = scene.platform.definition(scene.story.model).admission.rate_per_s
    return min(MOST_RATE, admitted * RATE_SHARE)
