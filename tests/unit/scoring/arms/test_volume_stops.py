"""Stops by the volume of decisions, as gateways keep and tell them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.oip import Codec
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.journal import NOTHING
from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.errors import NotFound
from mlplatform.scoring.arms.follow import RouteFollower
from mlplatform.scoring.arms.live import LiveModel
from mlplatform.scoring.arms.processes import Processes
from mlplatform.scoring.arms.states import FeaturesState
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from support.scoring_world import write_amount_bundle

FRAUD = load_definition("fraud")


def _unknown(service: str) -> ServiceStatus:
    raise NotFound(service)


NO_PROCESSES = Processes(_unknown)


class Journal:
    """Routes as they are told, and what gateways said of themselves."""

    def __init__(self, routes: Routes) -> None:
        self.present = routes
        self.leases: list[tuple[dict[str, int], dict[str, str]]] = []

    def routes(self, model: str) -> Routes:
        return self.present

    def lease(
        self,
        gateway: str,
        generations: Mapping[str, int],
        ttl_s: float,
        stopped: Mapping[str, str] = NOTHING,
    ) -> None:
        self.leases.append((dict(generations), dict(stopped)))


@pytest.fixture
def model(tmp_path: Path) -> LiveModel:
    digest = write_amount_bundle(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / digest)

    def predictor(service: str, limits: ClientLimits, codec: Codec) -> Predictor:
        return Predictor(service, lambda _: None, str, limits, codec)

    views = load_views(model_folder("fraud"))
    live = LiveModel(FRAUD, views, tmp_path, predictor)
    arm = Arm(1, digest, f"fraud-v1-{digest[:8]}")
    routes = Routes("fraud", 1, arm, None, None, "fraud-v1-1", "steady", 0.0)
    live.apply(live.prepared(routes))
    return live


def stop(model: LiveModel) -> str:
    champion = model.current.champion
    assert champion is not None
    assert champion.volume is not None
    assert any(champion.volume.count(customer, "decline", 1.0) for customer in range(100))
    return champion.arm.service


def test_new_routes_keep_a_stop_and_a_person_clears_it(model: LiveModel) -> None:
    service = stop(model)
    model.apply(model.prepared(replace(model.current.routes, generation=2)))
    assert list(model.stop_reasons()) == [service]
    model.apply(model.prepared(replace(model.current.routes, generation=3, cleared=3)))
    assert model.stop_reasons() == {}
    stop(model)
    model.apply(model.prepared(replace(model.current.routes, generation=4)))
    assert list(model.stop_reasons()) == [service], (
        "an earlier clearing clears nothing that came later"
    )


async def test_a_gateway_says_at_once_what_it_stopped(model: LiveModel) -> None:
    journal = Journal(model.current.routes)
    follower = RouteFollower(
        "g", lambda: [model], lambda: journal, lambda _, __: None, NO_PROCESSES
    )
    await follower.start()
    try:
        assert journal.leases[-1] == ({"fraud": 1}, {})
        service, reason = (
            stop(model),
            "decided decline for 25 of 25 customers (100.00 %); at most 5.00 % are allowed",
        )
        end_s = time.monotonic() + 5
        while journal.leases[-1][1] != {service: reason} and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        assert journal.leases[-1] == ({"fraud": 1}, {service: reason})
        assert len(journal.leases) == 2
    finally:
        await follower.stop()


def test_what_is_shown_of_an_arm_says_why_it_is_stopped(model: LiveModel) -> None:
    fresh = FeaturesState(
        healthy=True, store="answers", stale_views=[], unmade_views=[], stale_share=None,
        stale_share_limit=0.05,
    )  # fmt: skip
    stop(model)
    champion = model.state(fresh).champion
    assert champion is not None
    assert (
        champion.stopped
        == "decided decline for 25 of 25 customers (100.00 %); at most 5.00 % are allowed"
    )
