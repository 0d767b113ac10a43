"""Nothing reaches Prefect without an identity, and people change nothing but runs of their own."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from mlplatform.operations.prefect_server import prefect_gate
from mlplatform.operations.prefect_server.answer_limit import MOST_ANSWERS
from mlplatform.operations.prefect_server.prefect_credentials import MOST_FIRST_BYTES
from mlplatform.operations.prefect_server.prefect_gate import (
    MOST_BODY_BYTES,
    PrefectGate,
    PrefectSecrets,
)
from mlplatform.operations.prefect_server.prefect_requests import MOST_UNFINISHED
from mlplatform.rollouts.journal import approval_codes
from mlplatform.rollouts.journal.approval_codes import Approver, Question
from mlplatform.runtime.telemetry.refusals import REPORTED_AT_ONCE, Refusals
from mlplatform.scoring.admission.clients import Client, parse_scope
from mlplatform.scoring.admission.people import People
from mlplatform.scoring.admission.secrets import digest

ID = "6d1f0c1e-2f5a-4a6e-9d7c-0e6b8b1c2d3e"
OTHER = "00000000-2f5a-4a6e-9d7c-0e6b8b1c2d3e"
TOKENS = PrefectSecrets("token-of-processes", "token-of-the-operator", "token-of-the-page")
SECRETS = {
    "ana": (b"mlp_ana", ("fraud:run",)),
    "bo": (b"mlp_bo", ("fraud:approve",)),
    "mia": (b"mlp_mia", ("fraud:run",)),
    "eve": (b"mlp_eve", ("fraud:approve",)),
    "otto": (b"mlp_otto", ("fraud:operate",)),
    "vera": (b"mlp_vera", ("fraud:view",)),
    "shop": (b"mlp_shop", ("*:*",)),
}
ROLLBACK = "22222222-2f5a-4a6e-9d7c-0e6b8b1c2d3e"
PROMOTE = "33333333-2f5a-4a6e-9d7c-0e6b8b1c2d3e"
QUESTION = Question("fraud-v2-1", "0" * 64, "approve")
NAMES = {
    ID: "fraud-retrain",
    OTHER: "fraud-approval",
    ROLLBACK: "fraud-rollback",
    PROMOTE: "fraud-promote",
}


async def _deployment(request: Request) -> JSONResponse:
    name = NAMES.get(request.path_params["id"])
    return JSONResponse({"name": name}, 200 if name else 404)


async def _asking(request: Request) -> JSONResponse:
    asked = {"rollout_id": QUESTION.rollout_id, "evidence_digest": QUESTION.evidence}
    return JSONResponse({"deployment_id": request.path_params["id"], "parameters": asked})


async def _run(request: Request) -> JSONResponse:
    return JSONResponse({"deployment_id": request.path_params["id"]})


SCHEMA = {"type": "object", "properties": {"model": {"type": "string"}}}


async def _listed(request: Request) -> JSONResponse:
    if request.url.path.startswith("/api/deployments"):
        return JSONResponse([{"parameter_openapi_schema": SCHEMA}])
    keys = {"run_input_keyset": {"schema": "evidence-1-schema"}}
    return JSONResponse([{"id": OTHER, "state": {"state_details": keys}}])


async def _count(request: Request) -> JSONResponse:
    tags = (await request.json())["flow_runs"]["tags"]["all_"]
    return JSONResponse(MOST_UNFINISHED if tags == ["by mia"] else 0)


async def _form(request: Request) -> JSONResponse:
    return JSONResponse({"title": "the form"})


async def _echo(request: Request) -> JSONResponse:
    body = await request.body()
    sent = await request.json() if body else None
    return JSONResponse({"path": request.url.path, "sent": sent}, 201)


async def _talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


async def _repeat(socket: WebSocket) -> None:
    await socket.accept(subprotocol="prefect")
    with contextlib.suppress(WebSocketDisconnect):  # as Prefect's own server does
        await socket.send_json(await socket.receive_json())
        await socket.close()


INNER = Starlette(
    routes=[
        WebSocketRoute("/api/subscribe", _repeat),
        Route("/api/health", _echo, methods=["GET"]),
        Route("/api/deployments/filter", _listed, methods=["POST"]),
        Route("/api/flow_runs/filter", _listed, methods=["POST"]),
        Route("/api/flow_runs/count", _count, methods=["POST"]),
        Route("/api/flow_runs/{id}/input/{key}", _form, methods=["GET"]),
        Route("/api/deployments/{id}", _deployment, methods=["GET"]),
        Route("/api/flow_runs/{id}", _run, methods=["GET"]),
        WebSocketRoute("/api/events/out", _talk),
        WebSocketRoute("/api/events/in", _talk),
        Route("/{path:path}", _echo, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    ]
)


def _client(name: str) -> Client:
    scopes = frozenset(map(parse_scope, SECRETS[name][1]))
    return Client(name, scopes, priority="standard", limit=None)


def _people() -> People:
    known = {digest(secret): _client(name) for name, (secret, _) in SECRETS.items()}
    return People(lambda secret, hashed: known.get(hashed))


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    return Refusals(tmp_path / "audit")


@pytest.fixture
def asked(refusals: Refusals) -> Iterator[TestClient]:
    with TestClient(PrefectGate(INNER, TOKENS, _people(), refusals)) as client:
        yield client


def basic(name: str, secret: str | bytes) -> dict[str, str]:
    given = name.encode() + b":" + (secret.encode() if isinstance(secret, str) else secret)
    return {"Authorization": f"Basic {base64.b64encode(given).decode()}"}


def person(name: str) -> dict[str, str]:
    return basic(name, SECRETS[name][0])


PLATFORM = basic("platform", TOKENS.platform)
OPERATOR = basic("operator", TOKENS.operator)
READER = basic("reader", TOKENS.reader)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ana", "mlp_bo"),
        basic("ana", "mlp_made_up"),
        basic("platform", ""),
        basic("shop", "mlp_shop"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic "},
        {"Authorization": "Digest x"},
        {"Cookie": "session=1"},
        {"X-Forwarded-User": "ana"},
    ],
    ids=[
        "nobody",
        "another person's key",
        "a made-up key",
        "an empty token",
        "an application's key",
        "no base 64",
        "nothing",
        "another scheme",
        "a cookie",
        "a proxy's header",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/flow_runs/filter", "/docs", "/api/openapi.json"])
def test_nobody_is_let_in_without_an_identity(
    asked: TestClient, headers: dict[str, str], path: str
) -> None:
    for method in ("GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "HEAD"):
        answer = asked.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")


def test_a_socket_needs_an_identity_too(asked: TestClient) -> None:
    for path in ("/api/events/out", "/api/events/in"):
        with pytest.raises(WebSocketDisconnect), asked.websocket_connect(path) as socket:
            socket.receive_text()
    with asked.websocket_connect("/api/events/out", headers=person("ana")) as socket:
        assert socket.receive_text() == "hello"
    with (
        pytest.raises(WebSocketDisconnect),
        asked.websocket_connect("/api/events/in", headers=person("ana")) as socket,
    ):
        socket.receive_text()
    with asked.websocket_connect("/api/events/in", headers=PLATFORM) as socket:
        assert socket.receive_text() == "hello"


AUTH = {"type": "auth", "token": f"platform:{TOKENS.platform}"}


def test_a_socket_of_prefects_own_client_says_who_it_is_by_its_first_message(
    asked: TestClient, refusals: Refusals
) -> None:
    path, own = "/api/subscribe", ["prefect"]
    with asked.websocket_connect(path, subprotocols=own) as socket:
        socket.send_json(AUTH)
        assert socket.receive_json() == AUTH
    wrong: list[dict[str, Any]] = [
        {"type": "auth", "token": None},
        {"type": "auth", "token": "platform:guessed"},
        {"type": "auth", "token": f"operator:{TOKENS.operator}"},
        {"type": "subscribe"},
    ]
    texts = [json.dumps(first) for first in wrong] + ['{"type": "auth", "token": "a:\\ud800"}', "["]
    for text in texts:
        with asked.websocket_connect(path, subprotocols=own) as socket:
            socket.send_text(text)
            with pytest.raises(WebSocketDisconnect):
                socket.receive_json()
    assert [r.why for r in refusals.since(0)] == ["its first message has no valid token"]


def test_a_first_message_is_short(asked: TestClient) -> None:
    """It is read before anybody is proven."""
    long = {**AUTH, "more": "x" * MOST_FIRST_BYTES}
    with asked.websocket_connect("/api/subscribe", subprotocols=["prefect"]) as socket:
        socket.send_json(long)
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


async def test_a_socket_ends_with_the_key_that_opened_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_gate, "PROVEN_FOR_S", 0.0)
    known = {"ana": _client("ana")}
    sent: list[dict[str, Any]] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "one"})
        known.clear()
        for text in ("two", "three"):
            await send({"type": "websocket.send", "text": text})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    people = People(lambda secret, hashed: known.get("ana"), time.time)
    gate = PrefectGate(stream, TOKENS, people, Refusals(tmp_path))
    headers = [(n.lower().encode(), v.encode()) for n, v in person("ana").items()]
    scope = {"type": "websocket", "path": "/api/events/out", "headers": headers, "subprotocols": []}
    await gate(scope, receive, send)
    assert [m["type"].removeprefix("websocket.") for m in sent] == ["accept", "send", "close"]


def test_the_platforms_own_calls_do_everything(asked: TestClient) -> None:
    for method in ("POST", "PATCH", "DELETE"):
        path = f"/api/deployments/{ID}/schedules"
        answer = asked.request(method, path, headers=PLATFORM, json={"entrypoint": "x"})
        assert answer.status_code == 201


def test_the_page_of_a_pod_lists_deployments_and_runs(asked: TestClient) -> None:
    for path in ("/api/deployments/filter", "/api/flow_runs/filter"):
        answer = asked.post(path, headers=READER, json={"limit": 9})
        assert (answer.status_code, answer.json() != []) == (200, True)
        large = asked.post(path, headers=READER, content=b"x" * (MOST_BODY_BYTES + 1))
        assert large.status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/api/deployments/{ID}/create_flow_run"),
        ("POST", f"/api/flow_runs/{OTHER}/resume"),
        ("POST", f"/api/flow_runs/{OTHER}/set_state"),
        ("POST", "/api/ui/schemas/validate"),
        ("PATCH", f"/api/deployments/{ID}"),
        ("DELETE", f"/api/deployments/{ID}"),
        ("GET", f"/api/flow_runs/{ID}"),
        ("GET", "/api/deployments/filter"),
        ("POST", "/api/logs/filter"),
        ("GET", "/"),
    ],
)
def test_the_page_of_a_pod_does_nothing_else_and_a_try_is_kept(
    asked: TestClient, refusals: Refusals, method: str, path: str
) -> None:
    answer = asked.request(method, path, headers=READER, json={"state": {"type": "CANCELLING"}})
    assert answer.status_code == 403
    assert "lists deployments and runs, and nothing else" in answer.json()["detail"]
    (kept,) = refusals.since(0)
    assert (kept.who, kept.why) == ("reader", answer.json()["detail"])
    assert ID not in kept.asked


def test_the_page_of_a_pod_has_no_socket(asked: TestClient) -> None:
    for path in ("/api/events/out", "/api/events/in", "/api/subscribe"):
        with (
            pytest.raises(WebSocketDisconnect),
            asked.websocket_connect(path, headers=READER) as socket,
        ):
            socket.receive_text()
    first = {"type": "auth", "token": f"reader:{TOKENS.reader}"}
    with asked.websocket_connect("/api/subscribe", subprotocols=["prefect"]) as socket:
        socket.send_json(first)
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


def test_without_a_token_of_the_page_nobody_is_taken_for_it(refusals: Refusals) -> None:
    with TestClient(PrefectGate(INNER, PrefectSecrets("a", "b"), _people(), refusals)) as client:
        for secret in ("", "reader"):
            headers = basic("reader", secret)
            assert client.post("/api/flow_runs/filter", headers=headers).status_code == 401


@pytest.mark.parametrize("who", [person("ana"), OPERATOR])
def test_people_change_no_deployment(
    asked: TestClient, refusals: Refusals, who: dict[str, str]
) -> None:
    change = {"entrypoint": "/tmp/evil.py:flow"}
    answer = asked.patch(f"/api/deployments/{ID}", headers=who, json=change)
    assert answer.status_code == 403
    (kept,) = refusals.since(0)
    assert (kept.door, kept.asked) == ("prefect", f"PATCH /api/deployments/{ID}")


def test_a_person_starts_a_run_in_their_own_name(asked: TestClient) -> None:
    path = f"/api/deployments/{ID}/create_flow_run"
    sent = {"parameters": {"model": "fraud", "reason": "weekly"}, "job_variables": {}}
    body = asked.post(path, headers=person("ana"), json=sent).json()["sent"]
    assert body["parameters"] == {"model": "fraud", "reason": "weekly", "actor": "ana"}
    assert body["enforce_parameter_schema"] is True
    assert "job_variables" not in body
    other = {"parameters": {"model": "fraud", "actor": "bo"}}
    assert asked.post(path, headers=person("ana"), json=other).status_code == 403
    assert asked.post(path, headers=OPERATOR, json=other).status_code == 201


def test_a_person_has_so_many_runs_that_go_on_and_no_more(
    asked: TestClient, refusals: Refusals
) -> None:
    path = f"/api/deployments/{ID}/create_flow_run"
    refused = asked.post(path, headers=person("mia"), json={"parameters": {}})
    assert refused.status_code == 403
    assert "mia has 20 runs under way, the most of one person" in refused.json()["detail"]
    assert [r.who for r in refusals.since(0)] == ["mia"]
    taken = asked.post(path, headers=person("ana"), json={"parameters": {}})
    assert taken.json()["sent"]["tags"] == ["by ana"], "one person's runs are no other's limit"
    assert asked.post(path, headers=OPERATOR, json={"parameters": {}}).status_code == 201


def test_a_full_queue_keeps_nobody_from_stopping_something(asked: TestClient) -> None:
    path = f"/api/deployments/{ROLLBACK}/create_flow_run"
    assert asked.post(path, headers=person("mia"), json={"parameters": {}}).status_code == 201


@pytest.mark.parametrize("given", [True, "true", 1])
def test_who_may_only_start_runs_promotes_nothing_at_once(asked: TestClient, given: object) -> None:
    path = f"/api/deployments/{PROMOTE}/create_flow_run"
    sent = {"parameters": {"emergency": given}}
    assert asked.post(path, headers=person("ana"), json=sent).status_code == 403
    assert asked.post(path, headers=person("ana"), json={"parameters": {}}).status_code == 201
    assert asked.post(path, headers=person("bo"), json=sent).status_code == 201


@pytest.mark.parametrize(
    ("who", "deployment"),
    [("bo", ID), ("ana", OTHER), ("ana", "11111111-2f5a-4a6e-9d7c-0e6b8b1c2d3e")],
    ids=["who only approves", "an approval", "a deployment that is not there"],
)
def test_runs_that_a_person_may_not_start(asked: TestClient, who: str, deployment: str) -> None:
    path = f"/api/deployments/{deployment}/create_flow_run"
    answer = asked.post(path, headers=person(who), json={"parameters": {}})
    assert answer.status_code == 403


@pytest.mark.parametrize("sent", [b"", b"[", b"[" * 100_000, b"\xff", b"3"])
def test_a_body_that_is_none_is_refused(asked: TestClient, sent: bytes) -> None:
    path = f"/api/deployments/{ID}/create_flow_run"
    assert asked.post(path, headers=person("ana"), content=sent).status_code == 403


def test_a_run_is_ended_and_never_declared_done(asked: TestClient) -> None:
    path = f"/api/flow_runs/{ID}/set_state"

    def status(kind: str, who: str, at: str = path) -> int:
        sent: dict[str, Any] = {"state": {"type": kind}, "force": True}
        return asked.post(at, headers=person(who), json=sent).status_code

    assert status("CANCELLING", "ana") == 201
    forged = {"state": {"type": "CANCELLING", "name": "Failed", "message": "no"}, "force": True}
    sent = asked.post(path, headers=person("ana"), json=forged).json()["sent"]
    assert sent == {"state": {"type": "CANCELLING"}}
    assert status("COMPLETED", "ana") == 403
    assert status("CANCELLING", "bo") == 403
    assert status("CANCELLING", "ana", f"/api/flow_runs/{OTHER}/set_state") == 403


def test_an_answer_is_passed_on_as_it_is(asked: TestClient) -> None:
    form = {"run_input": {"decision": "approve", "code": "bo:1:A", "reason": "read it"}}
    path = f"/api/flow_runs/{OTHER}/resume"
    answer = asked.post(path, headers=person("bo"), json=form)
    assert answer.json()["sent"] == form
    assert asked.post(path, headers=person("ana"), json=form).status_code == 403, "may not approve"


def test_wrong_answers_of_one_person_keep_nobody_else_from_answering(
    asked: TestClient, refusals: Refusals
) -> None:
    path = f"/api/flow_runs/{OTHER}/resume"

    def status(who: str) -> int:
        form = {"decision": "approve", "code": f"{who}:1:2:WRONG", "reason": "read it"}
        return asked.post(path, headers=person(who), json={"run_input": form}).status_code

    assert [status("eve") for _ in range(100)] == [201] * MOST_ANSWERS + [403] * 90
    assert status("bo") == 201
    assert [r.who for r in refusals.since(0)] == ["eve"]


@pytest.mark.parametrize(
    ("name", "deployment", "status"),
    [("otto", ROLLBACK, 201), ("otto", ID, 403), ("otto", PROMOTE, 403), ("vera", ROLLBACK, 403)],
)
def test_who_operates_stops_what_runs_and_starts_nothing_else(
    asked: TestClient, name: str, deployment: str, status: int
) -> None:
    sent = {"parameters": {"model": "fraud", "reason": "too many declines"}}
    path = f"/api/deployments/{deployment}/create_flow_run"
    assert asked.post(path, headers=person(name), json=sent).status_code == status
    assert asked.get("/api/health", headers=person(name)).status_code == 201, "they may look"


def test_a_wrong_code_reaches_no_form_where_codes_can_be_checked(
    refusals: Refusals,
) -> None:
    """Else one person's wrong codes end the run that another one's right code is for."""
    key, until_s = b"k" * 32, int(time.time()) + 60
    right = approval_codes.code(key, Approver("bo", "1"), QUESTION, until_s=until_s)
    old = approval_codes.code(key, Approver("bo", "1"), QUESTION, until_s=until_s - 120)
    sent: list[Any] = []

    async def resumed(request: Request) -> JSONResponse:
        sent.append((await request.json())["run_input"]["code"])
        return JSONResponse({}, 201)

    inner = Starlette(
        routes=[
            Route("/api/deployments/{id}", _deployment),
            Route("/api/flow_runs/{id}", _asking),
            Route("/api/flow_runs/{id}/resume", resumed, methods=["POST"]),
        ]
    )
    gate = PrefectGate(inner, TOKENS, _people(), refusals, approval_key=lambda: key)
    with TestClient(gate) as client:

        def status(who: str, code: str, decision: object = "approve", run: str = OTHER) -> int:
            form = {"decision": decision, "code": code, "reason": "read it"}
            path = f"/api/flow_runs/{run}/resume"
            return client.post(path, headers=person(who), json={"run_input": form}).status_code

        wrong = [status("eve", f"eve:1:{until_s}:WRONG") for _ in range(100)]
        assert wrong == [403] * 100
        assert [status("bo", old), status("bo", right, "reject"), status("bo", right, 7)] == [
            *(403, 403, 403)
        ]
        assert sent == []
        assert status("bo", right) == 201
    assert sent == [right]
    told = [r for r in refusals.since(0) if r.door in REPORTED_AT_ONCE]
    assert {(r.who, r.asked) for r in told} == {
        ("eve", "answer approve of fraud-v2-1"),
        ("bo", "answer approve of fraud-v2-1"),
        ("bo", "answer reject of fraud-v2-1"),
    }


def test_values_are_checked_by_a_forms_own_schema_alone(asked: TestClient) -> None:
    path = "/api/ui/schemas/validate"

    def status(schema: Any, values: Any) -> int:
        sent = {"schema": schema, "values": values}
        return asked.post(path, headers=person("ana"), json=sent).status_code

    assert status(SCHEMA, {"model": "fraud"}) == 201
    assert status({"title": "the form"}, {}) == 201
    slow = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    assert status(slow, {"a": "a" * 40 + "!"}) == 403
    assert status(SCHEMA, {"model": {"__prefect_kind": "jinja", "template": "{{ 9**9 }}"}}) == 403


def test_a_body_has_a_limit(asked: TestClient) -> None:
    sent = b" " * (MOST_BODY_BYTES + 1)
    answer = asked.post("/api/task_runs/filter", headers=person("ana"), content=sent)
    assert answer.status_code == 413


def test_two_identities_are_none(asked: TestClient) -> None:
    one, two = person("ana")["Authorization"], PLATFORM["Authorization"]
    answer = asked.get("/", headers=[("Authorization", one), ("Authorization", two)])  # type: ignore[arg-type]
    assert answer.status_code == 401


def test_whoever_asks_is_told_whether_it_lives_and_no_more(asked: TestClient) -> None:
    assert asked.get("/health").status_code == 200
    assert asked.get("/health").json() == {"detail": "ok"}
    assert asked.post("/health").status_code == 401


def test_what_a_browser_asks_before_the_log_in_is_no_refusal(
    asked: TestClient, refusals: Refusals
) -> None:
    asked.get("/")
    assert list(refusals.since(0)) == []
    asked.patch(f"/api/deployments/{ID}")
    asked.get("/", headers=basic("ana", "guessed"))
    assert [r.who for r in refusals.since(0)] == ["unknown", "unknown"]
