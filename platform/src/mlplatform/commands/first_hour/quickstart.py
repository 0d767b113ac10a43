"""The command that starts a platform, trains a model, and scores and explains a request, by other
commands."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final

import typer

from mlplatform.commands.terminal.arguments import OnlyModel
from mlplatform.commands.terminal.output import ERR, OUT, print_fields, print_line, progress
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import check_folders, load_definition, model_names
from mlplatform.model.folds import history_days
from mlplatform.operations import wiring
from mlplatform.operations.actions import features
from mlplatform.operations.supervisor import machine, machine_facts
from mlplatform.operations.supervisor.platform import children
from mlplatform.operations.supervisor.start import check_ports
from mlplatform.operations.supervisor.status import status
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import Busy, Refused, Unavailable
from mlplatform.runtime.processes.commands import PYTHON
from mlplatform.runtime.text import shown
from mlplatform.runtime.times import rfc3339_text
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring import wiring as scoring_wiring

HOME: Final = "var-quickstart"
"""Home folder unless `MLPLATFORM_HOME` names another, so that it disturbs no other
installation."""
MORE_DAYS: Final = 12
CUSTOMERS: Final = 3_000
REQUESTS: Final = 216_000
START_LIMIT_S: Final = 600.0
STEP_LIMIT_S: Final = 300.0
STOP_LIMIT_S: Final = 60.0
POLL_S: Final = 0.5
ENGINEER, APPROVER = "ana", "bo"
_COMMAND: Final = (*PYTHON, "-m", "mlplatform.commands")


def add_to(app: typer.Typer) -> None:
    app.command()(quickstart)


def quickstart(
    model: OnlyModel = None,
    seed: Annotated[int, typer.Option(help="The seed of the generated requests.")] = 1,
) -> None:
    """Start a platform, train a first version on generated requests, score one and explain it.

    It shows each command that it runs. Its home folder is var-quickstart, unless MLPLATFORM_HOME
    names another. The platform stays up; `mlplatform down` with that home stops it.

    Example: mlplatform quickstart fraud
    """
    os.environ.setdefault(f"{PREFIX}HOME", HOME)
    os.environ[f"{PREFIX}CLOCK"] = "system"
    check_folders()
    name = model or model_names()[0]
    settings = wiring.settings_to_start(None)
    _refuse_used(settings, name)
    _check_ports(settings, name)
    began = time.monotonic()
    settings.home.create()
    ERR.print(
        f"$ export {PREFIX}HOME={shlex.quote(str(settings.home.root))}",
        style="bold", soft_wrap=True, markup=False,
    )  # fmt: skip
    up = _start(settings.home)
    try:
        request = _history(name, seed)
        _await(lambda: status(settings.home).state == "ready", up, settings.home)
        print_line(f"  the platform is up after {time.monotonic() - began:.0f} s")
        rollout = _first_version(name, settings.home)
        answer = _score(name, request)
    except BaseException:
        up.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            up.wait(STOP_LIMIT_S)
        ERR.print("quickstart has stopped the platform that it started; the logs are in", end=" ")
        ERR.print(str(settings.home.logs), soft_wrap=True)
        raise
    explained = _run("log", "explain", str(answer["decision_id"]))
    OUT.print(shown(explained, lines=True), soft_wrap=True, markup=False)
    OUT.print(f"from nothing to this in {time.monotonic() - began:.0f} s", style="bold")
    _go_on(settings, rollout)


def _refuse_used(settings: Settings, model: str) -> None:
    home = settings.home
    if status(home).running:
        raise Refused(
            f"a platform runs in {home.root} already; stop it:"
            f" MLPLATFORM_HOME={home.root} mlplatform down"
        )
    platform = wiring.Platform(settings, creates=False)
    is_used = platform.offline(model).history_end_ms() is not None
    has_rollouts = scoring_wiring.has_rollouts(settings)
    if is_used or (has_rollouts and platform.rollouts.routes(model).generation):
        raise Refused(
            f"{home.root} holds history or rollouts of {model} already: start it with"
            f" `MLPLATFORM_HOME={home.root} mlplatform up`, or begin anew with"
            f" `rm -r {shlex.quote(str(home.root))}`"
        )


def _check_ports(settings: Settings, model: str) -> None:
    """
    Raises:
        Busy: a port is taken; the error ends in the command that takes free ones.
    """
    try:
        check_ports(settings.home, children(settings))
    except Busy as error:
        facts = machine_facts.read(settings.home, settings)
        command = machine.start_elsewhere(facts, f"mlplatform quickstart {model}")
        free = f". On free ports: {command}" if command else ""
        raise Busy(f"{error}{free}") from None


def _start(home: Home) -> subprocess.Popen[bytes]:
    """Start `mlplatform up` in its own session, so that it outlives this command."""
    _say("up")
    with (home.logs / "up.log").open("ab") as file:
        return subprocess.Popen(
            [*_COMMAND, "up"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _history(model: str, seed: int) -> dict[str, Any]:
    """Import generated requests up to last midnight; returns the fields of the last one, whose
    customer is known."""
    sources = load_module(model, "sources")
    definition = load_definition(model)
    now_ms, maturity_days = time.time_ns() // 1_000_000, definition.label.maturity_days
    days = history_days(definition) - 1 + MORE_DAYS
    with progress("requests of the last weeks are generated and taken in"):
        table = sources.generate(
            seed=seed,
            start_ms=now_ms // DAY_MS * DAY_MS - days * DAY_MS,
            days=days,
            maturity_days=maturity_days,
            **_of_this_size(sources, days),
        )
        rows = features.import_history(wiring.platform(), model, table, "generated requests")
    print_line(f"  {rows:,} generated requests are its history; yours: mlplatform history import")
    last = table.slice(rows - 1).to_pylist()[0]
    return {name: last[name] for name in definition.request}


def _of_this_size(sources: ModuleType, days: int) -> dict[str, Any]:
    """Arguments that make a history small, if the folder's `generate` takes a population."""
    if not hasattr(sources, "Population"):
        return {}
    size = sources.Population(customers=CUSTOMERS, payments_per_day=REQUESTS // days)
    return {"population": size}


def _first_version(model: str, home: Home) -> str:
    """Train, validate and approve a version; returns the rollout that made it champion."""
    why = ("--actor", ENGINEER, "--reason", "first version", "--rollout")
    _run("retrain", model, *why, limit_s=START_LIMIT_S)
    key = home.secrets / f"{APPROVER}.key"
    scope = ("--name", APPROVER, "--model", model, "--scope", "approve", "--to", str(key))
    _run("keys", "create", *scope)
    _run("rollouts", "pass", model)
    rollout = f"{model}-v1-1"
    _until(rollout, "awaiting_approval")
    print_line("  nobody approves a version of their own: here you play a second person, bo")
    _approve(rollout, key)
    _until(rollout, "promoted")
    return rollout


def _approve(rollout: str, key: Path) -> None:
    """Answer as the second person when Prefect's run asks, which is a few moments after the pass.

    Raises:
        Unavailable: the answer was refused; the error has the command's output.
    """
    asked = ("--decision", "approve", "--approver", APPROVER, "--reason", "a first look")
    arguments = ("rollouts", "approve", rollout, *asked, "--key-file", str(key))
    deadline = time.monotonic() + STEP_LIMIT_S
    _say(*arguments)
    while (done := _execute(*arguments)).returncode:
        if time.monotonic() > deadline:
            raise _failed(arguments, done)
        time.sleep(POLL_S)


def _score(model: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer, by the version that is champion now: gateways follow within a moment."""
    moment = rfc3339_text(time.time_ns() // 1_000_000)
    body = jsonlib.dumps({**request, "event_time": moment})
    deadline = time.monotonic() + STEP_LIMIT_S
    arguments = ("score", model, body)
    _say(*arguments)
    while True:
        done = _execute(*arguments, "--json")
        answer: dict[str, Any] = jsonlib.loads(done.stdout) if done.returncode == 0 else {}
        if answer.get("answered_by") == "champion":
            break
        if time.monotonic() > deadline:
            raise Unavailable(f"the new champion does not answer: {done.stdout}{done.stderr}")
        time.sleep(POLL_S)
    print_fields({name: answer[name] for name in ("decision", "score", "answered_by")})
    return answer


def _until(rollout: str, phase: str) -> None:
    """Wait until a rollout reaches a phase; the platform's own passes may take it there too.

    Raises:
        Unavailable: the rollout has not reached the phase in time; the error names its phase.
    """
    deadline = time.monotonic() + STEP_LIMIT_S
    while True:
        rollouts = wiring.platform().rollouts.active(rollout.rsplit("-v", 1)[0], finished=True)
        found = next((state for state in rollouts if state.rollout_id == rollout), None)
        if found is not None and found.phase == phase:
            return
        if time.monotonic() > deadline:
            stands = "it was not opened" if found is None else f"{found.phase}: {found.reason}"
            raise Unavailable(f"{rollout} is not {phase} after {STEP_LIMIT_S:.0f} s: {stands}")
        time.sleep(POLL_S)


def _await(ready: Callable[[], bool], up: subprocess.Popen[bytes], home: Home) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    with progress("the platform starts"):
        while not ready():
            if up.poll() is not None or time.monotonic() > deadline:
                last = (home.logs / "up.log").read_text(errors="replace").strip().splitlines()[-3:]
                raise Unavailable(f"the platform did not come up: {' / '.join(last)}")
            time.sleep(POLL_S)


def _run(*arguments: str, limit_s: float = STEP_LIMIT_S) -> str:
    """Runs a command, and returns its output.

    Raises:
        Unavailable: the command failed; the error has its output.
    """
    _say(*arguments)
    with progress(arguments[0]):
        done = _execute(*arguments, limit_s=limit_s)
    if done.returncode:
        raise _failed(arguments, done)
    return done.stdout.rstrip()


def _execute(*arguments: str, limit_s: float = STEP_LIMIT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, *arguments], capture_output=True, text=True, timeout=limit_s, check=False
    )


def _failed(arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> Unavailable:
    message = (done.stderr or done.stdout).strip()
    return Unavailable(f"`mlplatform {arguments[0]}` ended with {done.returncode}: {message}")


def _say(*arguments: str) -> None:
    ERR.print(f"$ mlplatform {shlex.join(arguments)}", style="bold", soft_wrap=True, markup=False)


def _go_on(settings: Settings, rollout: str) -> None:
    home = settings.home
    named = f"MLPLATFORM_HOME={shlex.quote(str(home.root))} mlplatform"
    print_fields(
        {
            "page": f"{settings.page_url}, password in {home.page_token}",
            "Prefect": f"{settings.prefect_url}, as operator with {home.prefect_token}",
            "MLflow": f"{settings.mlflow_url}, password in {home.mlflow_token}",
            "scoring API": f"{settings.gateway_url}/openapi.html, key in {home.api_key}",
            "why it is champion": f"{named} rollouts show {rollout}",
            "your own history": "docs/history.md, in another home",
            "stop it": f"{named} down",
        }
    )
