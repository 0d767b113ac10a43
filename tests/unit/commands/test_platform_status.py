"""Commands about a home in which nothing runs: they name no address of somebody else's."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring
from mlplatform.operations.supervisor.status import PlatformStatus, ProcessStatus
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Busy, ConfigInvalid, Refused
from support.earlier_state import become_newer
from support.other_platform import platform_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    wiring.settings.cache_clear()
    yield tmp_path / "home"
    wiring.settings.cache_clear()


def test_where_nothing_runs_the_way_to_start_is_told_instead_of_addresses(home: Path) -> None:
    Home(home).create()
    result = CliRunner().invoke(commands.app, ["status"])
    assert result.exit_code == 3
    assert f"`mlplatform up` starts the platform of {home}" in result.output
    assert "http://" not in result.output


def test_a_home_of_a_newer_release_is_refused_before_anything_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `up`, and by `doctor`; both name the database and the way out, and neither changes it."""
    made = Home(home)
    made.create()
    SqliteRollouts(made.rollouts_db).close()
    become_newer(made.rollouts_db, "rollouts")
    before = sorted(path.name for path in home.iterdir())
    monkeypatch.setattr("mlplatform.commands.platform.Supervisor", lambda *a, **k: pytest.fail("!"))
    told = "rollouts.db is at schema version"
    way = "run that release, or restore a backup from before it"
    started = CliRunner().invoke(commands.app, ["up"])
    assert isinstance(started.exception, Refused)
    assert told in str(started.exception)
    assert way in str(started.exception)
    found = json.loads(CliRunner().invoke(commands.app, ["doctor", "--json"]).stdout)
    (lacking,) = [one for one in found if one["what"] == f"home {home}"]
    assert lacking["state"] == "lacking"
    assert told in lacking["seen"]
    assert way in lacking["seen"]
    assert sorted(path.name for path in home.iterdir()) == before
    listed = CliRunner().invoke(commands.app, ["rollouts", "list"])
    assert way in str(listed.exception)


def test_where_nothing_runs_the_home_of_the_platform_on_its_ports_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `quickstart`, whose home the shell does not name."""
    other = home.parent / "other"
    with platform_of(other) as (_, port):
        monkeypatch.setenv("MLPLATFORM_GATEWAY_PORT", str(port))
        result = CliRunner().invoke(commands.app, ["status"])
    assert result.exit_code == 3
    assert f"a platform runs in {other}: export MLPLATFORM_HOME={other}" in result.output


@pytest.mark.parametrize(
    ("state", "healthy"), [("stopped", False), ("starting", False), ("ready", True)]
)
def test_only_what_is_ready_is_healthy(
    home: Path, monkeypatch: pytest.MonkeyPatch, state: str, healthy: bool
) -> None:
    """A script that reads `healthy` alone is not misled."""
    found = PlatformStatus(state, ())
    monkeypatch.setattr("mlplatform.commands.platform.processes", lambda home: found)
    told = json.loads(CliRunner().invoke(commands.app, ["status", "--json"]).stdout)
    assert (told["state"], told["healthy"]) == (state, healthy)


def test_the_title_names_what_is_not_ready(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefect = ProcessStatus("prefect", 1, "not ready", "no answer", 0, 80.0, 5.0, 5200)
    found = PlatformStatus("ready", (prefect,))
    monkeypatch.setattr("mlplatform.commands.platform.processes", lambda home: found)
    result = CliRunner().invoke(commands.app, ["status"])
    assert "ready to answer, but prefect is not, 80 MB" in result.output
    assert result.exit_code == 1
    told = json.loads(CliRunner().invoke(commands.app, ["status", "--json"]).stdout)
    assert (told["state"], told["healthy"]) == ("ready", False)


def test_a_home_that_is_not_made_may_be_another_than_meant(home: Path) -> None:
    result = CliRunner().invoke(commands.app, ["status"])
    assert result.exit_code == 3
    assert result.output == (
        f"stopped\nno platform in {home}: `mlplatform up` makes it; if it is elsewhere, set"
        " MLPLATFORM_HOME to the platform's home folder\n"
    )


def test_a_file_is_no_home(home: Path) -> None:
    home.write_text("not a folder")
    result = CliRunner().invoke(commands.app, ["status"])
    told = f"MLPLATFORM_HOME is '{home}'; wanted: the folder of a platform; this is a file"
    assert (result.exit_code, result.output) == (3, f"stopped\n{told}\n")
    refused = CliRunner().invoke(commands.app, ["rollouts", "list"])
    assert isinstance(refused.exception, ConfigInvalid)
    assert str(refused.exception) == told


def test_a_start_that_finds_its_port_taken_makes_no_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MLPLATFORM_PAGE_PORT", str(taken.getsockname()[1]))
        result = CliRunner().invoke(commands.app, ["up"])
    assert isinstance(result.exception, Busy)
    assert not home.exists()
