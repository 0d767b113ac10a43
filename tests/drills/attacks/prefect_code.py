"""Code of somebody's own, run by the platform: through Prefect's database of what to run."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import textwrap
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.drills.attacks.attack import PREFECT, Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import Answer, ask, identities

RUN_LIMIT_S: Final = 25.0
TRIES: Final = 5
FLOW: Final = "drift"
SOON: Final = timedelta(minutes=4)
"""A rollback that begins later than in five is refused for that alone."""
"""Whose deployment is turned: a run of it is quick."""
PAYLOAD: Final = """
import os, pathlib
from prefect import flow

@flow
def evil(model: str = "fraud"):
    told = f"uid {{os.getuid()}}"
    for name in ("secrets/api.key", "secrets/pseudonym.key"):
        told += f", {{len(pathlib.Path({home!r}, name).read_bytes())}} bytes of {{name}}"
    pathlib.Path({marker!r}).write_text(told)
"""


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "prefect, entrypoint of a deployment replaced and started",
            "critical",
            "PATCH /api/deployments/{id} with an entrypoint of the attacker's, then "
            "create_flow_run, as nobody and as a person who may run flows",
            "401 or 403; the attacker's file is never run",
            entrypoint,
            PREFECT,
        ),
        Attack(
            "prefect, entrypoint replaced in its database",
            "critical",
            "UPDATE deployment SET entrypoint in prefect.db, as if Prefect itself had been broken "
            "into; then a run that a person may ask for",
            "the runner runs what the platform registered, or nothing",
            in_the_database,
            by_operator=True,
        ),
        Attack(
            "prefect, infrastructure of a run overridden",
            "critical",
            "create_flow_run with job_variables (command, env), a work queue, a parent task and an "
            "entrypoint beside the parameters, as nobody and as a person who may run flows",
            "refused: a person gives parameters alone",
            overridden,
            PREFECT,
        ),
        Attack(
            "prefect, parameters outside of the schema",
            "medium",
            "create_flow_run of a rollback with enforce_parameter_schema false, empty, mistyped "
            "and templated parameters, as nobody and as a person who may run flows",
            "400, 403, 409 or 422",
            outside_the_schema,
            PREFECT,
        ),
        Attack(
            "prefect, a run in another person's name",
            "high",
            "create_flow_run of a rollback with actor bo, by nobody and by eve",
            "refused: the actor is who is logged in",
            another_actor,
            PREFECT,
        ),
        Attack(
            "prefect, another model's run through a deployment",
            "medium",
            "create_flow_run of fraud-drift with model ../../etc, by nobody and by eve",
            "refused: a deployment's model is its own",
            another_model,
            PREFECT,
        ),
        Attack(
            "prefect, a state given to a run at its start",
            "high",
            "create_flow_run with state COMPLETED and a forged result, by nobody and by eve",
            "refused: a person gives parameters alone",
            a_state,
            PREFECT,
        ),
    )


def payload(folder: Path, home: Path) -> tuple[str, Path]:
    """An entrypoint of the attacker's, and the file that tells that it was run."""
    name = uuid.uuid4().hex[:8]
    marker, file = folder / f"{name}.told", folder / f"evil_{name}.py"
    code = textwrap.dedent(PAYLOAD).format(home=str(home), marker=str(marker))
    file.write_text(code)
    return f"{file}:evil", marker


def entrypoint(target: Target) -> AttackResult:
    results = []
    for who, headers in identities(target).items():
        path, marker = payload(target.folder, target.home)
        url = f"{target.prefect}/api/deployments/{target.deployments[f'fraud-{FLOW}']}"
        before = ask("GET", url, headers=headers)
        patched = ask("PATCH", url, json={"entrypoint": path, "path": "/"}, headers=headers)
        run = ask("POST", f"{url}/create_flow_run", json=started({}), headers=headers)
        told = _told(marker) if patched.status < 300 and run.status < 300 else ""
        if patched.status < 300:
            _put_back(url, before.text, headers)
        said = f"{who}: PATCH {patched.status}, start {run.status}; ran: {told or 'no'}"
        results.append(AttackResult(patched.shut and not told, said))
    return all_of(results)


def in_the_database(target: Target) -> AttackResult:
    path, marker = payload(target.folder, target.home)
    deployment = target.deployments[f"fraud-{FLOW}"]
    database = target.home / "prefect" / "prefect.db"
    names = {str(uuid.UUID(deployment)), deployment.replace("-", "")}
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        chosen = f"id IN ({','.join('?' * len(names))})"
        [(old,)] = connection.execute(
            f"SELECT entrypoint FROM deployment WHERE {chosen}",
            [*names],
        ).fetchall()
        change = f"UPDATE deployment SET entrypoint = ? WHERE {chosen}"
        connection.execute(change, [path, *names])
        connection.commit()
        try:
            told, run = _started_by_the_platform(target, marker)
        finally:
            connection.execute(change, [old, *names])
            connection.commit()
    return AttackResult(not told, f"the run ended {run}; ran: {told or 'no'}")


