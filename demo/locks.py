"""The libraries with a lock of their own that a team's model is fitted with.

`python -m demo.locks MODEL` prints what `make demo` installs for that model.
"""

from __future__ import annotations

import importlib
import sys

from demo.team import name_folder
from mlplatform.learning.training.packages import LOCKS, import_problems, libraries
from mlplatform.model.folders import model_folder, model_names


def check_libraries(model: str) -> None:
    """Imports them, so that a demo does not end where its model is to be fitted.

    Raises:
        ConfigInvalid: one is not installed; the message names the command that installs it.
    """
    for package in _libraries(model):
        with import_problems():
            importlib.import_module(package)


def make_targets(model: str) -> list[str]:
    """The targets of `make` that install them."""
    return [f".venv/.{LOCKS[package]}" for package in _libraries(model)]


def _libraries(model: str) -> list[str]:
    # where there is no such model, the demo says which there are
    return libraries(model_folder(model)) if model in model_names() else []


if __name__ == "__main__":
    name_folder(sys.argv[1])
    print(*make_targets(sys.argv[1]))
