"""The gateway: without a key, with too little of one, and with another client's facts."""

from __future__ import annotations

import time
from typing import Any, Final

from tests.drills.attacks.attack import (
    EXPLANATIONS,
    LABELS,
    VOIDS,
    Attack,
    AttackResult,
    Target,
    all_of,
)
from tests.drills.attacks.wire import Answer, ask, raw

ADMISSION: Final = "mlplatform_gateway_admission_total"
CONNECTIONS: Final = "mlplatform_gateway_connections_refused_total"
MODEL: Final = "/api/v1/models/fraud"
EXPLAINED: Final = "/api/v2/models/fraud/decisions"
PATHS: Final = ("/api/v1/models", MODEL, f"{MODEL}/score", f"{MODEL}/score:batch",
                f"{MODEL}/score:async", f"{MODEL}/score:accepted", f"{MODEL}/labels",
                f"{MODEL}/voids", "/api/v2/models/fraud/score", "/v2/models/fraud/infer",
                "/v2/models/fraud", "/metrics", "/api/v1/decisions/{decision}",
                f"{EXPLAINED}/{{decision}}/explanation")  # fmt: skip
TRICKS: Final = ("/healthz/../metrics", "//metrics", "/metrics/", "/METRICS", "/%6detrics",
                 "/healthz/%2e%2e/metrics", "/healthz;/../metrics", "/metrics%00", "/metrics;.css",
                 "http://127.0.0.1/metrics", "/healthz?/../metrics", "/healthz#/metrics",
                 "/openapi.json/../api/v1/models", "/healthz\\..\\metrics")  # fmt: skip


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "gateway, without a key and with keys that are none",
            "high",
            f"{len(PATHS)} paths with no key, an unknown one, a revoked one, a JWT with alg none "
            "and one signed with HS256",
            "401 to each, counted",
            keys,
            metric=f'{ADMISSION}|outcome="unauthenticated"',
        ),
        Attack(
            "gateway, with a scope of another kind",
            "high",
            "score, labels, void, explain and metrics with a key that may read",
            "403 to each, counted",
            scopes,
            metric=f'{ADMISSION}|outcome="forbidden"',
        ),
        Attack(
            "gateway, a label of another client's decision",
            "medium",
            "POST /labels for shop's decision with rival's key, by decision_id and by shop's "
            "idempotency key",
            "403, 404 or 422; nothing is stored",
            foreign_label,
            LABELS,
        ),
        Attack(
            "gateway, another client's decision taken back",
            "medium",
            "POST /voids for shop's decision with rival's key, over both versions",
            "403, 404 or 422; nothing is stored",
            foreign_void,
            VOIDS,
        ),
        Attack(
            "gateway, another client's answer by its idempotency key",
            "high",
            "score with shop's Idempotency-Key and rival's key",
            "a decision of rival's own",
            foreign_key,
        ),
        Attack(
            "gateway, another client's decision polled for",
            "high",
            "GET /decisions/{id} and its explanation with rival's key",
            "404",
            foreign_poll,
            EXPLANATIONS,
        ),
        Attack(
            "gateway, a request that was never accepted",
            "high",
            "POST /score:accepted with made-up facts and hash, and shop's decision id",
            "422; nothing is decided",
            never_accepted,
        ),
        Attack(
            "gateway, tricks with the path",
            "high",
            f"{len(TRICKS)} spellings of /metrics and /api/v1/models without a key",
            "401, 400 or 404",
            tricks,
        ),
        Attack(
            "gateway, one request hidden in another",
            "high",
            "CL.TE, TE.CL, TE.TE, two lengths, a bare LF, obs-fold, a space before the colon",
            "one refusal, and the connection ends",
            smuggled,
            metric=f'{CONNECTIONS}|reason="malformed-http"',
        ),
        Attack(
            "gateway, control characters into records and logs",
            "medium",
            "escape sequences and line breaks in a void's reason, an Idempotency-Key, "
            "X-Request-Id and traceparent with shop's key",
            "422 or 400 for the reason and the key; headers are not taken over",
            control_characters,
        ),
        Attack(
            "gateway, priority raised by who asks",
            "low",
            "X-Priority: critical with a standard key",
            "the key's own class stays: answered, and not as critical",
            raised,
        ),
    )


