"""A model of real-time windows over two gateway processes, with its state beside their log or on a
server: each payment counts for the next one, and what was served is what training joins."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows.build import build_shared
from mlplatform.model.folders import load_definition
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage import addresses, sqlite
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.units import MINUTE_MS
from mlplatform.scoring.wiring import shared_windows
from support import scoring_world
from support.model_folders import windowed
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import ScoringWorld, wait_for
from support.windows_world import differing

pytestmark = pytest.mark.slow
MODEL = "windowed"
PAYMENTS, DEATHS, MOST_ASKED = 40, (19, 39), 400
READY_S = 60.0


class World(ScoringWorld):
    """Two gateway processes, either of which may be killed and started again."""

    def __init__(self, root: Path, redis: Any) -> None:
        super().__init__(root)
        self.redis = redis
        self.variables = addresses.variables("MLPLATFORM_REDIS", redis.address) if redis else {}
        if redis:
            redis.empty()
            begin(self.home, redis.address)
        self.ports = {"gateway-0": self.port, "gateway-1": free_port()}
        self.gateways: dict[str, subprocess.Popen[bytes]] = {}
        self.promote(self.deploy(1))
        for name in self.ports:
            self.start(name)

    def start(self, name: str) -> None:
        port = self.ports[name]
        self.gateways[name] = self._start(
            "gateway", "--name", name, MLPLATFORM_GATEWAY_PORT=str(port), **self.variables
        )
        wait_for(lambda: status_of(f"http://127.0.0.1:{port}/readyz") == 200, READY_S)

    def kill(self, name: str) -> None:
        self.gateways[name].send_signal(signal.SIGKILL)
        self.gateways[name].wait()

    def ask(self, name: str, **fields: Any) -> dict[str, Any] | None:
        """The answer; None where this machine was too busy to give one in time."""
        url = f"http://127.0.0.1:{self.ports[name]}/api/v1/models/{MODEL}/score"
        found = httpx.post(url, json=fields, headers=self.headers, timeout=10)
        assert found.status_code in (200, 429, 503), found.text
        answer: dict[str, Any] = found.json()
        return answer if found.status_code == 200 else None

    def lose_state(self) -> None:
        if self.redis:
            self.redis.empty()
        else:
            with sqlite.transaction(sqlite.connect(self.home.decisions / DATABASE)) as db:
                db.execute("DELETE FROM window_series")

    def close(self) -> None:
        for process in self.gateways.values():
            process.kill()
            process.wait()
        super().close()


def begin(home: Home, address: Address) -> None:
    """What `mlplatform history windows` does."""
    definition = load_definition(MODEL)
    with (
        closing(SqliteDecisionLog(home.decisions)) as log,
        closing(shared_windows(address, definition)) as store,
    ):
        build_shared(store, OfflineTable(home.offline(MODEL), definition), log)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    models = tmp_path / "models"
    models.mkdir(mode=0o700)
    windowed(models, MODEL)
    monkeypatch.setenv("MLPLATFORM_MODELS", str(models))
    monkeypatch.setattr(scoring_world, "MODEL", MODEL)
    redis = request.getfixturevalue("redis") if request.param == "redis" else None
    made = World(tmp_path, redis)
    yield made
    made.close()


def test_two_gateways_that_are_killed_serve_what_a_recount_finds(world: World) -> None:
    chance, whole = random.Random(11), 0
    for number in range(MOST_ASKED):
        if whole >= PAYMENTS and number >= PAYMENTS:
            break
        name = chance.choice(list(world.ports))
        if number in DEATHS:
            world.kill(name)
            world.start(name)
        late_ms = chance.randrange(4 * MINUTE_MS) if chance.random() < 0.3 else 0
        answer = world.ask(
            name,
            customer_id=chance.randrange(5),
            terminal_id=chance.randrange(4),
            amount=chance.choice([12.345, 99.99, 100.0, 250.5]),
            event_time=time.time_ns() // 1_000_000 - late_ms,
        )
        # on a busy machine, a server's answer may come too late for a request
        whole += answer is not None and "unavailable" not in (answer.get("feature_gaps") or {})

    records = world.records("decision")
    served = {one["decision_id"]: one["payload"]["features"] for one in records}
    made = {one["decision_id"] for one in records if "windows_at" in one["payload"]}
    assert len(made) > PAYMENTS / 2
    offline = OfflineTable(world.home.offline(MODEL), load_definition(MODEL))
    offline.project(SqliteDecisionLog(world.home.decisions))
    assert differing(offline, {one: served[one] for one in made}) == []
    counts = [served[one]["customer_payments_10m"] for one in made]
    assert sum(counts) > PAYMENTS


@pytest.mark.redis
@pytest.mark.parametrize("world", ["redis"], indirect=True)
def test_a_gateway_shows_how_far_windows_on_a_server_are_behind(world: World) -> None:
    payment = {"customer_id": 1, "terminal_id": 1, "amount": 5.0}
    world.ask("gateway-0", **payment, event_time=time.time_ns() // 1_000_000)
    url = f"http://127.0.0.1:{world.ports['gateway-0']}/metrics"
    of = f'{{model="{MODEL}",writer="gateway-0"}} 0.0'
    for name in ("mlplatform_windows_lack_records", "mlplatform_windows_behind_seconds"):
        wait_for(lambda line=name + of: line in httpx.get(url, headers=world.headers).text)


def test_windows_without_their_state_ask_no_model_and_say_so(world: World) -> None:
    payment = {"customer_id": 1, "terminal_id": 1, "amount": 5.0}
    world.ask("gateway-0", **payment, event_time=time.time_ns() // 1_000_000)
    world.lose_state()
    world.kill("gateway-1")
    world.start("gateway-1")

    def stale() -> dict[str, Any] | None:
        answer = world.ask("gateway-1", **payment, event_time=time.time_ns() // 1_000_000)
        return answer if answer and "stale" in (answer.get("feature_gaps") or {}) else None

    answer = wait_for(stale)
    assert answer["degraded"]
    assert {"customer_windows", "terminal_windows"} <= set(answer["feature_gaps"]["stale"])
