"""A bundle that declines or alerts far more than planned is stopped, and no other one is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.oip import Codec
from mlplatform.model.policies.decision_scale import EARLIER, VolumeLimit
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.journal import NOTHING
from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.errors import ConfigInvalid, NotFound
from mlplatform.scoring.arms.follow import RouteFollower
from mlplatform.scoring.arms.live import LiveModel
from mlplatform.scoring.arms.processes import Processes
from mlplatform.scoring.arms.routing import BUCKETS
from mlplatform.scoring.arms.states import FeaturesState
from mlplatform.scoring.arms.volume import DecisionVolume, Excess
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from support.scoring_world import write_amount_bundle

FRAUD = load_definition("fraud")


def _unknown(service: str) -> ServiceStatus:
    raise NotFound(service)


NO_PROCESSES = Processes(_unknown)
LIMIT = cast(VolumeLimit, FRAUD.decision.limit)


def decided(volume: DecisionVolume, decisions: list[str]) -> int | None:
    """How many customers, one a millisecond, had decided when it stopped."""
    for number, decision in enumerate(decisions, start=1):
        if volume.count(number % BUCKETS, decision, number / 1000):
            return number
    return None


def drawn(count: int, *, declines: float, alerts: float, seed: int = 3) -> list[str]:
    draw = random.Random(seed).random
    found = []
    for _ in range(count):
        number = draw()
        found.append("decline" if number < declines else "review" if number < alerts else "approve")
    return found


def test_a_bundle_that_declines_everybody_is_stopped_within_25_customers() -> None:
    volume = DecisionVolume(LIMIT, EARLIER)
    assert decided(volume, ["decline"] * 100) == 25
    assert volume.stopped is not None
    assert volume.stopped.reason == "decided decline for 25 of 25 customers, at most 5.00 % allowed"


def test_few_declines_prove_nothing() -> None:
    volume = DecisionVolume(LIMIT, EARLIER)
    assert decided(volume, ["decline", "decline", "approve", "decline", "approve"]) is None


def test_reviews_alone_stop_too() -> None:
    volume = DecisionVolume(LIMIT, EARLIER)
    assert decided(volume, drawn(2000, declines=0, alerts=0.5)) is not None
    assert volume.stopped is not None
    assert volume.stopped.reason.startswith("decided review or decline for ")


@pytest.mark.parametrize(
    ("share", "within"), [(1.0, 25), (0.5, 100), (0.2, 400)], ids=["all", "half", "a fifth"]
)
def test_the_more_it_declines_the_fewer_customers_it_meets(share: float, within: int) -> None:
    for seed in range(20):
        found = decided(
            DecisionVolume(LIMIT, EARLIER), drawn(2000, declines=share, alerts=share, seed=seed)
        )
        assert found is not None
        assert found <= within


def test_a_bundle_as_planned_is_not_stopped() -> None:
    planned = FRAUD.decision
    assert planned.thresholds.shares is not None
    declines = planned.thresholds.shares["decline"]
    seen = drawn(100_000, declines=declines, alerts=planned.alert_share)
    assert decided(DecisionVolume(LIMIT, EARLIER), seen) is None


def test_at_the_limit_itself_a_false_stop_comes_no_sooner_than_said() -> None:
    """Run lengths have about their mean as spread: 60 of them know theirs to an eighth."""
    said, draw = 500.0, random.Random(11).random
    lengths = []
    for _ in range(60):
        seen, length = Excess(0.05, said), 1
        while not seen.add(draw() < 0.05):
            length += 1
        lengths.append(length)
    assert sum(lengths) / len(lengths) >= said


@given(st.lists(st.sampled_from(["approve", "review", "decline"]), max_size=300))
def test_one_customer_alone_stops_nothing(decisions: list[str]) -> None:
    volume = DecisionVolume(LIMIT, EARLIER)
    for number, decision in enumerate(decisions):
        assert not volume.count(7, decision, number / 10)


def test_a_customer_counts_again_when_the_time_is_over() -> None:
    volume = DecisionVolume(LIMIT, EARLIER)
    stops = [volume.count(7, "decline", LIMIT.once_per_s * number) for number in range(25)]
    assert stops == [False] * 24 + [True]


def test_what_was_stopped_stays_so_until_it_is_cleared() -> None:
    volume = DecisionVolume(LIMIT, EARLIER)
    decided(volume, ["decline"] * 25)
    assert decided(volume, ["approve"] * 1000) is None
    assert volume.stopped is not None
    volume.clear()
    assert volume.stopped is None
    assert decided(volume, ["decline"] * 24) is None


MODEL_YAML = msgspec.to_builtins(FRAUD)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"shares": {"decline": 0.003}}, "decision.limit.shares.decline"),
        ({"alert_share": 0.013}, "decision.limit.alert_share"),
        ({"shares": {"decline": 0.2}}, "decision.limit.shares.decline"),
        ({"shares": {"approve": 0.1}}, "decision.limit.shares.approve"),
        ({"alert_share": 1.0}, "decision.limit.alert_share"),
        ({"once_per_s": 0}, "decision.limit.once_per_s"),
        ({"decisions_per_false_stop": 10}, "decision.limit.decisions_per_false_stop"),
        ({"per_s": 1}, "decision.limit"),
    ],
)
def test_a_limit_that_can_not_be_meant_is_refused_by_its_key(
    changes: dict[str, float], key: str
) -> None:
    import yaml

    decision = MODEL_YAML["decision"] | {"limit": MODEL_YAML["decision"]["limit"] | changes}
    with pytest.raises(ConfigInvalid, match=key.replace(".", r"\.")):
        parse(yaml.safe_dump(MODEL_YAML | {"decision": decision}), "model.yaml")


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
    assert decided(champion.volume, ["decline"] * 25) == 25
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
    follower = RouteFollower("g", [model], lambda: journal, lambda _, __: None, NO_PROCESSES)
    await follower.start()
    try:
        assert journal.leases[-1] == ({"fraud": 1}, {})
        service, reason = (
            stop(model),
            "decided decline for 25 of 25 customers, at most 5.00 % allowed",
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
    assert champion.stopped == "decided decline for 25 of 25 customers, at most 5.00 % allowed"
