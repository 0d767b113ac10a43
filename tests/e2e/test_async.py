"""Requests left for later under a supervisor that has its worker killed in the middle."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mlplatform.operations.supervisor.status import status
from support.gateways_world import GatewaysWorld
from support.scoring_world import MODEL, payment, wait_for

pytestmark = pytest.mark.slow
REQUESTS = 600
WORKER = f"worker-{MODEL}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewaysWorld]:
    running = GatewaysWorld(tmp_path, gateways=2, workers=True)
    yield running
    running.close()


def test_every_request_is_decided_once_though_worker_and_gateway_are_killed(
    world: GatewaysWorld,
) -> None:
    world.promote(world.deploy(1))
    assert WORKER in {p.name for p in status(world.home).processes}
    event_ms = int(time.time() * 1000)
    root = f"{world.url}/api/v2"
    with httpx.Client(
        headers=world.headers, timeout=20.0, transport=httpx.HTTPTransport(retries=5)
    ) as client:

        def asked(number: int) -> httpx.Response:
            return client.post(
                f"{root}/models/{MODEL}/score:async",
                json=payment(number / 10, customer=number, event_time=event_ms),
                headers={"Idempotency-Key": f"e2e-{number}"},
            )

        def leave(number: int) -> str:
            """As a client does that is told to try again: a busy disk refuses some in time."""
            answer = wait_for(lambda: a if (a := asked(number)).status_code != 503 else None)
            assert answer.status_code == 202, answer.text
            told: str = answer.json()["decision_id"]
            return told

        def found(told: str) -> dict[str, object] | None:
            answer = client.get(f"{root}/decisions/{told}")
            assert answer.status_code in (200, 202), answer.text
            return answer.json() if answer.status_code == 200 else None

        told = [leave(number) for number in range(REQUESTS // 2)]
        wait_for(lambda: found(told[0]))
        early = found(told[0])
        killed = [(WORKER, world.kill(WORKER))]
        told += [leave(number) for number in range(REQUESTS // 2, REQUESTS)]
        world.await_successor(*killed[0])
        killed = [(name, world.kill(name)) for name in (WORKER, "gateway-1")]
        for name, pid in killed:
            world.await_successor(name, pid)
        answers = {one: wait_for(lambda one=one: found(one), 60.0) for one in told}

        assert [leave(number) for number in range(REQUESTS)] == told
        assert answers[told[0]] == early
        scores = [answers[one]["score"] for one in told]
        how = Counter((str(a["answered_by"]), str(a["degraded"])) for a in answers.values())
        wanted = [n / 10_000 for n in range(REQUESTS)]  # approved: more declines trip the limit
        assert scores == pytest.approx(wanted, abs=1e-6), how
    assert all(one == answer["decision_id"] for one, answer in answers.items())
    assert Counter(r["decision_id"] for r in world.records("decision")) == Counter(told)
    assert Counter(r["decision_id"] for r in world.records("accepted")) == Counter(told)
