"""A version that a server of somebody else's answers for: asked for its tensors and golden rows
before it answers, and after it by the gateway's own client.

The server is KServe's own Python server with scikit-learn (`tests/support/model_server.py`), and
MLServer where MLPLATFORM_TEST_MLSERVER names a Python that has it, as `make test-mlserver` does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
import pytest
from tests.support import model_server
from tests.support.foreign_onnx import CHANNELS, golden_rows, skl2onnx_classifier
from tests.support.onnx_bundles import sigmoid_bundle
from tests.support.ports import free_port
from tests.support.predictor_process import wait

from mlplatform.model.bundle import MODEL_FILE, Bundle, Golden, load_bundle, write_bundle
from mlplatform.model.definition import InputSpec
from mlplatform.model.folders import load_definition
from mlplatform.model.oip import PredictionFailed
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.model.rules import Reason
from mlplatform.model.tensors.signature import Signature
from mlplatform.operations.supervisor import addressed_servers
from mlplatform.operations.supervisor.addressed_servers import AddressedServer
from mlplatform.rollouts.serving import kserve
from mlplatform.rollouts.serving.golden import problem_of
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.local import LocalPlane, ServiceStatusFile, StatusStore, bundle_uri
from mlplatform.rollouts.serving.manifest import Service, read, render
from mlplatform.rollouts.serving.named_codec import codec_of
from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.scoring.predictor.model import scorer
from mlplatform.scoring.predictor_client.predictor import Predictor

pytestmark = pytest.mark.slow

NAMES = ("channel", "amount", "visits")
SIGNATURE = msgspec.convert(
    {
        "inputs": [
            {"name": "channel", "dtype": "string", "shape": ["n", 1], "of": ["channel"]},
            {"name": "amount", "dtype": "float32", "shape": ["n", 1], "of": ["amount"],
             "missing": -1},
            {"name": "visits", "dtype": "int64", "shape": ["n", 1], "of": ["visits"]},
        ],
        "outputs": [
            {"name": "label", "dtype": "int64", "shape": ["n"]},
            {"name": "probabilities", "dtype": "float32", "shape": ["n", 2]},
        ],
        "score": {"output": "probabilities", "column": 1},
    },
    Signature,
)  # fmt: skip
ROWS = [[2.0, 4000.0, 1.0], [np.nan, np.nan, np.nan], [1.0, 1e300, 3.0], [4.0, 9000.0, 0.0]]


@contextmanager
def running(*options: str) -> Iterator[str]:
    """Where the server listens."""
    port = free_port()
    command = [sys.executable, model_server.__file__, "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: _is_ready(f"{url}/v2/models/churn/ready"))
        yield url
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def mlserver(folder: Path) -> Iterator[str]:
    """Where MLServer listens, with the same model."""
    python = os.environ.get("MLPLATFORM_TEST_MLSERVER")
    if python is None:
        pytest.skip("MLSERVER IS NOT TESTED: make test-mlserver sets MLPLATFORM_TEST_MLSERVER")
    (folder / "model.onnx").write_bytes(skl2onnx_classifier())
    settings = {"name": "churn", "implementation": "mlserver_model.OnnxModel"}
    (folder / "model-settings.json").write_bytes(msgspec.json.encode(settings))
    port = free_port()
    ports = {"HTTP": port, "GRPC": free_port(), "METRICS": free_port()}
    environment = {
        **os.environ,
        **{f"MLSERVER_{name}_PORT": str(number) for name, number in ports.items()},
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MODEL_FILE": str(folder / "model.onnx"),
        "PYTHONPATH": str(Path(model_server.__file__).parent),
    }
    start = [str(Path(python).with_name("mlserver")), "start", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: _is_ready(f"{url}/v2/models/churn/ready"))
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(
    scope="module", params=["kserve", pytest.param("mlserver", marks=pytest.mark.mlserver)]
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    is_kserve = request.param == "kserve"
    with running() if is_kserve else mlserver(tmp_path_factory.mktemp("mlserver")) as url:
        yield url


def made(bundles: Path, url: str, **changes: object) -> Bundle:
    """A bundle of the file to which the server's pipeline was exported, in its own folder."""
    sigmoid_bundle(bundles / "other")
    plain = load_bundle(bundles / "other")
    content = skl2onnx_classifier()
    golden = golden_rows()
    places = {word: float(place) for place, word in enumerate(CHANNELS, 2)}
    fields = {
        "model": "limits",
        "inputs": (
            InputSpec(name="channel", kind="category", of="channel"),
            InputSpec(name="amount", kind="field", of="amount"),
            InputSpec(name="visits", kind="field", of="visits"),
        ),
        "reasons": {n: Reason(code=n.upper(), customer=n, analyst=n) for n in NAMES},
        "rules": (),
        "reference": {"channel": 2.0, "amount": 3000.0, "visits": 4.0},
        "views": (),
        "small_model": None,
        "golden": Golden(
            rows=tuple(
                (places.get(i["channel"], 1.0), i["amount"], i["visits"])
                for i in (row["inputs"] for row in golden)
            ),
            scores=tuple(row["score"] for row in golden),
            tolerance=1e-5,
        ),
        "profile": dataclasses.replace(plain.profile, inputs={}),
        "files": {MODEL_FILE: digest(content)},
        "vocabularies": {"channel": CHANNELS},
        "signature": SIGNATURE,
        "server": ModelServer(
            runtime="bank-sklearn", address=url, served_as="churn", tolerance=1e-4
        ),
    }
    bundle = msgspec.structs.replace(plain, **(fields | changes))
    write_bundle(bundle, content, bundles / bundle.digest)
    return load_bundle(bundles / bundle.digest)


