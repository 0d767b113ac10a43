"""A gateway stops who declines far more than planned, and whom a person stops, within seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.rollouts.passes.controls import clear_stops, kill, lift
from mlplatform.runtime.clock import SystemClock
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

pytestmark = pytest.mark.slow
WHO: dict[str, Any] = {"actor": "ana", "reason": "too many declines"}
CLOCK = SystemClock()
# 25 buckets: a bucket is of a pseudonym, by a key of this home, and may hold two of the customers.
STOPPED_AT = range(25, 29)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScoringWorld]:
    """A champion that approves, and a challenger that declines everybody, at half of them."""
    world = ScoringWorld(tmp_path)
    try:
        world.promote(world.deploy(1))
        world.shadow(world.deploy(2, offset=0.65))
        world.start_gateway()
        world.canary(50.0)
        yield world
    finally:
        world.close()


def scored(client: httpx.Client, customer: int) -> dict[str, Any]:
    answer = client.post("/score", json=payment(300.0, customer))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_challenger_that_declines_everybody_meets_25_customers(world: ScoringWorld) -> None:
    with world.client() as client:
        answers = [scored(client, customer) for customer in range(200)]
        declined = [a for a in answers if a["decision"] == "decline"]
        assert len(declined) in STOPPED_AT
        stopped = [a for a in answers if a["degraded_reason"] == "volume_limit"]
        assert len(stopped) > 30
        by_champion = [a for a in stopped if a["answered_by"] == "champion"]
        assert len(by_champion) > 20, "the rest were late on a loaded machine"
        assert {a["decision"] for a in by_champion} == {"approve"}
        assert (
            "is not asked here any more: its bundle decided decline for 25 of 25 customers"
            in ready(world, client)
        )
        (service,) = said(world)
        assert service.startswith("fraud-v2-")
        metrics = client.get(f"{world.url}/metrics").text
        assert f'gateway_volume_stopped{{model="fraud",service="{service}"}} 1.0' in metrics
        assert "is not asked here any more" in ready(world, client)

        clear_stops(world.rollouts, MODEL, **WHO, clock=CLOCK)
        world.applied(world.rollouts.routes(MODEL))
        again = [scored(client, customer)["decision"] for customer in range(200, 320)]
        assert again.count("decline") in STOPPED_AT


def test_declines_of_requests_that_name_their_version_stop_nothing(world: ScoringWorld) -> None:
    """Who names a version chooses what it is asked, and its customers are no sample."""
    with world.client() as client:
        for customer in range(60):
            body = payment(300.0, customer)
            answer = client.post("/score", json=body, headers={"Mlplatform-Version": "2"})
            assert answer.json()["decision"] == "decline"
        assert "is not asked here any more" not in ready(world, client)


def test_a_killed_model_answers_no_request_that_names_a_version(world: ScoringWorld) -> None:
    kill(world.rollouts, MODEL, **WHO, clock=CLOCK)
    world.applied(world.rollouts.routes(MODEL))
    with world.client() as client:
        named = {"Mlplatform-Version": "2"}
        refused = client.post("/score", json=payment(300.0), headers=named)
    assert (refused.status_code, refused.json()["title"]) == (503, "Service Unavailable")
    assert "version '2' gave no score (killed)" in refused.json()["detail"]


def test_a_killed_model_is_answered_by_the_fallback_at_once(world: ScoringWorld) -> None:
    with world.client() as client:
        began_s = time.monotonic()
        kill(world.rollouts, MODEL, **WHO, clock=CLOCK)
        wait_for(lambda: scored(client, 1)["answered_by"] not in ("champion", "challenger"))
        assert time.monotonic() - began_s < 2
        answers = [scored(client, customer) for customer in range(20)]
        assert {a["degraded_reason"] for a in answers} == {"killed"}
        assert {a["answered_by"] for a in answers} <= {"small_model", "rules", "default"}
        assert "fraud is switched off by a person" in ready(world, client)
        lift(world.rollouts, MODEL, **WHO, clock=CLOCK)
        wait_for(lambda: scored(client, 1)["answered_by"] in ("champion", "challenger"))


def ready(world: ScoringWorld, client: httpx.Client) -> str:
    detail: str = client.get(f"{world.url}/readyz").json().get("detail", "")
    return detail


def said(world: ScoringWorld) -> dict[str, str]:
    """What the gateway says of itself in the journal's database, once it says something."""
    return wait_for(  # type: ignore[no-any-return]
        lambda: {k: v for g in world.rollouts.gateways(MODEL) for k, v in g.stopped.items()}
    )