def keys(target: Target) -> AttackResult:
    results = []
    none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzaG9wIn0."
    hs256 = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJ4In0.c2ln"
    for secret in (None, "", target.keys["stranger"].secret, target.keys["revoked"].secret, none,
                   hs256, "mlp_", "\x00"):  # fmt: skip
        for path in PATHS:
            headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
            method = "GET" if path in ("/metrics", "/api/v1/models", MODEL) else "POST"
            try:
                answer = _ask(target, method, path.format(decision=target.decision), {}, headers)
            except ValueError:  # no client sends such a header
                continue
            results.append(
                AttackResult(answer.status in (0, 400, 401, 404, 405), f"{answer.status}")
            )
    return all_of(results)


def scopes(target: Target) -> AttackResult:
    results = []
    label = {"labels": [{"decision_id": target.decision, "label": 1}]}
    for method, path, body in (
        ("POST", f"{MODEL}/score", payment()),
        ("POST", f"{MODEL}/labels", label),
        ("POST", f"{MODEL}/voids", {"decision_id": target.decision, "reason": "because"}),
        ("GET", f"{EXPLAINED}/{target.decision}/explanation", None),
        ("GET", "/metrics", None),
        ("POST", "/v2/models/fraud/infer", {"inputs": []}),
    ):
        answer = _as(target, "reader", method, path, body)
        results.append(AttackResult(answer.status == 403, f"{answer.status} {path}"))
    return all_of(results)


def foreign_label(target: Target) -> AttackResult:
    results = []
    for version in ("v1", "v2"):
        for named in ({"decision_id": target.decision}, {"idempotency_key": "of-the-shop"}):
            body = {"labels": [named | {"label": 1}]}
            answer = _as(target, "rival", "POST", f"/api/{version}/models/fraud/labels", body)
            said = f"{answer.status} by {next(iter(named))}"
            results.append(AttackResult(answer.status in (403, 404, 422), said))
    return all_of(results)


def foreign_void(target: Target) -> AttackResult:
    results = []
    for version in ("v1", "v2"):
        body = {"decision_id": target.decision, "reason": "taken back by a rival"}
        answer = _as(target, "rival", "POST", f"/api/{version}/models/fraud/voids", body)
        results.append(AttackResult(answer.status in (403, 404, 422), f"{answer.status}"))
    return all_of(results)


def foreign_key(target: Target) -> AttackResult:
    own = {"Idempotency-Key": "of-the-shop"}
    answer = _as(target, "rival", "POST", f"{MODEL}/score", payment(), own)
    taken = target.decision in answer.text or answer.headers.get("idempotency-replayed") == "true"
    return AttackResult(
        answer.status == 200 and not taken, f"{answer.status}, shop's decision: {taken}"
    )


def foreign_poll(target: Target) -> AttackResult:
    results = []
    for path in (f"/api/v1/decisions/{target.decision}",
                 f"/api/v2/decisions/{target.decision}",
                 f"{EXPLAINED}/{target.decision}/explanation",
                 f"{MODEL}/decisions/{target.decision}/explanation",
                 f"/api/v1/decisions/{target.decision}/explanation"):  # fmt: skip
        answer = _as(target, "rival", "GET", path, None)
        results.append(AttackResult(answer.status in (403, 404, 405), f"{answer.status}"))
    return all_of(results)


def never_accepted(target: Target) -> AttackResult:
    results = []
    accepted = {
        "decision_id": target.decision,
        "model": "fraud",
        "client": "shop",
        "accepted_ms": int(time.time() * 1000),
        "hash": "0" * 32,
        "request": payment(),
    }
    for body in ({"requests": [accepted]}, accepted):
        answer = _as(target, "rival", "POST", f"{MODEL}/score:accepted", body)
        decided = answer.status == 200 and '"answer"' in answer.text
        results.append(AttackResult(not decided, f"{answer.status}"))
    return all_of(results)


