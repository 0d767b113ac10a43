"""`mlplatform models list`: all models of the installation, or the one that is named."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.model.folders import model_names
from mlplatform.model.routes import no_routes
from mlplatform.operations import wiring
from mlplatform.runtime.errors import NotFound


@pytest.fixture(autouse=True)
def _installation(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = SimpleNamespace(routes=no_routes)
    monkeypatch.setattr(wiring, "existing_platform", lambda: SimpleNamespace(rollouts=rollouts))


def listed(*words: str) -> Any:
    return CliRunner().invoke(app, ["models", "list", *words])


def test_without_a_name_every_model_is_listed() -> None:
    assert [row["model"] for row in json.loads(listed("--json").stdout)] == [*model_names()]


def test_a_name_leaves_the_others_out() -> None:
    (row,) = json.loads(listed("fraud", "--json").stdout)
    assert (row["model"], row["champion"]) == ("fraud", None)
    assert "fraud" in listed("fraud").stdout


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    refused = listed("nothing").exception
    assert isinstance(refused, NotFound)
    assert "no model 'nothing'; there are: " in str(refused)
