"""Variants of an A/B/n test answer their customers, the same ones always, and the champion stands
in for one that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.rollouts.journal.controls import VariantsAnswering, fold_controls
from mlplatform.rollouts.journal.next_routes import following
from mlplatform.rollouts.journal.transitions import Confirmed
from mlplatform.rollouts.passes.controls import kill, write_control
from mlplatform.rollouts.variants import commands
from mlplatform.rollouts.variants.comparison import compare
from mlplatform.runtime.clock import SystemClock
from mlplatform.scoring.arms.routing import assign
from support.client_keys import new_key
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

pytestmark = pytest.mark.slow
WHO: dict[str, Any] = {"actor": "eve", "reason": "version 1 may find more"}
CLOCK = SystemClock()
OFFSETS = {1: 0.0, 2: 0.1, 3: 0.25}
"""By version, what it adds to a thousandth of the amount."""
WIDTH = len(load_definition(MODEL).inputs)
CUSTOMERS = range(120)


@dataclass
class Shop:
    """Version 3 is champion, and the former champions 1 and 2 are its variants."""

    world: ScoringWorld
    arms: dict[int, Arm]
    key: str

    def post(self, customer: int, **headers: str) -> httpx.Response:
        url = f"{self.world.url}/api/v2/models/{MODEL}/score"
        sent = {"Authorization": f"Bearer {self.key}", "X-Request-Timeout-Ms": "2000"} | headers
        return httpx.post(url, json=payment(100.0, customer), headers=sent, timeout=10.0)

    def score(self, customer: int, **headers: str) -> dict[str, Any]:
        found: dict[str, Any] = self.post(customer, **headers).raise_for_status().json()
        return found

    def versions(self) -> dict[int, int]:
        """Customer → version that answers."""
        return {customer: self.score(customer)["model"]["version"] for customer in CUSTOMERS}

    def record(self, decision_id: str) -> dict[str, Any]:
        (found,) = [r for r in self.world.records("decision") if r["decision_id"] == decision_id]
        return found


def confirm(world: ScoringWorld) -> None:
    """The champion's promotion stands."""
    routes = world.rollouts.routes(MODEL)
    fact = Confirmed(
        rollout_id=str(routes.rollout_id), model=MODEL, event_ms=0, wall_ms=0, actor="test",
        reason="test",
    )  # fmt: skip
    fence = world.rollouts.acquire(MODEL, "test", 60.0)
    assert fence is not None
    world.rollouts.commit(
        fact, fence, None if routes.previous is None else following(routes, previous=None)
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    world = ScoringWorld(tmp_path_factory.mktemp("variants"))
    try:
        arms = {version: world.deploy(version, offset) for version, offset in OFFSETS.items()}
        for made in arms.values():
            world.promote(made)
            confirm(world)
        world.start_gateway()
        scopes = ("--scope", "score", "--scope", "read", "--scope", "any-version")
        found = Shop(world, arms, new_key(world, "tester", *scopes))
        wait_for(lambda: found.post(1).status_code == 200)
        shares = {1: 30.0, 2: 20.0}
        commands.start(world.rollouts, MODEL, shares, days=14, clock=CLOCK, **WHO)
        world.applied(world.rollouts.routes(MODEL))
        assert {*found.versions().values()} == {3}, "their services are still to start"
        test = world.rollouts.routes(MODEL).test
        assert test is not None
        begins = VariantsAnswering(
            model=MODEL, event_ms=CLOCK.event_ms(), wall_ms=CLOCK.wall_ms(), actor="pass",
            reason="ready", test_id=test.test_id,
            generation=world.rollouts.routes(MODEL).generation + 1,
        )  # fmt: skip
        write_control(world.rollouts, begins)
        world.applied(world.rollouts.routes(MODEL))
        yield found
    finally:
        world.close()


def test_a_customer_keeps_its_variant_and_each_has_about_its_share(shop: Shop) -> None:
    first = shop.versions()
    assert shop.versions() == first
    counts = Counter(first.values())
    for version, share in ((1, 0.3), (2, 0.2), (3, 0.5)):
        expected, spread = share * len(first), (share * (1 - share) * len(first)) ** 0.5
        assert abs(counts[version] - expected) < 4 * spread


def test_another_process_gives_each_customer_the_same_variant(shop: Shop) -> None:
    before = shop.versions()
    shop.world.stop_gateway()
    shop.world.start_gateway()
    assert shop.versions() == before


def test_a_variant_decides_by_its_own_bundle_and_its_record_says_which_it_was(shop: Shop) -> None:
    routes = shop.world.rollouts.routes(MODEL)
    for customer, version in list(shop.versions().items())[:30]:
        answer = shop.score(customer)
        arm = shop.arms[version]
        assert answer["score"] == pytest.approx(0.1 + OFFSETS[version], abs=1e-4)
        assert answer["decision"] == "approve"
        assert answer["model"] == {"version": version, "bundle": arm.bundle}
        role = "champion" if version == 3 else "variant"
        assert (answer["route"]["arm"], answer["answered_by"]) == (role, role)
        assert answer["degraded"] is None
        record = shop.record(answer["decision_id"])
        assert (record["arm"], record["version"], record["bundle"]) == (role, version, arm.bundle)
        assert record["payload"].get("variant") == (None if version == 3 else version)
        found = assign(routes, record["unit"])
        assert (found.bucket, found.target) == (record["bucket"], arm)


def test_the_champion_stands_in_for_a_variant_and_the_failure_is_the_variants(shop: Shop) -> None:
    mine = [customer for customer, version in shop.versions().items() if version == 1][:4]
    with shop.world.frozen_predictor(shop.arms[1]):
        answers = [shop.score(customer) for customer in mine]
    by_champion = [a for a in answers if a["answered_by"] == "champion"]
    assert by_champion, "all were late on a loaded machine"
    for answer in by_champion:
        assert answer["score"] == pytest.approx(0.35, abs=1e-4)
        assert answer["route"]["arm"] == "variant"
        assert answer["degraded"]["reason"] in ("deadline", "breaker_open", "unavailable")
        record = shop.record(answer["decision_id"])
        assert (record["arm"], record["version"]) == ("variant", 3)
        assert record["payload"]["variant"] == 1
        assert record["payload"]["failures"][0][0] == "variant"
    test = fold_controls(shop.world.rollouts.controls(MODEL)).test
    assert test is not None
    log = SqliteDecisionLog(shop.world.home.decisions)
    champion, first, second = compare(load_definition(MODEL), log, test, now_ms=CLOCK.event_ms())
    log.close()
    assert (first.version, second.version, champion.version) == (1, 2, 3)
    assert first.failures >= len(by_champion)
    assert second.failures <= 2, "of a busy machine"
    assert first.customers + second.customers + champion.customers == len(CUSTOMERS)
    wait_for(lambda: shop.score(mine[0])["answered_by"] == "variant")


def test_rows_of_callers_are_the_champions_and_count_for_nobody_in_the_test(shop: Shop) -> None:
    data = [[100.0, *([0.0] * (WIDTH - 1))]]
    tensor = {"name": "inputs", "shape": [1, WIDTH], "datatype": "FP32", "data": data}
    headers = {"Authorization": f"Bearer {shop.key}", "X-Request-Timeout-Ms": "2000"}
    of_variants = [c for c, version in shop.versions().items() if version != 3]
    for customer in of_variants[:3]:
        body = {"inputs": [tensor], "parameters": {"assignment_key": customer}}
        url = f"{shop.world.url}/v2/models/{MODEL}/infer"
        answer = httpx.post(url, json=body, headers=headers, timeout=10.0).raise_for_status()
        assert answer.json()["model_version"] == shop.arms[3].bundle
    inferred = shop.world.records("inference")
    assert {(record["arm"], record["unit"]) for record in inferred} == {("champion", None)}


def test_a_request_may_name_a_variant(shop: Shop) -> None:
    answer = shop.score(1, **{"Mlplatform-Version": "2"})
    assert (answer["model"]["version"], answer["route"]["arm"]) == (2, "named")


def test_what_the_gateway_shows_names_the_variants(shop: Shop) -> None:
    with shop.world.client() as client:
        shown = client.get(f"{shop.world.url}/api/v1/models").json()
        metrics = client.get(f"{shop.world.url}/metrics").text
    (model,) = [one for one in shown["models"] if one["model"] == MODEL]
    assert [one["version"] for one in model["variants"]] == [1, 2]
    assert 'arm="variant"' in metrics
    assert 'model="fraud",service="' + shop.arms[1].service in metrics


def test_the_kill_switch_holds_for_variants_and_ends_the_test(shop: Shop) -> None:
    """The last test of this world."""
    kill(shop.world.rollouts, MODEL, clock=CLOCK, **WHO)
    shop.world.applied(shop.world.rollouts.routes(MODEL))
    answers = [shop.score(customer) for customer in range(12)]
    assert {a["degraded"]["reason"] for a in answers} == {"killed"}
    assert {a["route"]["arm"] for a in answers} == {"champion"}
