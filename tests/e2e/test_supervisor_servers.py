"""MLflow and Prefect as the supervisor starts them: up, private, and gone when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mlplatform.files import write_atomically
from mlplatform.settings import Home, Settings
from support.platform_process import DEADLINE_S, wait

pytestmark = pytest.mark.slow

PREFECT = """
import os, sys
from mlplatform.settings import load
from mlplatform.supervisor.prefect_server import run

def deployments():
    from prefect import flow
    sys.path.insert(0, sys.argv[1])
    from nothing_to_do import nothing
    return [nothing.to_deployment("default")]

run(load(os.environ), deployments, lambda: open(sys.argv[1] + "/ready", "w").close())
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = Home(tmp_path / "home")
    home.create()
    write_atomically(home.mlflow_token, b"secret")
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


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_mlflow_asks_for_the_token_and_ends_when_told(settings: Settings) -> None:
    search = f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search"
    with running(settings, "-m", "mlplatform.supervisor.mlflow_server") as process:
        wait(lambda: answers(f"{settings.mlflow_url}/health"))

        def status(**how: object) -> int:
            return httpx.post(search, json={"max_results": 1}, **how).status_code  # type: ignore[arg-type]

        assert status() == 401
        assert status(headers={"Authorization": "Bearer secret"}) == 200
        assert status(auth=("anybody", "secret")) == 200
        assert (settings.home.mlflow / "mlflow.db").is_file()

        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def test_prefect_serves_what_it_is_given_and_ends_when_told(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "nothing_to_do.py").write_text(
        "from prefect import flow\n\n@flow\ndef nothing() -> None:\n    pass\n"
    )
    with running(settings, "-c", PREFECT, str(tmp_path)) as process:
        wait((tmp_path / "ready").exists)

        api = f"{settings.prefect_url}/api"
        deployments = httpx.post(f"{api}/deployments/filter", json={}).json()
        evil = httpx.get(f"{api}/health", headers={"Origin": "http://evil.example"})
        own = httpx.get(f"{api}/health", headers={"Origin": settings.prefect_url})
        assert [d["name"] for d in deployments] == ["default"]
        assert "access-control-allow-origin" not in evil.headers
        assert own.headers["access-control-allow-origin"] == settings.prefect_url
        assert settings.home.prefect.stat().st_mode & 0o077 == 0

        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
