"""The gate of Prefect's server: it passes the platform's own requests and those that people may
send.

Prefect knows no users. So nothing reaches it without an identity, and what a person may change goes
through lists (`prefect_access`, `prefect_requests`). A browser sends name and key as Basic
credentials, which it keeps for one origin, port included; a cookie would be sent to every port of
this machine, another user's server among them (docs/decisions/0053).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

import httpx

from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import prefect_requests as requests
from mlplatform.operations.prefect_server.answer_limit import (
    MOST_ANSWERS,
    WITHIN_S,
    AnswerLimit,
)
from mlplatform.operations.prefect_server.prefect_access import (
    Access,
    access,
    only_reads,
    reads_schedules,
    subject,
)
from mlplatform.operations.prefect_server.prefect_credentials import (
    credentials_of,
    first_token,
    matches,
    says_who,
)
from mlplatform.rollouts.journal import approval_codes
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.http.cross_site_guard import Application, Receive, Scope, Send
from mlplatform.runtime.telemetry.refusals import UNKNOWN, Refusal, Refusals
from mlplatform.runtime.units import MIB
from mlplatform.scoring.admission.clients import Client, Operation
from mlplatform.scoring.admission.people import People

SURFACE: Final = "prefect"
APPROVAL: Final = "approval"
HEALTH: Final = "/health"
"""The only open path: it says whether Prefect's API answers, and nothing else."""
MOST_BODY_BYTES: Final = MIB
PROVEN_FOR_S: Final = 1.0
"""Seconds after which a person's key is checked again while a socket is open."""
PLATFORM: Final = "platform"
OPERATOR: Final = "operator"
READER: Final = "reader"
_ID: Final = re.compile("/[0-9a-fA-F-]{32,36}(?=/|$)")
_REALM: Final = b'Basic realm="mlplatform: your name and your key", charset="UTF-8"'


@dataclass(frozen=True, slots=True)
class PlatformCaller:
    """One of the platform's own processes, which may do everything."""

    name: str = PLATFORM


@dataclass(frozen=True, slots=True)
class SchedulesReader:
    """The platform's page in a pod, which may list deployments and runs, and do nothing else."""

    name: str = READER


@dataclass(frozen=True, slots=True)
class Operator:
    """The user who owns the home folder, who may do what people may do, in any person's name."""

    name: str = OPERATOR


Identity = PlatformCaller | SchedulesReader | Operator | Client


@dataclass(frozen=True, slots=True)
class PrefectSecrets:
    """Secrets of one start of the platform.

    Args:
        platform: token of the platform's own calls.
        operator: token of commands and of the user who runs the platform; empty if there is none.
        reader: token of the page in a pod; empty if there is none.
    """

    platform: str
    operator: str
    reader: str = ""


class _TooLarge(Exception):
    """A request's body exceeds the limit."""


