"""`operations.wiring`: settings are loaded once in a process, by its entry or by a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.operations import wiring
from mlplatform.operations.prefect_server import flow_run
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import MissingHere
from mlplatform.runtime.telemetry import flow_spans


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The homes of settings that were loaded by the wiring, in order."""
    homes: list[str] = []

    def counted(environment: dict[str, str]) -> object:
        homes.append(environment["MLPLATFORM_HOME"])
        return load(environment)

    monkeypatch.setattr("mlplatform.operations.wiring.settings_module.load", counted)
    return homes


def test_a_command_loads_its_settings_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    assert wiring.platform().settings is wiring.existing_platform().settings is wiring.settings()
    assert loads == [str(tmp_path / "home")]


def test_a_flow_has_the_settings_that_its_process_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    monkeypatch.setattr(flow_run, "lines_as_json", lambda instance, level: None)
    monkeypatch.setattr(flow_spans, "install", lambda sender: None)
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "another"))
    started_with = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    flow_run.prepare(started_with)
    assert wiring.platform().settings is started_with
    assert loads == []


def test_a_store_that_is_not_there_is_made_by_flows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    with pytest.raises(MissingHere, match=r"no platform in .*set MLPLATFORM_HOME"):
        wiring.existing_platform()
    home = wiring.settings().home
    home.create()
    platform = wiring.existing_platform()
    for store in ("rollouts", "incidents", "stream", "keys", "pushes", "log"):
        with pytest.raises(MissingHere, match=r"no .* in .*: `mlplatform up` makes it"):
            getattr(platform, store)
    assert list(tmp_path.glob("**/*.db")) == []
    wiring.platform().rollouts.close()
    assert platform.rollouts.active(None, finished=True) == []


def test_a_platform_elsewhere_needs_no_home_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLPLATFORM_MLFLOW_URL", "http://mlflow:5000")
    assert wiring.existing_platform().settings.servers.mlflow == "http://mlflow:5000"
    assert not (tmp_path / "home").exists()
