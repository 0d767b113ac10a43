"""Commands that follow a flow run: how long they wait, and what they say at its end."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands import runs
from mlplatform.operations import wiring
from mlplatform.operations.prefect_client import prefect
from mlplatform.operations.prefect_client.prefect import FlowRun, Poller
from mlplatform.rollouts.passes.commands import ValidatedVersion, open_rollout
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigUnusable, Unavailable
from rollout_world import StoppedClock, gate_report

RUNNING = FlowRun("r-1", "calm-lynx", "RUNNING", "Running", "", {}, 1)
DONE = replace(RUNNING, state="COMPLETED", state_name="Completed")
REPORT = {"drift-fraud": "# what was seen"}


@dataclass
class Server:
    """Prefect, of which each answer in turn is a state or its silence; the last one stays."""

    states: list[FlowRun | None]
    silent_reports: int = 0
    started: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def start(self, flow: str, parameters: Mapping[str, Any]) -> FlowRun:
        self.started.append((flow, parameters))
        return RUNNING

    def run(self, run_id: str) -> FlowRun:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state is None:
            raise Unavailable("Prefect at http://127.0.0.1")
        return state

    def reports(self, run_id: str) -> dict[str, str]:
        self.silent_reports -= 1
        if self.silent_reports >= 0:
            raise Unavailable("Prefect at http://127.0.0.1")
        return REPORT


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(runs, "POLL_S", 0.001)
    wiring.settings.cache_clear()
    yield CliRunner()
    wiring.settings.cache_clear()


@pytest.fixture
def prefect_gives(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_up(*states: FlowRun | None, silent_reports: int = 0) -> Server:
        server = Server(list(states), silent_reports)
        monkeypatch.setattr(wiring, "prefect_api", lambda settings: server)
        return server

    return set_up


def test_a_server_that_is_silent_for_a_moment_does_not_end_the_wait(
    runner: CliRunner, prefect_gives: Any
) -> None:
    prefect_gives(None, RUNNING, None, None, DONE, silent_reports=2)
    result = runner.invoke(commands.app, ["drift", "fraud"])
    assert result.exit_code == 0, result.output
    assert "what was seen" in result.stdout


@pytest.mark.parametrize("words", [("retrain", "fraud"), ("validate", "fraud")])
def test_the_author_of_a_version_is_the_one_who_gave_the_command(
    runner: CliRunner, prefect_gives: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    server = prefect_gives(DONE)
    monkeypatch.setattr(getpass, "getuser", lambda: " ana ")
    runner.invoke(commands.app, words)
    runner.invoke(commands.app, [*words, "--actor", "bo"])
    assert [parameters["actor"] for _, parameters in server.started] == ["ana", "bo"]


@pytest.mark.parametrize("words", [("retrain", "fraud"), ("validate", "fraud")])
def test_a_user_without_a_login_name_has_to_say_who_they_are(
    runner: CliRunner, prefect_gives: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    server = prefect_gives(DONE)
    monkeypatch.setattr(getpass, "getuser", nameless)
    result = runner.invoke(commands.app, words)
    assert isinstance(result.exception, ConfigUnusable)
    assert str(result.exception) == (
        "--actor: missing, and the operating system has no name for the user of this process;"
        " wanted: your name, as in --actor ana"
    )
    assert runner.invoke(commands.app, [*words, "--actor", "bo"]).exit_code == 0
    assert "login name" in runner.invoke(commands.app, [words[0], "--help"]).stdout
    assert len(server.started) == 1


@pytest.mark.parametrize("words", [("drift", "fraud"), ("rollouts", "pass", "fraud")])
def test_a_server_that_stays_silent_is_unavailable_and_the_run_is_named(
    runner: CliRunner,
    prefect_gives: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(Poller.__init__, "__defaults__", (0.02,))
    prefect_gives(RUNNING, None)
    result = runner.invoke(commands.app, words)
    assert isinstance(result.exception, Unavailable)
    assert str(result.exception) == (
        "the run goes on without this command: http://127.0.0.1:4200/runs/flow-run/r-1"
    )
    assert "no answer for" in str(result.exception.__cause__)


def test_a_run_that_is_done_says_what_it_made_and_the_next_command(
    runner: CliRunner, prefect_gives: Any
) -> None:
    made = "version 2 is registered; next: `mlplatform rollouts open fraud 2 --actor YOU`"
    prefect_gives(replace(DONE, message=made))
    result = runner.invoke(commands.app, ["retrain", "fraud", "--actor", "ana"])
    assert f"calm-lynx: Completed. {made}\n" in result.stdout


def test_a_run_that_crashed_ends_with_what_to_do(runner: CliRunner, prefect_gives: Any) -> None:
    message = "Process exited with status code: 1"
    prefect_gives(replace(RUNNING, state="CRASHED", state_name="Crashed", message=message))
    result = runner.invoke(commands.app, ["retrain", "fraud"])
    assert result.exit_code == 1
    assert "calm-lynx: Crashed. Process exited with status code: 1\n" in result.stdout
    assert "Give the command again to start anew." in result.stdout
    assert result.stderr == "error: the run's process ended before its flow did\n"


@pytest.mark.parametrize(
    ("words", "message", "code", "told"),
    [
        (
            ("rollouts", "rollback", "fraud", "--actor", "ana", "--reason", "too many declines"),
            "Flow run encountered an exception: Refused: nothing is ramping",
            4,
            "error: nothing is ramping\n",
        ),
        (
            ("retrain", "fraud"),
            "Flow run encountered an exception: InputInvalid: as_of is 2031",
            2,
            "error: as_of is 2031\n",
        ),
        (
            ("drift", "fraud"),
            "Flow run encountered an exception: ZeroDivisionError: division by zero",
            1,
            "error: division by zero\n",
        ),
        (("drift", "fraud"), "Flow run timed out", 1, ""),
    ],
)
def test_a_flow_that_failed_ends_the_command_as_its_error_would_here(
    runner: CliRunner,
    prefect_gives: Any,
    words: tuple[str, ...],
    message: str,
    code: int,
    told: str,
) -> None:
    failed = replace(RUNNING, state="FAILED", state_name="Failed", message=message)
    prefect_gives(failed)
    result = runner.invoke(commands.app, words, env={"COLUMNS": "200"})
    assert (result.exit_code, result.stderr) == (code, told)
    assert ("timed out" in result.stdout) == (not told)
    as_json = runner.invoke(commands.app, [*words, "--json"])
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["message"] == message


def test_a_roll_back_that_prefect_does_not_take_is_told_the_way_without_it(
    runner: CliRunner, prefect_gives: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poller.__init__, "__defaults__", (0.02,))
    prefect_gives(RUNNING, None)
    words = ("rollouts", "rollback", "fraud", "--actor", "ana", "--reason", "too many declines")
    result = runner.invoke(commands.app, words)
    assert isinstance(result.exception, Unavailable)
    assert "the same command with --without-prefect" in str(result.exception)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    made = wiring.Platform(settings)
    monkeypatch.setattr(wiring, "existing_platform", lambda: made)
    return made


def opened(platform: wiring.Platform) -> str:
    validated = ValidatedVersion(1, "b" * 64, "ana", 0.0, 0.1, gate_report("b" * 64))
    return open_rollout(
        *(platform.rollouts, "fraud", validated),
        approval="required",
        actor="ana",
        reason="new",
        clock=StoppedClock(),
    )


def test_a_roll_back_by_prefect_names_the_rollout_that_has_the_traffic_now(
    runner: CliRunner, prefect_gives: Any, platform: wiring.Platform
) -> None:
    """A run that starts late takes no other one back."""
    server = prefect_gives(DONE)
    rollout = opened(platform)
    words = ["rollouts", "rollback", "fraud", "--actor", "bo", "--reason", "too many declines"]
    assert runner.invoke(commands.app, words).exit_code == 0
    (flow, parameters) = server.started[0]
    assert (flow, parameters["only"]) == ("rollback", rollout)


def test_a_roll_back_without_prefect_is_written_into_the_journal(
    platform: wiring.Platform,
) -> None:
    rollout = opened(platform)
    words = ["rollouts", "rollback", "fraud", "--actor", "bo", "--reason", "too many declines"]
    result = CliRunner().invoke(commands.app, [*words, "--without-prefect"])
    assert result.stdout == f"{rollout} is rolled back; gateways follow within a second\n"
    (state,) = platform.rollouts.active("fraud", finished=True)
    assert (state.phase, state.reason) == ("rolled_back", "too many declines")


def test_patience_counts_from_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((0.0, 59.0, 60.0, 119.0, 120.0))  # when each reading of the clock is
    answers: list[int | None] = [None, 1, None, None]
    monkeypatch.setattr(prefect.time, "monotonic", lambda: next(seconds))

    def ask() -> int:
        answer = answers.pop(0)
        if answer is None:
            raise Unavailable("Prefect")
        return answer

    patience = Poller(ask, limit_s=60.0)
    assert [patience.ask() for _ in range(3)] == [None, 1, None]
    with pytest.raises(Unavailable, match="no answer for 60 s"):
        patience.ask()
