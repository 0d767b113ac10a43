"""Routes that a gateway can't apply: it says so once, and not that nothing was promoted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.oip import Codec
from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.errors import NotFound, PlatformError
from mlplatform.scoring.arms.follow import POLL_S, RouteFollower
from mlplatform.scoring.arms.live import LiveModel, no_champion
from mlplatform.scoring.arms.processes import Processes
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from support.scoring_world import write_amount_bundle

CANNOT_APPLY = "model 'fraud' has routes that this gateway can't apply; its log says why"
NOTHING_PROMOTED = "model 'fraud' has no champion yet: no version was promoted"


class Journal:
    """The routes of the moment."""

    def __init__(self, routes: Routes) -> None:
        self.present, self.polls = routes, 0

    def routes(self, model: str) -> Routes:
        self.polls += 1
        return self.present

    def lease(self, *_: object, **__: object) -> None:
        return


def _unknown(service: str) -> ServiceStatus:
    raise NotFound(service)


def _predictor(service: str, limits: ClientLimits, codec: Codec) -> Predictor:
    return Predictor(service, lambda _: None, str, limits, codec)


async def test_routes_that_cannot_be_applied_are_told_once_and_are_not_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = write_amount_bundle(tmp_path / "made")
    views = load_views(model_folder("fraud"))
    model = LiveModel(load_definition("fraud"), views, tmp_path, _predictor)
    journal = Journal(no_routes("fraud"))
    applied: list[int] = []
    follower = RouteFollower(
        "g",
        lambda: [model],
        lambda: journal,
        lambda _, number: applied.append(number),
        Processes(_unknown),
    )
    await follower.start()
    try:
        assert str(no_champion(model)) == NOTHING_PROMOTED
        arm = Arm(1, digest, f"fraud-v1-{digest[:8]}")
        routes = Routes("fraud", 1, arm, None, None, "fraud-v1-1", "steady", 0.0)
        with caplog.at_level(logging.ERROR):
            journal.present = routes
            before = journal.polls
            await _polled(journal, before + 3)
        (line,) = [r for r in caplog.records if "can't be applied" in r.getMessage()]
        assert line.getMessage().startswith(
            "fraud keeps the routes of generation 0, as generation 1 can't be applied: "
        )
        problem = no_champion(model)
        assert (problem.status, problem.name) == (503, "no-champion")
        assert str(problem) == CANNOT_APPLY

        (tmp_path / "made").rename(tmp_path / digest)
        await _polled(journal, journal.polls + 3)
        assert (applied, model.problem) == ([1], "")
    finally:
        await follower.stop()


async def test_a_fault_in_model_folders_keeps_nobody_from_following_routes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill switch or a rollback must reach the gateway whatever is wrong with a folder."""
    digest = write_amount_bundle(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / digest)
    views = load_views(model_folder("fraud"))
    model = LiveModel(load_definition("fraud"), views, tmp_path, _predictor)
    arm = Arm(1, digest, f"fraud-v1-{digest[:8]}")
    journal = Journal(Routes("fraud", 1, arm, None, None, "fraud-v1-1", "steady", 0.0))
    applied: list[int] = []

    def broken() -> None:
        raise TimeoutError("the event loop is busy")

    follower = RouteFollower(
        "g",
        lambda: [model],
        lambda: journal,
        lambda _, number: applied.append(number),
        Processes(_unknown),
        broken,
    )
    await follower.start()
    try:
        await _polled(journal, 2)
        assert applied == [1]
        assert "changed folders of models are not taken up" in caplog.messages
    finally:
        await follower.stop()


def test_a_predecessor_that_cannot_be_loaded_keeps_nobody_from_the_champion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = write_amount_bundle(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / digest)
    champion, lost = Arm(2, digest, "fraud-v2"), Arm(1, "0" * 64, "fraud-v1")
    model = LiveModel(
        load_definition("fraud"), load_views(model_folder("fraud")), tmp_path, _predictor
    )
    routes = Routes("fraud", 4, champion, None, lost, "fraud-v2-1", "steady", 0.0)
    live = model.prepared(routes)
    assert (live.routes.generation, live.routes.champion, live.routes.previous) == (
        4, champion, None,
    )  # fmt: skip
    assert [step.arm for step in live.order(Assignment("champion", 0, champion, None))] == [
        champion
    ]
    (line,) = caplog.messages
    assert line.startswith("fraud has no predecessor here: version 1 can't be asked: ")
    model.apply(live)
    assert model.prepared(replace(routes, generation=5)).targets == live.targets
    for unusable in (replace(routes, champion=lost), replace(routes, challenger=lost)):
        with pytest.raises(PlatformError):
            model.prepared(unusable)


async def _polled(journal: Journal, polls: int) -> None:
    for _ in range(200):
        if journal.polls >= polls:
            return
        await asyncio.sleep(POLL_S / 2)
    raise AssertionError(f"{journal.polls} of {polls} polls")
