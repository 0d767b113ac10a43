"""The whole platform as an engineer uses it: every step by a command, against real servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from mlplatform.operations.actions import drift
from mlplatform.operations.prefect_client import events
from mlplatform.operations.prefect_client.prefect import FlowRun, PrefectApi
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.execute import ask
from mlplatform.rollouts.drift.incidents import IncidentFinding
from mlplatform.rollouts.drift.retrain import Retrain
from mlplatform.runtime.configuration.servers import PREFECT_AUTH
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, Refused
from mlplatform.runtime.processes.records import read_processes
from mlplatform.runtime.storage import private_folder
from mlplatform.runtime.telemetry import signals, span_files
from mlplatform.runtime.telemetry.retention import DEBUG_SHARE
from models.fraud.generator import Population
from support import open_ports
from support.handbook_payments import write_payments
from support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

START_MS = 1_772_323_200_000
DAYS = 63  # as in the demo, whose first version passes its gates with room
PATIENCE_S = 600.0  # with a command: flows get what is left of the cores, and tests leave little
DEADLINE_S = 300.0  # a retrain takes a minute of two idle cores; patience for busy ones
START_LIMIT_S = 300.0  # more than the supervisor gives Prefect before it starts it again
CUSTOMER, TERMINAL, AMOUNT = 8_675_309_774_412, 7_123_456_000_017, 912.4375
"""Of the payment that is scored: so unlike any other number that what holds them would be found."""


class Commands:
    """`mlplatform` in a home folder and on ports of its own."""

    def __init__(self, home: Path) -> None:
        names = ("GATEWAY", "PREFECT", "MLFLOW", "PAGE")
        self.home = home
        ports = {f"MLPLATFORM_{name}_PORT": str(free_port()) for name in names}
        self.environment = {
            **os.environ,
            **ports,
            "MLPLATFORM_HOME": str(home),
            "MLPLATFORM_CLOCK": "replay",
            "MLPLATFORM_LOG_LEVEL": "debug",
        }

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                self._argv(*arguments), env=self.environment, stdout=file, stderr=file
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                self._argv(*arguments),
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"{arguments}: no end in {PATIENCE_S} s\n{self.told()}") from late

    def told(self) -> str:
        """The last lines of every process, for a failure that they may explain."""
        logs = sorted((self.home / "logs").glob("*.log"))
        lasts = [(log.name, log.read_text(errors="replace").splitlines()[-15:]) for log in logs]
        return "\n".join(f"== {name}\n" + "\n".join(last) for name, last in lasts)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    @staticmethod
    def _argv(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "mlplatform.commands", *arguments]


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two months in the handbook's schema."""
    folder = tmp_path_factory.mktemp("payments")
    population = Population(customers=3_000, payments_per_day=6_000)
    write_payments(folder, start_ms=START_MS, days=DAYS, population=population)
    return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, payments: Path) -> Iterator[Commands]:
    home = tmp_path_factory.mktemp("platform") / "home"
    commands = Commands(home)
    assert commands.run("status").returncode == 3
    assert commands.json("history", "import", "fraud", str(payments))["rows"] > 100_000
    log = home.parent / "up.log"
    up = commands.start("up", log=log)
    try:
        ready = lambda: commands.run("status").returncode == 0  # noqa: E731
        said = lambda: f"up: {log.read_text()}"  # noqa: E731
        wait(ready, said, alive=lambda: up.poll() is None, limit_s=START_LIMIT_S)
        yield commands
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
    assert commands.run("status").returncode == 3


def wait(
    holds: Callable[[], bool],
    what: Callable[[], str],
    alive: Callable[[], bool] = lambda: True,
    limit_s: float = DEADLINE_S,
) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert alive(), what()
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


def phase(commands: Commands, rollout: str) -> str:
    states = commands.json("rollouts", "list", "--all")
    return next(s["phase"] for s in states if s["rollout_id"] == rollout)


