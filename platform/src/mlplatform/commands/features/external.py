"""Commands about features that the bank already has."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
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
from mlplatform.learning.features.external.files import TableSource
from mlplatform.learning.features.external.snapshot_rows import SnapshotRows
from mlplatform.learning.features.pushes.gaps import StreamGap
from mlplatform.operations import wiring
from mlplatform.operations.actions import features as job
from mlplatform.operations.tables.imported_tables import TableRequest, table_source
from mlplatform.operations.tables.locations import input_of
from mlplatform.runtime.times import second_text

app = typer.Typer(
    help="Definitions of features, and what the bank already has.", no_args_is_help=True
)

SHOWN: Final = 20
"""Most losses of a view that are shown, the latest ones."""
SUMMARY: Final = ("view", "topic", "messages dropped unread, at most", "losses", "last found")
LOSSES: Final = (
    "view", "partition", "first offset", "last offset", "published since", "found",
)  # fmt: skip
View = Annotated[str, typer.Argument(help="An external view of the model's features.py.")]


@app.command("import")
def import_table(
    model: Model,
    view: View,
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|URL",
            help="A Parquet or CSV file, a folder of them, the folder of a Delta or Iceberg table, "
            "s3://bucket/prefix of one, or postgresql://user@host/database?table=NAME.",
        ),
    ],
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The version of a Delta table, or the id of an Iceberg table's snapshot; left "
            "out, the newest.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Check all of it and show what would be new; import nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check a table's files, and import all of them or none. Training and gateways read the rows.

    Rows that were imported before change nothing. A correction has a later availability time.

    Files from elsewhere are copied into the home folder first; the copy is removed afterwards.

    Of a Delta or Iceberg table only files that no import has read before are read (`make delta`
    installs the library for the first).

    Example: mlplatform features import fraud customer_master master.parquet --dry-run
    """
    if dry_run and "://" not in source:
        nothing_made = wiring.Platform(wiring.settings(), creates=False)
        facts, unread = _import(nothing_made, model, view, source, version, dry_run=True)
    else:
        with wiring.first_platform() as platform:
            facts, unread = _import(platform, model, view, source, version, dry_run=dry_run)
    if json:
        print_json({**facts, "dry run": dry_run, "not read": unread})
        return
    print_fields(facts)
    if unread:
        print_line(f"not read: {', '.join(unread)}")
    if dry_run:
        print_line("an import would take these in; nothing was taken in now")


def _import(
    platform: wiring.Platform,
    model: str,
    view: str,
    source: str,
    version: int | None,
    *,
    dry_run: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Import a table, or only check it; returns what to show, and the columns that are not read."""
    columns = job.external_columns(platform, model, view)
    request = TableRequest(
        source=input_of(source, "PATH"),
        version=version,
        columns=columns,
        parts=platform.offline(model).external(view),
        staging=platform.settings.home.staging,
    )
    with (
        ERR.status("reading and checking") as status,
        table_source(request, status.update) as table,
    ):
        unread = table.unread(columns)
        done = job.import_external(
            platform, model, view, table, dry_run=dry_run, progress=status.update
        )
    facts = {"model": model, "view": view, **_read(table), "rows": done.rows, "new": done.new}
    if not dry_run:
        facts |= {"entities served": done.entities, "files finished": done.resumed}
    return facts, unread


def _read(table: TableSource) -> dict[str, int]:
    """The number of a Delta or Iceberg table's snapshot, and how many of its files were read; empty
    for others."""
    if not isinstance(table, SnapshotRows):
        return {}
    found = table.snapshot
    return {**found.words.facts, "files": len(found.files), "files read": len(table.files)}


@app.command()
def schema(model: Model, view: View, json: AsJson = False) -> None:
    """Show the columns that an external view's files have.

    Example: mlplatform features schema fraud customer_master
    """
    columns = job.external_columns(wiring.Platform(wiring.settings(), creates=False), model, view)
    rows = list(columns.described.items())
    if json:
        print_json([{"name": name, "types": types, "meaning": m} for name, (types, m) in rows])
        return
    cells = [(name, " or ".join(types), meaning) for name, (types, meaning) in rows]
    print_table(("name", "types", "meaning"), cells, prose="meaning")


@app.command()
def status(model: Model, json: AsJson = False) -> None:
    """Show the topics that feed a model's views, and what they dropped before the worker read it.

    A topic drops messages when its retention is over, or when somebody deletes records: requests
    and training then lack their values.

    Example: mlplatform features status fraud
    """
    found = job.streams(wiring.existing_platform(), model)
    if json:
        print_json([_as_json(one) for one in found])
        return
    print_table(SUMMARY, [_summary(one) for one in found])
    rows = [_loss(one.view, gap) for one in found for gap in one.gaps[-SHOWN:]]
    if rows:
        print_table(LOSSES, rows)


def _as_json(one: job.StreamStatus) -> dict[str, object]:
    dropped = [msgspec.to_builtins(gap) | {"messages": gap.most_messages} for gap in one.gaps]
    return {"view": one.view, "topic": one.topic, "dropped": dropped}


def _summary(one: job.StreamStatus) -> tuple[object, ...]:
    messages = sum(gap.most_messages for gap in one.gaps)
    last_ms = max((gap.found_ms for gap in one.gaps), default=None)
    return one.view, one.topic, f"{messages:,}", len(one.gaps), _moment(last_ms)


def _loss(view: str, gap: StreamGap) -> tuple[object, ...]:
    since, found = _moment(gap.since_ms), _moment(gap.found_ms)
    return view, gap.partition, gap.first_offset, gap.last_offset, since, found


def _moment(at_ms: int | None) -> str:
    """The moment in UTC; empty if it is not known."""
    return "" if at_ms is None else second_text(at_ms)


@app.command("take-over")
def take_over(json: AsJson = False) -> None:
    """Claim the tables of external views for this home, if another home held them.

    Use it only if that home is lost. Rows that it imported, and that are in no backup restored
    here, are served but never used for training: import their tables again. If the other home comes
    back, it is refused.

    Example: mlplatform features take-over
    """
    with wiring.first_platform() as platform:
        stores = platform.hold_tables(over=True)
    if json:
        print_json({"stores": stores})
    else:
        at = ", ".join(stores)
        print_line(
            f"this home has taken over the tables at {at}"
            if stores
            else "this home had all the tables already: nothing was taken over"
        )
