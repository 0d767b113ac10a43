"""The Open Inference Protocol at the gateway: standard clients, the same routes, limits and log."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.pseudonym import load_or_create_key, pseudonym
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.scoring.arms.routing import bucket
from support import standard_clients
from support.ports import free_port
from support.scoring_world import MODEL, ScoringWorld
from support.standard_clients import Target

pytestmark = pytest.mark.slow
VISIBLE = [*range(0x21, 0x7F), *range(0x80, 0x100)]
WIDTH = len(load_definition(MODEL).inputs)


@dataclasses.dataclass
class Canary:
    """A world in which half of the customers belong to a challenger that adds 0.25."""

    world: ScoringWorld
    champion: Arm
    challenger: Arm
    rollout_id: str
    grpc_port: int
    client: httpx.Client


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    world = ScoringWorld(tmp_path_factory.mktemp("inference"))
    try:
        champion = world.deploy(1)
        world.promote(champion)
        grpc_port = free_port()
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(grpc_port))
        challenger = world.deploy(2, offset=0.25)
        world.shadow(challenger)
        routes = world.canary(50.0)
        assert routes.rollout_id is not None
        with world.client(keeps_alive=False) as client:
            yield Canary(world, champion, challenger, routes.rollout_id, grpc_port, client)
    finally:
        world.close()


def row(amount: float) -> list[float]:
    return [amount, *([0.0] * (WIDTH - 1))]


def body(*amounts: float, **parameters: Any) -> dict[str, Any]:
    rows = [row(amount) for amount in amounts]
    tensor = {"name": "inputs", "shape": [len(rows), WIDTH], "datatype": "FP32", "data": rows}
    return {"inputs": [tensor], "parameters": parameters}


def infer(world: ScoringWorld, content: Any, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{world.url}/v2/models/{MODEL}/infer",
        json=content,
        headers=world.headers | headers,
        timeout=10.0,
    )


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("client", ["kserve-rest", "triton-http", "kserve-grpc", "triton-grpc"])
def test_standard_clients_work_unmodified(canary: Canary, client: str, binary: bool) -> None:
    world = canary.world
    authority, rows = world.url.removeprefix("http://"), [row(250.0), row(750.0)]
    target = Target(authority, f"127.0.0.1:{canary.grpc_port}", MODEL, world.headers, rows)
    command = [sys.executable, standard_clients.__file__, client]
    command += [json.dumps(dataclasses.asdict(target)), *(["--binary"] if binary else [])]
    ran = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found.pop("scores") == pytest.approx([0.25, 0.75], abs=1e-4)
    assert found == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "id": "a-request",
        "model": MODEL,
    }


def test_an_assignment_key_goes_where_the_same_customer_goes(canary: Canary) -> None:
    """And its records are the rollout's; the key itself is stored nowhere."""
    world = canary.world
    secret = load_or_create_key(world.home.pseudonym_key)
    for customer in range(9_000_000, 9_000_012):
        unit = pseudonym(customer, secret)
        is_challenger = bucket(unit, canary.rollout_id) < 5000
        reply = infer(world, body(300.0, assignment_key=customer)).raise_for_status().json()
        expected = 0.55 if is_challenger else 0.3
        assert reply["outputs"][0]["data"] == pytest.approx([expected], abs=1e-4)
        arm = canary.challenger if is_challenger else canary.champion
        assert reply["model_version"] == arm.bundle
        (record,) = [r for r in world.records("inference") if r["unit"] == unit]
        assert record["arm"] == ("challenger" if is_challenger else "champion")
        assert record["payload"]["inputs"] == row(300.0)
        assert str(customer) not in json.dumps(record["payload"])


def test_without_a_key_the_champion_answers_outside_analysis(canary: Canary) -> None:
    before = len(canary.world.records("decision"))
    amounts = [100.0 + i for i in range(20)]
    reply = infer(canary.world, body(*amounts)).raise_for_status().json()
    expected = [amount / 1000 for amount in amounts]
    assert reply["outputs"][0]["data"] == pytest.approx(expected, abs=1e-4)
    records = [r for r in canary.world.records("inference") if r["unit"] is None][-20:]
    assert [r["payload"]["inputs"][0] for r in records] == amounts
    assert {(r["arm"], r["bucket"]) for r in records} == {("champion", None)}
    assert len(canary.world.records("decision")) == before


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        pytest.param(401, body(1.0), {"Authorization": "Bearer no"}, id="another key"),
        pytest.param(400, {"inputs": []}, {}, id="no inputs"),
        pytest.param(400, [1], {}, id="no object"),
        pytest.param(422, body(*([1.0] * 129)), {}, id="too many rows"),
        pytest.param(422, body(1.0, assignment_key="seven"), {}, id="a key of another kind"),
        pytest.param(422, body(1.0, assignment_key=2**63), {}, id="a key out of range"),
        pytest.param(422, body(1.0), {"Idempotency-Key": "k"}, id="idempotency key"),
        pytest.param(422, body(1.0), {"X-Request-Timeout-Ms": "1"}, id="timeout"),
        pytest.param(415, body(1.0), {"Content-Type": "text/plain"}, id="text"),
    ],
)
def test_a_refusal_is_a_problem_and_the_protocols_error(
    canary: Canary, status: int, content: Any, headers: dict[str, str]
) -> None:
    reply = infer(canary.world, content, **headers)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["error"] == problem["detail"]
    assert problem["type"].startswith("urn:mlplatform:problem:")


