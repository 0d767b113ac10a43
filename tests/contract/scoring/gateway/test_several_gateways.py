"""Two gateways with a volume each, as pods have: one log, and verdicts that take both."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.model.policies.rollout import StopLimits, Tolerance
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.rollouts.passes.count_cache import count
from mlplatform.rollouts.verdicts.facts import Subject
from mlplatform.rollouts.verdicts.judgement import GateLimits, Judgement, Sources, StepPolicy, judge
from mlplatform.rollouts.verdicts.verdict import ALIKE, Errors
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Brokers
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import (
    GATEWAY,
    MODEL,
    ScoringWorld,
    payment,
    wait_for,
    write_home_snapshots,
)

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.kafka]
OTHER = "gateway-more-0"
LIMITS = GateLimits(
    error_share=0.05,
    failure_share=1.0,
    guardrail_failures=10_000,
    step=StepPolicy(
        stop=StopLimits(
            alerts=1e6,
            disagreement=1.0,
            latency_p50=1e6,
            latency_p99=1e6,
            utilisation=1.0,
            recall=1.0,
        ),
        tolerance=Tolerance(failures=1.0),
        errors=Errors(stop=0.01, missed=0.05),
        predicted=ALIKE,
        percent=50.0,
        units=60,
        requests=0,
        pods=1,
    ),
)
"""Nothing that a busy machine does to either arm is held against it here."""


class World(ScoringWorld):
    """The first gateway writes to the home's log; the other has a volume, and a publisher."""

    def __init__(self, root: Path, postgres: Any, kafka: Brokers) -> None:
        self.postgres, self.database = postgres, postgres.database()
        super().__init__(root, PostgresRollouts(self.database))
        self.shared = {
            **addresses.variables("MLPLATFORM_POSTGRES", self.database),
            **addresses.variables("MLPLATFORM_KAFKA", kafka),
        }
        self.volume = Home(root / "volume")
        self.volume.create()
        write_home_snapshots(self.volume)
        for name in ("serving", "run"):  # where predictors of this machine are, and their token
            path = self.volume.root / name
            if path.exists():
                path.rmdir()
            path.symlink_to(self.home.root / name)
        self.others: dict[str, subprocess.Popen[bytes]] = {}
        self.champion = self.promote(self.deploy(1))
        self.start_gateway(**self.shared)
        self.other_port = free_port()
        self.start_other("gateway", "--name", OTHER)
        other_url = f"http://127.0.0.1:{self.other_port}"
        wait_for(lambda: status_of(f"{other_url}/readyz") == 200)
        self.urls = [self.url, other_url]
        self.start_other("log-publisher", "--name", OTHER)
        self.others["log-replicator"] = self._start("log-replicator", **self.shared)

    def start_other(self, module: str, *arguments: str) -> None:
        """A process of the other pod."""
        self.others[module] = self._start(
            module,
            *arguments,
            **self.shared,
            MLPLATFORM_HOME=str(self.volume.root),
            MLPLATFORM_GATEWAY_PORT=str(self.other_port),
            MLPLATFORM_BUNDLES=str(self.home.bundles),
            MLPLATFORM_PSEUDONYM_KEY_FILE=str(self.home.pseudonym_key),
        )

    def kill_other(self, module: str) -> None:
        self.others[module].kill()
        self.others[module].wait()

    def applied(self, routes: Routes) -> Routes:
        names = {GATEWAY, *([OTHER] if self.others else [])} if self._gateway else set()

        def reported() -> set[str]:
            leases = self.rollouts.gateways(MODEL)
            return {g.gateway for g in leases if g.generation == routes.generation}

        wait_for(lambda: names <= reported())
        return routes

    def answer(self, url: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Asked again where a record is late, as on a busy machine: the key makes it one."""
        headers = {**self.headers, "Idempotency-Key": key}

        def asked() -> httpx.Response | None:
            score = f"{url}/api/v1/models/{MODEL}/score"
            found = httpx.post(score, json=body, headers=headers, timeout=10.0)
            return None if found.status_code == 503 else found

        found: httpx.Response = wait_for(asked)
        assert found.status_code == 200, found.text
        return dict(found.json())

    def send(self, customers: range) -> Counter[str]:
        """A payment of each customer, to the gateways in turn; who answered."""

        def answered(customer: int, url: str) -> str:
            found = self.answer(url, payment(customer=customer), uuid.uuid4().hex)
            return str(found["answered_by"])

        with ThreadPoolExecutor(2) as callers:
            pairs = zip(customers, itertools.cycle(self.urls), strict=False)
            return Counter(callers.map(lambda pair: answered(*pair), pairs))

    def verdict(self, routes: Routes) -> Judgement:
        """As a pass takes it from the home's log."""
        log = SqliteDecisionLog(self.home.decisions)
        try:
            sources = Sources(tuple(log.watermarks()), tuple(self.rollouts.gateways(MODEL)))
            subject = Subject(routes.generation, "canary", version=0)
            found = count(self.home.counted, log, MODEL, subject, sources.watermarks)
        finally:
            log.close()
        step = dataclasses.replace(LIMITS.step, percent=routes.challenger_percent)
        limits = dataclasses.replace(LIMITS, step=step)
        return judge(found.seen, found.complete, limits, sources)

    def close(self) -> None:
        for process in self.others.values():
            process.kill()
            process.wait()
        super().close()
        self.postgres.drop(self.database)


def ranges(verdict: Judgement) -> set[str]:
    """Whose records it has read."""
    return set(verdict.evidence["log"])


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    """One for all tests, as the topics are the brokers' and the names of gateways in them too."""
    servers = [request.getfixturevalue(name) for name in ("postgres", "kafka")]
    made = World(tmp_path_factory.mktemp("several"), *servers)
    yield made
    made.close()


def test_a_verdict_takes_both_gateways_records_and_waits_for_the_one_that_is_late(
    world: World,
) -> None:
    before = len(world.records("decision"))
    world.shadow(world.deploy(2, offset=0.01))
    routes = world.canary(50.0)
    sent = world.send(range(300))
    assert {"champion", "challenger"} <= set(sent)
    wait_for(lambda: world.verdict(routes).verdict == "HEALTHY", 30.0)
    assert ranges(world.verdict(routes)) == {GATEWAY, OTHER}

    world.kill_other("log-publisher")
    routes = world.canary(60.0)
    world.send(range(300, 600))
    time.sleep(3)  # longer than a record took to come before
    late = world.verdict(routes)
    assert late.verdict == "INCONCLUSIVE"
    assert f"records of writer {OTHER} up to" in late.reason

    world.start_other("log-publisher", "--name", OTHER)
    wait_for(lambda: world.verdict(routes).verdict == "HEALTHY", 30.0)
    assert ranges(world.verdict(routes)) == {GATEWAY, OTHER}
    wait_for(lambda: len(world.records("decision")) == before + 600)
    with_log = SqliteDecisionLog(world.home.decisions)
    report = with_log.verify()
    with_log.close()
    assert (report.ok, report.writers) == (True, 2), report.findings
    world.roll_back()


def test_a_customer_is_the_same_one_whichever_gateway_is_asked(world: World) -> None:
    """Sticky by unit: the pseudonym key is the first home's for both."""
    world.shadow(world.deploy(3, offset=0.02))
    routes = world.canary(50.0)

    def decided() -> list[dict[str, Any]]:
        return [r for r in world.records("decision") if r["generation"] == routes.generation]

    for _ in range(2):
        world.send(range(40))
        world.urls.reverse()  # then the other gateway has each customer
    wait_for(lambda: len(decided()) == 80)
    units = Counter((r["unit"], r["arm"]) for r in decided())
    assert set(units.values()) == {2}
    assert {arm for _, arm in units} == {"champion", "challenger"}
    world.roll_back()


def test_a_key_is_known_to_the_gateway_that_took_it_alone(world: World) -> None:
    """What docs/cluster.md says of several gateways, for as long as it says so."""

    def decided(url: str, key: str) -> str:
        return str(world.answer(url, body, key)["decision_id"])

    body = payment()
    first, other = world.urls
    assert decided(first, "k") == decided(first, "k")
    assert decided(first, "k") != decided(other, "k")
    assert decided(other, "k") == decided(other, "k")