class PrefectGate:
    """An ASGI application in front of Prefect's.

    Args:
        people: the people who may log in.
        refusals: where refused requests are reported.
        admit: called with each request that has an identity.
        approval_key: returns the key of approval codes, so that the gate itself refuses a wrong
            code before it reaches a form; None if this process does not have the key.
    """

    def __init__(
        self,
        application: Application,
        tokens: PrefectSecrets,
        people: People,
        refusals: Refusals,
        admit: Callable[[Scope], None] = lambda scope: None,
        approval_key: Callable[[], bytes] | None = None,
    ) -> None:
        self._application = application
        self._tokens = tokens
        self._people = people
        self._refusals = refusals
        self._admit = admit
        self._approval_key = approval_key
        self._answers = AnswerLimit()
        transport = httpx.ASGITransport(app=application)
        self._inner = httpx.AsyncClient(transport=transport, base_url="http://prefect/api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        if scope["path"] == HEALTH and method in ("GET", "HEAD"):
            await self._health(send)
            return
        credentials = credentials_of(scope["headers"])
        match self._identity(credentials):
            case None if credentials is None and method == "WEBSOCKET" and says_who(scope):
                await self._by_first_message(scope, receive, send)
            case None:
                await self._unknown(
                    scope, receive, send, method, has_credentials=credentials is not None
                )
            case PlatformCaller():
                self._admit(scope)
                await self._application(scope, receive, send)
            case SchedulesReader() as reader:
                self._admit(scope)
                await self._schedules(reader, scope, receive, send, method)
            case Operator() | Client() as person:
                self._admit(scope)
                if method == "WEBSOCKET":
                    send = self._while_proven(credentials, send)
                await self._person(person, scope, receive, send, method)

    def _identity(self, credentials: tuple[str, bytes] | None) -> Identity | None:
        if credentials is None:
            return None
        name, secret = credentials
        if matches(secret, self._tokens.platform):
            return PlatformCaller()
        if matches(secret, self._tokens.operator):
            return Operator()
        if matches(secret, self._tokens.reader):
            return SchedulesReader()
        return self._people.authenticate(name, secret)

    def _while_proven(self, credentials: tuple[str, bytes] | None, send: Send) -> Send:
        """A `send` that closes the socket when the key that opened it is revoked or expires."""
        proven_s, is_over = time.monotonic(), False

        async def send_guarded(message: Any) -> None:
            nonlocal proven_s, is_over
            if not is_over and time.monotonic() - proven_s >= PROVEN_FOR_S:
                is_over = self._identity(credentials) is None
                proven_s = time.monotonic()
                if is_over:
                    await send({"type": "websocket.close", "code": 1008})
            if not is_over:
                await send(message)

        return send_guarded

    async def _by_first_message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a socket of Prefect's own client, whose first message holds its token: before it is
        proven to be the platform's, nothing passes in either direction.

        Source: `prefect.server.utilities.subscriptions`, Prefect 3.9.
        """
        is_proven = False

        async def receive_checked() -> Any:
            nonlocal is_proven
            message = await receive()
            if is_proven or message["type"] != "websocket.receive":
                return message
            name, _, secret = first_token(message).partition(":")
            if isinstance(
                self._identity((name, secret.encode("utf-8", "replace"))), PlatformCaller
            ):
                is_proven = True
                self._admit(scope)
                return message
            self._keep(UNKNOWN, "WEBSOCKET", scope["path"], "its first message has no valid token")
            await send({"type": "websocket.close", "code": 1008})
            return {"type": "websocket.disconnect", "code": 1008}

        async def send_guarded(message: Any) -> None:
            if is_proven or message["type"] in ("websocket.accept", "websocket.close"):
                with contextlib.suppress(RuntimeError):  # it was closed by us
                    await send(message)

        await self._application(scope, receive_checked, send_guarded)

    async def _schedules(
        self, reader: SchedulesReader, scope: Scope, receive: Receive, send: Send, method: str
    ) -> None:
        path: str = scope["path"]
        if not reads_schedules(method, path):
            why = "this token lists deployments and runs, and nothing else"
            self._keep(reader.name, method, _shape(path), why)
            await _refuse(scope, receive, send, 403, why)
            return
        try:
            body = await _body(receive)
        except _TooLarge:
            await _problem(send, 413, f"a body of more than {MOST_BODY_BYTES} bytes")
            return
        await self._application(*_resent(scope, body), send)

    async def _person(
        self, person: Operator | Client, scope: Scope, receive: Receive, send: Send, method: str
    ) -> None:
        path: str = scope["path"]
        wanted = access(method, path)
        try:
            match wanted:
                case "read":
                    if method == "POST":
                        scope, receive = _resent(scope, await _body(receive))
                    await self._application(scope, receive, send)
                    return
                case "check":
                    body = await _body(receive)
                    if await self._is_known_form(_json(body)):
                        await self._application(*_resent(scope, body), send)
                        return
                    why = "a form is checked by its own schema, and may hold only values"
                case "forbidden":
                    why = "people may not call this path"
                case "start" | "answer" | "cancel":
                    body = await _body(receive)
                    taken = await self._check_change(person, wanted, subject(path), body)
                    if not isinstance(taken, requests.StartRefusal):
                        await self._application(*_resent(scope, taken), send)
                        return
                    why = taken.reason
                case _:
                    assert_never(wanted)
        except _TooLarge:
            await _problem(send, 413, f"a body of more than {MOST_BODY_BYTES} bytes")
            return
        if not only_reads(method, path):
            self._keep(person.name, method, path, why)
        await _refuse(scope, receive, send, 403, why)

    async def _check_change(
        self, person: Operator | Client, wanted: Access, about: str, body: bytes
    ) -> bytes | requests.StartRefusal:
        """The body sent to Prefect for a request that changes something, or the reason why it is
        refused."""
        parsed = _json(body)
        if wanted == "cancel" and not requests.is_cancelling(parsed):
            return requests.StartRefusal(
                "the state of a run is the platform's to set: CANCELLING ends it"
            )
        flow, model = await self._deployment_of(about, of_run=wanted != "start")
        decides = wanted == "answer" or requests.is_emergency(parsed)
        needed: Operation = "approve" if decides else "run"
        stops = wanted == "start" and flow in requests.STOPS_THINGS and not decides
        if isinstance(person, Client) and not (
            person.may(model, needed) or (stops and person.may_stop(model))
        ):
            return requests.StartRefusal(f"your key has no scope {model or '*'}:{needed}")
        if wanted == "cancel":
            if flow in requests.STARTED_BY_THE_PLATFORM:
                return requests.StartRefusal(
                    f"a run of {flow} asks a question, and only an answer ends it"
                )
            if isinstance(person, Client) and flow in requests.RUN_BY_A_SCHEDULE:
                return requests.StartRefusal(
                    f"a schedule starts the runs of {flow}, and only the operator ends one"
                )
            return json.dumps(requests.CANCELLING).encode()
        name = person.name if isinstance(person, Client) else None
        if wanted == "answer":
            answer = requests.form_values(parsed, person=name)
            if isinstance(answer, requests.StartRefusal):
                return answer
            if name is not None and not self._answers.takes(name):
                most = f"the most of one person within {WITHIN_S / 60:.0f} minutes: try later"
                return requests.StartRefusal(f"{name} has given {MOST_ANSWERS} answers, {most}")
            if (why := await self._unproven(person, about, answer)) is not None:
                return requests.StartRefusal(why)
            return _body_of(answer)
        start = requests.run_start(parsed, flow=flow, model=model, person=name, now_s=time.time())
        if isinstance(start, requests.StartRefusal):
            return start
        is_limited = name is not None and flow not in requests.STOPS_THINGS
        if is_limited and await self._count_unfinished(str(name)) >= requests.MOST_UNFINISHED:
            most = f"{requests.MOST_UNFINISHED} runs under way, the most of one person"
            return requests.StartRefusal(f"{name} has {most}: wait, or end one")
        return _body_of(start)

    async def _unproven(
        self, person: Operator | Client, run_id: str, answer: requests.Start
    ) -> str | None:
        """The reason why an answer's code proves nothing; None if it proves its person, or if only
        the run can check it.

        Even a single such answer is recorded, so that people learn of it, as when the run refuses
        it.
        """
        if self._approval_key is None:
            return None
        run = await self._inner.get(f"/flow_runs/{run_id}")
        asked = run.json().get("parameters") if run.is_success else None
        question = requests.question_of(asked, answer)
        if question is None:
            return "wanted: decision, code and reason, in answer to a question of a rollout"
        code = str(answer.body["run_input"].get(requests.CODE, ""))
        try:
            approval_codes.approver(self._approval_key(), code, question, now_s=time.time())
        except Refused as refused:
            request = f"{question.answer} of {question.rollout_id}"
            self._keep(person.name, "answer", request, str(refused), surface=APPROVAL)
            return str(refused)
        return None

    async def _count_unfinished(self, person: str) -> int:
        found = await self._inner.post("/flow_runs/count", json=requests.unfinished_runs(person))
        return int(found.json()) if found.is_success else requests.MOST_UNFINISHED

    async def _is_known_form(self, body: object) -> bool:
        """Whether values are to be checked by the schema of an existing deployment or waiting form:
        a made-up schema could take any time."""
        if not isinstance(body, dict) or not requests.is_plain(body.get("values")):
            return False
        found = await self._inner.post("/deployments/filter", json={})
        schemas = [d.get("parameter_openapi_schema") for d in found.json()]
        paused = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        for run in (await self._inner.post("/flow_runs/filter", json=paused)).json():
            details = (run.get("state") or {}).get("state_details") or {}
            key = (details.get("run_input_keyset") or {}).get("schema")
            if key:
                form = await self._inner.get(f"/flow_runs/{run['id']}/input/{key}")
                schemas.append(form.json())
        return body.get("schema") in schemas

    async def _deployment_of(self, about: str, *, of_run: bool) -> tuple[str, str]:
        """The flow and the model of a deployment, or of a run's deployment; empty texts if there is
        none, and Prefect answers so."""
        if of_run:
            run = await self._inner.get(f"/flow_runs/{about}")
            about = str(run.json().get("deployment_id")) if run.is_success else ""
        found = await self._inner.get(f"/deployments/{about}")
        name = str(found.json().get("name")) if found.is_success else ""
        return names.parts(name) or ("", "")

    async def _unknown(
        self, scope: Scope, receive: Receive, send: Send, method: str, *, has_credentials: bool
    ) -> None:
        # A browser's requests before a person has logged in are not recorded.
        if has_credentials or not only_reads(method, scope["path"]):
            why = "nobody has this name and key" if has_credentials else "nobody has logged in"
            self._keep(UNKNOWN, method, _shape(scope["path"]), why)
        why = "a name and a key of `mlplatform keys create --scope run`, or this start's token"
        await _refuse(scope, receive, send, 401, f"log in first: {why}")

    def _keep(self, who: str, method: str, path: str, why: str, surface: str = SURFACE) -> None:
        wall_ms = time.time_ns() // 1_000_000
        self._refusals.keep(Refusal(wall_ms, surface, who, f"{method} {path}", why))

    async def _health(self, send: Send) -> None:
        answer = await self._inner.get("/health")
        if answer.is_success:
            await _problem(send, 200, "ok")
        else:
            await _problem(send, 503, f"Prefect's API answers {answer.status_code}")


def _body_of(start: requests.Start) -> bytes:
    return json.dumps(start.body).encode()


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _shape(path: str) -> str:
    """The path with `{id}` in place of ids: made-up ids would make every refusal a new one."""
    return _ID.sub("/{id}", path)


async def _body(receive: Receive) -> bytes:
    """The whole body of a request.

    Raises:
        _TooLarge: the body is longer than `MOST_BODY_BYTES`.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise _TooLarge
        parts.append(part)
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return b"".join(parts)


def _resent(scope: Scope, body: bytes) -> tuple[Scope, Receive]:
    """The request with another body."""
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name not in (b"content-length", b"transfer-encoding")
    ]
    headers.append((b"content-length", str(len(body)).encode()))
    messages: list[Mapping[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": False},
    ]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return {**scope, "headers": headers}, receive


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    kind = "http"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http"  # a browser that is asked to log in sends its credentials here too
    await _problem(send, status, why, kind)


async def _problem(
    send: Callable[[Any], Awaitable[None]], status: int, detail: str, kind: str = "http"
) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", _REALM))
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