def as_a_flow_run(platform: Platform) -> PrefectApi:
    """Prefect as the platform's own runs ask it: their token is in no file."""
    (prefect,) = (p for p in read_processes(platform.settings.home) if p.name == "prefect")
    assert prefect.process is not None
    children = psutil.Process(prefect.process.pid).children(recursive=True)
    (given,) = {token for child in children if (token := token_of(child)) is not None}
    return PrefectApi(platform.settings.prefect_url, auth=lambda: given)


def token_of(child: psutil.Process) -> str | None:
    """A run's token for Prefect; None where the process has ended meanwhile."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        return child.environ().get(PREFECT_AUTH)
    return None


def rollout_of(commands: Commands, version: int) -> Any:
    """The newest rollout of a version; None before there is one."""
    states = commands.json("rollouts", "list", "--all")
    return next((s for s in reversed(states) if s["challenger"]["version"] == version), None)


def key_of(commands: Commands, name: str) -> Path:
    """The file of a new key of somebody who approves and starts flows."""
    file = commands.home.parent / f"{name}.key"
    who = ("--name", name, "--model", "fraud", "--scope", "approve", "--scope", "run")
    file.write_text(commands.json("keys", "create", *who)["secret"])
    return file


def approve(commands: Commands, rollout: str, approver: str, key: Path) -> int:
    return commands.run(
        *("rollouts", "approve", rollout, "--decision", "approve"),
        *("--approver", approver, "--reason", "the evidence was read", "--key-file", str(key)),
    ).returncode


def is_refused_at_the_form(commands: Commands, rollout: str, approver: str, key: Path) -> None:
    """Answer as the form in Prefect's UI does, without a code of the platform's: the gate refuses
    it, and the question waits on."""
    api = PrefectApi(
        f"http://127.0.0.1:{commands.environment['MLPLATFORM_PREFECT_PORT']}",
        auth=lambda: f"{approver}:{key.read_text()}",
    )
    wait(lambda: bool(api.suspended()), lambda: "the form never came")
    (asked,) = (r for r in api.suspended() if r.parameters["rollout_id"] == rollout)
    forged = f"{approver}:0a1b2c3d:{2**31}:{'A' * 24}"
    answer = {"decision": "approve", "code": forged, "reason": "I made it"}
    undecided = {name: value for name, value in answer.items() if name != "decision"}
    with pytest.raises(Refused, match="decision, code and reason"):
        api.submit_input(asked.id, undecided)
    with pytest.raises(Refused, match="code"):
        api.submit_input(asked.id, answer)
    assert (api.run(asked.id).state, api.run(asked.id).state_ms) == ("PAUSED", asked.state_ms)
    api.close()


@pytest.fixture(scope="module")
def first_version(commands: Commands) -> str:
    """The rollout that led version 1 from history to champion."""
    trained = commands.json("retrain", "fraud", "--actor", "ana", "--reason", "first", "--rollout")
    assert trained["state"] == "COMPLETED"
    assert list(trained["reports"]) == ["gates-fraud"]
    assert "version 1 is registered; rollout fraud-v1-1 is open" in trained["message"]
    commands.json("rollouts", "pass", "fraud")
    rollout = "fraud-v1-1"
    wait(
        lambda: phase(commands, rollout) == "awaiting_approval",
        lambda: commands.run("rollouts", "show", rollout).stdout,
    )
    # She made it: the command and the form's gate refuse her, and somebody else may answer.
    ana, bo = key_of(commands, "ana"), key_of(commands, "bo")
    assert approve(commands, rollout, "Ana ", ana) == 4
    is_refused_at_the_form(commands, rollout, "ana", ana)
    assert phase(commands, rollout) == "awaiting_approval"
    wait(lambda: approve(commands, rollout, "bo", bo) == 0, lambda: "the form never came back")
    wait(
        lambda: phase(commands, rollout) == "promoted",
        lambda: commands.run("rollouts", "show", rollout).stdout,
    )
    return rollout


def test_a_first_version_goes_from_history_to_champion(
    commands: Commands, first_version: str
) -> None:
    assert "bo" in commands.run("rollouts", "show", first_version).stdout
    assert commands.json("models", "list")[0]["champion"] == 1


@pytest.mark.usefixtures("first_version")
def test_an_application_gets_a_score_that_can_be_explained(commands: Commands) -> None:
    body = {
        "customer_id": CUSTOMER,
        "terminal_id": TERMINAL,
        "amount": AMOUNT,
        "event_time": START_MS + DAYS * 86_400_000 + 60_000,
    }
    ask = ("score", "fraud", json.dumps(body), "--key", "t-1")
    answers = []
    wait(  # the gateway takes the new routes up within a moment
        lambda: commands.run(*ask).returncode == 0, lambda: commands.run(*ask).stdout
    )
    answers = [commands.json(*ask) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["model"]["version"] == 1
    decision = answers[0]["decision_id"]
    assert commands.json("log", "show", decision)
    assert commands.run("log", "explain", decision).returncode == 0
    assert commands.run("log", "show", "no-such-decision").returncode == 2
    changed = json.dumps({**body, "amount": 1.0})
    assert commands.run("score", "fraud", changed, "--key", "t-1").returncode == 2


@pytest.mark.usefixtures("first_version")
def test_a_decision_leads_to_its_trace_lines_and_evidence_and_back(commands: Commands) -> None:
    decision = one_with_a_line(commands)
    (record,) = commands.json("log", "show", decision)
    trace_id = record["trace_id"]
    wait(
        lambda: bool(commands.json("trace", decision)["spans"]),
        lambda: f"no spans of {decision}",
    )
    found = commands.json("trace", decision)
    assert found["traces"] == [trace_id]
    names = {span["name"] for span in found["spans"]}
    assert {"score fraud", "features", "predict champion", "record"} <= names
    assert [line["trace_id"] for line in found["lines"]] == [trace_id]
    assert found["lines"][0]["message"].startswith("decided by champion")
    rollout = commands.json("rollouts", "show", record["rollout_id"])
    assert rollout["state"]["challenger"]["bundle"] == record["bundle"]
    assert any(fact["evidence"] for fact in rollout["journal"])
    back = commands.json("trace", trace_id)
    assert [r["decision_id"] for r in back["decisions"]] == [decision]
    assert [r["rollout_id"] for r in back["decisions"]] == [record["rollout_id"]]
    for command, told in (
        (("trace", decision), f"mlplatform rollouts show {record['rollout_id']}"),
        (("trace", trace_id), f"mlplatform log explain {decision}"),
        (("log", "show", decision), f"mlplatform trace {trace_id}"),
    ):
        assert told in commands.run(*command).stdout


def one_with_a_line(commands: Commands) -> str:
    """The id of a decision that the caller samples, of the tenth that has a line of its own."""
    url = f"http://127.0.0.1:{commands.environment['MLPLATFORM_GATEWAY_PORT']}"
    key = (commands.home / "secrets" / "api.key").read_text()
    body = {
        "customer_id": CUSTOMER,
        "terminal_id": TERMINAL,
        "amount": AMOUNT,
        "event_time": START_MS + DAYS * 86_400_000 + 60_000,
    }
    for number in range(1, 500):
        headers = {
            "Authorization": f"Bearer {key}",
            "traceparent": f"00-{number:032x}-{number:016x}-01",
        }
        answer = httpx.post(f"{url}/api/v1/models/fraud/score", json=body, headers=headers).json()
        decision: str = answer["decision_id"]
        is_whole = answer["answered_by"] == "champion" and not answer["degraded"]
        if is_whole and zlib.crc32(decision.encode()) < DEBUG_SHARE * (1 << 32):
            return decision
    raise AssertionError("not one of 500 decisions is of the tenth that has a line")


@pytest.mark.usefixtures("first_version")
def test_what_the_platform_holds_can_be_looked_at(commands: Commands) -> None:
    status = commands.json("status")
    names = {process["name"] for process in status["processes"]}
    assert {"supervisor", "mlflow", "gateway-0", "jobs", "exporter", "page", "prefect"} < names
    assert status["memory_mb"] < 1_500
    assert commands.json("models", "list")[0]["champion"] == 1
    assert commands.json("models", "show", "fraud")[0]["version"] == 1
    assert commands.run("log", "verify").returncode == 0
    assert commands.run("drift", "fraud").returncode == 0
    assert commands.run("models", "show", "nothing").returncode == 2


@pytest.mark.usefixtures("first_version")
def test_prefect_plans_and_replays_and_its_runs_lead_to_what_they_made(commands: Commands) -> None:
    """Both were commands alone; a form has the versions to choose from."""
    platform = Platform(load(commands.environment))
    with pytest.raises(InputInvalid, match=r"^version: 99 is not one of \[1\]"):
        platform.prefect.start("replay", {"model": "fraud", "version": 99})

    def run(flow: str, **parameters: object) -> tuple[FlowRun, dict[str, str]]:
        started = platform.prefect.start(flow, {"model": "fraud", **parameters})
        wait(lambda: platform.prefect.run(started.id).final, lambda: f"{flow} goes on")
        return platform.prefect.run(started.id), platform.prefect.reports(started.id)

    for number in (101, 102, 103, 104):  # customers and terminals of the history
        at_ms = START_MS + DAYS * 86_400_000 + number * 1_000
        body = {"customer_id": number, "terminal_id": number, "event_time": at_ms, "amount": 90.0}
        commands.json("score", "fraud", json.dumps(body), "--key", f"to-replay-{number}")
    planned, pages = run("plan")
    assert (planned.name, planned.state) == ("plan a rollout of fraud", "COMPLETED")
    assert planned.message in pages["plan-fraud"]
    replayed, pages = run("replay", version=1, begins={"review": 0.05})
    assert (replayed.name, replayed.state) == ("replay fraud v1", "COMPLETED"), replayed.message
    assert "review from 0.05" in pages["replay-fraud"]
    links = artifacts(commands, "markdown")  # as Prefect keeps links
    page = f"http://127.0.0.1:{commands.environment['MLPLATFORM_PAGE_PORT']}"
    assert f"({page}/rollouts/fraud-v1-1)" in links["rollout-fraud"]
    assert f"({page}/models/fraud/versions/1)" in links["card-fraud"]
    assert "/#/models/fraud/versions/1)" in links["mlflow-fraud"]
    tables = artifacts(commands, "table")
    assert "calibration" in tables["gate-table-fraud"]
    assert "review" in tables["replay-1-fraud"]


def artifacts(commands: Commands, kind: str) -> dict[str, str]:
    """Key → content of the newest artifacts of a kind in Prefect."""
    token = (commands.home / "run" / "prefect.token").read_text().strip()
    port = commands.environment["MLPLATFORM_PREFECT_PORT"]
    answer = httpx.post(
        f"http://127.0.0.1:{port}/api/artifacts/latest/filter",
        json={"artifacts": {"type": {"any_": [kind]}}},
        auth=("operator", token),
    )
    return {found["key"]: str(found["data"]) for found in answer.json()}


@pytest.mark.usefixtures("first_version")
def test_past_days_are_scored_again_by_a_job(commands: Commands) -> None:
    days = (START_MS / 1000 + 86_400 * day for day in (DAYS - 2, DAYS - 1))
    first, last = (time.strftime("%Y-%m-%d", time.gmtime(day_s)) for day_s in days)
    done = commands.json("batch", "fraud", "--first", first, "--last", last)
    assert done["state"] == "COMPLETED", done
    (folder,) = (commands.home / "batches" / "fraud").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == 1
    assert list(manifest["files"]) == [f"{first}.parquet", f"{last}.parquet"]
    for name, file in manifest["files"].items():
        scores = pq.read_table(folder / name)
        assert scores.num_rows == file["rows"] > 1_000
    assert not list((commands.home / "staging").iterdir())
    assert_traced(commands, folder.name.removeprefix("batch-"))
    late = commands.run("batch", "fraud", "--first", "2031-01-01")
    assert late.returncode == 2
    assert "no request on these days" in late.stderr


@pytest.mark.usefixtures("first_version")
def test_an_incident_starts_a_retrain_through_the_automation_and_opens_its_rollout(
    commands: Commands,
) -> None:
    platform = Platform(load(commands.environment))
    go_live_ms, wall_ms = START_MS + DAYS * 86_400_000, int(time.time() * 1000)
    found = IncidentFinding(
        "fraud", "drift", go_live_ms, go_live_ms - 9 * 86_400_000, 1, {"reasons": []}
    )
    incident = platform.incidents.open(found, now_ms=wall_ms)
    due = Retrain(reason="the new pattern's labels have matured", as_of_ms=go_live_ms)
    ports = drift.ports(platform, "fraud")
    asked = ask(ports, incident, due, holder="drift-watch", claim_s=600, wall_ms=wall_ms)
    assert asked is not None
    event = events.event_of(asked, wall_ms)
    check = ("d" * 32, "e" * 16)  # the span of a drift check
    event["payload"]["traceparent"] = f"00-{check[0]}-{check[1]}-01"
    with pytest.raises(Refused, match="people may not call this path"):
        platform.prefect.emit(event)  # only the platform's own runs say what has drifted
    for _ in range(2):  # a pass that does not know whether it was heard emits again
        as_a_flow_run(platform).emit(event)

    wait(
        lambda: rollout_of(commands, 2) is not None,
        lambda: (
            json.dumps(commands.json("models", "show", "fraud"), default=str)
            + str(platform.incidents.list("fraud"))
        ),
    )
    (kept,) = platform.incidents.list("fraud")
    assert (kept.state, kept.claim, kept.answer) == ("answered", 1, 2)
    opened = rollout_of(commands, 2)
    assert opened["author"] == "drift-watch"
    assert due.reason in platform.rollouts.read(opened["rollout_id"])[0].reason
    assert len(commands.json("models", "show", "fraud")) == 2  # emitted twice, trained once

    def linked() -> list[str]:
        return [s.name for s in span_files.find(commands.home / "traces", check) if s.links]

    wait(lambda: linked() == ["retrain fraud"], lambda: f"linked: {linked()}")


def test_a_ramping_version_is_taken_back_and_opened_again(commands: Commands) -> None:
    opened = rollout_of(commands, 2)
    who = ("--actor", "ana", "--reason", "the new terminals first")
    back = commands.json("rollouts", "rollback", "fraud", *who)
    assert back["state"] == "COMPLETED", back
    assert back["message"] == f"{opened['rollout_id']} is rolled back; version 1 answers"
    assert phase(commands, opened["rollout_id"]) == "rolled_back"
    again = commands.json("rollouts", "open", "fraud", "2", *who)
    assert again["state"] == "COMPLETED", again
    wait(
        lambda: rollout_of(commands, 2)["phase"] == "shadow",
        lambda: str(rollout_of(commands, 2)),
    )
    assert rollout_of(commands, 2)["rollout_id"] != opened["rollout_id"]
    taken = commands.json("rollouts", "rollback", "fraud", *who)
    assert taken["state"] == "COMPLETED", taken


def assert_traced(commands: Commands, run_id: str) -> None:
    """The flow run, its tasks and the job's items are one trace, and its lines name it."""

    def of_run() -> list[span_files.StoredSpan]:  # they are written when its process ends
        spans = span_files.find(commands.home / "traces", [run_id])
        return [span for span in spans if span.attributes.get("prefect.run.id") == run_id]

    wait(lambda: bool(of_run()), lambda: f"run {run_id} left no span")
    (run,) = of_run()
    found = commands.json("trace", run.trace_id)
    names = [span["name"] for span in found["spans"]]
    assert names.count("work score") == 2
    assert any(name.startswith("score") for name in names)  # its task
    of = {span["span_id"]: span for span in found["spans"]}
    items = [span for span in found["spans"] if span["name"] == "work score"]
    assert {of[of[item["parent_id"]]["parent_id"]]["name"] for item in items} == {run.name}
    assert {line["process"] for line in found["lines"]} >= {"flows"}
    assert {line.get("run_id") for line in found["lines"]} & {run_id}