def service_of(bundle: Bundle) -> str:
    return f"limits-v1-{bundle.digest[:8]}"


def test_a_server_that_is_its_bundles_model_has_no_problem(url: str, tmp_path: Path) -> None:
    bundle = made(tmp_path, url)
    assert problem_of(bundle, url, service_of(bundle)) == ""


async def test_the_gateways_client_gets_what_the_graph_scores(url: str, tmp_path: Path) -> None:
    """Missing values, unknown words and numbers beyond float32 too, in one call and in several."""
    bundle = made(tmp_path, url)
    service = service_of(bundle)
    graph = scorer(tmp_path / bundle.digest / MODEL_FILE, tensors=bundle.tensors)
    rows = [row for row in ROWS if row[1] != 1e300]
    expected = graph(np.array(rows, np.float32)).tolist()
    predictor = Predictor(
        service, lambda _: url, lambda: "a token that goes nowhere", codec=codec_of(bundle, service)
    )
    deadline_s = time.monotonic() + 5
    together = await predictor.predict(rows, deadline_s)
    alone = [(await predictor.predict([row], deadline_s))[0] for row in rows]
    (huge,) = await predictor.predict([ROWS[2]], deadline_s)
    predictor.close()
    assert together == pytest.approx(expected, abs=1e-4)
    assert alone == pytest.approx(expected, abs=1e-4)
    assert 0 <= huge <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--shift", "0.01"], "golden row 0 scores", id="other scores"),
        pytest.param(["--amount", "FP64"], "'amount' is FP64, not FP32", id="another datatype"),
    ],
)
def test_another_model_is_refused_with_the_reason(
    options: list[str], says: str, tmp_path: Path
) -> None:
    with running(*options) as url:
        bundle = made(tmp_path, url)
        assert says in problem_of(bundle, url, service_of(bundle))


def test_a_signature_that_the_server_does_not_have_is_refused(tmp_path: Path) -> None:
    """Where a server lists its tensors; MLServer does so only by its settings."""
    inputs = [*SIGNATURE.inputs[:2], msgspec.structs.replace(SIGNATURE.inputs[2], name="calls")]
    other = msgspec.structs.replace(SIGNATURE, inputs=tuple(inputs))
    with running() as url:
        bundle = made(tmp_path, url, signature=other)
        problem = problem_of(bundle, url, service_of(bundle))
    assert problem.endswith("another model: it takes 'visits', which the signature does not have")


