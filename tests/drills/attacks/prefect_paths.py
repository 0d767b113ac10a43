"""Ways around Prefect's door: paths, hosts, headers, sockets."""

from __future__ import annotations

import json
import time
from typing import Final

import httpx
from tests.drills.attacks.attack import Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import VERSION, Answer, ask, identities, raw, upgrade
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

SILENCE_S: Final = 3.0
LARGE_BYTES: Final = 12_000_000
SOCKETS: Final = ("/api/events/in", "/api/events/out", "/api/logs/out")
TRICKS: Final = (
    "//api/admin/version",
    "/./api/admin/version",
    "/api/../api/admin/version",
    "/api//admin/version",
    "/api/%2e%2e/api/admin/version",
    "/health/../api/admin/version",
    "/health/%2e%2e/api/admin/version",
    "/health/..%2fapi/admin/version",
    "/health;/../api/admin/version",
    "/health/../../api/admin/version",
    "/health%2f..%2fapi/admin/version",
    "/health\\..\\api\\admin\\version",
    "/health%00/../api/admin/version",
    "/api/health/../admin/version",
    "/api/health/%2e%2e/admin/version",
    "/api/health%2f..%2fadmin/version",
    "/api/ready/../admin/version",
    "/api;/admin/version",
    "/api/admin;/version",
    "/api/admin/version/",
    "/api/admin/version.",
    "/api/admin/version;.css",
    "/api/admin/version%20",
    "/api/admin/version%00",
    "/api/admin/version?/health",
    "/api/admin/version#/health",
    "/API/admin/version",
    "/Api/Admin/Version",
    "/%61pi/admin/version",
    "/api/%61dmin/version",
    "/assets/../api/admin/version",
    "/favicon.ico/../api/admin/version",
    "http://127.0.0.1:{port}/api/admin/version",
    "http://evil.example/api/admin/version",
    "*",
)
HEADERS: Final = (
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-User", "platform"),
    ("X-Forwarded-Prefix", "/health"),
    ("X-Remote-User", "bo"),
    ("X-Auth-Request-User", "bo"),
    ("X-Original-URL", "/health"),
    ("X-Rewrite-URL", "/api/health"),
    ("X-HTTP-Method-Override", "GET"),
    ("Forwarded", "for=127.0.0.1;host=127.0.0.1"),
    ("Authorization", "Basic cGxhdGZvcm06"),  # platform:
    ("Authorization", "Basic cGxhdGZvcm06dW5kZWZpbmVk"),  # platform:undefined
    ("Authorization", "Basic OjpIOg=="),
    ("Authorization", "Basic \u00ff"),
    ("Prefect-Csrf-Token", "x"),
)


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "prefect, tricks with the path",
            "high",
            f"{len(TRICKS)} spellings of GET {VERSION}: //, .., %2e, ;, NUL, upper case, absolute",
            "none reaches Prefect without an identity",
            paths,
        ),
        Attack(
            "prefect, tricks with headers",
            "high",
            f"GET {VERSION} with {len(HEADERS)} headers that proxies or clients would set",
            "none reaches Prefect without an identity",
            headers,
        ),
        Attack(
            "prefect, method overridden on a way that a person has",
            "high",
            "POST /api/flow_runs/filter with X-HTTP-Method-Override and _method, and PATCH and "
            "DELETE spelled in lower case or with a suffix, by nobody and by eve",
            "no deployment is changed",
            methods,
        ),
        Attack(
            "prefect, a way that a person has, and then elsewhere",
            "high",
            "POST /api/deployments/{id}/create_flow_run/../../../automations/ and the like, by "
            "nobody and by eve",
            "refused or not found; nothing is made",
            beyond,
        ),
        Attack(
            "prefect, WebSockets without an identity",
            "high",
            f"{', '.join(SOCKETS)} as nobody, with first messages that prove nobody",
            "nothing is told and nothing is taken",
            sockets,
        ),
        Attack(
            "prefect, events forged over a WebSocket",
            "high",
            "/api/events/in as a person who may run flows, and as nobody, with first messages that "
            "prove nobody or a person",
            "nothing is taken",
            events_in,
        ),
        Attack(
            "prefect, a large first message of nobody",
            "high",
            f"{LARGE_BYTES} bytes of JSON to {SOCKETS[0]}, compressed where the server takes that",
            "the socket ends before the message is unpacked, and the health path answers at once",
            large_message,
        ),
        Attack(
            "prefect, a WebSocket from another site",
            "high",
            "an upgrade of /api/events/out with a foreign Origin, as nobody and as eve's browser",
            "no 101",
            foreign_socket,
        ),
        Attack(
            "prefect, documentation and openapi.json",
            "low",
            "GET /docs, /redoc, /openapi.json, /ui-settings as nobody",
            "401, or a page to log in",
            documents,
        ),
        Attack(
            "prefect, a name that was made to mean this machine",
            "high",
            f"GET {VERSION} for Host evil.example, evil.example:PORT, none, two of them, as "
            "nobody and as eve's browser",
            "400, 401 or 403",
            hosts,
        ),
        Attack(
            "prefect, a request of another site's page",
            "high",
            "POST /api/deployments/{id}/create_flow_run with a foreign Origin, or Origin null, as "
            "eve's browser",
            "401 or 403",
            origins,
        ),
        Attack(
            "prefect, a form that another site's page sends",
            "medium",
            "POST with Content-Type text/plain and form fields to create_flow_run, foreign Origin",
            "401 or 403",
            simple_forms,
        ),
        Attack(
            "prefect, one request hidden in another",
            "high",
            "Content-Length beside Transfer-Encoding, two lengths, a bare LF: the second request "
            f"is GET {VERSION}",
            "refused, and no answer of Prefect's",
            smuggled,
        ),
    )


