"""One idempotency key, whichever way it comes: v1, v2, gRPC, alone or in a batch."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from mlplatform.scoring.protos import scoring_pb2 as pb
from support.scoring_world import MODEL, ScoringWorld, payment

pytestmark = pytest.mark.slow
SURFACES = ["v1", "v2", "grpc", "v1:batch", "v2:batch", "grpc:batch"]


@dataclass(frozen=True)
class SurfaceAnswer:
    """What every surface says of a decision, in one shape."""

    decision_id: str
    decision: str
    score: float | None
    version: int
    generation: int
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Gateway:
    """One running gateway by all of its surfaces."""

    world: ScoringWorld
    http: httpx.Client
    channel: grpc.Channel

    def score(self, surface: str, key: str, body: dict[str, Any]) -> tuple[SurfaceAnswer, bool]:
        """What is told, and whether it was told before."""
        name, _, batch = surface.partition(":")
        if name == "grpc":
            return self._by_grpc(key, body, is_batch=bool(batch))
        path = f"/api/{name}/models/{MODEL}/score"
        if batch:
            sent = {"requests": [body | {"idempotency_key": key}]}
            reply = self.http.post(f"{path}:batch", json=sent)
            (result,) = reply.json()["results"]
            return _told(result["answer"]), result.get("replayed", False)
        reply = self.http.post(path, json=body, headers={"Idempotency-Key": key})
        return _told(reply.json()), reply.headers.get("Idempotency-Replayed") == "true"

    def _by_grpc(
        self, key: str, body: dict[str, Any], *, is_batch: bool
    ) -> tuple[SurfaceAnswer, bool]:
        value = pb.FieldValue
        fields = {
            name: value(number=content) if isinstance(content, float) else value(integer=content)
            for name, content in body.items()
            if name != "event_time"
        }
        request = pb.ScoreRequest(
            model=MODEL, fields=fields, event_time_ms=body["event_time"], idempotency_key=key
        )
        if is_batch:
            batch = pb.ScoreBatchRequest(requests=[request])
            content = self._call("ScoreBatch", batch.SerializeToString())
            (result,) = pb.ScoreBatchResponse.FromString(content).results
            answer = result.answer
        else:
            content = self._call("Score", request.SerializeToString())
            answer = pb.ScoreResponse.FromString(content)
        codes = tuple(reason.code for reason in answer.reasons)
        told = SurfaceAnswer(
            answer.decision_id,
            answer.decision,
            answer.score if answer.HasField("score") else None,
            answer.model_version,
            answer.generation,
            codes,
        )
        return told, answer.replayed

    def _call(self, method: str, request: bytes) -> bytes:
        metadata = (("authorization", self.world.headers["Authorization"]),)
        call = self.channel.unary_unary(f"/mlplatform.scoring.v1.Scoring/{method}")
        answer: bytes = call(request, timeout=5.0, metadata=metadata)
        return answer


def _told(answer: dict[str, Any]) -> SurfaceAnswer:
    model, route = answer.get("model"), answer["route"]
    return SurfaceAnswer(
        answer["decision_id"],
        answer["decision"],
        answer["score"],
        model["version"] if model else answer["model_version"],
        route["generation"] if model else answer["generation"],
        tuple(reason["code"] for reason in answer["reasons"]),
    )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = ScoringWorld(tmp_path_factory.mktemp("key"))
    try:
        world.promote(world.deploy(1))
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
        with (
            httpx.Client(base_url=world.url, headers=world.headers, timeout=10.0) as client,
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            yield Gateway(world, client, channel)
    finally:
        world.close()


@pytest.mark.parametrize("first", SURFACES)
def test_a_key_used_by_one_surface_gets_its_decision_by_all(gateway: Gateway, first: str) -> None:
    key, body = f"first-by-{first}", payment(620.0)
    given, was_replayed = gateway.score(first, key, body)
    assert (given.decision, given.version, was_replayed) == ("review", 1, False)
    assert given.codes
    for other in SURFACES:
        assert gateway.score(other, key, body) == (given, True), other
    kept = [r for r in gateway.world.records("decision") if r["decision_id"] == given.decision_id]
    assert len(kept) == 1


@pytest.mark.parametrize("first", SURFACES)
def test_a_key_with_another_body_is_refused_by_all(gateway: Gateway, first: str) -> None:
    key, body = f"reused-after-{first}", payment(40.0)
    gateway.score(first, key, body)
    other = body | {"amount": 41.0}
    reused = "idempotency-key-reused"
    for version in ("v1", "v2"):
        path = f"/api/{version}/models/{MODEL}/score"
        alone = gateway.http.post(path, json=other, headers={"Idempotency-Key": key})
        assert (alone.status_code, alone.json()["type"].split(":")[-1]) == (422, reused)
        item = {"requests": [other | {"idempotency_key": key}]}
        (result,) = gateway.http.post(f"{path}:batch", json=item).json()["results"]
        assert result["problem"]["type"].endswith(reused)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.score("grpc", key, other)
    problem = json.loads(dict(caught.value.trailing_metadata())["problem-bin"])
    assert problem["type"].endswith(reused)
