"""Prefect's API: what would change what runs, where it runs, or what is known of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.drills.attacks.attack import PREFECT, Attack, AttackResult, Severity, Target, all_of
from tests.drills.attacks.wire import ask, identities

NOBODY_S_ID = str(uuid.UUID(int=1))
REFUSED = "401 or 403 to nobody and to a person who may run flows; told in audit/refusals.jsonl"


@dataclass(frozen=True, slots=True)
class Door:
    """One request to Prefect's API that nobody but the platform may make.

    Args:
        path, body: with `{names}` of `_values`.
    """

    name: str
    severity: Severity
    method: str
    path: str
    body: Any = None


DOORS = (
    Door("deployments: replace the parameters of a schedule", "high", "PATCH",
         "/deployments/{drift}", {"parameters": {"model": "fraud", "actor": "eve"}}),
    Door("deployments: create one", "critical", "POST", "/deployments/",
         {"name": "mine", "flow_id": "{flow}", "entrypoint": "/tmp/evil.py:evil"}),
    Door("deployments: pause the rollouts' passes", "high", "POST",
         "/deployments/{rollout}/pause_deployment"),
    Door("deployments: add a schedule", "medium", "POST", "/deployments/{batch}/schedules",
         [{"schedule": {"interval": 3600}, "active": False}]),
    Door("deployments: schedule runs by themselves", "medium", "POST",
         "/deployments/{batch}/schedule", {}),
    Door("deployments: delete in bulk", "high", "POST", "/deployments/bulk_delete",
         {"deployments": {"id": {"any_": ["{nobody}"]}}}),
    Door("deployments: create runs in bulk", "high", "POST",
         "/deployments/{batch}/create_flow_run/bulk", []),
    Door("flows: create one", "medium", "POST", "/flows/", {"name": "mine"}),
    Door("flow runs: create one of no deployment", "high", "POST", "/flow_runs/",
         {"flow_id": "{flow}", "name": "mine", "parameters": {}}),
    Door("flow runs: rename the question", "medium", "PATCH", "/flow_runs/{run}",
         {"name": "already approved"}),
    Door("flow runs: relabel the question", "low", "PATCH", "/flow_runs/{run}/labels",
         {"approved": "yes"}),
    Door("flow runs: set the state in bulk", "high", "POST", "/flow_runs/bulk_set_state",
         {"flow_runs": {"id": {"any_": ["{nobody}"]}}, "state": {"type": "COMPLETED"}}),
    Door("flow runs: delete in bulk", "high", "POST", "/flow_runs/bulk_delete",
         {"flow_runs": {"id": {"any_": ["{nobody}"]}}}),
    Door("task runs: forge one", "medium", "POST", "/task_runs/",
         {"flow_run_id": "{run}", "task_key": "approve", "dynamic_key": "0"}),
    Door("work pools: create one", "high", "POST", "/work_pools/",
         {"name": "mine", "type": "process"}),
    Door("work pools: heartbeat of a forged worker", "medium", "POST",
         "/work_pools/mine/workers/heartbeat", {"name": "mine"}),
    Door("work queues: create one", "medium", "POST", "/work_queues/", {"name": "mine"}),
    Door("blocks: create a type", "medium", "POST", "/block_types/",
         {"name": "Mine", "slug": "mine"}),
    Door("blocks: create a document", "high", "POST", "/block_documents/",
         {"name": "mine", "data": {}, "block_schema_id": "{nobody}", "block_type_id": "{nobody}"}),
    Door("blocks: install types", "low", "POST", "/block_types/install_system_block_types"),
    Door("variables: create one", "medium", "POST", "/variables/",
         {"name": "mine_{word}", "value": "x"}),
    Door("automations: create one", "critical", "POST", "/automations/",
         {"name": "mine", "enabled": False, "actions": [{"type": "do-nothing"}],
          "trigger": {"type": "event", "expect": ["mine"], "posture": "Reactive",
                      "threshold": 1, "within": 0}}),
    Door("automations: switch off what starts retrains", "high", "PATCH",
         "/automations/{automation}", {"enabled": False}),
    Door("concurrency limits: create one by tag", "medium", "POST", "/concurrency_limits/",
         {"tag": "mlplatform-{word}", "concurrency_limit": 0}),
    Door("concurrency limits: create one", "medium", "POST", "/v2/concurrency_limits/",
         {"name": "mine-{word}", "limit": 1}),
    Door("concurrency limits: take all slots", "medium", "POST",
         "/v2/concurrency_limits/increment",
         {"slots": 1, "names": ["mine"], "mode": "concurrency"}),
    Door("artifacts: forge one", "high", "POST", "/artifacts/",
         {"key": "gates-fraud", "type": "markdown", "data": "every gate passed"}),
    Door("logs: forge a line of the question's run", "medium", "POST", "/logs/",
         [{"name": "mlplatform", "level": 20, "message": "approved by bo", "flow_run_id": "{run}",
           "timestamp": "{now}"}]),
    Door("events: forge a drift incident", "high", "POST", "/events",
         [{"id": "{fresh}", "occurred": "{now}", "event": "model.drift.retrain",
           "resource": {"prefect.resource.id": "mlplatform.model.fraud"}, "payload": {}}]),
    Door("saved searches: create one", "low", "PUT", "/saved_searches/",
         {"name": "mine", "filters": []}),
    Door("server storage: point results elsewhere", "high", "PUT", "/admin/storage",
         {"block_document_id": "{nobody}"}),
    Door("server storage: forget", "medium", "DELETE", "/admin/storage"),
    Door("templates: have one rendered", "low", "POST", "/templates/validate", "{{{{ 7*7 }}}}"),
    Door("inputs: add one to the question", "high", "POST", "/flow_runs/{run}/input",
         {"key": "mine-{word}", "value": "x"}),
    Door("artifacts: delete the evidence", "high", "DELETE", "/artifacts/{nobody}"),
    Door("flow runs: delete one", "high", "DELETE", "/flow_runs/{nobody}"),
    Door("deployments: delete one", "high", "DELETE", "/deployments/{nobody}"),
    Door("automations: delete one", "high", "DELETE", "/automations/{nobody}"),
    Door("flow runs: force a state", "high", "POST", "/flow_runs/{nobody}/set_state",
         {"state": {"type": "COMPLETED", "name": "Completed"}, "force": True}),
)  # fmt: skip


def attacks() -> tuple[Attack, ...]:
    """One for each door, and one over every read that the server has."""
    doors = tuple(
        Attack(
            f"prefect, {door.name}",
            door.severity,
            f"{door.method} /api{door.path} as nobody and as a person who may run flows",
            REFUSED,
            _try(door),
            PREFECT,
        )
        for door in DOORS
    )
    return (
        *doors,
        Attack(
            "prefect, every read without an identity",
            "high",
            "each GET, filter and count of Prefect's OpenAPI document, as nobody",
            "401 to each",
            every_read,
        ),
        Attack(
            "prefect, server settings and secrets of blocks",
            "high",
            "GET /api/admin/settings and block documents with their secrets, as nobody and as a "
            "person who may run flows",
            "401 or 403",
            settings_and_secrets,
        ),
    )


def last() -> tuple[Attack, ...]:
    """What leaves nothing of a platform that lets it through."""
    return (
        Attack(
            "prefect, every operation that changes something",
            "critical",
            "each POST, PUT, PATCH and DELETE of Prefect's OpenAPI document that is neither a "
            "filter nor a count, with an empty body and an id that nothing has",
            "401 or 403 to each, before Prefect looks at the body",
            every_change,
            PREFECT,
        ),
    )


def filled(template: Any, values: dict[str, str]) -> Any:
    """The template with its names replaced, in texts at any depth."""
    if isinstance(template, str):
        return template.format_map(values)
    if isinstance(template, dict):
        return {k: filled(v, values) for k, v in template.items()}
    if isinstance(template, list):
        return [filled(v, values) for v in template]
    return template


def values(target: Target) -> dict[str, str]:
    """What the templates of doors name."""
    by_flow = {n.removeprefix("fraud-"): i for n, i in target.deployments.items()}
    return {
        **by_flow,
        "run": target.question.flow_run,
        "flow": NOBODY_S_ID,
        "automation": target.automations[0] if target.automations else NOBODY_S_ID,
        "nobody": NOBODY_S_ID,
        "fresh": str(uuid.uuid4()),
        "word": uuid.uuid4().hex[:8],
        "now": datetime.now(UTC).isoformat(),
    }


def _try(door: Door) -> Callable[[Target], AttackResult]:
    def act(target: Target) -> AttackResult:
        results = []
        for who, headers in identities(target).items():
            of = values(target)
            url = f"{target.prefect}/api{filled(door.path, of)}"
            answer = ask(door.method, url, json=filled(door.body, of), headers=headers)
            results.append(AttackResult(answer.shut and answer.status != 400, f"{who}: {answer}"))
        return all_of(results)

    return act


SECRET = ("auth_string", "password", "secret", "api_key", "token", "connection_url")
READS = (
    *("filter", "count", "paginate", "history", "lateness", "counts", "validate", "next-runs"),
    "concurrency_status",
)
ALLOWED = ("/deployments/{id}/create_flow_run", "/flow_runs/{id}/resume")
"""What a person may ask for, with what the platform checks."""


def every_change(target: Target) -> AttackResult:
    """Ids that nothing has and empty bodies: what Prefect itself refuses was let through."""
    results = []
    people = identities(target)
    for method, path in target.operations:
        if method == "GET" or _only_reads(path) or path in ALLOWED:
            continue
        for who, headers in people.items():
            answer = ask(method, url_of(target, path), json={}, headers=headers)
            results.append(
                AttackResult(
                    answer.shut and answer.status != 400,
                    f"{who}: {answer.status}{'' if answer.shut else f' {method} {path}'}",
                )
            )
    return all_of(results)


def every_read(target: Target) -> AttackResult:
    results = []
    for method, path in target.operations:
        is_read = method == "GET" or path.rstrip("/").split("/")[-1] in READS
        if not is_read:
            continue
        answer = ask(method, url_of(target, path), json=None if method == "GET" else {})
        said = "" if answer.shut else f" {method} {path}"
        results.append(AttackResult(answer.shut and answer.status != 400, f"{answer.status}{said}"))
    return all_of(results)


def settings_and_secrets(target: Target) -> AttackResult:
    results = []
    for who, headers in identities(target).items():
        for method, path, body in (
            ("GET", "/admin/settings", None),
            ("POST", "/block_documents/filter", {"include_secrets": True}),
            ("GET", f"/block_documents/{NOBODY_S_ID}?include_secrets=true", None),
        ):
            answer = ask(method, f"{target.prefect}/api{path}", json=body, headers=headers)
            told = _secrets_in(answer.text) if answer.status == 200 and who != "nobody" else ["all"]
            held = answer.shut or not told
            results.append(AttackResult(held, f"{who}: {answer.status} {path}, told: {told[:3]}"))
    return all_of(results)


def _secrets_in(text: str) -> list[str]:
    """Names of values that should be hidden and are not."""
    found: list[str] = []

    def look(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                look(inner, str(key))
        elif isinstance(value, list):
            for inner in value:
                look(inner, name)
        elif _is_secret(name) and isinstance(value, str) and value.strip("*"):
            found.append(name)

    look(json.loads(text), "")
    return found


def _is_secret(name: str) -> bool:
    """How long a token lives is none, though it is named for one."""
    return any(part in name for part in SECRET) and not name.endswith("_expiration")


def url_of(target: Target, path: str) -> str:
    """The path with ids and names that nothing has."""
    parts = [p if not p.startswith("{") else _nothing(p) for p in path.split("/")]
    return f"{target.prefect}/api{'/'.join(parts)}"


def _nothing(parameter: str) -> str:
    return NOBODY_S_ID if "id" in parameter else "nothing"


def _only_reads(path: str) -> bool:
    """Of a POST of Prefect's, as its name says."""
    parts = path.rstrip("/").split("/")
    return parts[-1] in READS or any(part.startswith("count-") for part in parts)