def test_what_the_platform_told_holds_nothing_that_was_said_of_a_person(commands: Commands) -> None:
    """Lines of every process, spans and metrics, after all the tests above."""
    gateway = f"http://127.0.0.1:{commands.environment['MLPLATFORM_GATEWAY_PORT']}"
    key = (commands.home / "secrets" / "api.key").read_text()
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/openmetrics-text"}
    told = {"metrics": httpx.get(f"{gateway}/metrics", headers=headers).text}
    for folder in ("logs", "traces"):
        told |= {p.name: p.read_text() for p in (commands.home / folder).iterdir()}
    assert {"supervisor.log", "gateway-0.log", "prefect.log", "mlflow.log", "jobs.log"} <= set(told)
    assert "flows-runs.jsonl" in told
    for name, text in told.items():
        for value in (CUSTOMER, TERMINAL, AMOUNT):
            assert str(value) not in text, name
    for name in ("supervisor.log", "gateway-0.log", "prefect.log", "jobs.log", "mlflow.log"):
        # what a library prints by itself is no line of ours
        lines = [line for line in told[name].splitlines() if line.startswith("{")]
        assert all(set(json.loads(line)) <= set(signals.LOG_FIELDS) for line in lines), name


def test_a_second_platform_in_the_same_folder_is_refused(commands: Commands) -> None:
    second = commands.run("up")
    assert second.returncode == 3
    assert "already runs" in second.stderr


