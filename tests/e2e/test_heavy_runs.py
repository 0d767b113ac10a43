"""However many heavy runs are asked for, passes, drift checks and snapshots start on time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.prefect import FlowRun, PrefectApi
from mlplatform.operations.prefect_server import local_flows
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.storage.files import write_atomically
from support.platform_process import DEADLINE_S, wait
from support.ports import free_port
from support.probe import status_of

pytestmark = pytest.mark.slow
TOKEN = "of-this-start"
START_S = 150
ON_TIME_S = 30  # of a run that takes three seconds on a quiet machine

SERVED = """
import os, sys
from pathlib import Path
from mlplatform.operations.prefect_server import local_flows
from mlplatform.runtime.configuration.settings import load

local_flows.FLOWS = Path(sys.argv[1])
local_flows.on_ready = lambda settings, models: (local_flows.FLOWS / "ready").touch()
local_flows.PASS_INTERVAL = local_flows.timedelta(days=1)
local_flows.run(local_flows.parser().parse_args([]), load(os.environ))
"""

FLOW = """
import time
from pathlib import Path
from typing import Any
from prefect import flow

@flow(name="{name}")
def {name}(model: str, to: str = "") -> None:
    if to:
        Path(to).touch()
        while not Path(to + ".ends").exists():
            time.sleep(0.05)
"""


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    """The platform's flows by name: one lasts until it is told to end, if it is given a file."""
    folder = tmp_path / "flows"
    folder.mkdir()
    for name in names.RUNS:
        (folder / f"{name}.py").write_text(FLOW.format(name=name))
    return folder


@pytest.fixture
def api(tmp_path: Path, flows: Path) -> Iterator[PrefectApi]:
    home = Home(tmp_path / "home")
    home.create()
    write_atomically(home.mlflow_token, b"secret")
    write_atomically(home.prefect_token, TOKEN.encode())
    settings = Settings(home, "replay", 1, prefect_port=free_port(), mlflow_port=free_port())
    with (home.logs / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVED, str(flows)],
            env={**os.environ, **settings.environment()},
            stdout=log,
            stderr=log,
        )
    client = PrefectApi(settings.prefect_url, auth=lambda: f"operator:{TOKEN}")
    try:
        wait(lambda: (flows / "ready").exists() or process.poll() is not None, within_s=START_S)
        wait(lambda: status_of(f"{settings.prefect_url}/health") is not None, within_s=START_S)
        yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0  # both runners end when told
    finally:
        client.close()
        process.kill()
        process.wait()


def test_more_heavy_runs_than_places_keep_nothing_else_from_starting(
    api: PrefectApi, tmp_path: Path
) -> None:
    heavy = sorted(names.HEAVY)
    count = local_flows.RUNS_AT_A_TIME + 2
    marks = [tmp_path / f"heavy-{number}" for number in range(count)]
    for number, mark in enumerate(marks):
        api.start(heavy[number % len(heavy)], {"model": "fraud", "to": str(mark)})
    wait(lambda: any(mark.exists() for mark in marks), within_s=DEADLINE_S)

    light = [api.start(flow, {"model": "fraud"}) for flow in ("rollout", "drift", "materialize")]
    for run in light:
        wait(lambda run=run: state(api, run) == "COMPLETED", within_s=ON_TIME_S)  # type: ignore[misc]

    assert sum(mark.exists() for mark in marks) == 1
    for mark in marks:
        mark.with_name(mark.name + ".ends").touch()
    wait(lambda: sum(mark.exists() for mark in marks) > 1, within_s=DEADLINE_S)


def state(api: PrefectApi, run: FlowRun) -> str:
    return api.run(run.id).state
