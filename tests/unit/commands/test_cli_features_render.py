"""`mlplatform features render` writes features.json, or says what is wrong and leaves it alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documented_views import with_documented_view
from tests.support.model_folders import copied
from tests.support.team_folder import team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands.authoring.check_model import problems
from mlplatform.model.features.views import load_views
from mlplatform.runtime.errors import ConfigInvalid

NAME = "credit-default"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = with_documented_view(tmp_path / "models", "teams/credit/credit-default")
    with team_folder(tmp_path / "models", tmp_path / "var"):
        yield folder


def refused() -> str:
    done = CliRunner().invoke(commands.app, ["features", "render", NAME])
    assert done.exit_code != 0
    return f"{done.output} {done.exception}"


def test_what_is_wrong_in_features_py_is_said_by_view_and_nothing_is_written(folder: Path) -> None:
    (folder / "features.json").write_text("as it was")
    text = (folder / "features.py").read_text()
    for before, after, said in (
        ("from feast import Entity,", "from feast import", "'Entity' is not defined"),
        ("ValueType.INT64", "ValueType.STRING", "int64, as request.customer_id in model.yaml"),
    ):
        (folder / "features.py").write_text(text.replace(before, after))
        assert said in refused()
    assert (folder / "features.json").read_text() == "as it was"


def test_without_feast_it_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "feast" else found(name, *more),
    )
    assert "`make feast` (requirements/feast.txt)" in refused()


def test_a_folder_without_features_py_is_told_where_views_are_explained(folder: Path) -> None:
    (folder / "features.py").unlink()
    assert "docs/features.md" in refused()


def test_a_features_py_that_changed_since_it_was_rendered_is_refused_before_training(
    tmp_path: Path,
) -> None:
    folder = copied(tmp_path / "models", "lending")
    assert not list(problems(folder))
    with (folder / "features.py").open("a") as file:
        file.write("WINDOW_DAYS = 60\n")
    (told,) = (problem for problem in problems(folder) if "features.py" in problem)
    assert told == (
        "lending/features.json: features.py has changed since it was rendered; wanted: what "
        "`mlplatform features render lending` writes (docs/features.md)"
    )
    assert load_views(folder), "what serves goes on with what was rendered"


def test_a_folder_that_nobody_rendered_names_the_command(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match="mlplatform features render credit-default"):
        load_views(folder)