def paths(target: Target) -> AttackResult:
    results = []
    for trick in TRICKS:
        path = trick.format(port=target.prefect_port)
        answer = raw(target.prefect_port, _get(target, path))
        results.append(_version(answer, path))
    return all_of(results)


def headers(target: Target) -> AttackResult:
    results = []
    for name, value in HEADERS:
        answer = raw(target.prefect_port, _get(target, VERSION, {name: value}))
        results.append(_version(answer, f"{name}: {value!r}"))
    return all_of(results)


def methods(target: Target) -> AttackResult:
    results = []
    deployment = f"/api/deployments/{target.deployments['fraud-drift']}"
    for who, own in identities(target).items():
        for method, path, extra in (
            ("POST", deployment, {"X-HTTP-Method-Override": "PATCH"}),
            ("POST", f"{deployment}?_method=PATCH", {}),
            ("patch", deployment, {}),
            ("PATCH ", deployment, {}),
            ("GET", deployment, {"X-HTTP-Method": "DELETE", "X-Method-Override": "DELETE"}),
        ):
            body = b'{"description": "changed by an override"}'
            asked = _request(target, method, path, own | extra, body)
            answer = raw(target.prefect_port, asked)
            changed = answer.status in (200, 204) and method != "GET"
            results.append(AttackResult(not changed, f"{who}: {method} {answer.status}"))
        after = ask("GET", target.prefect + deployment, headers=own)
        gone = after.status == 404 or "changed by an override" in after.text
        results.append(
            AttackResult(not gone, f"{who}: the deployment {'changed' if gone else 'stands'}")
        )
    return all_of(results)


