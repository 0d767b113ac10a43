"""A team's folder of models, named to this process and to those that it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support import scoring_world
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Home


@contextmanager
def team_folder(models: Path, home: Path, model: str | None = None) -> Iterator[None]:
    """The models in that folder alone, over a home of their own.

    Args:
        model: of `support.scoring_world`, if the test scores by it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(models))
        patch.setenv("MLPLATFORM_HOME", str(home))
        patch.setenv("MLPLATFORM_JOB_PROCESSES", "0")
        if model is not None:
            patch.setattr(scoring_world, "MODEL", model)
        wiring.settings.cache_clear()
        wiring.platform.cache_clear()
        Home(home).create()
        yield
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()


def command(*words: str) -> str:
    """What the command line prints; it must end well."""
    done = CliRunner().invoke(commands.app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def written(root: Path, name: str, changed: Mapping[str, str], reasons: str) -> Path:
    """A folder of the template with these changes of model.yaml, and more reasons; it is checked.

    Args:
        changed: text of model.yaml → what stands in its place.
    """
    command("new-model", name, "--into", str(root))
    folder = root / name
    text = (folder / "model.yaml").read_text()
    for before, after in changed.items():
        assert before in text, before
        text = text.replace(before, after, 1)
    (folder / "model.yaml").write_text(text)
    (folder / "reasons.yaml").write_text(reasons + (folder / "reasons.yaml").read_text())
    assert "nothing is wrong" in command("check-model", str(folder))
    return folder
