"""Commands about outcomes that come in files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlplatform.commands.history import first_refusal, show_check
from mlplatform.commands.terminal.arguments import Model, column_names
from mlplatform.commands.terminal.exit_codes import USAGE
from mlplatform.commands.terminal.output import AsJson, print_fields, print_json, progress
from mlplatform.learning.training_sets.label_files import (
    AT_IMPORT,
    examine_labels,
)
from mlplatform.operations import wiring
from mlplatform.operations.labels import label_import as job
from mlplatform.runtime.errors import InputInvalid, PlatformError

app = typer.Typer(help="Outcomes of requests, from files.", no_args_is_help=True)


@app.command("import")
def import_labels(
    model: Model,
    path: Annotated[Path, typer.Argument(help="A Parquet or CSV file.")],
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=COLUMN",
            help="Which column of the file is request_id, label or label_time.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The label of every row, where the file has no column of labels."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Show ten rows as they would be and every refusal; import none.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Record the labels of a file, of requests of the history and of decisions.

    All rows are checked before one is recorded, and a row that was recorded before changes nothing:
    a file may be imported again, also after a kill.

    Example: mlplatform labels import fraud outcomes.csv --map request_id=REF --label 1
    """
    platform = wiring.opened_platform()
    now_ms = platform.clock.event_ms() if platform.settings.clock == "system" else None
    with progress("reading and checking"):
        found = examine_labels(
            path,
            definition=platform.definition(model),
            now_ms=now_ms,
            columns=column_names(map_),
            label=label,
        )
    if found.refusals and not dry_run:
        raise first_refusal(found)
    refusals: list[PlatformError] = list(found.refusals)
    if dry_run:
        if not refusals:
            try:
                job.check_known(platform, model, found.table, path.name)
            except InputInvalid as error:
                refusals.append(error)
        assumed = {} if "label_time" in found.names else {"label_time": AT_IMPORT}
        show_check(found, refusals, assumed, None, json)
        raise typer.Exit(USAGE if refusals else 0)
    with progress("recording"):
        done = job.import_labels(platform, model, found.table, path.name)
    facts = {"model": model, **asdict(done)}
    if json:
        print_json(facts)
    else:
        print_fields(facts)