def tricks(target: Target) -> AttackResult:
    results = []
    for path in TRICKS:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{target.gateway_port}\r\n"
        answer = raw(target.gateway_port, f"{head}Connection: close\r\n\r\n".encode(), within_s=2)
        told = "mlplatform_" in answer.text or '"champion"' in answer.text
        results.append(
            AttackResult(not told, f"{answer.status}" if not told else f"{answer.status} {path}")
        )
    return all_of(results)


def smuggled(target: Target) -> AttackResult:
    """Two answers to what is one request at most."""
    host = f"Host: 127.0.0.1:{target.gateway_port}\r\n"
    hidden = f"GET /healthz HTTP/1.1\r\n{host}\r\n"
    results = []
    for name, head, body in (
        ("CL.TE", f"Content-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n",
         f"0\r\n\r\n{hidden}"),
        ("TE.CL", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
         f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"),
        ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
         f"0\r\n\r\n{hidden}"),
        ("CL.CL", f"Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n", hidden),
        ("bare LF", "X: y\nContent-Length: 0\r\n", hidden),
        ("obs-fold", "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", hidden),
        ("space", "Transfer-Encoding : chunked\r\n", f"0\r\n\r\n{hidden}"),
        ("negative", "Content-Length: -1\r\n", hidden),
        ("plus", "Content-Length: +0\r\n", hidden),
    ):  # fmt: skip
        asked = f"POST {MODEL}/score HTTP/1.1\r\n{host}{head}\r\n{body}"
        answer = raw(target.gateway_port, asked.encode(), within_s=2)
        twice = answer.text.count("HTTP/1.1 ") + (answer.status > 0) > 1
        results.append(
            AttackResult(
                answer.status >= 400 and not twice,
                f"{answer.status}" if not twice else f"{name}: answered twice",
            )
        )
    return all_of(results)


def control_characters(target: Target) -> AttackResult:
    results = []
    for reason in ("a\x1b]0;owned\x07", "a\r\nb\u202eright to left"):
        body = {"decision_id": target.decision, "reason": reason}
        answer = _as(target, "shop", "POST", f"{MODEL}/voids", body)
        results.append(AttackResult(answer.status in (400, 422), f"{answer.status} to a reason"))
    for header in ("Idempotency-Key", "X-Request-Id", "traceparent"):
        head = f"POST {MODEL}/score HTTP/1.1\r\nHost: 127.0.0.1:{target.gateway_port}\r\n"
        head += f"Authorization: Bearer {target.keys['shop'].secret}\r\nContent-Length: 2\r\n"
        head += f"Content-Type: application/json\r\n{header}: a\x1b[2Jb\r\n"
        head += "Connection: close\r\n\r\n{}"
        answer = raw(target.gateway_port, head.encode(), within_s=2)
        results.append(AttackResult(answer.status >= 400, f"{answer.status} to {header}"))
        shown = any("\x1b" in v for v in answer.headers.values()) or "\x1b" in answer.text
        results.append(
            AttackResult(not shown, "none is sent back" if not shown else f"{header} comes back")
        )
    return all_of(results)


def raised(target: Target) -> AttackResult:
    answer = _as(target, "shop", "POST", f"{MODEL}/score", payment(), {"X-Priority": "critical"})
    return AttackResult(answer.status in (200, 400, 403, 422), f"{answer.status}")


def payment() -> dict[str, Any]:
    return {
        "customer_id": 7,
        "terminal_id": 3,
        "amount": 40.0,
        "event_time": int(time.time() * 1000),
    }


def _as(
    target: Target,
    who: str,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str] | None = None,
) -> Answer:
    own = {"Authorization": f"Bearer {target.keys[who].secret}", **(headers or {})}
    return _ask(target, method, path, body, own)


def _ask(target: Target, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
    return ask(method, target.gateway + path, json=body, headers=headers)
