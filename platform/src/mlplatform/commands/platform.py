"""Commands for the platform's processes: up, down, status."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Annotated, Literal

import typer
from rich.markup import escape

from mlplatform.commands.terminal.arguments import InProfile
from mlplatform.commands.terminal.exit_codes import FAILED, UNAVAILABLE
from mlplatform.commands.terminal.output import (
    ERR,
    OUT,
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.model.features.views import external
from mlplatform.model.folders import model_names, personal_fields, readable_names
from mlplatform.model.routes import Arm, Routes
from mlplatform.operations import wiring
from mlplatform.operations.backup.schemas import check_home
from mlplatform.operations.supervisor.machine import LEFT_OUT, NAME_THEM
from mlplatform.operations.supervisor.machine_facts import models_without_folder
from mlplatform.operations.supervisor.platform import children, later_workers
from mlplatform.operations.supervisor.start import check_ports, when_there_is_room
from mlplatform.operations.supervisor.status import PlatformStatus
from mlplatform.operations.supervisor.status import status as processes
from mlplatform.operations.supervisor.supervisor import Change, Supervisor
from mlplatform.rollouts.bundles.background import BackgroundFetches
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.runtime.configuration.settings import Settings, home_of
from mlplatform.runtime.errors import Busy, Unavailable
from mlplatform.runtime.http.json_fetch import fetch
from mlplatform.runtime.processes.last_settings import remember
from mlplatform.runtime.processes.port_holders import running_elsewhere, way_to
from mlplatform.runtime.processes.records import read_supervisor
from mlplatform.runtime.telemetry import logs
from mlplatform.runtime.telemetry.refusals import of_the_last_day
from mlplatform.runtime.text import shown
from mlplatform.scoring import wiring as scoring_wiring

STOP_LIMIT_S = 40.0
READY_TIMEOUT_S = 3.0
READY_BYTES = 65_536


def add_to(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    clock: Annotated[
        Literal["system", "replay"] | None,
        typer.Option(help="Event time: the wall clock, or that of recorded traffic."),
    ] = None,
    profile: InProfile = None,
) -> None:
    """Start everything and stay up until Ctrl-C: Prefect with its flows, MLflow, gateway, models.

    Example: MLPLATFORM_GATEWAY_PORT=9080 mlplatform up
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    settings = wiring.settings_to_start(profile)
    if clock is not None:
        settings = dataclasses.replace(settings, clock=clock)
        os.environ.update(settings.environment())
    elsewhere = wiring.followed_plane(settings)  # first: if this fails, nothing is made
    check_home(settings.home.root)
    specs = children(settings)
    if not settings.home.is_made:
        # The supervisor checks again, after it ended what an earlier one left.
        check_ports(settings.home, specs)
    with settings.home.created():
        settings.home.close_to_others()
        check_tables(wiring.Platform(settings))
    _log_to(settings)
    began = time.monotonic()
    supervisor = Supervisor(
        settings.home,
        specs,
        on_change=_tell,
        on_start=lambda: _start(settings),
        on_ready=lambda: _print_addresses(settings, began),
        elsewhere=elsewhere,
        more=later_workers(settings),
        fetches=BackgroundFetches(wiring.Platform(settings).bundles),
    )
    supervisor.run()


def check_tables(platform: wiring.Platform) -> None:
    """Raises if another home holds the tables of external views that this home would serve.

    Raises:
        Refused: another home holds them; the error names it.
    """
    views = [view for name in readable_names() for view in platform.views(name)]
    if external(views):
        try:
            platform.hold_tables()
        except Unavailable as error:  # flows try again
            ERR.print(f"it is not known which home has the tables of external views: {error}")


def down() -> None:
    """Stop the platform that runs in this home folder.

    Example: mlplatform down
    """
    home = home_of(os.environ)
    record = read_supervisor(home)
    if record is None or not record.process.alive():
        ERR.print("nothing runs in", str(home.root), soft_wrap=True)
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
    """Show processes, memory, models, routes and rollouts.

    Exit code 3: nothing runs; 1: not everything is ready yet. A gateway that MLPLATFORM_GATEWAY_URL
    names is asked whether it is ready.

    Example: mlplatform status --json
    """
    settings = wiring.settings()
    current = _processes(settings)
    models = _models(settings)
    refused = of_the_last_day(settings.home)
    if json:
        by_model = {name: seen_of.as_json() for name, seen_of in models.items()}
        facts = {
            **dataclasses.asdict(current),
            "memory_mb": round(current.memory_mb),
            "models": by_model,
        }
        is_healthy = current.headline == "ready"
        facts |= {"healthy": is_healthy, "complaints": list(current.complaints)}
        more = {"refused": dict(refused), "addresses": _addresses(settings)}
        print_json({**facts, **more})
    else:
        _print_status(current)
        _print_refused(refused)
        _print_models(models)
        if current.running:
            print_fields(_addresses(settings))
        elif url := settings.servers.gateway:
            print_line(f"the gateway at {url} is not ready; pods: `kubectl get pods`")
        elif settings.home.is_made or settings.is_elsewhere:
            print_line(f"`mlplatform up` starts the platform of {settings.home.root}")
        else:
            print_line(str(settings.home.absence()))
        if not settings.home.root.is_file() and (other := running_elsewhere(settings)):
            print_line(way_to(other))
    if current.state != "ready" or current.unready:
        raise typer.Exit(UNAVAILABLE if not current.running else FAILED)


