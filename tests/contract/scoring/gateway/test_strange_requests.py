"""Whatever bytes reach the gateway's socket: no crash, no 500, and it goes on answering."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition, model_names
from mlplatform.scoring.api import openapi
from support.scoring_world import MODEL, SERVED, ScoringWorld, payment

pytestmark = pytest.mark.slow
DECLARED = {200, 202, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 503}
DOCUMENTS = openapi.documents([load_definition(name) for name in model_names()])
POSTS = sorted(
    {
        path.replace("{version}", SERVED)
        for document in DOCUMENTS.values()
        for path, methods in json.loads(document)["paths"].items()
        if "post" in methods
    }
)
GETS = ["/", "/metrics", "/healthz", "/openapi.json", f"/api/v2/models/{MODEL}", "/v2"]
HEADERS = [b"idempotency-key", b"x-request-timeout-ms", b"x-priority", b"traceparent",
           b"tracestate", b"content-type", b"content-length", b"transfer-encoding", b"expect",
           b"inference-header-content-length", b"authorization", b"upgrade", b"host"]  # fmt: skip

LINES = st.binary(max_size=40).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b""))
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
TEXT = st.text(st.characters(codec=None), max_size=8)
NAMES = st.sampled_from(
    ["requests", "labels", "label", "decision_id", "idempotency_key", "event_time", "amount",
     "customer_id", "terminal_id", "reason", "inputs", "parameters", "assignment_key", "data"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXT, inner, max_size=4),
    max_leaves=12,
)
bounded = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    world = ScoringWorld(tmp_path_factory.mktemp("strange"))
    try:
        world.promote(world.deploy(1))
        world.start_gateway()
        yield world
        with world.client() as client:
            assert client.post("/score", json=payment()).status_code == 200
        log = (world.home.logs / "gateway.log").read_text()
        assert "Traceback" not in log
    finally:
        world.close()


@pytest.fixture(scope="module")
def client(world: ScoringWorld) -> Iterator[httpx.Client]:
    headers = world.headers | {"Content-Type": "application/json"}
    with httpx.Client(base_url=world.url, headers=headers, timeout=10.0) as client:
        yield client


@pytest.fixture(scope="module")
def decision_id(client: httpx.Client) -> str:
    """Of a decision that was asked for with the key `strange`."""
    path, key = f"/api/v2/models/{MODEL}/score", {"Idempotency-Key": "strange"}
    given: str = client.post(path, json=payment(), headers=key).json()["decision_id"]
    return given


def exchange(world: ScoringWorld, sent: bytes) -> bytes:
    """All that comes back, when nothing more will be sent."""
    with socket.create_connection(("127.0.0.1", world.port), timeout=5.0) as sock:
        received = b""
        try:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                received += part
        except TimeoutError:
            raise
        except OSError:
            pass  # closed while the rest was on its way
        return received


def check(received: bytes) -> None:
    """Nothing, or answers of the kinds that the documents name."""
    if not received:
        return
    assert received.startswith(b"HTTP/1.1 ")
    assert int(received[9:12]) in DECLARED, received[:400]
    head = received.split(b"\r\n\r\n")[0].lower()
    if int(received[9:12]) >= 400:
        assert b"application/problem+json" in head


@bounded
@given(sent=st.binary(max_size=300))
def test_no_bytes_are_too_strange(world: ScoringWorld, sent: bytes) -> None:
    check(exchange(world, sent))


@pytest.mark.parametrize("name", ["parameters", "requests", "labels", "unknown"])
@pytest.mark.parametrize("path", POSTS)
def test_no_depth_is_the_gateways_fault(world: ScoringWorld, path: str, name: str) -> None:
    deep = b'[{"a":' + b"[" * 9000 + b"]" * 9000 + b"}]"
    body = (
        b'{"inputs":[],"' + name.encode() + b'":' + (deep[1:-1] if name[0] == "p" else deep) + b"}"
    )
    with world.client() as client:
        reply = client.post(
            world.url + path, content=body, headers={"content-type": "application/json"}
        )
    assert reply.status_code in (400, 422)


@bounded
@given(
    method=st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT"]),
    path=st.sampled_from([*POSTS, *GETS]).map(str.encode)
    | (LINES | WORDS).map(lambda text: b"/" + text),
    headers=st.lists(st.tuples(st.sampled_from(HEADERS) | WORDS | LINES, WORDS), max_size=3),
    body=st.binary(max_size=60),
    cut=st.just(0) | st.integers(0, 200),
)
def test_no_head_is_too_strange(
    world: ScoringWorld,
    method: bytes,
    path: bytes,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    cut: int,
) -> None:
    known = [
        (b"Host", b"gateway"),
        (b"Authorization", world.headers["Authorization"].encode()),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
    ]
    lines = [b"%s: %s" % line for line in (*known, *headers)]
    request = b"\r\n".join([method + b" " + path + b" HTTP/1.1", *lines, b"", body])
    check(exchange(world, request[: len(request) - cut]))


@bounded
@given(
    path=st.sampled_from(POSTS),
    content=JSON
    | JSON.map(lambda item: {"requests": [item]})
    | JSON.map(lambda item: {"labels": [item, {"label": 1, "decision_id": item}]})
    | TEXT.map(lambda text: {"decision_id": "known", "reason": text})
    | JSON.map(lambda item: {"inputs": [{"name": "inputs", "data": item}], "parameters": item}),
)
def test_no_json_is_too_strange(
    client: httpx.Client, decision_id: str, path: str, content: Any
) -> None:
    if isinstance(content, dict) and content.get("decision_id") == "known":
        content = content | {"decision_id": decision_id}
    reply = client.post(path, content=json.dumps(content).encode())
    assert reply.status_code in DECLARED, reply.text
    if reply.status_code >= 400:
        assert reply.headers["content-type"] == "application/problem+json"


GOOD_LABELS = st.fixed_dictionaries(
    {"label": st.integers(0, 1), "decision_id": st.just("given")},
    optional={"event_time": st.just("now")},
) | st.fixed_dictionaries({"label": st.integers(0, 1), "idempotency_key": st.just("strange")})
ODD_LABELS = st.fixed_dictionaries(
    {"label": st.integers(-1, 2)},
    optional={
        "decision_id": st.sampled_from(["given", "other"]) | TEXT,
        "idempotency_key": st.just("strange") | TEXT,
        "event_time": st.just("now") | st.integers() | st.datetimes().map(str),
    },
)
LABELS = st.lists(GOOD_LABELS, min_size=1, max_size=5) | st.lists(
    GOOD_LABELS | ODD_LABELS, max_size=5
)


@settings(bounded, max_examples=80)
@given(labels=LABELS)
def test_a_batch_of_labels_is_stored_whole_or_not_at_all(
    world: ScoringWorld, client: httpx.Client, decision_id: str, labels: list[dict[str, Any]]
) -> None:
    places = {"given": decision_id, "now": int(time.time() * 1000)}
    sent = [{name: places.get(v, v) for name, v in label.items()} for label in labels]
    before = len(world.records("label"))
    path = f"/api/v2/models/{MODEL}/labels"
    reply = client.post(path, content=json.dumps({"labels": sent}).encode())
    added = len(world.records("label")) - before
    assert reply.status_code in (200, 400, 422), reply.text
    stored = reply.json()["stored"] if reply.status_code == 200 else 0
    assert added == stored
