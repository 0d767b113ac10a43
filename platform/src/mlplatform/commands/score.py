"""The command that scores one request through the gateway, as an application would."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import msgspec
import typer

from mlplatform.commands.terminal.arguments import Model
from mlplatform.commands.terminal.gateway import gateway
from mlplatform.commands.terminal.output import ERR, AsJson, print_fields, print_json
from mlplatform.operations import wiring
from mlplatform.runtime.errors import InputInvalid
from mlplatform_client import Answer, CallFailed, Terms

SHOWN = 60


def add_to(app: typer.Typer) -> None:
    app.command()(score)


def score(
    model: Model,
    request: Annotated[str, typer.Argument(help="The request as JSON.")],
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    version: Annotated[
        str | None,
        typer.Option(help="The version that must answer: its number, or its bundle's digest."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Score one request through the gateway with this installation's first API key.

    Example: mlplatform score fraud '{"customer_id": 7, "terminal_id": 9, "amount": 31.5,
    "event_time": "2026-11-24T10:00:00Z"}'
    """
    settings = wiring.settings()
    try:
        body = request.encode()  # sent unchanged, so that the gateway can refuse it
        fields = jsonlib.loads(request)
    except (ValueError, RecursionError) as error:
        shown = request if len(request) <= SHOWN else f"{request[:SHOWN]}…"
        wanted = "an object in quotes, as `mlplatform score --help` shows"
        raise InputInvalid(
            "the request", None, f"{shown!r} is not JSON; wanted: {wanted}"
        ) from error
    try:
        with gateway(settings) as client:
            answer = client.score(model, body, key=key, terms=Terms(version=version))
    except InputInvalid as error:
        raise _with_value(error, fields) from error.__cause__
    if json:
        print_json(msgspec.to_builtins(answer))
    else:
        print_fields(_fields(answer))
        ERR.print(f"why: mlplatform log explain {answer.decision_id}", soft_wrap=True)


def _with_value(error: InputInvalid, fields: object) -> InputInvalid:
    """The error with the value that was typed. The gateway repeats none, because its answers are
    kept in logs."""
    failed = error.__cause__
    if not isinstance(failed, CallFailed) or not isinstance(fields, dict):
        return error
    name, problem = failed.field, failed.facts.message
    if name not in fields:
        return error
    value = jsonlib.dumps(fields[name])
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
    must = f"{name} must "
    if must not in problem:
        return InputInvalid(error.source, None, f"{name} is {shown}; {error.problem}")
    at = problem.replace(must, f"{name} is {shown} but must ", 1)  # the name stands there once
    return InputInvalid(error.source, None, error.problem.replace(problem, at, 1))


def _fields(answer: Answer) -> dict[str, object]:
    """Fields of an answer that a person reads."""
    version, degraded = answer.model, answer.degraded
    top = ", ".join(f"{one.class_} {one.probability:.3f}" for one in answer.top)
    return {
        "decision": answer.decision,
        "score": answer.score,
        **({"top": top} if top else {}),
        "reasons": ", ".join(reason.code for reason in answer.reasons) or answer.reasons_omitted,
        "answered_by": answer.answered_by,
        "model": None if version is None else f"version {version.version}, {version.bundle}",
        "route": f"{answer.route.arm}, generation {answer.route.generation}",
        "degraded": None if degraded is None else degraded.reason,
        "replayed": answer.replayed,
        "decision_id": answer.decision_id,
    }
