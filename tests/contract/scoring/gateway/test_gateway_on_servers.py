"""A gateway whose routes, keys, limits and features are on servers, while those come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from tests.drills.scoring_findings import BUSY_MACHINE
from tests.servers.instances import behind
from tests.servers.proxy import Proxy

from mlplatform.decisions.records.record import FEATURES
from mlplatform.learning.features.feast_redis import FeastRedis
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.runtime.storage import addresses
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for
from support.snapshots import snapshot_row, write_snapshots

_, TERMINALS = VIEWS = load_views(model_folder("fraud"))
BUSY = BUSY_MACHINE | {FEATURES}
"""Reasons of answers that a busy machine makes degraded, whatever is away."""

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.redis]


class World(ScoringWorld):
    """Routes and keys on PostgreSQL, features and limits on Redis, both by way of a proxy."""

    def __init__(self, root: Path, postgres: Any, redis: Any) -> None:
        redis.empty()
        self.postgres, self.database = postgres, postgres.database()
        self.to_postgres, self.to_redis = Proxy(self.database.port), Proxy(redis.address.port)
        self.store = FeastRedis(redis.address, "fraud", VIEWS, answer_s=10)
        super().__init__(root, PostgresRollouts(self.database))
        write_snapshots(self.store, MODEL, time.time_ns() // 1_000_000 - 1_000)
        self.promote(self.deploy(1))
        self.start_gateway(
            **addresses.variables("MLPLATFORM_POSTGRES", behind(self.to_postgres, self.database)),
            **addresses.variables("MLPLATFORM_REDIS", behind(self.to_redis, redis.address)),
        )
        wait_for(lambda: self.score().get("answered_by") == "champion")

    def score(self) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/api/v1/models/fraud/score", json=payment(), headers=self.headers, timeout=5
        )
        return dict(answer.json()) | {"status": answer.status_code}

    def last_features(self) -> dict[str, float | None]:
        found: dict[str, float | None] = self.records("decision")[-1]["payload"]["features"]
        return found

    def has_features(self) -> bool:
        """Whether one more request is decided with them, in time on a machine that others use."""
        is_answered = self.score()["status"] == 200
        return is_answered and self.last_features().get("terminal_risk_7d") == 2.5

    def is_answered_by_version_two(self) -> bool:
        """One more request; a predictor that is late on a busy machine gives no version."""
        assert self.score()["status"] == 200
        return bool(self.records("decision")[-1]["version"] == 2)

    def close(self) -> None:
        super().close()
        self.store.close()
        self.rollouts.close()
        self.to_postgres.close()
        self.to_redis.close()
        self.postgres.drop(self.database)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    servers = [request.getfixturevalue(name) for name in ("postgres", "redis")]
    made = World(tmp_path_factory.mktemp("servers"), *servers)
    yield made
    made.close()


def terminal_row(value: float) -> pa.Table:
    return snapshot_row(TERMINALS, payment()["terminal_id"], time.time_ns() // 1_000_000, value)


def test_features_on_redis_are_those_of_the_record(world: World) -> None:
    world.store.write(TERMINALS.name, terminal_row(2.5))
    wait_for(world.has_features)


@pytest.mark.parametrize("outage", ["hang", "refuse"])
def test_while_redis_is_away_requests_are_answered_by_policy_and_then_as_before(
    world: World, outage: str
) -> None:
    world.store.write(TERMINALS.name, terminal_row(2.5))
    getattr(world.to_redis, outage)()
    try:
        for _ in range(10):
            assert world.score()["status"] == 200
        assert world.last_features().get("terminal_risk_7d") is None
    finally:
        world.to_redis.forward()
    wait_for(world.has_features)


@pytest.mark.parametrize("outage", ["hang", "refuse"])
def test_while_postgres_is_away_the_last_routes_and_keys_stay(world: World, outage: str) -> None:
    getattr(world.to_postgres, outage)()
    try:
        until_s, answers = time.monotonic() + 3, []
        while time.monotonic() < until_s:
            answers.append(world.score())
            time.sleep(0.05)
    finally:
        world.to_postgres.forward()
    assert {answer["status"] for answer in answers} == {200}
    in_time = [a["answered_by"] for a in answers if a["degraded_reason"] not in BUSY]
    assert set(in_time) == {"champion"}
    assert len(in_time) > len(answers) / 2


def test_new_routes_are_followed_after_an_outage(world: World) -> None:
    with_two = world.deploy(2, offset=0.1)
    world.to_postgres.refuse()
    assert world.score()["status"] == 200
    world.to_postgres.forward()
    world.promote(with_two)
    wait_for(world.is_answered_by_version_two)
