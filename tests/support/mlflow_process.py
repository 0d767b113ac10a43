"""The platform's own MLflow server, as its supervisor starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from mlplatform.runtime.configuration.settings import Home
from support.ports import free_port
from support.scoring_world import wait_for

START_LIMIT_S = 60


@contextmanager
def mlflow_server(variables: Mapping[str, str], token: str) -> Iterator[str]:
    """Its address, while it runs.

    Args:
        variables: settings; MLPLATFORM_HOME among them, where `server.log` is written.
    """
    home, port = Home(Path(variables["MLPLATFORM_HOME"])), free_port()
    home.create()
    home.mlflow_token.write_text(token)
    environment = {**os.environ, **variables, "MLPLATFORM_MLFLOW_PORT": str(port)}
    with (home.root / "server.log").open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlplatform.process", "mlflow"],
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            wait_for(lambda: _is_up(port, server), within_s=START_LIMIT_S)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def _is_up(port: int, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "MLflow ended"
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success
    except httpx.HTTPError:
        return False
