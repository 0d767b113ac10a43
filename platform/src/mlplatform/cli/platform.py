"""Commands for the platform's processes: up, down, status."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import time
from typing import Annotated, Literal

import typer

from mlplatform import wiring
from mlplatform.cli.output import (
    ERR,
    FAILED,
    OUT,
    UNAVAILABLE,
    AsJson,
    print_json,
    print_table,
    progress,
)
from mlplatform.errors import Busy
from mlplatform.models.definition import model_names
from mlplatform.settings import Settings
from mlplatform.supervisor.platform import children
from mlplatform.supervisor.records import read_supervisor
from mlplatform.supervisor.status import PlatformStatus
from mlplatform.supervisor.status import status as processes
from mlplatform.supervisor.supervisor import Change, Supervisor

STOP_LIMIT_S = 40.0


def add_to(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    clock: Annotated[
        Literal["system", "replay"] | None,
        typer.Option(help="Event time: the wall clock, or that of recorded traffic."),
    ] = None,
) -> None:
    """Start everything and stay up until Ctrl-C: Prefect with its flows, MLflow, gateway, models.

    Example: MLPLATFORM_GATEWAY_PORT=9080 mlplatform up
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    settings = wiring.settings()
    if clock is not None:
        settings = dataclasses.replace(settings, clock=clock)
        os.environ.update(settings.environment())
    began = time.monotonic()
    ERR.print("starting; logs are in", str(settings.home.logs), soft_wrap=True)
    supervisor = Supervisor(
        settings.home, children(settings), _tell, lambda: _print_addresses(settings, began)
    )
    supervisor.run()


def down() -> None:
    """Stop the platform that runs in this home folder.

    Example: mlplatform down
    """
    home = wiring.settings().home
    record = read_supervisor(home)
    if record is None or not record.process.alive():
        ERR.print("nothing runs here")
        return
    os.kill(record.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_S
    with progress("stopping"):
        while record.process.alive():
            if time.monotonic() > deadline:
                raise Busy(f"process {record.process.pid} does not end; kill -9 it and start again")
            time.sleep(0.1)
    ERR.print("stopped")


def status(json: AsJson = False) -> None:
    """Processes and memory, models, routes and rollouts. Exits 3 unless everything is ready.

    Example: mlplatform status --json
    """
    settings = wiring.settings()
    seen = processes(settings.home)
    routes = _routes(settings)
    if json:
        print_json({**dataclasses.asdict(seen), "rss_mb": round(seen.rss_mb), "models": routes})
    else:
        _print_status(seen, routes)
    if seen.state != "ready":
        raise typer.Exit(UNAVAILABLE if not seen.running else FAILED)


def _routes(settings: Settings) -> dict[str, dict[str, object]]:
    if not settings.home.rollouts_db.exists():
        return {}
    platform = wiring.platform()
    found: dict[str, dict[str, object]] = {}
    for model in model_names():
        active = platform.rollouts.active(model)
        found[model] = {
            "routes": dataclasses.asdict(platform.rollouts.routes(model)),
            "rollouts": [
                {"id": s.rollout_id, "phase": s.phase, "step": s.step, "reason": s.reason}
                for s in active
            ],
        }
    return found


def _print_status(seen: PlatformStatus, routes: dict[str, dict[str, object]]) -> None:
    rows = [
        (
            p.name,
            p.pid,
            p.state,
            p.port,
            f"{p.rss_mb:.0f}",
            f"{p.uptime_s:.0f}",
            p.restarts,
            p.reason,
        )
        for p in seen.processes
    ]
    columns = ("process", "pid", "state", "port", "MB", "up s", "restarts", "")
    print_table(columns, rows, f"{seen.state}, {seen.rss_mb:.0f} MB")
    for model, facts in routes.items():
        OUT.print(f"{model}: {facts['routes']}", soft_wrap=True)
        for rollout in facts["rollouts"]:  # type: ignore[attr-defined]
            OUT.print(f"  {rollout}", soft_wrap=True)


def _tell(change: Change) -> None:
    reason = f": {change.reason}" if change.reason else ""
    ERR.print(f"  {change.name} {change.state}{reason}", soft_wrap=True)


def _print_addresses(settings: Settings, began: float) -> None:
    OUT.print(f"the platform is up after {time.monotonic() - began:.0f} s")
    OUT.print(f"  scoring API  {settings.gateway_url}/openapi.json")
    OUT.print(f"    API key    {settings.home.api_key}", soft_wrap=True)
    OUT.print(f"  Prefect      {settings.prefect_url}")
    OUT.print(
        f"  MLflow       {settings.mlflow_url}  (password: {settings.home.mlflow_token})",
        soft_wrap=True,
    )
    OUT.print("Ctrl-C stops it; `mlplatform status` shows it")
