"""A model that a server of somebody else's answers for, from its folder to answers of a gateway.

The server is KServe's own Python server with scikit-learn (`tests/support/model_server.py`), which
is killed, replaced by another model, and put right.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from tests.support import model_server
from tests.support.foreign_onnx import ready_folder, requests
from tests.support.ports import free_port
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder

from mlplatform.commands.terminal.explanations import explain_again
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.model.routes import Arm
from mlplatform.operations.actions import training
from mlplatform.operations.supervisor import addressed_servers
from mlplatform.operations.supervisor.predictor_processes import PredictorProcesses
from mlplatform.operations.supervisor.retried_writes import RetriedWrites
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.serving.local import bundle_uri
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

NAME = "limits"
AT_THE_SHOP = {
    "name": "at_the_shop",
    "field": "channel",
    "values": ["shop"],
    "scores": {"refer": 1.0, "refuse": 1.0},
}
"""A segment that the gateway grants whatever the server's score is: it alone knows thresholds."""


class Server:
    """The server at one port; it may be replaced there."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        script = [sys.executable, model_server.__file__, "--port", str(self.port), *options]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(script, stdout=quiet, stderr=quiet)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def supervised(home: Home) -> Iterator[None]:
    """What a supervisor does about manifests, on a thread of its own."""
    began = threading.Event()
    loop: list[asyncio.AbstractEventLoop] = []
    made: list[PredictorProcesses] = []

    async def reconcile() -> None:
        loop.append(asyncio.get_running_loop())
        made.append(
            PredictorProcesses(home, ParentDeathPipe(), lambda child: None, RetriedWrites())
        )
        began.set()
        await made[0].reconcile()

    thread = threading.Thread(target=lambda: asyncio.run(reconcile()))
    thread.start()
    began.wait()
    try:
        yield
    finally:
        loop[0].call_soon_threadsafe(made[0].close)
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.kill()


def taken_in(root: Path, server: Server) -> Bundle:
    """The bundle of a ready file whose model.yaml names the server, judged by its gates."""
    folder = ready_folder(root, NAME)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    named = {"runtime": "bank-sklearn", "address": server.url, "served_as": "churn"}
    document["serving"] |= named
    del document["serving"]["scaling"]  # it is read from the own predictor
    for tensor in document["signature"]["inputs"]:
        if tensor["dtype"] == "float32":
            tensor["missing"] = -1
    document["decision"]["thresholds"]["segments"] = [AT_THE_SHOP]
    document["decision"]["capacity"] = 0.05
    (folder / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    until_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    pq.write_table(requests(until_ms, days=26, per_day=300), root / "history.parquet")
    command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_ms)
    candidate = training.bring(platform, NAME, folder / "model.onnx", "ana", prepared)
    report = training.judge_brought(platform, NAME, "ana", candidate, prepared).report
    assert report.reasons == ()
    return load_bundle(candidate.folder)


def test_it_answers_as_long_as_it_is_the_versions_model(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addressed_servers, "ASK_S", 0.5)
    with team_folder(tmp_path, tmp_path / ".home" / "var", NAME):
        world = ScoringWorld(tmp_path / ".home", has_snapshots=False)
        try:
            bundle = taken_in(tmp_path, server)
            assert bundle.server == ModelServer(
                runtime="bank-sklearn", address=server.url, served_as="churn", tolerance=1e-4
            )
            with supervised(world.home):
                follow(world, server, bundle)
        finally:
            world.close()


def follow(world: ScoringWorld, server: Server, bundle: Bundle) -> None:
    folder = world.home.bundles / bundle.digest
    manifest = render(
        load_definition(NAME),
        1,
        bundle.digest,
        bundle_uri(folder, world.home.bundles),
        server=bundle.server,
    )
    world.plane.apply(manifest)
    arm = Arm(1, bundle.digest, manifest["metadata"]["name"])
    wait_for(lambda: "can't be asked" in world.plane.status(arm.service).reason)
    server.start()
    wait_for(lambda: world.plane.status(arm.service).ready, within_s=60)
    world.promote(arm)
    world.start_gateway()
    risky = {"customer_id": 7, "channel": "phone", "amount": 9000.0, "visits": 0}
    safe = {"customer_id": 7, "channel": "web", "amount": 100.0, "visits": 9}

    found = answered(world, risky, by="champion")
    assert found["decision"] == "refuse"
    explained = wait_for(lambda: answer if (answer := score(world, risky))["reasons"] else None)
    assert "CHANNEL" in {reason["code"] for reason in explained["reasons"]}
    # None is made up where the server gave none in time.
    assert bool(found["reasons"]) == (found["reasons_omitted"] is None)
    records = [r for r in world.records("decision") if r["answered_by"] == "champion"]
    rows = [{k: v for k, v in record.items() if v is not None} for record in records]
    assert {one.differences for one in explain_again(rows, world.home.bundles)} == {()}
    assert answered(world, safe, by="champion")["decision"] == "grant"
    at_the_shop = {**risky, "channel": "shop", "amount": 25_000.0}
    by_web = {**at_the_shop, "channel": "web"}
    both = [answered(world, asked, by="champion") for asked in (at_the_shop, by_web)]
    assert [one["decision"] for one in both] == ["grant", "refuse"]

    server.kill()
    assert answered(world, risky, by="small_model")["decision"]
    server.start("--shift", "0.2")
    wait_for(lambda: world.plane.status(arm.service).failed, within_s=60)
    assert "the bundle says" in world.plane.status(arm.service).reason
    wait_for(lambda: score(world, risky)["answered_by"] != "champion")  # gateways follow the plane
    until_s = time.monotonic() + 3
    while time.monotonic() < until_s:
        assert score(world, risky)["answered_by"] != "champion"
    server.kill()
    server.start()
    again = answered(world, risky, by="champion")
    assert again["score"] == pytest.approx(found["score"], abs=1e-6)


def score(world: ScoringWorld, fields: dict[str, Any]) -> dict[str, Any]:
    """An answer; none where a busy machine did not record it within the deadline."""
    body = fields | {"event_time": time.time_ns() // 1_000_000}
    url = f"{world.url}/api/v2/models/{NAME}/score"
    reply = httpx.post(url, json=body, headers=world.headers, timeout=10)
    found: dict[str, Any] = reply.json()
    if reply.status_code == 503 and found["type"].endswith(":log-unavailable"):
        return {"answered_by": None, "reasons": []}
    assert reply.status_code == 200, found
    return found


def answered(world: ScoringWorld, fields: dict[str, Any], *, by: str) -> dict[str, Any]:
    """The first answer that this step gives."""
    found: dict[str, Any] = wait_for(
        lambda: answer if (answer := score(world, fields))["answered_by"] == by else None,
        within_s=60,
    )
    return found
