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
from mlplatform.learning.features.windows.build import build, build_shared
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
    """Two gateway processes, either of which may be killed and started again.

    Args:
        later: the folder that gets the model once the gateways run; None: it has it already.
    """

    def __init__(self, root: Path, redis: Any, later: Path | None = None) -> None:
        super().__init__(root, has_snapshots=later is None)
        self.redis = redis
        self.variables = addresses.variables("MLPLATFORM_REDIS", redis.address) if redis else {}
        self.ports = {"gateway-0": self.port, "gateway-1": free_port()}
        self.gateways: dict[str, subprocess.Popen[bytes]] = {}
        if redis:
            redis.empty()
        if later is not None:
            self.start_all()
            windowed(later, MODEL)
            scoring_world.write_home_snapshots(self.home)
        if redis:
            begin(self.home, redis.address)
        self.promote(self.deploy(1))
        if later is None:
            self.start_all()

    def start_all(self) -> None:
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


BOTH = ["sqlite", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models = tmp_path / "models"
    models.mkdir(mode=0o700)
    monkeypatch.setenv("MLPLATFORM_MODELS", str(models))
    monkeypatch.setattr(scoring_world, "MODEL", MODEL)
    return models


@pytest.fixture(params=BOTH)
def redis_or_none(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("redis") if request.param == "redis" else None


@pytest.fixture
def world(models: Path, tmp_path: Path, redis_or_none: Any) -> Iterator[World]:
    windowed(models, MODEL)
    made = World(tmp_path, redis_or_none)
    yield made
    made.close()


@pytest.fixture
def later_world(models: Path, tmp_path: Path, redis_or_none: Any) -> Iterator[World]:
    """A world whose gateways started without any model."""
    made = World(tmp_path, redis_or_none, models)
    yield made
    made.close()


def test_windows_of_a_folder_that_comes_while_gateways_run_follow_its_requests(
    later_world: World,
) -> None:
    def counted() -> bool:
        fields = {"customer_id": 3, "terminal_id": 1, "amount": 99.99}
        for name in later_world.ports:
            url = f"http://127.0.0.1:{later_world.ports[name]}/api/v1/models/{MODEL}/score"
            sent = fields | {"event_time": time.time_ns() // 1_000_000}
            httpx.post(url, json=sent, headers=later_world.headers, timeout=10)
        records = later_world.records("decision")
        counts = [r["payload"]["features"].get("customer_payments_10m") for r in records]
        return any(count is not None and count >= 2 for count in counts)

    wait_for(counted, READY_S)


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
@pytest.mark.parametrize("redis_or_none", ["redis"], indirect=True)
def test_a_gateway_shows_how_far_windows_on_a_server_are_behind(world: World) -> None:
    payment = {"customer_id": 1, "terminal_id": 1, "amount": 5.0}
    world.ask("gateway-0", **payment, event_time=time.time_ns() // 1_000_000)
    url = f"http://127.0.0.1:{world.ports['gateway-0']}/metrics"
    of = f'{{model="{MODEL}",writer="gateway-0"}} 0.0'
    for name in ("mlplatform_windows_lack_records", "mlplatform_windows_behind_seconds"):
        wait_for(lambda line=name + of: line in httpx.get(url, headers=world.headers).text)


def test_a_window_that_is_declared_later_counts_once_its_tiles_are_built(
    world: World, models: Path
) -> None:
    def fresh() -> dict[str, Any] | None:
        sent = {"customer_id": 3, "terminal_id": 1, "amount": 99.99}
        found = world.ask("gateway-0", **sent, event_time=time.time_ns() // 1_000_000)
        gaps = (found or {}).get("feature_gaps") or {}
        lost = {*gaps.get("stale", ()), *gaps.get("unavailable", ())}
        return None if lost & {"customer_windows", "terminal_windows"} else found

    def answer() -> dict[str, Any]:
        """An answer by windows; one that a busy machine let come too late for them is repeated."""
        return wait_for(fresh)

    def detail() -> str:
        url = f"http://127.0.0.1:{world.ports['gateway-0']}/readyz"
        return str(httpx.get(url, timeout=10).json().get("detail", ""))

    answer()
    with (models / MODEL / "model.yaml").open("a") as file:
        file.write(
            "  - {name: terminal_largest_2h, entity: terminal, aggregate: max, of: amount,"
            " window: 2h, resolution: 5m}\n"
        )
    told = "a new window has no state yet: `mlplatform history windows windowed` builds it"
    wait_for(lambda: (answer(), told in detail())[1], 20)
    if world.redis:
        begin(world.home, world.redis.address)
    else:
        offline = OfflineTable(world.home.offline(MODEL), load_definition(MODEL))
        with closing(SqliteDecisionLog(world.home.decisions)) as log:
            build(world.home.decisions / DATABASE, offline, log)
    wait_for(lambda: (answer(), told not in detail())[1], 20)
    wait_for(lambda: (answer(), _largest(world))[1] == pytest.approx(99.99), 20)


def _largest(world: World) -> float | None:
    records = world.records("decision")
    features = max(records, key=lambda one: int(one["seq"]))["payload"]["features"]
    found: float | None = features.get("terminal_largest_2h")
    return found


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
