"""The command line: every command explains itself, and every error ends in one line and a code."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from mlplatform import commands as command_line
from mlplatform.commands.terminal import exit_codes, output
from mlplatform.commands.terminal.exit_codes import (
    exit_code,
    exit_code_of_class,
)
from mlplatform.commands.terminal.help_text import join_lines
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.runtime import errors
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.processes.last_settings import remember
from mlplatform.runtime.processes.records import ProcessId, SupervisorRecord, write_supervisor
from mlplatform.runtime.storage.files import write_atomically
from support.home_world import HomeWorld
from support.scoring_world import ScoringWorld

ROOT = get_command(command_line.app)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(command, TyperGroup):
        yield path
        return
    for name, sub in command.commands.items():
        yield from leaves(sub, (*path, name))


def found(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        assert isinstance(command, TyperGroup)
        command = command.commands[name]
    return command


def example(path: tuple[str, ...]) -> list[str]:
    """The words of a command's example, without what is set before `mlplatform`."""
    command = found(path)
    text = f"{command.help}\n{command.epilog or ''}".partition("Example: ")[2]
    words = shlex.split(text)
    return words[words.index("mlplatform") + 1 :]


def groups(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, TyperGroup):
        yield path
        for name, sub in command.commands.items():
            yield from groups(sub, (*path, name))


GROUPS = [pytest.param(path, id=" ".join(path) or "mlplatform") for path in groups(ROOT)]
COMMANDS = [pytest.param(path, id=" ".join(path)) for path in leaves(ROOT)]


def test_the_commands_that_people_look_for_are_there() -> None:
    names = {" ".join(path) for path in leaves(ROOT)}
    assert names >= {
        "up", "down", "status", "score", "retrain", "drift", "materialize",
        "models list", "models show", "history import",
        "rollouts list", "rollouts show", "rollouts approve", "rollouts rollback",
        "log verify", "log show", "log explain",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS)