def beyond(target: Target) -> AttackResult:
    results = []
    run = f"/api/deployments/{target.deployments['fraud-drift']}/create_flow_run"
    resume = f"/api/flow_runs/{target.question.flow_run}/resume"
    variable = b'{"name": "mine_beyond", "value": "x"}'
    for who, own in identities(target).items():
        for path in (
            f"{run}/../../../variables/",
            f"{run}/%2e%2e/%2e%2e/%2e%2e/variables/",
            f"{run}/..%2f..%2f..%2fvariables/",
            f"{resume}/../../../variables/",
            f"{run}/bulk/../../../../variables/",
            f"{run};/../../../variables/",
            f"{run}%2f..%2f..%2f..%2fvariables%2f",
            "/api/variables//",
            "/api/flow_runs/filter/../../variables/",
        ):
            answer = raw(target.prefect_port, _request(target, "POST", path, own, variable))
            results.append(
                AttackResult(answer.status not in (200, 201), f"{who}: {answer.status} {path}")
            )
    return all_of(results)


def sockets(target: Target) -> AttackResult:
    return all_of([_no_use(target, path, {}) for path in SOCKETS])


def events_in(target: Target) -> AttackResult:
    people = identities(target).items()
    return all_of([_no_use(target, "/api/events/in", h, who) for who, h in people])


def foreign_socket(target: Target) -> AttackResult:
    evil = {"Origin": "http://evil.example"}
    people = identities(target).items()
    return all_of([_no_upgrade(target, "/api/events/out", h | evil, who) for who, h in people])


def documents(target: Target) -> AttackResult:
    results = []
    for path in ("/docs", "/redoc", "/openapi.json", "/api/openapi.json", "/ui-settings", "/"):
        answer = ask("GET", target.prefect + path)
        results.append(AttackResult(answer.shut or answer.status == 404, f"{answer.status} {path}"))
    return all_of(results)


def hosts(target: Target) -> AttackResult:
    results = []
    port = target.prefect_port
    for who, own in identities(target).items():
        kept = "".join(f"{k}: {v}\r\n" for k, v in own.items() if k != "Origin")
        for host in (
            "Host: evil.example\r\n",
            f"Host: evil.example:{port}\r\n",
            "",
            f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n",
            f"Host: 127.0.0.1:{port}.evil.example\r\n",
            f"Host: 127.0.0.1:{port}@evil.example\r\n",
        ):
            asked = f"GET {VERSION} HTTP/1.1\r\n{host}{kept}Connection: close\r\n\r\n"
            results.append(_version(raw(port, asked.encode()), f"{who}: {host.strip()!r}"))
    return all_of(results)


def origins(target: Target) -> AttackResult:
    results = []
    url = f"{target.prefect}/api/deployments/{target.deployments['fraud-drift']}/create_flow_run"
    body = {"parameters": {"model": "fraud"}}
    for who, own in identities(target).items():
        for origin in ("http://evil.example", "null", target.prefect + ".evil.example",
                       target.gateway):  # fmt: skip
            answer = ask("POST", url, json=body, headers=own | {"Origin": origin})
            results.append(AttackResult(answer.shut, f"{who}: {answer.status} from {origin}"))
    return all_of(results)


