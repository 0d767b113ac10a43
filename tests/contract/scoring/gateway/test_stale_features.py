"""A snapshot job that has stopped: each answer says so, no model decides, health says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from mlplatform.commands.log import app as log_commands
from mlplatform.decisions.records.pseudonym import key_of, pseudonym
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.feast_values import project_name
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.operations import wiring
from mlplatform.operations.supervisor.probe import ProbeReply, ask
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from mlplatform.scoring.arms.freshness import StaleShare
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for
from support.snapshots import snapshot_row

MIDNIGHT_MS = 20_000 * DAY_MS
VIEWS = load_views(model_folder(MODEL))
CUSTOMER, TERMINAL = 4711, 3
BOTH = ["customer_stats", "terminal_stats"]


@pytest.fixture
def world(tmp_path: Any) -> Iterator[ScoringWorld]:
    world = ScoringWorld(tmp_path, has_snapshots=False)
    try:
        snapshot(world, MIDNIGHT_MS)
        world.promote(world.deploy(1))
        world.start_gateway(MLPLATFORM_CLOCK="replay")
        yield world
    finally:
        world.close()


def snapshot(world: ScoringWorld, at_ms: int) -> None:
    """What the job writes at the end of a day: a row of the customer, and one of the terminal."""
    keys = {
        "customer_stats": pseudonym(CUSTOMER, key_of(world.home)),
        "terminal_stats": TERMINAL,
    }
    with closing(FeastSqlite(world.home.online_db, project_name(MODEL), VIEWS)) as online:
        for view in VIEWS:
            online.write(view.name, snapshot_row(view, keys[view.name], at_ms))


def scored(client: httpx.Client, at_ms: int, amount: float = 30.0, **changes: Any) -> Any:
    sent = payment(amount, customer=CUSTOMER, event_time=at_ms) | changes
    response = client.post("/score", json=sent)
    assert response.status_code == 200, response.text
    return response.json()


def complaint(world: ScoringWorld) -> str:
    answer = ask(world.port, "/readyz")
    assert isinstance(answer, ProbeReply)
    assert answer.ok  # requests are answered all the same
    return answer.reason


@pytest.mark.slow
def test_a_stopped_snapshot_job_is_told_and_no_model_decides(world: ScoringWorld) -> None:
    day_ms = MIDNIGHT_MS + HOUR_MS
    with world.client() as client:
        fresh = scored(client, day_ms)
        assert (fresh["feature_gaps"], fresh["degraded"]) == (None, False)
        stranger = scored(client, day_ms, customer_id=1)
        assert stranger["feature_gaps"] == {"missing": ["customer_stats"]}
        assert (stranger["degraded"], stranger["answered_by"]) == (False, "champion")
        assert complaint(world) == ""

        scored(client, MIDNIGHT_MS + 2 * DAY_MS)  # a replay's clock goes on by two days at most
        late_ms = MIDNIGHT_MS + 3 * DAY_MS + 1
        high, low = scored(client, late_ms, 90_000.50), scored(client, late_ms)
        for answer in (high, low):
            assert answer["feature_gaps"] == {"stale": BOTH}
            assert (answer["degraded"], answer["degraded_reason"]) == (True, "features")
            assert answer["decision"] == "review"
            assert answer["score"] is None
        assert [a["answered_by"] for a in (high, low)] == ["rules", "default"]
        assert [r["code"] for r in low["reasons"]] == ["NO_FEATURES"]
        told = client.get(f"{world.url}/api/v2/models/{MODEL}").json()["features"]
        assert (told["healthy"], told["stale_views"]) == (False, BOTH)
        assert told["stale_share"] > told["stale_share_limit"]
        assert "customer_stats, terminal_stats is too old" in complaint(world)
        metrics = client.get(f"{world.url}/metrics").text
        assert f'gateway_view_age_share{{model="{MODEL}",view="customer_stats"}} 1.0' in metrics

        snapshot(world, MIDNIGHT_MS + 3 * DAY_MS)
        wait_for(lambda: "too old" not in complaint(world), within_s=10.0)
        again = scored(client, late_ms)
        assert (again["feature_gaps"], again["degraded"]) == (None, False)


@pytest.mark.slow
def test_the_record_names_the_views_and_explains_the_decision(world: ScoringWorld) -> None:
    with world.client() as client:
        scored(client, MIDNIGHT_MS + 2 * DAY_MS)
        answer = scored(client, MIDNIGHT_MS + 3 * DAY_MS + 1)
    (record,) = [r for r in world.records("decision") if r["decision_id"] == answer["decision_id"]]
    assert (record["degraded"], record["degraded_reason"]) == (True, "features")
    assert record["payload"]["feature_gaps"] == {"stale": BOTH}
    assert set(map(tuple, record["payload"]["missing_features"].values())) == {
        ("stale", "fallback")
    }
    wiring.settings.cache_clear()
    home = {"MLPLATFORM_HOME": str(world.home.root)}
    explained = CliRunner().invoke(
        log_commands, ["explain", answer["decision_id"], "--json"], env=home
    )
    wiring.settings.cache_clear()
    assert explained.exit_code == 0, explained.output
    (found,) = json.loads(explained.stdout)["explanations"]
    assert found["again"]["reasons"] == ["NO_FEATURES"]
    assert found["differences"] == []


@pytest.mark.slow
def test_without_traffic_health_says_so_too(world: ScoringWorld) -> None:
    """A later payment of another process moves the clock; none is scored here after it."""
    with world.client() as client:
        scored(client, MIDNIGHT_MS + 2 * DAY_MS)
        scored(client, MIDNIGHT_MS + 3 * DAY_MS + 1)
    world.stop_gateway()
    world.start_gateway(MLPLATFORM_CLOCK="replay")
    wait_for(lambda: "too old" in complaint(world), within_s=60.0)


@pytest.mark.slow
def test_a_store_that_is_away_is_told_as_unavailable(world: ScoringWorld) -> None:
    with world.client() as client:
        scored(client, MIDNIGHT_MS + HOUR_MS)
        world.home.online_db.unlink()
        wait_for(
            lambda: scored(client, MIDNIGHT_MS + HOUR_MS)["feature_gaps"] == {"unavailable": BOTH}
        )
        wait_for(lambda: "does not answer" in complaint(world), within_s=60.0)


def test_a_share_is_of_the_last_minute() -> None:
    now_s = 1_000.0
    share = StaleShare(lambda: now_s)
    assert share.share() is None
    for is_stale in (True, False, False, False):
        share.count(is_stale)
    assert share.share() == 0.25
    now_s += 59
    share.count(False)
    assert share.share() == 0.2
    now_s += 1
    assert share.share() == 0.0
    now_s += 60
    assert share.share() is None
