"""The command that runs an async worker by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mlplatform import process
from mlplatform.commands.terminal.arguments import Model
from mlplatform.model.policies.serving import MAX_BATCH
from mlplatform.operations import wiring


def add_to(app: typer.Typer) -> None:
    app.command()(worker)


def worker(
    model: Model,
    name: Annotated[
        str,
        typer.Option(
            help="A name that no other process has. A restart with it keeps its partitions."
        ),
    ] = "worker-1",
    outbox: Annotated[
        bool, typer.Option(help="Publish the decision log too; only one process of a model may.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="A file with the API key to score with, instead of the first one."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=MAX_BATCH, help="Messages in one commit.")
    ] = None,
) -> None:
    """Score a model's request topic until Ctrl-C, beside the worker that the platform runs.

    Example: mlplatform worker fraud --name worker-2
    """
    arguments = [f"--model={model}", f"--name={name}"]
    arguments += ["--outbox"] if outbox else []
    arguments += [f"--key-file={key_file}"] if key_file else []
    arguments += [f"--batch={batch}"] if batch else []
    os.environ.update(wiring.settings().environment())  # settings of the platform in this home
    process.start("worker", arguments)
