"""What answers in Triton's place: a repository that is laid out, the gateway's calls, golden rows.

`tests/support/triton_place.py` stands for Triton, whose image is not here.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.support import triton_place
from tests.support.onnx_bundles import sigmoid_bundle
from tests.support.ports import free_port
from tests.support.predictor_process import wait

from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.definition import CALL_ROWS
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving import golden
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.rollouts.serving.triton import lay_out
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring.predictor_client.predictor import Predictor

FRAUD = load_definition("fraud")
SMALL = msgspec.structs.replace(
    FRAUD, serving=msgspec.structs.replace(FRAUD.serving, runtime="triton", batch_rows=CALL_ROWS)
)


@dataclass(frozen=True)
class Server:
    service: str
    url: str
    bundle: Bundle


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Serves a bundle; with a parameter, one whose golden scores are shifted by so much."""
    digest = sigmoid_bundle(tmp_path / "bundle", shift=getattr(request, "param", 0.0))
    service = str(ServiceName.of("fraud", 1, digest))
    repository = lay_out(SMALL, service, tmp_path / "bundle", tmp_path)
    port = free_port()
    command = [sys.executable, triton_place.__file__, f"--model-repository={repository}"]
    process = subprocess.Popen([*command, f"--http-port={port}", "--strict-readiness=true"])
    url = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: _is_ready(f"{url}/v2/models/{service}/ready"))
        yield Server(service, url, load_bundle(tmp_path / "bundle"))
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_a_service_that_scores_as_its_bundle_has_nothing_wrong(server: Server) -> None:
    assert (
        golden.score_differences(server.bundle, partial(golden.ask, server.url, server.service))
        == ""
    )


@pytest.mark.parametrize("server", [0.01], indirect=True)
def test_a_service_that_scores_otherwise_is_told_by_its_row(server: Server) -> None:
    problem = golden.score_differences(
        server.bundle, partial(golden.ask, server.url, server.service)
    )
    assert problem.startswith("golden row 0 scores 0.5 in a batch; the bundle says 0.51")


def test_what_is_wrong_alone_is_found_too(server: Server) -> None:
    def score(rows: object) -> list[float]:
        values = list(server.bundle.golden.scores)
        return values if len(rows) > 1 else [0.25]  # type: ignore[arg-type]

    assert "0.25 alone" in golden.score_differences(server.bundle, score)


@pytest.mark.parametrize("given", [float("nan"), float("inf")])
def test_no_number_is_wrong(server: Server, given: float) -> None:
    assert golden.score_differences(server.bundle, lambda rows: [given] * len(rows)) != ""


def test_no_answer_is_not_a_wrong_one(server: Server) -> None:
    for url, service in (
        (server.url, "fraud-v9-00000000"),
        (f"http://127.0.0.1:{free_port()}", server.service),
    ):
        with pytest.raises(Unavailable, match=service):
            golden.ask(url, service, [(0.0, 0.0, 0.0)])


async def test_the_gateway_asks_it_as_it_asks_the_platforms_own(server: Server) -> None:
    predictor = Predictor(server.service, lambda service: server.url, lambda: "any token")
    deadline_s = time.monotonic() + 5
    calls = [predictor.predict([(0.0, 0.0, float(i))], deadline_s) for i in range(3)]
    scores = [(await call)[0] for call in calls]
    predictor.close()
    assert scores == pytest.approx([0.5, 0.731059, 0.880797], abs=1e-6)


def test_a_call_of_a_gateway_fits_and_one_of_more_rows_is_refused(server: Server) -> None:
    row = (0.0, 0.0, 0.0)
    assert golden.ask(server.url, server.service, [row] * CALL_ROWS) == [0.5] * CALL_ROWS
    with pytest.raises(Unavailable, match="exceed"):
        golden.ask(server.url, server.service, [row] * (CALL_ROWS + 1))
