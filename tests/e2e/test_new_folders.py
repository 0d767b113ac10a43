"""A model folder that appears below a running platform gets all that the others have."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.model_folders import copied

from mlplatform.operations.prefect_client import names
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.processes.records import read_processes
from mlplatform.runtime.storage.files import write_atomically
from support import scoring_world
from support.gateways_world import GatewaysWorld
from support.platform_process import DEADLINE_S, wait
from support.ports import free_port
from support.scoring_world import payment, wait_for

pytestmark = pytest.mark.slow
LATER = "later"
TOKEN = "of-this-start"
START_S = 150.0
SERVED = """
import os
from mlplatform.operations.prefect_server import local_flows
from mlplatform.runtime.configuration.settings import load
local_flows.run(local_flows.parser().parse_args([]), load(os.environ))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that has one, named to this process and to those that it starts."""
    models = tmp_path / "models"
    models.mkdir()
    copied(models, "fraud")
    monkeypatch.setenv("MLPLATFORM_MODELS", str(models))
    return models


@pytest.fixture
def world(tmp_path: Path, models: Path) -> Iterator[GatewaysWorld]:
    running = GatewaysWorld(tmp_path, gateways=1, workers=True)
    try:
        yield running
    finally:
        running.close()


def test_its_worker_decides_what_its_gateway_accepts_and_reads_on_by_its_changed_folder(
    world: GatewaysWorld, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = {r.name: r.process for r in read_processes(world.home)}
    copied(models, LATER)
    found = models / LATER / "model.yaml"
    found.write_text(found.read_text().replace("deadline_ms: 50\n", "deadline_ms: 2000\n"))
    wait_for(lambda: states(world).get(f"worker-{LATER}") == "ready")
    monkeypatch.setattr(scoring_world, "MODEL", LATER)
    monkeypatch.setattr("support.gateways_world.MODEL", LATER)
    scoring_world.write_home_snapshots(world.home)
    world.promote(world.deploy(1))
    # its features are there since a moment, which the gateway learns in a few seconds
    wait_for(lambda: decided(world)["answered_by"] == "champion")
    log = world.home.logs / f"worker-{LATER}.log"
    text = found.read_text()
    found.write_text(
        text.replace("  enabled: true\n  batch: 1000 ", "  enabled: true\n  batch: 7 ")
    )
    assert found.read_text() != text
    wait_for(lambda: "as its folder says now" in log.read_text(), 15)
    assert decided(world)["answered_by"] == "champion"
    # what was accepted before `async` is switched off is decided after it
    with stopped(world, f"worker-{LATER}"):
        left = leave(world)
        assert left.status_code == 202
        found.write_text(
            found.read_text().replace("  enabled: true\n  batch: 7", "  enabled: false\n  batch: 7")
        )
        wait_for(lambda: leave(world).status_code == 404, 15)
        assert poll(world, left).status_code == 202
    wait_for(lambda: poll(world, left).status_code == 200)
    after = {r.name: r.process for r in read_processes(world.home)}
    assert {name: after[name] for name in pids} == pids, "nothing was restarted"


def states(world: GatewaysWorld) -> dict[str, str]:
    return {record.name: record.state for record in read_processes(world.home)}


class stopped:  # noqa: N801 -- reads as a word
    """A process that does nothing for a while."""

    def __init__(self, world: GatewaysWorld, name: str) -> None:
        process = world.process(name).process
        assert process is not None
        self._pid = process.pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


def leave(world: GatewaysWorld) -> httpx.Response:
    url = f"{world.url}/api/v2/models/{LATER}/score:async"
    return httpx.post(url, json=payment(620.0), headers=world.headers, timeout=10)


def poll(world: GatewaysWorld, left: httpx.Response) -> httpx.Response:
    url = f"{world.url}/api/v1/decisions/{left.json()['decision_id']}"
    return httpx.get(url, headers=world.headers, timeout=10)


def decided(world: GatewaysWorld) -> dict[str, Any]:
    left = leave(world)
    assert left.status_code == 202, left.text
    answer = wait_for(lambda: found if (found := poll(world, left)).status_code == 200 else None)
    content: dict[str, Any] = answer.json()
    return content


@pytest.fixture
def prefect(tmp_path: Path, models: Path) -> Iterator[str]:
    """Prefect as `mlplatform up` starts it; its address."""
    home = Home(tmp_path / "var")
    home.create()
    write_atomically(home.mlflow_token, b"secret")
    write_atomically(home.prefect_token, TOKEN.encode())
    settings = Settings(home, "system", 1, prefect_port=free_port(), mlflow_port=free_port())
    with (home.logs / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVED],
            env={**os.environ, **settings.environment(), "MLPLATFORM_MODELS": str(models)},
            stdout=log,
            stderr=log,
        )
    try:
        wait(lambda: has_flows(settings.prefect_url, "fraud"), within_s=START_S)
        yield settings.prefect_url
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()


def call(url: str, path: str, **body: Any) -> httpx.Response:
    given: dict[str, Any] = {"auth": ("operator", TOKEN), "timeout": 60.0}
    if not body:
        return httpx.get(f"{url}/api{path}", **given)
    return httpx.post(f"{url}/api{path}", json=body, **given)


def has_flows(url: str, model: str) -> bool:
    last = f"{names.APPROVAL_FLOW}/{names.deployment(names.APPROVAL_FLOW, model)}"
    try:
        return call(url, f"/deployments/name/{last}").status_code == 200
    except httpx.HTTPError:
        return False


def test_prefect_gets_its_flows_its_automation_and_runs_its_first_pass(
    prefect: str, models: Path
) -> None:
    made = copied(models.parent, LATER)
    shutil.move(made, models / LATER)
    wait(lambda: has_flows(prefect, LATER), within_s=START_S)
    for flow in names.RUNS:
        named = f"{flow}/{names.deployment(flow, LATER)}"
        assert call(prefect, f"/deployments/name/{named}").status_code == 200
    deployment = names.deployment("rollout", LATER)

    def passed() -> bool:
        of = {"deployments": {"name": {"any_": [deployment]}}}
        runs = call(prefect, "/flow_runs/filter", **of).json()
        return "COMPLETED" in {run["state_type"] for run in runs}

    wait(passed, within_s=START_S)
    automations = call(prefect, "/automations/filter", limit=50).json()
    assert names.automation(LATER) in {one["name"] for one in automations}


def test_schedules_of_a_folder_that_is_gone_are_paused_until_it_is_back(
    prefect: str, models: Path
) -> None:
    shutil.move(models / "fraud", models.parent / "away")
    wait(lambda: is_paused(prefect, "rollout") is True, within_s=START_S)
    wait(lambda: is_paused(prefect, "materialize") is True, within_s=START_S)
    wait(lambda: is_paused(prefect, "retrain") is False, "it has no schedule", within_s=START_S)
    wait(lambda: planned(prefect) == 0, "no run is left that would fail", within_s=START_S)
    shutil.move(models.parent / "away", models / "fraud")
    wait(lambda: is_paused(prefect, "rollout") is False, within_s=START_S)
    wait(lambda: planned(prefect), within_s=START_S)


def is_paused(url: str, flow: str) -> bool | None:
    """Whether a flow's deployment is paused; None: Prefect is too busy to say it."""
    named = f"{flow}/{names.deployment(flow, 'fraud')}"
    found = call(url, f"/deployments/name/{named}")
    return None if found.status_code == 503 else bool(found.raise_for_status().json()["paused"])


def planned(url: str) -> int | None:
    """Number of runs that Prefect has planned by schedules; None: it is too busy to say it."""
    of = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    found = call(url, "/flow_runs/filter", **of)
    if found.status_code == 503:
        return None
    return sum(bool(run["auto_scheduled"]) for run in found.raise_for_status().json())
