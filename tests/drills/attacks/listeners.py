"""Every other listener: without its token, and held open by connections that say nothing."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

import grpc  # here: an attacker who is somebody else may not read where it is installed
from tests.drills.attacks.attack import Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import Answer, ask, raw

HALF_OPEN: Final = 70
HOLD_S: Final = 3.0
ANSWER_S: Final = 5.0
OPEN_PATHS: Final = frozenset(
    {
        "/healthz",
        "/readyz",
        "/health",
        "/version",
        "/v2/health/live",
        "/v2/health/ready",
        "/openapi.json",
        "/openapi/v1.json",
        "/openapi/v2.json",
        "/openapi/inference.json",
        "/openapi.html",
        "/openapi/v1.html",
        "/openapi/v2.html",
        "/openapi/inference.html",
    }
)
"""What docs/security.md says is open."""
ASKED: Final = (
    "/",
    "/metrics",
    "/v2",
    "/v2/models/{service}",
    "/v2/models/{service}/ready",
    "/v2/models/fraud/infer",
    "/v2/models/{service}/infer",
    "/api/v1/models",
    "/api/v1/models/fraud/score",
    "/decisions",
    "/rollouts",
    "/debug/pprof",
    "/%2e%2e/metrics",
    "//metrics",
    "/healthz/../metrics",
    "/metrics/",
    "/metrics?",
    "/METRICS",
)
SQUAT_S: Final = 8.0
"""Longer than a predictor takes to be started again."""
SAYS_NOTHING: Final = b""
SAYS_HALF: Final = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


def attacks() -> tuple[Attack, ...]:
    held = (
        ("page", lambda t: t.page_port, "/health"),
        ("Prefect", lambda t: t.prefect_port, "/api/health"),
        ("MLflow", lambda t: t.mlflow_port, "/health"),
        ("gateway", lambda t: t.gateway_port, "/healthz"),
        ("exporter", lambda t: _port(t, "exporter"), "/healthz"),
        ("worker", lambda t: _port(t, "worker-fraud"), "/healthz"),
        ("predictor", lambda t: _port(t, "fraud-v1"), "/v2/health/live"),
    )
    return (
        *(
            Attack(
                f"{name}, {HALF_OPEN} connections held half-open",
                "medium",
                f"{HALF_OPEN} connections that send half a request and wait; then a request",
                f"the request is answered within {ANSWER_S:g} s, and not by 503",
                _half_open(port, path),
            )
            for name, port, path in held
        ),
        Attack(
            "page, without its token",
            "high",
            "every path of the page, GET and POST, without a token, with a wrong one, for another "
            "Host, from another site",
            "401 or 403",
            page,
        ),
        Attack(
            "predictors, exporter, worker and gateway processes without a token",
            "high",
            f"GET and POST of {len(ASKED)} paths at every port that a process of the platform has",
            "401, 403, 404 or 405 but for the paths that docs/security.md calls open",
            every_port,
        ),
        Attack(
            "predictors over gRPC without a token",
            "high",
            "ModelInfer and ModelMetadata at a predictor's ports, without and with a wrong token",
            "UNAUTHENTICATED",
            grpc_calls,
        ),
        Attack(
            "predictor, its ports while it is killed and started again",
            "critical",
            f"bind and listen, with SO_REUSEPORT and without, for {SQUAT_S:g} s while it is killed",
            "its ports are never free: the gateway would tell who listens there its token",
            squat,
            by_other_user=True,
            kills="fraud-v1",
        ),
        Attack(
            "every port, rubbish",
            "medium",
            "64 KiB of random bytes, a TLS hello, an HTTP/2 preface and a head of 1 MB",
            "every listener answers afterwards",
            rubbish,
        ),
    )


def page(target: Target) -> AttackResult:
    results = []
    wrong = {"Authorization": "Basic YW55Ondyb25n"}
    for path in ("/", "/rollouts", f"/rollouts/{target.question.rollout_id}", "/incidents",
                 "/decisions", f"/decisions/{target.decision}", "/models/fraud",
                 "/decisions.csv", "/models/fraud/review",
                 "//decisions", "/health/../decisions", "/%2e/decisions"):  # fmt: skip
        for method, headers in (
            ("GET", {}),
            ("GET", wrong),
            ("POST", wrong),
            ("GET", {"Host": "evil.example"}),
            ("GET", {"Origin": "http://evil.example"}),
            ("GET", {"X-Forwarded-User": "operator"}),
        ):
            answer = ask(method, target.page + path, headers=headers)
            results.append(
                AttackResult(
                    answer.shut,
                    f"{answer.status} {method} {path}" if not answer.shut else f"{answer.status}",
                )
            )
    return all_of(results)


def every_port(target: Target) -> AttackResult:
    results = []
    for process, port in target.ports.items():
        if port in (target.prefect_port, target.page_port):
            continue  # they have attacks of their own
        service = process.partition(":")[0]
        for path in ASKED:
            for method in ("GET", "POST"):
                asked = path.format(service=service)
                answer = _request(port, method, asked)
                held = answer.status in (0, 400, 401, 403, 404, 405, 415) or asked in OPEN_PATHS
                said = f"{process} {method} {asked} {answer.status}" if not held else "held"
                results.append(AttackResult(held, said))
    return all_of(results)


def grpc_calls(target: Target) -> AttackResult:
    from mlplatform.scoring.protos import open_inference_pb2 as oip

    results = []
    for process, port in target.ports.items():
        name = process.partition(":")[0]
        if not name.startswith("fraud-v"):
            continue
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method, request in (
                ("ModelInfer", oip.ModelInferRequest(model_name=name)),
                ("ModelMetadata", oip.ModelMetadataRequest(name=name)),
            ):
                call = channel.unary_unary(
                    f"/inference.GRPCInferenceService/{method}",
                    request_serializer=lambda r: r.SerializeToString(),
                    response_deserializer=bytes,
                )
                for given in ((), (("authorization", "Bearer wrong"),)):
                    try:
                        call(request, timeout=3, metadata=given)
                        results.append(AttackResult(False, f"{process} answered {method}"))
                    except grpc.RpcError as error:
                        code = error.code().name  # type: ignore[attr-defined]
                        held = code in ("UNAUTHENTICATED", "UNAVAILABLE", "PERMISSION_DENIED")
                        results.append(AttackResult(held, f"{code}"))
    return all_of(results)


def squat(target: Target) -> AttackResult:
    ports = {name: port for name, port in target.ports.items() if name.startswith("fraud-v1")}
    tries, end_s = 0, time.monotonic() + SQUAT_S
    while time.monotonic() < end_s:
        for name, port in ports.items():
            for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                tries += 1
                with socket.socket() as sock, contextlib.suppress(OSError):
                    if option is not None:
                        sock.setsockopt(socket.SOL_SOCKET, option, 1)
                    sock.bind(("127.0.0.1", port))
                    sock.listen()
                    return AttackResult(False, f"listens on port {port} of {name}")
        time.sleep(0.001)
    return AttackResult(bool(ports), f"{len(ports)} ports were free at none of {tries} tries")


def rubbish(target: Target) -> AttackResult:
    import random

    bytes_of = random.Random(13)
    hello = bytes.fromhex("16030100") + bytes_of.randbytes(200)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    head = b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n"
    for port in target.ports.values():
        for sent in (bytes_of.randbytes(65_536), hello, preface, head):
            raw(port, sent, within_s=0.3)
    results = []
    for process, port in target.ports.items():
        if _takes_connections(port):
            results.append(AttackResult(True, "all listen"))
        else:
            results.append(AttackResult(False, f"{process} takes no connection any more"))
    for url in (f"{target.gateway}/healthz", f"{target.page}/health", f"{target.mlflow}/health",
                f"{target.prefect}/api/health"):  # fmt: skip
        status = ask("GET", url).status
        results.append(AttackResult(status not in (0, 500, 502, 503), f"{status}"))
    return all_of(results)


def _half_open(port_of: Callable[[Target], int], path: str) -> Callable[[Target], AttackResult]:
    def act(target: Target) -> AttackResult:
        port = port_of(target)
        with contextlib.ExitStack() as held:
            for number in range(HALF_OPEN):
                with contextlib.suppress(OSError):
                    opened = socket.create_connection(("127.0.0.1", port), timeout=2)
                    held.enter_context(opened)
                    opened.sendall(SAYS_HALF if number % 2 else SAYS_NOTHING)
            time.sleep(HOLD_S)
            began_s = time.monotonic()
            answer = _request(port, "GET", path, within_s=ANSWER_S + 1)
            took_s = time.monotonic() - began_s
        held_up = answer.status in (200, 401, 403) and took_s <= ANSWER_S
        return AttackResult(held_up, f"{answer.status or 'nothing'} after {took_s:.1f} s")

    return act


def _port(target: Target, process: str) -> int:
    """Of the first process of that name that speaks HTTP."""
    ports = [p for n, p in target.ports.items() if n.startswith(process)]
    for port in ports:
        if _request(port, "GET", "/").status:
            return port
    return ports[0]


def _request(port: int, method: str, path: str, within_s: float = 5.0) -> Answer:
    length = "Content-Length: 2\r\nContent-Type: application/json\r\n" if method == "POST" else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{length}\r\n"
    )
    return raw(port, head.encode() + (b"{}" if length else b""), within_s=within_s)


def _takes_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False
