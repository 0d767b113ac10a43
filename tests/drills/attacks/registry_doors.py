"""MLflow: without its token, and with it but beyond its artifacts."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.drills.attacks.attack import Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import Answer, ask, raw

API: Final = "/api/2.0/mlflow"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
DOORS: Final = (
    ("POST", f"{API}/registered-models/create", {"name": "fraud"}),
    ("POST", f"{API}/model-versions/create",
     {"name": "fraud", "source": "mlflow-artifacts:/x", "run_id": ""}),
    ("POST", f"{API}/registered-models/alias",
     {"name": "fraud", "alias": "champion", "version": "9"}),
    ("POST", f"{API}/experiments/create", {"name": "mine"}),
    ("GET", f"{API}/experiments/search?max_results=1", None),
    ("GET", f"{API}/registered-models/search", None),
    ("GET", ARTIFACTS, None),
    ("PUT", f"{ARTIFACTS}/mine.txt", None),
    ("DELETE", f"{ARTIFACTS}/mine.txt", None),
    ("GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1", None),
    ("GET", "/graphql", None),
    ("GET", "/get-artifact?path=x&run_uuid=x", None),
    ("GET", "/model-versions/get-artifact?path=x&name=fraud&version=1", None),
    ("GET", "/", None),
    ("GET", "/version", None),
    ("GET", "/server-info", None),
    ("GET", "/health/../version", None),
    ("GET", "//version", None),
    ("GET", "/metrics", None),
)  # fmt: skip
ESCAPES: Final = (
    "../../secrets/api.key",
    "..%2f..%2fsecrets/api.key",
    "%2e%2e/%2e%2e/secrets/api.key",
    "%252e%252e/%252e%252e/secrets/api.key",
    "..%5c..%5csecrets%5capi.key",
    "..;/..;/secrets/api.key",
    "/{home}/secrets/api.key",
    "file:///{home}/secrets/api.key",
    "1/../../../secrets/api.key",
    "%00/../../secrets/api.key",
)
SOURCES: Final = ("file://{home}/secrets", "{home}/secrets", "mlflow-artifacts:/../../secrets",
                  "mlflow-artifacts:///%2e%2e/%2e%2e/secrets")  # fmt: skip


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "MLflow, without its token",
            "high",
            f"{len(DOORS)} calls that register, change, read and delete, without a token and with "
            "a wrong one",
            "401 or 403",
            without_token,
        ),
        Attack(
            "MLflow, paths out of its artifacts",
            "high",
            "GET, PUT and DELETE of artifacts with .., %2e, %5c, absolute paths, by who has the "
            "token",
            "400 or 404; no byte of another file",
            out_of_artifacts,
            by_operator=True,
        ),
        Attack(
            "MLflow, a version whose source is the home",
            "high",
            "model-versions/create with a source of file://HOME/secrets, then get-artifact, by who "
            "has the token",
            "400, 404; no byte of a key",
            sources,
            by_operator=True,
        ),
        Attack(
            "MLflow, a name that was made to mean this machine",
            "medium",
            "GET for Host evil.example, by who has the token",
            "400 or 403",
            rebound,
            by_operator=True,
        ),
    )


def without_token(target: Target) -> AttackResult:
    results = []
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic Og=="}):
        for method, path, body in DOORS:
            answer = ask(method, target.mlflow + path, json=body, headers=headers)
            results.append(
                AttackResult(
                    answer.shut,
                    f"{answer.status}" if answer.shut else f"{answer.status} {method} {path}",
                )
            )
    return all_of(results)


def out_of_artifacts(target: Target) -> AttackResult:
    secret = (target.home / "secrets" / "api.key").read_text().strip()
    results = []
    for escape in ESCAPES:
        path = f"{ARTIFACTS}/{escape.format(home=str(target.home).lstrip('/'))}"
        for method in ("GET", "DELETE"):
            answer = _with_token(target, method, path)
            told = secret in answer.text
            results.append(
                AttackResult(not told, f"{answer.status}" if not told else f"read by {path}")
            )
    listed = _with_token(target, "GET", f"{ARTIFACTS}?path=../../secrets")
    results.append(AttackResult("api.key" not in listed.text, f"{listed.status}"))
    planted = _with_token(target, "PUT", f"{ARTIFACTS}/../../run/planted", b"planted")
    results.append(
        AttackResult(not (target.home / "run" / "planted").exists(), f"{planted.status}")
    )
    intact = (target.home / "secrets" / "api.key").exists()
    results.append(AttackResult(intact, "the key stands" if intact else "the key was deleted"))
    return all_of(results)


def sources(target: Target) -> AttackResult:
    secret = (target.home / "secrets" / "api.key").read_text().strip()
    _with_token(target, "POST", f"{API}/registered-models/create", json.dumps({"name": "mine"}))
    results = []
    for source in SOURCES:
        body = json.dumps({"name": "mine", "source": source.format(home=target.home)})
        made = _with_token(target, "POST", f"{API}/model-versions/create", body)
        version = _version(made)
        path = f"/model-versions/get-artifact?name=mine&version={version}&path=api.key"
        given = _with_token(target, "GET", path) if version else made
        told = secret in given.text
        results.append(
            AttackResult(not told, f"{made.status}" if not told else f"read from {source}")
        )
    return all_of(results)


def rebound(target: Target) -> AttackResult:
    token = (target.home / "run" / "mlflow.token").read_text().strip()
    head = f"GET {API}/experiments/search?max_results=1 HTTP/1.1\r\nHost: evil.example\r\n"
    head += f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    answer = raw(target.mlflow_port, head.encode())
    return AttackResult(answer.status in (400, 403), f"{answer.status}")


def _version(made: Answer) -> str:
    try:
        return str(json.loads(made.text)["model_version"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def _with_token(target: Target, method: str, path: str, body: Any = b"") -> Answer:
    """The path as it is: a client would put it in order."""
    token = (target.home / "run" / "mlflow.token").read_text().strip()
    content = body.encode() if isinstance(body, str) else body
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{target.mlflow_port}\r\n"
    head += f"Authorization: Bearer {token}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return raw(target.mlflow_port, head.encode() + content)
