"""`mlplatform status` of a home in which nothing runs names no address of somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    wiring.settings.cache_clear()
    yield tmp_path / "home"
    wiring.settings.cache_clear()


def test_where_nothing_runs_the_way_to_start_is_told_instead_of_addresses(home: Path) -> None:
    result = CliRunner().invoke(commands.app, ["status"])
    assert result.exit_code == 3
    assert f"`mlplatform up` starts the platform of {home}" in result.output
    assert "http://" not in result.output