def test_no_answer_is_no_wrong_answer(url: str, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for where, name in ((nobody, "churn"), (url, "another")):
        server = ModelServer(runtime="r", address=where, served_as=name, tolerance=1e-4)
        bundle = made(tmp_path / name, where, server=server)
        with pytest.raises(Unavailable, match=name):
            problem_of(bundle, where, service_of(bundle))


async def test_a_slow_or_broken_server_fails_as_a_predictor_of_ours_does(tmp_path: Path) -> None:
    with running("--delay-s", "0.5") as url:
        bundle = made(tmp_path, url)
        service = service_of(bundle)
        predictor = Predictor(service, lambda _: url, str, codec=codec_of(bundle, service))
        with pytest.raises(PredictionFailed) as late:
            await predictor.predict(ROWS[:1], time.monotonic() + 0.1)
        words = msgspec.structs.replace(SIGNATURE.inputs[2], name="calls")
        other = made(
            tmp_path,
            url,
            signature=msgspec.structs.replace(SIGNATURE, inputs=(*SIGNATURE.inputs[:2], words)),
        )
        broken = Predictor(service, lambda _: url, str, codec=codec_of(other, service))
        with pytest.raises(PredictionFailed) as refused:
            await broken.predict(ROWS[:1], time.monotonic() + 5)
        predictor.close()
        broken.close()
    assert late.value.reason in ("deadline", "stalled")  # the latter where this test had no core
    assert refused.value.reason == "unavailable"


class Api:
    """One InferenceService, and nothing else."""

    def __init__(self, service: dict[str, Any]) -> None:
        self.service = service

    def find(self, path: str) -> dict[str, Any] | None:
        return self.service if path.split("/")[-2] == "inferenceservices" else None

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9], ids=["the model", "another"])
def test_a_cluster_asks_it_before_it_is_ready(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> None:
    """The artefact is the server's own, and within what model.yaml declared, or it has failed."""
    server = ModelServer(
        runtime="bank-sklearn",
        format="sklearn/1",
        storage="s3://models/limits/3",
        served_as="churn",
        tolerance=tolerance,
    )
    golden = made(tmp_path / "plain", url).golden
    bundle = made(
        tmp_path, url, server=server, golden=msgspec.structs.replace(golden, tolerance=1e-9)
    )
    service = _named(
        render(load_definition("fraud"), 1, bundle.digest, "pvc://x", server=server),
        service_of(bundle),
    )
    service["metadata"]["uid"] = "one"
    plane = KServePlane(Api(service), "models", bundles=tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(plane, "endpoint", lambda name: url)
    monkeypatch.setattr(kserve, "diagnose", lambda name, *objects: ServiceStatus(name, True, ""))
    status = plane.status(service_of(bundle))
    assert (status.ready, status.failed) == (tolerance == 1e-4, tolerance == 1e-9)
    assert status.reason.startswith("golden row" if status.failed else "")


def test_a_cluster_refuses_one_that_has_an_address_alone(url: str, tmp_path: Path) -> None:
    bundle = made(tmp_path, url)
    manifest = render(load_definition("fraud"), 1, bundle.digest, "pvc://x", server=bundle.server)
    plane = KServePlane(Api({}), "models", bundles=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"serving\.storage of model\.yaml"):
        plane.apply(manifest)


def until(status: Callable[[], ServiceStatus], wanted: Callable[[ServiceStatus], bool]) -> None:
    wait(lambda: wanted(status()))


async def test_one_machine_follows_an_address(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready by golden rows; with a port for gateways only then; not ready again once another model
    is there, with the reason."""
    monkeypatch.setattr(addressed_servers, "ASK_S", 0.1)
    home = Home(tmp_path / "home")
    home.create()
    bundle = made(home.bundles, url)
    uri = bundle_uri(home.bundles / bundle.digest, home.bundles)
    manifest = render(load_definition("fraud"), 1, bundle.digest, uri, server=bundle.server)
    manifest = _named(manifest, service_of(bundle))
    plane = LocalPlane(home.serving)
    plane.apply(manifest)
    name = service_of(bundle)
    assert plane.status(name).reason == "waits for the supervisor to start it"
    store = StatusStore(home.serving)
    server = AddressedServer(read(manifest), home.bundles / bundle.digest, store.write)
    await asyncio.to_thread(until, lambda: plane.status(name), lambda s: s.ready)
    assert plane.endpoint(name) == url

    def another(bundle: Bundle, url: str, service: str) -> str:
        return "golden row 0 scores 0.5 alone; the bundle says 0.4 within 1e-05"

    monkeypatch.setattr(addressed_servers, "problem_of", another)
    await asyncio.to_thread(until, lambda: plane.status(name), lambda s: s.failed)
    assert plane.endpoint(name) is None
    assert "the bundle says 0.4" in plane.status(name).reason
    server.stop()


async def test_what_keeps_a_server_from_being_asked_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A host that no name can be made of, as a manifest of before could have it."""
    monkeypatch.setattr(addressed_servers, "ASK_UNREADY_S", 0.01)
    times = []

    def counted(bundle: Bundle, url: str, service: str) -> str:
        times.append(url)
        return problem_of(bundle, url, service)

    monkeypatch.setattr(addressed_servers, "problem_of", counted)
    bundle = made(tmp_path, "http://a..b:80")
    service = Service(service_of(bundle), "fraud", 1, bundle.digest, "", address="http://a..b:80")
    server = AddressedServer(service, tmp_path / bundle.digest, lambda status: None)
    await asyncio.to_thread(wait, lambda: len(times) > 5)
    server.stop()
    assert (
        len([r for r in caplog.records if r.exc_info and r.name == addressed_servers.__name__]) == 1
    )


async def test_one_machine_calls_a_server_ready_no_longer_than_it_waits_for_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that hangs where no time is kept, as that for a name's address may."""
    monkeypatch.setattr(addressed_servers, "ASK_S", 0.1)
    monkeypatch.setattr(addressed_servers, "WITHIN_S", 0.2)
    bundle = made(tmp_path, url)
    manifest = render(load_definition("fraud"), 1, bundle.digest, "pvc://x", server=bundle.server)
    service, said, answers = read(manifest), list[ServiceStatusFile](), threading.Event()
    answers.set()

    def hanging(bundle: Bundle, url: str, service: str) -> str:
        assert answers.wait(30)
        return ""

    monkeypatch.setattr(addressed_servers, "problem_of", hanging)
    server = AddressedServer(service, tmp_path / bundle.digest, said.append)

    def repeated(port: int | None) -> bool:
        server.write()
        return said[-1].port == port

    port = urlsplit(url).port
    await asyncio.to_thread(wait, lambda: repeated(port))
    answers.clear()
    await asyncio.to_thread(wait, lambda: repeated(None))
    assert said[-1].reason == "has not answered within 0.2 s"
    answers.set()
    await asyncio.to_thread(wait, lambda: repeated(port))
    server.stop()


def _named(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    text = msgspec.json.encode(manifest).decode()
    was = msgspec.json.decode(text)["metadata"]["name"]
    found: dict[str, Any] = msgspec.json.decode(text.replace(was, name))
    return found