def _processes(settings: Settings) -> PlatformStatus:
    """The processes of this machine; of a platform elsewhere only whether its gateway is ready."""
    if not (url := settings.servers.gateway):
        return processes(settings.home)
    try:
        fetch(f"{url}/readyz", timeout_s=READY_TIMEOUT_S, most_bytes=READY_BYTES)
    except Unavailable:
        return PlatformStatus("stopped", ())
    return PlatformStatus("ready", ())


@dataclasses.dataclass(frozen=True, slots=True)
class ModelStatus:
    """The routes of a model, and the rollouts that are under way."""

    routes: Routes
    rollouts: tuple[RolloutState, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "routes": dataclasses.asdict(self.routes),
            "rollouts": [
                {"id": s.rollout_id, "phase": s.phase, "step": s.step, "reason": s.reason}
                for s in self.rollouts
            ],
        }


def _models(settings: Settings) -> dict[str, ModelStatus]:
    if not scoring_wiring.has_rollouts(settings):
        return {}
    rollouts = wiring.existing_platform().rollouts
    return {
        name: ModelStatus(rollouts.routes(name), tuple(rollouts.active(name)))
        for name in model_names()
    }


def _print_status(current: PlatformStatus) -> None:
    rows = [
        (
            p.name,
            p.pid,
            p.state,
            p.port,
            f"{p.memory_mb or 0:.0f}",
            f"{p.uptime_s:.0f}",
            p.restarts,
            p.why,
        )
        for p in current.processes
    ]
    columns = ("process", "pid", "state", "port", "MB", "up s", "restarts", "why")
    if rows:
        print_table(columns, rows, f"{current.headline}, {current.memory_mb:.0f} MB", prose="why")
    else:
        print_line(current.state)
    if current.disk:
        OUT.print(f"[bold red]{escape(current.disk)}[/]", soft_wrap=True)


def _print_refused(refused: Mapping[str, int]) -> None:
    if refused:
        surfaces = ", ".join(f"{surface} {count}" for surface, count in sorted(refused.items()))
        OUT.print(f"refused in the last day: {surfaces}; `mlplatform refusals` says more")


def _print_models(models: Mapping[str, ModelStatus]) -> None:
    if not models:
        return
    columns = ("model", "generation", "phase", "champion", "challenger", "share", "previous")
    rows = [
        (
            name,
            model.routes.generation,
            model.routes.phase,
            _arm(model.routes.champion),
            _arm(model.routes.challenger),
            f"{model.routes.challenger_percent:g} %" if model.routes.challenger else None,
            _arm(model.routes.previous),
        )
        for name, model in models.items()
    ]
    print_table(columns, rows)
    for test in (model.routes.test for model in models.values()):
        if test is not None:
            shares = ", ".join(f"{_arm(v.arm)} {v.percent:g} %" for v in test.variants)
            state = "answer" if test.answering else "start"
            print_line(f"{test.test_id}: its variants {state}: {shares}")
    under_way = [state for model in models.values() for state in model.rollouts]
    if under_way:
        steps = [(s.rollout_id, s.phase, s.step, s.reason) for s in under_way]
        print_table(("rollout", "phase", "step", "why"), steps, prose="why")


def _arm(arm: Arm | None) -> str | None:
    return f"v{arm.version} {arm.bundle[:8]}" if arm else None


def _log_to(settings: Settings) -> None:
    """Write the supervisor's log lines to a file beside its children's; the terminal shows state
    changes."""
    shown = logging.getLogger().handlers[0]
    shown.setLevel(logging.WARNING)
    log = logging.getLogger("mlplatform")
    log.addHandler(
        logs.handler("supervisor", personal_fields(), to=settings.home.logs / "supervisor.log")
    )
    logs.set_level(settings.log_level)


def _tell(change: Change) -> None:
    reason = f": {change.reason}" if change.reason else ""
    ERR.print(shown(f"  {change.name} {change.state}{reason}"), soft_wrap=True, markup=False)


def _start(settings: Settings) -> None:
    when_there_is_room(settings.home, lambda: remember(settings))
    ERR.print("starting; logs are in", str(settings.home.logs), soft_wrap=True)
    if names := models_without_folder(settings.home):
        ERR.print(f"{LEFT_OUT.format(', '.join(names))}; {NAME_THEM}", soft_wrap=True, markup=False)


def _addresses(settings: Settings) -> dict[str, str]:
    """Name → address of each listener for people and applications; gRPC only if it is on."""
    found = {
        "scoring API": f"{settings.gateway_url}/openapi.html",
        "inference protocol": f"{settings.gateway_url}/v2",
    }
    if settings.gateway_grpc_target is not None:
        found["scoring by gRPC"] = settings.gateway_grpc_target
    return found | {
        "page": settings.page_url,
        "Prefect": settings.prefect_url,
        "MLflow": settings.mlflow_url,
    }


def _print_addresses(settings: Settings, began: float) -> None:
    OUT.print(f"the platform is up after {time.monotonic() - began:.0f} s")
    print_fields(_addresses(settings))
    print_fields(
        {
            "API key": settings.home.api_key,
            "the page's password": f"{settings.home.page_token}, or a person's name and key",
            "Prefect's password": f"{settings.home.prefect_token}, or a person's name and key",
            "MLflow's password": settings.home.mlflow_token,
        }
    )
    OUT.print("Ctrl-C stops it; `mlplatform status` shows it")
