"""The command that renders a folder's features.py, for processes that know no Feast."""

from __future__ import annotations

import importlib.util
import os
from typing import Final

import typer

from mlplatform.commands.terminal.arguments import Model
from mlplatform.commands.terminal.output import (
    AsJson,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.learning.training.packages import import_problems
from mlplatform.model.features.views import FILE, SOURCE, FeatureView, load_views
from mlplatform.model.folders import model_folder
from mlplatform.runtime.configuration.model_roots import VARIABLE
from mlplatform.runtime.errors import InputInvalid, NotFound, Unavailable
from mlplatform.runtime.processes.folder_python import run_error

COLUMNS: Final = ("view", "entity", "comes from", "features")


def add_to(app: typer.Typer) -> None:
    app.command()(render)


def render(model: Model, json: AsJson = False) -> None:
    """Write features.json from a model's features.py. All processes read it instead of Feast.

    Feast and the folder's Python run in a process of their own.

    Example: mlplatform features render fraud
    """
    folder = model_folder(model)
    if not (folder / SOURCE).is_file():
        raise NotFound(f"{folder} has no {SOURCE}; docs/features.md says how to declare a view")
    with import_problems(f"{SOURCE}: import"):
        if importlib.util.find_spec("feast") is None:
            raise ModuleNotFoundError(name="feast")
    with progress(f"reading {SOURCE}"):
        _write(model)
    views = load_views(folder)
    if json:
        print_json({"file": str(folder / FILE), "views": [view.name for view in views]})
        return
    print_table(COLUMNS, [_shown(view) for view in views], prose="features")
    print_line(f"wrote {folder / FILE}; next: mlplatform check-model {folder}")


def _write(model: str) -> None:
    """Raises InputInvalid with the last lines of what Feast or the folder's Python printed."""
    named = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else None
    try:
        failed = run_error("-m", "mlplatform.learning.features.feast_repo", model, settings=named)
    except TimeoutError as error:
        raise Unavailable(f"{SOURCE}: its import {error}") from error
    if failed is not None:
        raise InputInvalid(SOURCE, None, failed)


def _shown(view: FeatureView) -> tuple[str, str, str, str]:
    source = "requests, each midnight"
    if view.external is not None:
        topic = view.external.topic
        source = "a table" if topic is None else f"a table and topic {topic}"
    return view.name, view.entity, source, ", ".join(view.feature_names)
