"""Ask the gateway for one score, as an application would."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import httpx
import typer

from mlplatform.commands.arguments import Model
from mlplatform.commands.terminal.exit_codes import exit_code_of_status
from mlplatform.commands.terminal.output import AsJson, print_fields, print_json
from mlplatform.operations import wiring
from mlplatform.runtime.errors import InputInvalid, Unavailable

SHOWN = 60


def add_to(app: typer.Typer) -> None:
    app.command()(score)


def score(
    model: Model,
    request: Annotated[str, typer.Argument(help="The request as JSON.")],
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    json: AsJson = False,
) -> None:
    """Score one request through the gateway with this installation's first API key.

    Example: mlplatform score fraud '{"customer_id": 7, "terminal_id": 9, "amount": 31.5,
    "event_time": "2026-11-24T10:00:00Z"}'
    """
    settings = wiring.settings()
    try:
        jsonlib.loads(request)  # sent as it is: what the gateway is to refuse must reach it
    except jsonlib.JSONDecodeError as error:
        shown = request if len(request) <= SHOWN else f"{request[:SHOWN]}…"
        wanted = "an object in quotes, as `mlplatform score --help` shows"
        raise InputInvalid(
            "the request", None, f"{shown!r} is no JSON; wanted: {wanted}"
        ) from error
    headers = {
        "Authorization": f"Bearer {wiring.api_key(settings)}",
        "Content-Type": "application/json",
    }
    if key is not None:
        headers["Idempotency-Key"] = key
    url = f"{settings.gateway_url}/api/v1/models/{model}/score"
    try:
        response = httpx.post(url, content=request.encode(), headers=headers, timeout=10.0)
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(f"the gateway at {settings.gateway_url} does not answer") from error
    if json:
        print_json(answer)
    else:
        print_fields(answer)
    raise typer.Exit(exit_code_of_status(response.status_code))
