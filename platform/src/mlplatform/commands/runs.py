"""Commands that start a flow run and follow it to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mlplatform.commands.terminal.arguments import ActorOrLogin, Model, Reason, midnight, moment
from mlplatform.commands.terminal.exit_codes import FAILED, exit_code_of_class
from mlplatform.commands.terminal.output import (
    AsJson,
    print_error,
    print_json,
    print_line,
    print_markdown,
    progress,
)
from mlplatform.model.folders import READY_FILE, model_folder
from mlplatform.operations import wiring
from mlplatform.operations.prefect_client.prefect import Answer, FlowRun, Poller, PrefectApi
from mlplatform.runtime.errors import PlatformError, Unavailable

POLL_S = 0.5
GIVE_UP_S = 1800.0


def add_to(app: typer.Typer) -> None:
    app.command()(retrain)
    app.command()(validate)
    app.command()(drift)
    app.command()(materialize)


def retrain(
    model: Model,
    actor: ActorOrLogin,
    as_of: Annotated[
        datetime | None, typer.Option(parser=moment, help="Train as if it were this time (UTC).")
    ] = None,
    reason: Reason = "asked for",
    rollout: Annotated[bool, typer.Option(help="Open a rollout if the gates pass.")] = False,
    json: AsJson = False,
) -> None:
    """Build a training set, fit, validate and register a version.

    Example: mlplatform retrain fraud --actor ana --reason "new terminals" --rollout
    """
    parameters = {
        "model": model,
        "as_of": _iso(as_of),
        "actor": actor,
        "reason": reason,
        "open_rollout": rollout,
    }
    follow("retrain", parameters, json)


def validate(
    model: Model,
    actor: ActorOrLogin,
    file: Annotated[
        Path | None, typer.Argument(help="An ONNX file; default: the one in the model's folder.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Register an ONNX model that was made elsewhere as a version, if it passes every gate.

    Example: mlplatform validate fraud --actor ana
    """
    path = (model_folder(model) / READY_FILE) if file is None else file
    parameters = {"model": model, "onnx_path": str(path.absolute()), "actor": actor}
    follow("validate", parameters, json)


def drift(model: Model, json: AsJson = False) -> None:
    """Compare the last windows of decisions with the champion's training profile, now.

    Example: mlplatform drift fraud --json
    """
    follow("drift", {"model": model}, json)


def materialize(
    model: Model,
    at: Annotated[
        datetime | None,
        typer.Option(parser=midnight, help="A midnight (UTC); default: the last one."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Take the end-of-day snapshot of the features and put it online.

    Example: mlplatform materialize fraud --at 2026-03-01
    """
    follow("materialize", {"model": model, "at": _iso(at)}, json)


def follow(flow: str, parameters: Mapping[str, Any], as_json: bool) -> None:
    """Start a run, wait for its end, print what it found, and exit with the code of its result."""
    raise typer.Exit(run_to_end(flow, parameters, as_json))


def run_to_end(flow: str, parameters: Mapping[str, Any], as_json: bool) -> int:
    """Start a run, wait for its end and print what it found; returns the exit code of its failure,
    or 0.

    Raises:
        Unavailable: Prefect does not answer any more. The error names the run, which goes on
            without this command.
    """
    settings = wiring.settings()
    api = wiring.prefect_api(settings)
    named = {k: v for k, v in parameters.items() if v is not None}
    run = api.start(flow, named)
    address = f"{settings.prefect_url}/runs/flow-run/{run.id}"
    try:
        with progress(run.name):
            run = wait(api, run)
            reports = first_answer(Poller(partial(api.reports, run.id)))
    except Unavailable as error:
        raise Unavailable(f"the run goes on without this command: {address}") from error
    if as_json:
        facts = {"flow": flow, "run": run.id, "state": run.state, "message": run.message}
        print_json(facts | {"reports": reports})
    else:
        _print_end(run, reports, address)
    return _code_of(run)


def _print_end(run: FlowRun, reports: Mapping[str, str], address: str) -> None:
    for text in reports.values():
        print_markdown(text)
    message = "" if run.failure or not run.message else f" {run.message}"
    print_line(f"{run.name}: {run.state_name}.{message}")
    print_line(f"  {address}")
    if run.failure:
        print_error(PlatformError(run.failure.text))
    elif run.state == "CRASHED":
        print_error(PlatformError("the run's process ended before its flow did"))
        print_line("  Its log at this address says why. Give the command again to start anew.")


def _code_of(run: FlowRun) -> int:
    if run.state == "COMPLETED":
        return 0
    return FAILED if run.failure is None else exit_code_of_class(run.failure.kind)


def wait(api: PrefectApi, run: FlowRun) -> FlowRun:
    """Wait for the end of a run, for half an hour at most; returns its last state."""
    give_up_at = time.monotonic() + GIVE_UP_S
    state = Poller(partial(api.run, run.id))
    while not run.final and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
        run = state.ask() or run
    return run


def first_answer(question: Poller[Answer]) -> Answer:
    """Repeat a question until it is answered; returns the answer."""
    while (answer := question.ask()) is None:
        time.sleep(POLL_S)
    return answer


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat()}Z"
