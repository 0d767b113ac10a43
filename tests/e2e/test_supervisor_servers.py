"""MLflow and Prefect as the supervisor starts them: up, private, and gone when told."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from mlplatform.observing.page.queries.schedules import ask
from mlplatform.operations.prefect_client.prefect import PrefectApi
from mlplatform.runtime.configuration.servers import Servers
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.refusals import Refusals
from support.platform_process import DEADLINE_S, wait
from support.probe import status_of

pytestmark = pytest.mark.slow
TOKEN = "of-this-start"
LOGGED_IN = {"auth": ("operator", TOKEN)}
START_S = 150  # 7 s of CPU, on a machine that others may use too

PREFECT = """
import logging, os, sys
from pathlib import Path
from mlplatform.operations.prefect_server.local_flows import TAG, retire_former
from mlplatform.runtime.configuration.settings import load
from mlplatform.operations.prefect_server.prefect_server import DeploymentGroup, run
from mlplatform.scoring.wiring import keys

def deployments():
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron
    flow = load_flow_from_entrypoint(sys.argv[1] + "/look_around.py:look_around")
    former = flow.to_deployment("default", tags=[TAG])
    daily, given = Cron("0 4 * * *", timezone="UTC"), {"model": "fraud", "to": "never"}
    rollout = flow.to_deployment("fraud-rollout", schedules=[daily], parameters=given)
    return [DeploymentGroup(None, [rollout]), DeploymentGroup(None, [former])]

def ready():
    from prefect.client.orchestration import get_client
    from prefect.states import Suspended
    with get_client(sync_client=True) as client:
        former = client.read_deployment_by_name("rollout/default")
        given = {"model": "fraud", "to": "nowhere"}
        asked = client.create_flow_run_from_deployment(
            former.id, parameters=given, state=Suspended()
        )
        retire_former(client, ["fraud"])
    Path(sys.argv[1], "asked").write_text(str(asked.id))
    level = logging.getLogger("mlplatform").getEffectiveLevel()
    Path(sys.argv[1], "level").write_text(logging.getLevelName(level))
    Path(sys.argv[1], "ready").touch()

settings = load(os.environ)
run(settings, lambda: keys(settings), deployments, ready, preload=("colorsys",))
"""

FLOW = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
WAS_THERE = "colorsys" in sys.modules
from prefect import flow

@flow(name="rollout")
def look_around(model: str, to: str, ends: str = "well") -> None:
    Path(to).write_text(f"{os.getpid()} {WAS_THERE}")
    match ends:
        case "failing":
            raise ValueError("as it was told to")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
"""


EVIL = """
from pathlib import Path
Path(__file__).with_name("was-here").touch()
from prefect import flow

@flow(name="rollout")
def look_around(model: str, to: str, ends: str = "well") -> None:
    Path(to).write_text("0 True")
"""
OPEN_BEFORE = ("/", "/docs", "/openapi.json", "/ui-settings", "/api/health", "/api/ready")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = Home(tmp_path / "home")
    home.create()
    write_atomically(home.mlflow_token, b"secret")
    write_atomically(home.prefect_token, TOKEN.encode())
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = (one.getsockname()[1], two.getsockname()[1])
    return Settings(home, "system", 1, prefect_port=ports[0], mlflow_port=ports[1])


