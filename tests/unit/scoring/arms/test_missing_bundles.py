"""A gateway that lacks a bundle: it fetches it beside, and follows everything else meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.oip import Codec
from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.rollouts.bundles.background import BeingFetched
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring.arms import follow
from mlplatform.scoring.arms.follow import POLL_S, RouteFollower
from mlplatform.scoring.arms.live import LiveModel
from mlplatform.scoring.arms.processes import Processes
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from support.scoring_world import write_amount_bundle


class Journal:
    """The routes of the moment, of each model."""

    def __init__(self, *routes: Routes) -> None:
        self.present = {one.model: one for one in routes}
        self.leased: dict[str, int] = {}

    def routes(self, model: str) -> Routes:
        return self.present[model]

    def lease(self, gateway: str, generations: dict[str, int], *_: object, **__: object) -> None:
        self.leased = dict(generations)


class Bundles:
    """The bundles of a machine that fetches them slowly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.needed: list[str] = []
        self.broken: set[str] = set()

    def need(self, bundle: str) -> None:
        self.needed.append(bundle)
        if bundle in self.broken:
            raise Unavailable("the store does not answer")
        if not (self.folder / bundle).is_dir():
            raise BeingFetched(f"bundle {bundle} is being fetched: 1 of {time.monotonic()} MB")


def _predictor(service: str, limits: ClientLimits, codec: Codec) -> Predictor:
    return Predictor(service, lambda _: None, str, limits, codec)


def model_of(name: str, bundles: Bundles) -> LiveModel:
    definition, views = load_definition("fraud"), load_views(model_folder("fraud"))
    renamed = msgspec.structs.replace(definition, name=name)
    return LiveModel(renamed, views, bundles.folder, _predictor, need=bundles.need)


def follower_of(models: list[LiveModel], journal: Journal, applied: list[str]) -> RouteFollower:
    return RouteFollower(
        "g",
        lambda: models,
        lambda: journal,
        lambda model, number: applied.append(f"{model} {number}"),
        Processes(lambda service: (_ for _ in ()).throw(Unavailable(service))),
    )


def routes(model: str, generation: int, champion: str, previous: str | None = None) -> Routes:
    before = None if previous is None else Arm(1, previous, f"{model}-v1-{previous[:8]}")
    arm = Arm(2, champion, f"{model}-v2-{champion[:8]}")
    return Routes(model, generation, arm, None, before, "x", "steady", 0.0)


async def until(answer: object, within_s: float = 5.0) -> None:
    end_s = time.monotonic() + within_s
    while not answer():  # type: ignore[operator]
        assert time.monotonic() < end_s
        await asyncio.sleep(POLL_S / 4)


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    (tmp_path / "bundles").mkdir()
    return Bundles(tmp_path / "bundles")


def made(folder: Path, offset: float) -> str:
    return write_amount_bundle(folder / f"draft-{offset}", offset)


async def test_a_fetch_holds_up_no_other_model_and_is_logged_once(
    bundles: Bundles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = made(tmp_path, 0.0), made(tmp_path, 0.1)
    models = [model_of("large", bundles), model_of("small", bundles)]
    journal = Journal(routes("large", 1, first, second), no_routes("small"))
    applied: list[str] = []
    follower = follower_of(models, journal, applied)
    begun = asyncio.create_task(follower.start())
    try:
        await until(lambda: len(bundles.needed) > 6)
        assert set(bundles.needed) == {first, second}, "all arms' bundles are fetched at once"
        assert not follower.ready, "nobody is sent to a gateway that has no bundle yet"
        (tmp_path / "draft-0.0").rename(bundles.folder / first)
        journal.present["small"] = routes("small", 4, first)
        await until(lambda: "small 4" in applied)
        # a lease follows what is applied
        await until(lambda: journal.leased == {"large": 0, "small": 4})
        (tmp_path / "draft-0.1").rename(bundles.folder / second)
        await until(lambda: "large 1" in applied)
        await until(lambda: follower.ready)
        lines = [r for r in caplog.records if "are being fetched" in r.getMessage()]
        assert [line.levelname for line in lines] == ["INFO"]
    finally:
        await begun
        await follower.stop()


async def test_a_predecessor_that_cannot_be_fetched_is_left_out_and_the_present_routes_stay(
    bundles: Bundles, tmp_path: Path
) -> None:
    first, second = made(tmp_path, 0.0), made(tmp_path, 0.1)
    (tmp_path / "draft-0.0").rename(bundles.folder / first)
    (tmp_path / "draft-0.1").rename(bundles.folder / second)
    lost = "0" * 64
    bundles.broken.add(lost)
    models, applied = [model_of("fraud", bundles)], list[str]()
    journal = Journal(routes("fraud", 1, first, lost))
    follower = follower_of(models, journal, applied)
    await follower.start()
    try:
        assert applied == ["fraud 1"]
        assert models[0].current.routes.previous is None
        journal.present["fraud"] = routes("fraud", 2, lost, first)
        await until(lambda: "the store does not answer" in models[0].problem)
        assert models[0].current.routes.generation == 1
    finally:
        await follower.stop()


async def test_a_gateway_is_ready_after_a_while_whatever_is_missing(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "FIRST_BUNDLES_S", 0.3)
    models = [model_of("fraud", bundles)]
    follower = follower_of(models, Journal(routes("fraud", 1, "0" * 64)), [])
    await follower.start()
    try:
        assert follower.ready
        assert models[0].current.routes.generation == 0
    finally:
        await follower.stop()
