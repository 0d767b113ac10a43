"""The list of rollouts says which version is the champion, and what replaced the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands.terminal import output
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import load
from support.home_world import HomeWorld


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HomeWorld:
    made = HomeWorld(tmp_path / "home")
    settings = load({"MLPLATFORM_HOME": str(made.home.root)})
    monkeypatch.setattr(wiring, "existing_platform", lambda: wiring.Platform(settings))
    monkeypatch.setattr(output, "OUT", Console(width=200, highlight=False))
    return made


def asked(*words: str) -> str:
    result = CliRunner().invoke(commands.app, ["rollouts", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_champion_is_told_from_the_version_that_it_replaced(world: HomeWorld) -> None:
    world.promote(1)
    assert "promoted, champion" in asked("list")
    world.promote(2)
    lines = asked("list", "--all").splitlines()
    (first,) = [line for line in lines if "fraud-v1-1" in line]
    (second,) = [line for line in lines if "fraud-v2-1" in line]
    assert "promoted, replaced by v2" in first
    assert "promoted, champion" in second
    assert "promoted, replaced by v2" in asked("show", "fraud-v1-1")
    states = json.loads(asked("list", "--all", "--json"))
    assert {state["phase"] for state in states} == {"promoted"}