@pytest.mark.parametrize("name", ["inputs", "data", "assignment_key"])
def test_what_stands_twice_is_refused(canary: Canary, name: str) -> None:
    sent = json.dumps(body(1.0, assignment_key=7))
    assert infer(canary.world, json.loads(sent)).status_code == 200
    at = sent.index(f'"{name}"')
    again = json.dumps(find(json.loads(sent), name))
    reply = httpx.post(
        f"{canary.world.url}/v2/models/{MODEL}/infer",
        content=f'{sent[:at]}"{name}": {again}, {sent[at:]}',
        headers=canary.world.headers | {"content-type": "application/json"},
    )
    assert (reply.status_code, reply.json()["field"]) == (422, name)


def find(value: Any, name: str) -> Any:
    """The member of that name, wherever it stands in a JSON value."""
    if isinstance(value, dict) and name in value:
        return value[name]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for one in inner if (found := find(one, name)) is not None), None)


def test_a_tensor_for_each_input_is_a_row_of_all(canary: Canary) -> None:
    """And is recorded as the row that it is."""
    names = [one.name for one in load_definition(MODEL).inputs]
    sent = [{"name": name, "shape": [2], "datatype": "FP64", "data": [0, 0]} for name in names]
    sent[0]["data"] = [250.0, 750.0]
    sent[1] |= {"data": [None, 0]}
    reply = infer(canary.world, {"inputs": sent}).raise_for_status().json()
    assert reply["outputs"][0]["data"] == pytest.approx([0.25, 0.75], abs=1e-4)
    recorded = [r["payload"]["inputs"] for r in canary.world.records("inference")][-2:]
    assert sorted(recorded, key=lambda one: one[0]) == [[250.0, None, *row(0)[2:]], row(750.0)]
    refused = infer(canary.world, {"inputs": sent[1:]})
    assert (refused.status_code, f"lack ['{names[0]}']" in refused.json()["detail"]) == (400, True)


def test_unknown_models_are_named(canary: Canary) -> None:
    for path in ("/v2/models/other", "/v2/models/other/infer", f"/v2/models/{MODEL}/guess"):
        reply = httpx.get(canary.world.url + path, headers=canary.world.headers)
        assert reply.status_code == 404
        assert "error" in reply.json()
    assert httpx.get(f"{canary.world.url}/v2/models/other").status_code == 401


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.lists(st.integers(-1, 3) | st.just(WIDTH), max_size=3),
    size=st.integers(-1, 200) | st.just(4 * WIDTH),
    tail=st.binary(max_size=4 * WIDTH),
    cut=st.integers(-2, 2),
    length=st.none() | st.lists(st.sampled_from(VISIBLE), max_size=6).map(bytes),
)
def test_no_binary_body_is_too_strange(
    canary: Canary, shape: list[int], size: int, tail: bytes, cut: int, length: bytes | None
) -> None:
    tensor = {
        "name": "inputs",
        "shape": shape,
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    given_length = str(len(head) + cut).encode() if length is None else length
    headers = [(b"inference-header-content-length", given_length)]
    url = f"{canary.world.url}/v2/models/{MODEL}/infer"
    reply = canary.client.post(url, content=head + tail, headers=headers)
    assert reply.status_code in (200, 400)


@pytest.mark.parametrize(
    ("value", "status"), [(np.inf, 400), (-np.inf, 400), (np.nan, 200), (3e38, 200)]
)
def test_what_is_infinite_is_refused_as_bytes_too_and_what_is_missing_is_not(
    canary: Canary, value: float, status: int
) -> None:
    """In JSON an infinite value cannot be said, and one too large for FP32 is refused."""
    data = np.array([[500.0, *([value] * (WIDTH - 1))]], dtype="<f4").tobytes()
    assert infer_bytes(canary, data).status_code == status


def test_a_whole_binary_body_is_answered_in_binary(canary: Canary) -> None:
    reply = infer_bytes(canary, np.array([row(500.0)], dtype="<f4").tobytes()).raise_for_status()
    length = int(reply.headers["inference-header-content-length"])
    assert np.frombuffer(reply.content[length:], "<f4") == pytest.approx([0.5], abs=1e-4)


def infer_bytes(canary: Canary, data: bytes) -> httpx.Response:
    """The answer to one row of bytes, which is in bytes too."""
    tensor = {
        "name": "inputs",
        "shape": [1, WIDTH],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    outputs = [{"name": "scores", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), **canary.world.headers}
    url = f"{canary.world.url}/v2/models/{MODEL}/infer"
    return httpx.post(url, content=head + data, headers=headers)