def _started_by_the_platform(target: Target, marker: Path) -> tuple[str, str]:
    from mlplatform.operations import wiring
    from mlplatform.runtime.configuration import settings

    given = settings.load(_environment(target))
    api = wiring.prefect_api(given)
    run = api.start(FLOW, {"model": "fraud"})
    end_s = time.monotonic() + RUN_LIMIT_S
    while not run.final and time.monotonic() < end_s and not marker.exists():
        time.sleep(0.3)
        run = api.run(run.id)
    return (marker.read_text() if marker.exists() else ""), run.state


def _environment(target: Target) -> dict[str, str]:
    return {
        "MLPLATFORM_HOME": str(target.home),
        "MLPLATFORM_PREFECT_PORT": str(target.prefect_port),
        "MLPLATFORM_GATEWAY_PORT": str(target.gateway_port),
        "MLPLATFORM_MLFLOW_PORT": str(target.mlflow_port),
        "MLPLATFORM_PAGE_PORT": str(target.page_port),
    }


def overridden(target: Target) -> AttackResult:
    changes: tuple[dict[str, Any], ...] = (
        {"job_variables": {"command": "id", "env": {"PYTHONPATH": str(target.folder)}}},
        {"work_queue_name": "mine"},
        {"entrypoint": f"{target.folder}/evil.py:evil"},
        {"infrastructure_document_id": str(uuid.UUID(int=1))},
        {"parent_task_run_id": str(uuid.UUID(int=1))},
    )
    return _each(target, FLOW, [started({}) | c for c in changes])


def outside_the_schema(target: Target) -> AttackResult:
    refused_by_the_schema = {409, 422}
    loose = {"enforce_parameter_schema": False}
    return _each(
        target,
        "rollback",
        [
            started({"actor": "eve", "reason": ""}, SOON) | loose,
            started({"actor": "eve", "reason": {"deep": [1]}}, SOON),
            started({"actor": ["eve"], "reason": 7}, SOON) | loose,
            started(
                {"actor": {"__prefect_kind": "jinja", "template": "{{ 7*7 }}"}, "reason": "xxxxx"},
                SOON,
            ),
        ],
        also=refused_by_the_schema,
    )


def another_actor(target: Target) -> AttackResult:
    asked = [started({"actor": "bo", "reason": "in the name of bo"}, SOON)]
    asked += [started({"actor": " bo", "reason": "in the name of bo"}, SOON)]
    return _each(target, "rollback", asked, also={409, 422})


def another_model(target: Target) -> AttackResult:
    return _each(target, FLOW, [started({"model": "../../etc"})], also={409, 422})


def a_state(target: Target) -> AttackResult:
    result = {"type": "COMPLETED", "name": "Completed", "data": {"type": "unpersisted"}}
    return _each(target, FLOW, [{"parameters": {"model": "fraud"}, "state": result}])


def started(parameters: dict[str, Any], ahead: timedelta = timedelta(hours=20)) -> dict[str, Any]:
    """A body of create_flow_run; the run would begin in most of a day, or in `SOON`."""
    at = datetime.now(UTC) + ahead
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": at.isoformat()}}
    return {"parameters": {"model": "fraud", **parameters}, "state": later if parameters else None}


def _each(
    target: Target, flow: str, bodies: list[dict[str, Any]], also: set[int] | None = None
) -> AttackResult:
    results = []
    url = f"{target.prefect}/api/deployments/{target.deployments[f'fraud-{flow}']}"
    for who, headers in identities(target).items():
        for body in bodies:
            answer = _post_with_retries(f"{url}/create_flow_run", body, headers)
            held = answer.shut or answer.status in (also or set()) or _left_out(answer, body)
            results.append(AttackResult(held, f"{who}: {answer.status} to {json.dumps(body)[:90]}"))
            if not held:
                _cancelled(target, answer.text, headers)
    return all_of(results)


def _post_with_retries(url: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
    """The answer, asked for again where Prefect's database was busy."""
    answer = ask("POST", url, json=body, headers=headers, within_s=30)
    for _ in range(TRIES):
        if answer.status != 503:
            break
        time.sleep(1)
        answer = ask("POST", url, json=body, headers=headers, within_s=30)
    return answer


def _left_out(answer: Answer, body: dict[str, Any]) -> bool:
    """Whether a run was made without any of what goes beyond parameters and time."""
    given = ("parameters", "state", "enforce_parameter_schema")
    asked = {k: v for k, v in body.items() if k not in given}
    made = json.loads(answer.text) if answer.status == 201 and asked else None
    return made is not None and all(made.get(k) != v for k, v in asked.items())


def _cancelled(target: Target, text: str, headers: dict[str, str]) -> None:
    with contextlib.suppress(ValueError, KeyError):
        run = json.loads(text)["id"]
        ask("DELETE", f"{target.prefect}/api/flow_runs/{run}", headers=headers)


def _told(marker: Path) -> str:
    end_s = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < end_s:
        if marker.exists() and (told := marker.read_text()):
            return told
        time.sleep(0.2)
    return ""


def _put_back(url: str, before: str, headers: dict[str, str]) -> None:
    with contextlib.suppress(ValueError):
        found = json.loads(before)
        old = {"entrypoint": found.get("entrypoint"), "path": found.get("path")}
        ask("PATCH", url, json=old, headers=headers)