def simple_forms(target: Target) -> AttackResult:
    results = []
    url = f"{target.prefect}/api/deployments/{target.deployments['fraud-drift']}/create_flow_run"
    for who, own in identities(target).items():
        cross = own | {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            asked = cross | {"Content-Type": kind}
            answer = ask("POST", url, data=b'{"parameters": {"model": "fraud"}}', headers=asked)
            results.append(AttackResult(answer.shut, f"{who}: {answer.status} to {kind}"))
    return all_of(results)


def smuggled(target: Target) -> AttackResult:
    """Anything of Prefect's in what comes back, to whichever of the requests."""
    results = []
    port = target.prefect_port
    host = f"Host: 127.0.0.1:{port}\r\n"
    hidden = f"GET {VERSION} HTTP/1.1\r\n{host}\r\n"
    for name, head, body in (
        ("CL.TE", f"Content-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n",
         f"0\r\n\r\n{hidden}"),
        ("TE.CL", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
         f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"),
        ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
         f"0\r\n\r\n{hidden}"),
        ("CL.CL", f"Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n", hidden),
        ("xchunked", "Transfer-Encoding: xchunked\r\n", f"0\r\n\r\n{hidden}"),
        ("pipelined", "Content-Length: 0\r\n", hidden),
    ):  # fmt: skip
        answer = raw(port, f"POST /health HTTP/1.1\r\n{host}{head}\r\n{body}".encode(), within_s=2)
        results.append(_version(answer, name))
    return all_of(results)


def _version(answer: Answer, said: str) -> AttackResult:
    is_json = "json" in answer.headers.get("content-type", "")
    told = answer.status == 200 and is_json and "3." in answer.text
    return AttackResult(
        not told and '"3.' not in answer.text,
        f"{answer.status} {said}" if told else f"{answer.status}",
    )


def _no_upgrade(
    target: Target, path: str, headers: dict[str, str], who: str = "nobody"
) -> AttackResult:
    answer = upgrade(target.prefect_port, path, headers)
    return AttackResult(answer.status != 101, f"{who}: {answer.status} {path}")


def _no_use(
    target: Target, path: str, headers: dict[str, str], who: str = "nobody"
) -> AttackResult:
    """Whether a socket that was opened tells or takes anything; Prefect's own clients prove who
    they are by the first message."""
    key = target.keys["eve"]
    results = []
    for message in (
        "{}",
        json.dumps({"type": "auth", "token": None}),
        json.dumps({"type": "auth", "token": "platform:"}),
        json.dumps({"type": "auth", "token": f"platform:{key.secret}"}),
        json.dumps({"type": "auth", "token": f"{key.name}:{key.secret}"}),
        json.dumps({"type": "filter", "filter": {}}),
    ):
        told = _said_after(f"ws://127.0.0.1:{target.prefect_port}{path}", headers, message)
        used = "auth_success" in told or '"event"' in told
        results.append(AttackResult(not used, f"{who}: {told[:60]} {path}"))
    return all_of(results)


def large_message(target: Target) -> AttackResult:
    """Small on the wire, and large in memory if the server unpacks it before it asks who it is."""
    message = "[" + "[]," * (LARGE_BYTES // 3) + "[]]"
    unpacks, ended = False, "it was taken"
    try:
        with connect(
            f"ws://127.0.0.1:{target.prefect_port}{SOCKETS[0]}", proxy=None,
            subprotocols=[Subprotocol("prefect")], open_timeout=10, close_timeout=1,
        ) as socket:  # fmt: skip
            unpacks = bool(socket.protocol.extensions)
            socket.send(message)
            socket.recv(timeout=SILENCE_S)
    except TimeoutError:
        ended = "nothing was said"
    except (OSError, WebSocketException) as error:
        ended = type(error).__name__
    began_s = time.monotonic()
    health = ask("GET", f"{target.prefect}/health")
    held = not unpacks and ended not in ("it was taken", "nothing was said")
    late_s = time.monotonic() - began_s
    is_up = health.status == httpx.codes.OK
    return AttackResult(held and is_up, f"{ended}; then health {health.status} in {late_s:.1f} s")


def _said_after(url: str, headers: dict[str, str], message: str) -> str:
    """What a socket says after a first message, or how it ended."""
    own = {k: v for k, v in headers.items() if k != "Origin"}
    origin = Origin(headers["Origin"]) if "Origin" in headers else None
    try:
        with connect(
            url, origin=origin, additional_headers=own, proxy=None,
            subprotocols=[Subprotocol("prefect")], open_timeout=10, close_timeout=1,
        ) as socket:  # fmt: skip
            socket.send(message)
            return str(socket.recv(timeout=SILENCE_S))
    except TimeoutError:
        return "nothing"
    except (OSError, WebSocketException) as error:
        return type(error).__name__


def _get(target: Target, path: str, headers: dict[str, str] | None = None) -> bytes:
    return _request(target, "GET", path, headers or {}, b"")


def _request(target: Target, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    own = {"Host": f"127.0.0.1:{target.prefect_port}", "Connection": "close", **headers}
    if body:
        own |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{k}: {v}\r\n" for k, v in own.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body
