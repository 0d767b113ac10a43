"""The command that takes history in, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlplatform.commands.arguments import Model
from mlplatform.commands.terminal.output import AsJson, print_fields, print_json, progress
from mlplatform.learning.features.history_files import read_history
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import model_folder
from mlplatform.operations import wiring
from mlplatform.operations.actions import features as job

app = typer.Typer(help="What happened before there was a decision log.", no_args_is_help=True)


@app.command("import")
def import_history(
    model: Model,
    path: Annotated[Path, typer.Argument(help="A Parquet file, or a folder of them.")],
    json: AsJson = False,
) -> None:
    """Check the files, take them in whole or not at all, and snapshot the features of their days.

    Example: mlplatform history import fraud payments/
    """
    platform = wiring.platform()
    now_ms = platform.clock.event_ms() if platform.settings.clock == "system" else None
    with progress("reading and checking"):
        if (model_folder(model) / "sources.py").is_file():
            table = load_module(model, "sources").read_transactions(path, now_ms=now_ms)
        else:
            table = read_history(path, platform.definition(model), now_ms=now_ms)
    with progress("taking in"):
        rows = job.import_history(platform, model, table, path.name)
    facts = {"model": model, "rows": rows}
    if json:
        print_json(facts)
    else:
        print_fields(facts)
