"""The commands about features that the bank already has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlplatform.commands.terminal.arguments import Model
from mlplatform.commands.terminal.output import (
    ERR,
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_table,
)
from mlplatform.learning.features.external.files import files_at, unread_columns
from mlplatform.operations import wiring
from mlplatform.operations.actions import features as job

app = typer.Typer(help="Features that the bank already has.", no_args_is_help=True)

View = Annotated[str, typer.Argument(help="An external view of the model's features.py.")]


@app.command("import")
def import_table(
    model: Model,
    view: View,
    path: Annotated[
        Path, typer.Argument(help="A Parquet or CSV file, or a folder of them, read by name.")
    ],
    dry_run: Annotated[
        bool, typer.Option(help="Check all of it and say what would be new; take in nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check a table's files, and take them in whole or not at all: training and gateways read them.

    Rows that are there already change nothing. A correction has a later availability time.

    Example: mlplatform features import fraud customer_master master.parquet --dry-run
    """
    platform = wiring.Platform(wiring.settings()) if dry_run else wiring.platform()
    columns = job.external_columns(platform, model, view)
    unread = unread_columns(columns, files_at(path))
    with ERR.status("reading and checking") as status:
        done = job.import_external(
            platform, model, view, path, dry_run=dry_run, progress=status.update
        )
    facts = {"model": model, "view": view, "rows": done.rows, "new": done.new}
    if not dry_run:
        facts |= {"entities served": done.entities, "files finished": done.resumed}
    if json:
        print_json({**facts, "dry run": dry_run, "not read": unread})
        return
    print_fields(facts)
    if unread:
        print_line(f"not read: {', '.join(unread)}")
    if dry_run:
        print_line("an import would take these in; nothing was taken in now")


@app.command()
def schema(model: Model, view: View, json: AsJson = False) -> None:
    """The columns that an external view's files have.

    Example: mlplatform features schema fraud customer_master
    """
    columns = job.external_columns(wiring.Platform(wiring.settings()), model, view)
    rows = list(columns.described.items())
    if json:
        print_json([{"name": name, "types": types, "meaning": m} for name, (types, m) in rows])
        return
    cells = [(name, " or ".join(types), meaning) for name, (types, meaning) in rows]
    print_table(("name", "types", "meaning"), cells, prose="meaning")