@pytest.mark.usefixtures("first_version")
def test_a_rollback_without_a_predecessor_is_refused_and_says_why(commands: Commands) -> None:
    done = commands.run(
        "rollouts", "rollback", "fraud", "--actor", "ana", "--reason", "too many declines"
    )
    assert done.returncode == 4
    assert "error: there is nothing to roll back: no rollout of fraud is under way" in done.stderr


def test_every_socket_of_the_platform_stands_in_the_table_of_listeners(commands: Commands) -> None:
    settings = load(commands.environment)

    assert open_ports.unknown(settings) == []
    assert open_ports.missing(settings) == []
    assert [s for s in open_ports.unix_sockets(settings) if not open_ports.is_private(s)] == []


def test_nothing_in_the_home_is_open_to_others(commands: Commands) -> None:
    settings = load(commands.environment)

    assert private_folder.narrow(settings.home.root, left_alone=("bundles",)) == []


@pytest.mark.usefixtures("first_version")
def test_a_copied_home_serves_its_own_bundles_while_the_old_one_is_gone(
    commands: Commands, tmp_path: Path
) -> None:
    """The last one: it stops the platform, and takes its home away."""
    assert commands.run("down").returncode == 0
    copied = Commands(tmp_path / "elsewhere")
    shutil.copytree(commands.home, copied.home, symlinks=True)
    commands.home.rename(commands.home.with_name("gone"))
    log = tmp_path / "up.log"
    up = copied.start("up", log=log)
    try:
        said = lambda: f"up: {log.read_text()}"  # noqa: E731
        ready = lambda: copied.run("status").returncode == 0  # noqa: E731
        wait(ready, said, alive=lambda: up.poll() is None, limit_s=START_LIMIT_S)
        body = {
            "customer_id": CUSTOMER,
            "terminal_id": TERMINAL,
            "amount": AMOUNT,
            "event_time": START_MS + DAYS * 86_400_000 + 60_000,
        }
        answer = copied.json("score", "fraud", json.dumps(body), "--key", "copied")
        assert (answer["model"]["version"], answer["answered_by"]) == (1, "champion")
        bundle = served_bundle(copied)
        assert bundle.parent == copied.home / "bundles"
        fetched = Platform(load(copied.environment)).registry.fetch("fraud", 1, tmp_path / "new")
        assert fetched.name == bundle.name
        assert copied.run("log", "verify").returncode == 0
        assert not commands.home.exists()
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0


def served_bundle(commands: Commands) -> Path:
    """The folder that the predictor of the first version was started with."""
    processes = commands.json("status")["processes"]
    (pid,) = (p["pid"] for p in processes if p["name"].startswith("fraud-v1-"))
    told = [part for part in psutil.Process(pid).cmdline() if part.startswith("--model-dir=")]
    return Path(told[0].removeprefix("--model-dir="))