def test_help_says_what_a_command_does_and_shows_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(command_line.app, [*path, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example: " in result.output
    assert f"mlplatform {' '.join(path)}" in result.output
    assert len(found(path).get_short_help_str()) > 10


def stray_lines(help_text: str, columns: int) -> list[str]:
    """Lines, of the prose above and below the panels of options, that end although the next word
    would have had room."""
    found = []
    for line, after in itertools.pairwise(help_text.splitlines()):
        word = after.strip().partition(" ")[0]
        is_prose = line.startswith(" ") and after.startswith(" ")
        if is_prose and line.strip() and word and len(line.rstrip()) + 1 + len(word) < columns:
            found.append(line.strip())
    return found


@pytest.mark.parametrize("path", [*COMMANDS, *GROUPS])
def test_help_breaks_into_no_stray_lines(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(command_line.app, [*path, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert stray_lines(result.output, 80) == []


def test_lists_in_help_keep_their_lines() -> None:
    text = "One\ntwo\n\n- three\n- four\n\n    five\n    six"
    assert join_lines(text) == "One two\n\n- three\n- four\n\n    five\n    six"
    assert stray_lines(" one\n two", 80) == ["one"]


@pytest.mark.parametrize("path", COMMANDS)
def test_an_example_is_a_command_that_can_be_typed(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payments").mkdir()
    words = example(path)
    assert tuple(words[: len(path)]) == path
    found(path).make_context(path[-1], words[len(path) :])  # parses and checks, runs nothing


@pytest.mark.parametrize("path", [("models",), ("rollouts",), ("history",), ("log",), ()])
def test_a_group_alone_prints_its_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(command_line.app, list(path))
    assert result.exit_code == 2
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Corrupt("changed"), 1),
        (errors.PlatformError("something else"), 1),
        (errors.ConfigInvalid("port", "x", "a port"), 2),
        (errors.InputInvalid("file", 3, "no label"), 2),
        (errors.NotFound("no model"), 2),
        (errors.Unavailable("no answer"), 3),
        (errors.Busy("taken"), 3),
        (errors.Refused("forbidden"), 4),
        (errors.StaleFence("taken over"), 4),
        (errors.GateFailed("too slow"), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_exit_code(error: errors.PlatformError, code: int) -> None:
    assert exit_code(error) == code
    assert exit_code_of_class(type(error).__name__) == code


def test_every_error_class_has_a_code_and_none_is_success() -> None:
    for kind, code in exit_codes.EXIT_CODES:
        assert issubclass(kind, errors.PlatformError)
        assert code != 0
    assert exit_code_of_class("ValueError") == 1


@pytest.fixture
def fresh_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    caches = (wiring.settings, wiring.platform)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path / "home"
    for cache in caches:
        cache.cache_clear()


def ended(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["mlplatform", *words])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    return caught.value.code


@pytest.mark.usefixtures("fresh_settings")
def test_an_unknown_model_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "models", "show", "credit") == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", "error: no model 'credit'; there are: fraud\n")


def wrong(path: tuple[str, ...], metavar: str, text: str) -> list[str]:
    """The words of a command's example with another value of an option or argument."""
    command, words = found(path), example(path)
    given = command.make_context(path[-1], words[len(path) :]).params[metavar]
    return [text if word == str(given) else word for word in words]


WITH_MODEL = [p for p in COMMANDS if "model" in {x.name for x in found(p.values[0]).params}]
WITH_MODEL = [p for p in WITH_MODEL if p.id not in ("keys create", "rollouts show")]
SIGNED = [
    pytest.param(p.values[0], x.name, id=f"{p.id} --{x.name}")
    for p in COMMANDS
    for x in found(p.values[0]).params
    if x.name in ("actor", "reason") and p.id != "log void"
]


@pytest.mark.usefixtures("fresh_settings")
@pytest.mark.parametrize("path", WITH_MODEL)
def test_every_command_refuses_an_unknown_model_before_anything_else(
    path: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payments").mkdir()
    assert ended(monkeypatch, *wrong(path, "model", "credit")) == 2
    assert capfd.readouterr().err == "error: no model 'credit'; there are: fraud\n"


@pytest.mark.usefixtures("fresh_settings")
@pytest.mark.parametrize(("path", "option"), SIGNED)
def test_every_command_refuses_who_and_why_before_prefect_does(
    path: tuple[str, ...],
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    limits = {"reason": "5 to 500"}.get(option, "2 to 80")
    for text, told in ((" x  ", "'x' has 1 character"), ("y" * 501, "…' has 501 characters")):
        assert ended(monkeypatch, *wrong(path, option, text)) == 2
        said = capfd.readouterr().err
        assert said.startswith(f"error: --{option}: ")
        assert f"{told}; wanted: {limits}\n" in said
        assert len(said) < 120


@pytest.mark.usefixtures("fresh_settings")
def test_a_wrong_setting_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLPLATFORM_GATEWAY_PORT", "http")
    assert ended(monkeypatch, "status") == 2
    assert "MLPLATFORM_GATEWAY_PORT is 'http'" in capfd.readouterr().err


def _runs(home: Path) -> None:
    """This process passes for the supervisor of a home."""
    process = ProcessId.of(os.getpid())
    assert process is not None
    write_supervisor(Home(home), SupervisorRecord(process, "ready"))


def test_a_server_that_is_not_there_is_exit_code_3(
    fresh_settings: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLPLATFORM_PREFECT_PORT", str(port))
    assert ended(monkeypatch, "drift", "fraud") == 3
    assert "the platform has not started Prefect: `mlplatform up`" in capfd.readouterr().err
    write_atomically(fresh_settings / "run" / "prefect.token", b"of a platform that ended")
    assert ended(monkeypatch, "drift", "fraud") == 3
    said = capfd.readouterr().err
    assert f"error: Prefect at http://127.0.0.1:{port}/api/ does not answer" in said
    assert f"nothing runs in {fresh_settings}: `mlplatform up` starts it" in said
    _runs(fresh_settings)
    assert ended(monkeypatch, "drift", "fraud") == 3
    assert f"the platform in {fresh_settings} runs: `mlplatform status`" in capfd.readouterr().err


class _Ready(BaseHTTPRequestHandler):
    """What of a gateway `status` asks."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """No line a request."""


def test_a_platform_elsewhere_is_asked_and_not_called_stopped(
    fresh_settings: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As commands in a pod find it, where no supervisor has run."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLPLATFORM_GATEWAY_URL", url)
        assert ended(monkeypatch, "status") == 0
        assert f"{url}/openapi.html" in (said := capfd.readouterr().out)
        assert "mlplatform up" not in said
        server.shutdown()
    assert ended(monkeypatch, "status") == 3
    assert f"the gateway at {url} is not ready" in capfd.readouterr().out
    assert ended(monkeypatch, "drift", "fraud") == 3
    assert f"the platform runs elsewhere (its gateway is {url})" in capfd.readouterr().err


def test_a_refusal_is_told_once(fresh_settings: Path) -> None:
    """In a process of its own: here a handler of the tests takes every line of the log."""
    HomeWorld(fresh_settings).promote(1)
    who = ("--actor", "ana", "--reason", "too many declines")
    done = subprocess.run(
        [sys.executable, "-m", "mlplatform.commands", "rollouts", "abort", "fraud-v1-1", *who],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_codes.REFUSED
    assert done.stderr.startswith("error: rollout fraud-v1-1 is promoted")
    assert done.stderr.count("fraud-v1-1") == 1


def test_status_shows_routes_and_where_the_gateway_listens(
    fresh_settings: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = ScoringWorld(fresh_settings.parent)
    world.promote(Arm(1, "a" * 64, "fraud-v1"))
    world.shadow(Arm(2, "b" * 64, "fraud-v2"))
    world.canary(5.0)
    world.close()
    monkeypatch.setenv("MLPLATFORM_HOME", str(world.home.root))
    monkeypatch.setenv("MLPLATFORM_GATEWAY_GRPC_PORT", "9090")

    assert ended(monkeypatch, "status") == exit_codes.UNAVAILABLE
    shown = capfd.readouterr().out
    (routes,) = [line for line in shown.splitlines() if "v1 aaaaaaaa" in line]
    assert [cell.strip() for cell in routes.split("│")[1:-1]] == [
        "fraud", "3", "canary", "v1 aaaaaaaa", "v2 bbbbbbbb", "5 %", "",
    ]  # fmt: skip
    (rollout,) = [line for line in shown.splitlines() if "fraud-r2" in line]
    assert "canary" in rollout
    assert "{" not in shown
    assert "127.0.0.1:9090" not in shown  # nothing runs

    assert ended(monkeypatch, "status", "--json") == exit_codes.UNAVAILABLE
    told = json.loads(capfd.readouterr().out)
    assert told["models"]["fraud"]["routes"]["challenger"]["version"] == 2
    phases = {r["id"]: r["phase"] for r in told["models"]["fraud"]["rollouts"]}
    assert phases == {"fraud-r1": "promoted", "fraud-r2": "canary"}
    assert told["addresses"]["scoring by gRPC"] == "127.0.0.1:9090"
    _runs(world.home.root)
    assert ended(monkeypatch, "status") == 0
    assert "127.0.0.1:9090" in capfd.readouterr().out
    monkeypatch.delenv("MLPLATFORM_GATEWAY_GRPC_PORT")
    wiring.settings.cache_clear()
    ended(monkeypatch, "status")
    assert "gRPC" not in capfd.readouterr().out


def test_status_finds_the_platform_from_a_shell_without_variables(
    fresh_settings: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = load({"MLPLATFORM_HOME": str(fresh_settings), "MLPLATFORM_GATEWAY_PORT": "9080"})
    settings.home.create()
    remember(settings)
    _runs(fresh_settings)

    assert ended(monkeypatch, "status") == 0
    assert "http://127.0.0.1:9080/openapi.html" in capfd.readouterr().out
    wiring.settings.cache_clear()
    monkeypatch.setenv("MLPLATFORM_GATEWAY_PORT", "8080")
    assert ended(monkeypatch, "status") == exit_codes.USAGE
    assert "MLPLATFORM_GATEWAY_PORT is '8080'; wanted: 9080" in capfd.readouterr().err


@pytest.mark.usefixtures("fresh_settings")
def test_a_taken_port_is_all_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing started, so nothing says so; and the cause stands in the line once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MLPLATFORM_MLFLOW_PORT", str(taken.getsockname()[1]))
        assert ended(monkeypatch, "up") == 3
    said = capfd.readouterr().err
    assert said.startswith("error: port ")
    assert said.count("in use") == said.count("\n") == 1


@pytest.mark.usefixtures("fresh_settings")
@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (ValueError("row 3 is torn"), "error: a.parquet: unreadable\n  cause: row 3 is torn\n"),
        (ValueError("unreadable"), "error: a.parquet: unreadable\n"),
        (TimeoutError(), "error: a.parquet: unreadable\n  cause: TimeoutError\n"),
    ],
)
def test_a_cause_is_told_once(
    cause: Exception, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    error = errors.InputInvalid("a.parquet", None, "unreadable")
    error.__cause__ = cause
    output.print_error(error)
    assert capfd.readouterr().err == told


@pytest.mark.usefixtures("fresh_settings")
def test_a_request_that_is_no_json_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for request in ("{amount: 1}", "[" * 100_000, '{"amount": "\udcff"}'):
        assert ended(monkeypatch, "score", "fraud", request) == 2
    said = capfd.readouterr().err
    assert said.count("double quotes") == 1


@pytest.mark.usefixtures("fresh_settings")
def test_words_in_brackets_reach_the_reader(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Square brackets are markup to the library that prints, and shapes and lists to us."""

    def fail() -> None:
        raise errors.InputInvalid("model [red]", None, "takes [n, 3], wanted [n, 17] [/]")

    monkeypatch.setattr(command_line, "app", fail)
    assert ended(monkeypatch) == 2
    assert "model [red]: takes [n, 3], wanted [n, 17] [/]" in capfd.readouterr().err
    output.print_fields({"shape": "[n, 3]"})
    output.print_table(("shape",), [("[n, 17]",)])
    printed = capfd.readouterr().out
    assert "[n, 3]" in printed
    assert "[n, 17]" in printed


def test_a_narrow_terminal_cuts_no_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output.print_table(("rollout", "phase", "why"), [("fraud-v1-1", "awaiting_approval", "a" * 60)])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("a") == sum(w.count("a") for w in ("fraud-v1-1", "awaiting_approval")) + 61


def test_help_leads_to_the_settings_and_they_are_those_of_the_document() -> None:
    help_text = " ".join(CliRunner().invoke(command_line.app, ["--help"]).output.split())
    assert "`mlplatform settings`" in help_text
    assert "docs/settings.md" in help_text

    listed = json.loads(CliRunner().invoke(command_line.app, ["settings", "--json"]).output)
    document = (Path(__file__).parents[3] / "docs" / "settings.md").read_text()
    rows = [line for line in document.splitlines() if line.startswith("| `MLPLATFORM_")]
    assert len(listed) == len(rows) > 40
    for one, row in zip(listed, rows, strict=True):
        cells = [one["variable"], one["takes"], one["default"], one["meaning"]]
        assert row == f"| `{cells[0]}` | {' | '.join(cells[1:])} | {', '.join(one['read_by'])} |"
