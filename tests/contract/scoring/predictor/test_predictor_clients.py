"""Unmodified standard clients against a predictor process: the KServe SDK and tritonclient."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from support import standard_clients
from support.predictor_process import TOKEN, Process, wait
from support.standard_clients import CLIENTS

ROWS = [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]]
SCORES = [0.5, 1 / (1 + np.exp(0.5))]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("clients"))
    wait(process.ready)
    yield process
    process.close()


def ask(predictor: Process, client: str, binary: bool, token: str) -> subprocess.CompletedProcess:
    target = {
        "authority": predictor.authority,
        "grpc_url": predictor.grpc_url,
        "model": predictor.name,
        "headers": {"Authorization": f"Bearer {token}"},
        "rows": ROWS,
    }
    argv = [sys.executable, standard_clients.__file__, client, json.dumps(target)]
    argv += ["--binary"] if binary else []
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "values"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_standard_client_finds_the_predictor_ready_and_gets_scores(
    predictor: Process, client: str, binary: bool
) -> None:
    done = ask(predictor, client, binary, TOKEN)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("scores") == pytest.approx(SCORES, abs=1e-6)
    assert found == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "id": "a-request",
        "model": predictor.name,
    }


@pytest.mark.parametrize("client", ["kserve-rest", "triton-grpc"])
def test_a_standard_client_without_the_token_is_told_so(predictor: Process, client: str) -> None:
    done = ask(predictor, client, True, "wrong")

    assert done.returncode != 0
    assert "bearer token of this predictor is needed" in done.stderr
