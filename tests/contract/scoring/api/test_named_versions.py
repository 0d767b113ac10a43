"""A request that names the version which must answer: with a scope, by that version or by none."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.decisions.records.record import Record
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.scoring.protos import open_inference_pb2 as oip
from mlplatform.scoring.protos import scoring_pb2 as pb
from mlplatform.scoring.request.explain import explain_records, load_decider
from mlplatform_client import Client, NotFound, Terms
from support.client_keys import new_key
from support.ports import free_port
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

pytestmark = pytest.mark.slow
HEADER = "Mlplatform-Version"
WIDTH = len(load_definition(MODEL).inputs)
OFFSETS = {1: 0.0, 2: 0.1, 3: 0.25}
"""By version, what it adds to a thousandth of the amount."""
ROLES = {1: "previous", 2: "champion", 3: "challenger"}


@dataclass
class Shop:
    """A canary of version 3 over 2, whose predecessor is 1, and a client that may name versions."""

    world: ScoringWorld
    arms: dict[int, Arm]
    grpc_port: int
    key: str
    plain: str
    in_shadow: tuple[str, str] = ("", "")

    @property
    def headers(self) -> dict[str, str]:
        """With time enough for a busy machine."""
        return {"Authorization": f"Bearer {self.key}", "X-Request-Timeout-Ms": "2000"}

    def post(self, path: str, content: Any, version: object = None, **headers: str) -> Any:
        named = {} if version is None else {HEADER: str(version)}
        url, sent = f"{self.world.url}{path}", self.headers | named | headers
        return httpx.post(url, json=content, headers=sent, timeout=10.0)

    def score(self, content: Any, version: object = None, **headers: str) -> Any:
        return self.post(f"/api/v2/models/{MODEL}/score", content, version, **headers)

    def unary(self, method: str, request: Any, answer: Any, **metadata: str) -> Any:
        sent = {"authorization": f"Bearer {self.key}"} | metadata
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            call = channel.unary_unary(method)
            found = call(request.SerializeToString(), timeout=5.0, metadata=tuple(sent.items()))
        return answer.FromString(found)

    def record(self, decision_id: str) -> dict[str, Any]:
        (found,) = [r for r in self.world.records("decision") if r["decision_id"] == decision_id]
        return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    world = ScoringWorld(tmp_path_factory.mktemp("named"))
    try:
        arms = {version: world.deploy(version, offset) for version, offset in OFFSETS.items()}
        world.promote(arms[1])
        world.promote(arms[2])
        port = free_port()
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
        read = ("--scope", "score", "--scope", "read")
        key = new_key(world, "tester", *read, "--scope", "any-version")
        plain = new_key(world, "shop", *read)
        found = Shop(world, arms, port, key, plain)
        wait_for(lambda: found.score(payment()).status_code == 200)
        world.shadow(arms[3])
        named, routed = (found.score(payment(), of).json()["decision_id"] for of in (2, None))
        wait_for(lambda: routed in [r["decision_id"] for r in world.records("shadow")])
        found.in_shadow = named, routed
        world.canary(50.0)
        yield found
    finally:
        world.close()


def tensor(amount: float) -> dict[str, Any]:
    data = [[amount, *([0.0] * (WIDTH - 1))]]
    return {"inputs": [{"name": "inputs", "shape": [1, WIDTH], "datatype": "FP32", "data": data}]}


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_named_version_answers_whosever_the_customer_is(shop: Shop, version: int) -> None:
    arm = shop.arms[version]
    for customer, name in enumerate([version, arm.bundle] * 4):
        answer = shop.score(payment(300.0, customer), name).raise_for_status().json()
        assert answer["score"] == pytest.approx(0.3 + OFFSETS[version], abs=1e-4)
        assert answer["model"] == {"version": version, "bundle": arm.bundle}
        assert (answer["route"]["arm"], answer["degraded"]) == ("named", None)
        assert answer["answered_by"] == ROLES[version]
        record = shop.record(answer["decision_id"])
        assert (record["arm"], record["version"]) == ("named", version)
        assert record["unit"] is not None  # an erasure of the customer finds it


def test_a_decision_by_a_named_version_is_made_again_from_its_record(shop: Shop) -> None:
    answer = shop.score(payment(700.0), 1).raise_for_status().json()
    found = shop.record(answer["decision_id"])
    fields = {k: v for k, v in found.items() if k in Record.__struct_fields__}
    bundles = shop.world.home.bundles
    (again,) = explain_records([Record(**fields)], lambda *of: load_decider(bundles, *of))
    assert (again.version, again.differences) == (1, ())
    assert again.again is not None
    assert again.again.score == pytest.approx(0.7, abs=1e-4)


def test_no_copy_of_such_a_request_goes_to_a_challenger_in_shadow(shop: Shop) -> None:
    """The request after it was copied."""
    named, routed = shop.in_shadow
    copied = [record["decision_id"] for record in shop.world.records("shadow")]
    assert (named in copied, routed in copied) == (False, True)


def test_only_a_key_with_the_scope_names_a_version(shop: Shop) -> None:
    before = len(shop.world.records("decision"))
    plain = {"Authorization": f"Bearer {shop.plain}"}
    for path, body in [
        (f"/api/v2/models/{MODEL}/score", payment()),
        (f"/api/v1/models/{MODEL}/score", payment()),
        (f"/api/v2/models/{MODEL}/score:batch", {"requests": [payment()]}),
        (f"/v2/models/{MODEL}/infer", tensor(1.0)),
    ]:
        refused = shop.post(path, body, 2, **plain)
        assert problem(refused) == (403, "forbidden")
        assert refused.json()["field"] == "mlplatform-version"
        assert "no scope any-version" in refused.json()["detail"]
    refused = shop.post(f"/v2/models/{MODEL}/versions/2/infer", tensor(1.0), **plain)
    assert problem(refused) == (403, "forbidden")
    assert len(shop.world.records("decision")) == before


def test_the_scope_alone_scores_nothing(shop: Shop) -> None:
    key = {"Authorization": f"Bearer {new_key(shop.world, 'idle', '--scope', 'any-version')}"}
    wait_for(lambda: shop.score(payment(), 2, **key).status_code == 403)
    assert shop.score(payment(), **key).status_code == 403


@pytest.mark.parametrize("version", ["4", "latest", "02", "champion", "f" * 64, "x" * 300])
def test_a_version_that_is_not_served_is_an_error_and_no_champions_answer(
    shop: Shop, version: str
) -> None:
    before = len(shop.world.records("decision", "inference"))
    refused = shop.score(payment(), version)
    assert problem(refused) == (404, "unknown-version")
    served = "served: 2 (champion), 3 (challenger), 1 (previous)"
    assert served in refused.json()["detail"]
    assert len(refused.json()["detail"]) < 250
    batch = shop.post(f"/api/v2/models/{MODEL}/score:batch", {"requests": [payment()]}, version)
    (item,) = batch.raise_for_status().json()["results"]
    assert item["problem"]["status"] == 404
    root = f"/v2/models/{MODEL}/versions/{version}"
    assert problem(shop.post(f"{root}/infer", tensor(1.0))) == (404, "unknown-version")
    for path in (root, f"{root}/ready"):
        found = httpx.get(shop.world.url + path, headers=shop.headers)
        assert (found.status_code, served in found.json()["error"]) == (404, True)
    assert len(shop.world.records("decision", "inference")) == before


def test_a_batch_goes_to_the_version_that_is_named(shop: Shop) -> None:
    bodies = {"requests": [payment(300.0, customer) for customer in range(8)]}
    answer = shop.post(f"/api/v2/models/{MODEL}/score:batch", bodies, 3).raise_for_status().json()
    assert {one["answer"]["model"]["version"] for one in answer["results"]} == {3}


def test_a_retry_gets_the_answer_and_another_version_is_another_request(shop: Shop) -> None:
    body, key = payment(300.0), {"Idempotency-Key": f"named-{time.time_ns()}"}
    first = shop.score(body, 3, **key).raise_for_status()
    again = shop.score(body, 3, **key).raise_for_status()
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    for other in (2, None):
        assert problem(shop.score(body, other, **key)) == (422, "idempotency-key-reused")
    routed = {"Idempotency-Key": f"routed-{time.time_ns()}"}
    shop.score(body, **routed).raise_for_status()
    assert problem(shop.score(body, 3, **routed)) == (422, "idempotency-key-reused")


def test_what_is_decided_later_can_name_no_version(shop: Shop) -> None:
    refused = shop.post(f"/api/v2/models/{MODEL}/score:async", payment(), 2)
    assert problem(refused) == (422, "invalid-header")
    assert refused.json()["field"] == "mlplatform-version"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_open_inference_protocol_names_a_version_in_its_path(shop: Shop, version: int) -> None:
    bundle = shop.arms[version].bundle
    for name in (str(version), bundle):
        root = f"/v2/models/{MODEL}/versions/{name}"
        answer = shop.post(f"{root}/infer", tensor(300.0)).raise_for_status().json()
        assert answer["model_version"] == bundle
        expected = 0.3 + OFFSETS[version]
        assert answer["outputs"][0]["data"] == pytest.approx([expected], abs=1e-4)
        with httpx.Client(base_url=shop.world.url, headers=shop.headers) as client:
            described = client.get(root).raise_for_status().json()
            assert described["versions"] == [shop.arms[number].bundle for number in (2, 3, 1)]
            assert client.get(f"{root}/ready").json() == {"name": MODEL, "ready": True}
            assert client.post(root).status_code == 405
    by_header = shop.post(f"/v2/models/{MODEL}/infer", tensor(300.0), version)
    assert by_header.raise_for_status().json()["model_version"] == bundle
    record = [r for r in shop.world.records("inference") if r["version"] == version][-1]
    assert record["arm"] == "named"


def test_a_path_and_a_header_name_the_same_version(shop: Shop) -> None:
    path = f"/v2/models/{MODEL}/versions/3/infer"
    assert shop.post(path, tensor(1.0), 3).status_code == 200
    assert problem(shop.post(path, tensor(1.0), 2)) == (422, "invalid-header")


def test_an_unknown_path_below_a_version_leads_nowhere(shop: Shop) -> None:
    for rest in ("versions", "versions/", "versions/*/infer", "versions/3/x", "versions//infer",
                 "versions/3/infer/more"):  # fmt: skip
        found = shop.post(f"/v2/models/{MODEL}/{rest}", tensor(1.0))
        assert found.status_code == 404, rest


def test_a_version_is_named_over_grpc(shop: Shop) -> None:
    value = pb.FieldValue
    fields = {"customer_id": value(integer=7), "terminal_id": value(integer=3),
              "amount": value(number=300.0)}  # fmt: skip
    asked = pb.ScoreRequest(model=MODEL, fields=fields, event_time_ms=int(time.time() * 1000))
    method = "/mlplatform.scoring.v1.Scoring/Score"
    answer = shop.unary(method, asked, pb.ScoreResponse, **{"mlplatform-version": "1"})
    assert (answer.model_version, answer.route_arm) == (1, "named")
    with pytest.raises(grpc.RpcError) as refused:
        shop.unary(method, asked, pb.ScoreResponse, **{"mlplatform-version": "9"})
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    batch = pb.ScoreBatchRequest(requests=[asked, asked])
    found = shop.unary(
        "/mlplatform.scoring.v1.Scoring/ScoreBatch", batch, pb.ScoreBatchResponse,
        **{"mlplatform-version": "3"},
    )  # fmt: skip
    assert {one.answer.model_version for one in found.results} == {3}


def test_an_inference_over_grpc_goes_to_its_model_version(shop: Shop) -> None:
    """It was ignored once, and the champion answered."""
    service = "/inference.GRPCInferenceService"
    asked = oip.ModelInferRequest(model_name=MODEL, model_version="3")
    sent = asked.inputs.add(name="inputs", datatype="FP32", shape=[1, WIDTH])
    sent.contents.fp32_contents.extend([300.0, *([0.0] * (WIDTH - 1))])
    answer = shop.unary(f"{service}/ModelInfer", asked, oip.ModelInferResponse)
    assert answer.model_version == shop.arms[3].bundle
    assert answer.outputs[0].contents.fp32_contents[0] == pytest.approx(0.55, abs=1e-4)
    asked.model_version = "9"
    for method, request, kind in [
        ("ModelInfer", asked, oip.ModelInferResponse),
        ("ModelReady", oip.ModelReadyRequest(name=MODEL, version="9"), oip.ModelReadyResponse),
        ("ModelMetadata", oip.ModelMetadataRequest(name=MODEL, version="9"),
         oip.ModelMetadataResponse),
    ]:  # fmt: skip
        with pytest.raises(grpc.RpcError) as refused:
            shop.unary(f"{service}/{method}", request, kind)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    ready = oip.ModelReadyRequest(name=MODEL, version="3")
    assert shop.unary(f"{service}/ModelReady", ready, oip.ModelReadyResponse).ready


def test_the_client_and_the_command_name_a_version(shop: Shop) -> None:
    with Client(shop.world.url, shop.key) as client:
        answer = client.score(MODEL, payment(300.0), terms=Terms(version=3, within_ms=2000))
        assert answer.model is not None
        assert (answer.model.version, answer.route.arm) == (3, "named")
        with pytest.raises(NotFound, match="serves no version '9'"):
            client.score(MODEL, payment(300.0), terms=Terms(version=9))
    home = {"MLPLATFORM_HOME": str(shop.world.home.root)}
    environment = home | {"MLPLATFORM_GATEWAY_PORT": str(shop.world.port)}
    asked = ["score", MODEL, json.dumps(payment(300.0)), "--version", "1", "--json"]
    wiring.settings.cache_clear()
    done = CliRunner().invoke(commands.app, asked, env=environment)
    wiring.settings.cache_clear()
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"]["version"] == 1


def test_a_named_version_that_does_not_answer_has_no_stand_in(shop: Shop) -> None:
    """And nothing is on record, so that a retry with the same key may have an answer."""
    body, key = payment(300.0), {"Idempotency-Key": f"down-{time.time_ns()}"}
    before = len(shop.world.records("decision"))
    with shop.world.frozen_predictor(shop.arms[3]):
        refused = shop.score(body, 3, **key)
        assert problem(refused) == (503, "version-unavailable")
        assert refused.headers["retry-after"] == "1"
        why = re.compile(r"version '3' gave no score \((deadline|stalled)\)")  # of a busy machine
        assert why.match(refused.json()["detail"])
        raw = shop.post(f"/v2/models/{MODEL}/versions/3/infer", tensor(1.0))
        assert problem(raw) == (503, "version-unavailable")
        assert len(shop.world.records("decision")) == before
    found = wait_for(lambda: (r := shop.score(body, 3, **key)).status_code == 200 and r)
    assert found.json()["model"]["version"] == 3


def test_a_retry_outlives_the_version_that_it_named(shop: Shop) -> None:
    """The last test of this world: its challenger goes."""
    body, key = payment(300.0), {"Idempotency-Key": f"gone-{time.time_ns()}"}
    first = shop.score(body, 3, **key).raise_for_status()
    shop.world.roll_back()
    assert shop.score(body, 3, **key).json() == first.json()
    assert problem(shop.score(body, 3)) == (404, "unknown-version")