@contextmanager
def running(settings: Settings, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    with (settings.home.logs / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *argv],
            env={**os.environ, **settings.environment()},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_mlflow_asks_for_the_token_and_ends_when_told(settings: Settings) -> None:
    search = f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search"
    with running(settings, "-m", "mlplatform.process", "mlflow") as process:
        wait(lambda: status_of(f"{settings.mlflow_url}/health") == 200, within_s=START_S)

        def status(**how: object) -> int:
            return httpx.post(search, json={"max_results": 1}, **how).status_code  # type: ignore[arg-type]

        assert status() == 401
        assert status(headers={"Authorization": "Bearer secret"}) == 200
        assert status(auth=("anybody", "secret")) == 200
        assert (settings.home.mlflow / "mlflow.db").is_file()

        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def test_mlflow_in_a_pod_answers_by_its_name_alone(settings: Settings, tmp_path: Path) -> None:
    token, url = tmp_path / "token", f"http://127.0.0.2:{settings.mlflow_port}"
    token.write_text("mounted\n")
    elsewhere = replace(settings, servers=Servers(mlflow=url, mlflow_token_file=token))
    search = f"{url}/api/2.0/mlflow/experiments/search"
    with running(elsewhere, "-m", "mlplatform.process", "mlflow", "--host=127.0.0.2"):
        wait(lambda: status_of(f"{url}/health") == 200, within_s=START_S)

        def status(**headers: str) -> int:
            sent = {"Authorization": "Bearer mounted", **headers}
            return httpx.post(search, json={"max_results": 1}, headers=sent).status_code

        assert status() == 200
        assert status(Host="elsewhere.example") == 403
        assert status(Authorization="Bearer secret") == 401


def test_prefect_serves_what_it_is_given_and_ends_when_told(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "look_around.py").write_text(FLOW)
    chosen = replace(settings, log_level="warning")
    with running(chosen, "-c", PREFECT, str(tmp_path)) as process:
        wait((tmp_path / "ready").exists, within_s=START_S)

        api = f"{settings.prefect_url}/api"
        deployments = httpx.post(f"{api}/deployments/filter", json={}, **LOGGED_IN).json()
        evil = httpx.get(f"{api}/health", headers={"Origin": "http://evil.example"}, **LOGGED_IN)
        own = httpx.get(f"{api}/health", headers={"Origin": settings.prefect_url}, **LOGGED_IN)
        page = httpx.get(settings.prefect_url, follow_redirects=True, **LOGGED_IN)
        assert "<html" in page.text
        assert httpx.get(f"{settings.prefect_url}/ui-settings", **LOGGED_IN).json()["api_url"] == (
            "/api"
        ), "of the page's own origin, so that a browser sends its log-in there"
        assert {httpx.get(f"{settings.prefect_url}{path}").status_code for path in OPEN_BEFORE} == {
            401
        }
        assert httpx.get(f"{settings.prefect_url}/health").status_code == 200
        assert [d["name"] for d in deployments] == ["fraud-rollout"], "the former one is gone"
        asked = httpx.get(f"{api}/flow_runs/{(tmp_path / 'asked').read_text()}", **LOGGED_IN).json()
        assert asked["state"]["type"] == "CANCELLED", "a pass asks it again where somebody answers"
        assert "access-control-allow-origin" not in evil.headers
        assert own.headers["access-control-allow-origin"] == settings.prefect_url
        assert settings.home.prefect.stat().st_mode & 0o077 == 0
        assert (tmp_path / "level").read_text() == "WARNING"

        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_flow_runs_are_forks_of_a_warm_process_and_end_as_any_run_does(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "look_around.py").write_text(FLOW)
    with running(settings, "-c", PREFECT, str(tmp_path)):
        wait((tmp_path / "ready").exists, within_s=START_S)
        prefect = PrefectApi(settings.prefect_url, auth=lambda: f"operator:{TOKEN}")

        def run(ends: str) -> tuple[str, list[str]]:
            given = {"model": "fraud", "to": str(tmp_path / ends), "ends": ends}
            started = prefect.start("rollout", given)
            wait(lambda: prefect.run(started.id).final)
            return prefect.run(started.id).state, (tmp_path / ends).read_text().split()

        ended = {ends: run(ends) for ends in ("well", "failing", "killed")}
        _check_schedules(prefect)
        lost = {state: _lose(settings, prefect, state) for state in ("RUNNING", "PENDING")}
        # What a full disk kept from the server: nobody waits for ever.
        settled = {"RUNNING": "CRASHED", "PENDING": "COMPLETED"}
        for state, run_id in lost.items():
            wait(lambda s=state, r=run_id: _state(settings, r) == settled[s], within_s=START_S)
        evil = tmp_path / "evil.py"
        evil.write_text(EVIL)
        _point_at(settings, evil)
        ended["pinned"] = run("pinned")
        (told,) = Refusals(settings.home.audit).since(0)
        assert (told.door, "evil.py" in told.why) == ("flow run", True)
        with (tmp_path / "look_around.py").open("a") as file:
            file.write("# another file now\n")
        changed = prefect.start("rollout", {"model": "fraud", "to": str(tmp_path / "no")})
        wait(lambda: prefect.run(changed.id).final)
        assert prefect.run(changed.id).state == "CRASHED"
        assert not (tmp_path / "no").exists()
        assert not (tmp_path / "was-here").exists(), "the database named it, and nobody ran it"

    assert {ends: state for ends, (state, _) in ended.items()} == {
        "well": "COMPLETED",
        "failing": "FAILED",
        "killed": "CRASHED",
        "pinned": "COMPLETED",
    }
    assert {was_there for _, (_, was_there) in ended.values()} == {"True"}
    assert len({pid for _, (pid, _) in ended.values()}) == 4


def _check_schedules(prefect: PrefectApi) -> None:
    """What the page shows of Prefect, by the server's own answers."""
    wait(lambda: prefect.next_runs(["rollout"], 1), "its scheduler plans", within_s=START_S)
    (row,) = ask(prefect, time.time_ns() // 1_000_000, lambda: False).active
    assert (row.flow, row.model, row.every) == ("rollout", "fraud", "daily at 04:00 UTC")
    assert row.last is not None
    assert (row.last.state, row.last.tone) == ("Crashed", "bad")
    assert row.next is not None
    assert row.next.name == "rollout pass fraud"


def _lose(settings: Settings, prefect: PrefectApi, state: str) -> str:
    """A run that the server believes to be in a state that no process of it will end."""
    given = {"model": "fraud", "to": os.devnull}
    run = prefect.start("rollout", given)
    wait(lambda: prefect.run(run.id).final)
    with sqlite3.connect(settings.home.prefect / "prefect.db", timeout=30) as database:
        changed = database.execute(
            "UPDATE flow_run SET state_type = ?, state_name = ? WHERE id = ?",
            [state, state.title(), run.id],
        )
        assert changed.rowcount == 1
    return run.id


def _state(settings: Settings, run_id: str) -> str:
    with sqlite3.connect(settings.home.prefect / "prefect.db", timeout=30) as database:
        row = database.execute("SELECT state_type FROM flow_run WHERE id = ?", [run_id]).fetchone()
    return str(row[0])


def _point_at(settings: Settings, file: Path) -> None:
    """What somebody who can write to the server's database would do."""
    with sqlite3.connect(settings.home.prefect / "prefect.db", timeout=30) as database:
        changed = database.execute("UPDATE deployment SET entrypoint = ?", [f"{file}:look_around"])
        assert changed.rowcount == 1
