"""The command that scores many rows: a table from anywhere, or past days of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mlplatform.commands.runs import follow
from mlplatform.commands.terminal.arguments import Model, column_names
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import ERR, AsJson, print_json, print_markdown
from mlplatform.operations import wiring
from mlplatform.operations.tables.plan import PARTITION_ROWS, Partition
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

PASSWORDS = "passwords by PGPASSFILE, keys by AWS's variables"


def batch(
    model: Model,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="PLACE",
            help="A Parquet or CSV file, a folder of them, s3://bucket/prefix or "
            f"postgresql://user@host/database?table=NAME ({PASSWORDS}).",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A folder or s3://bucket/prefix. With the same one, unfinished work continues.",
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=COLUMN",
            help="The column that holds NAME: request_id, event_time (if missing: now) or a field.",
        ),
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Score past days instead: the first day (UTC)."),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day; default: the first."),
    ] = None,
    version: Annotated[int | None, typer.Option(help="Default: the champion.")] = None,
    partition_rows: Annotated[
        int, typer.Option(help="Rows that are read, scored and kept together.")
    ] = PARTITION_ROWS,
    json: AsJson = False,
) -> None:
    """Score a table: one row out for each row in, with decision, score and reasons.

    It runs on this machine; after a stop, the same command continues where it was. A row that is no
    valid request gets an error in its own row, and the command then exits with 1. With --first, a
    flow run scores the requests of past days again.

    Example: mlplatform batch fraud --input payments.parquet --output scores --map amount=TX_AMOUNT
    """
    if first is not None and input_ is None and output is None and not map_:
        days = {"first": first.date().isoformat(), "last": (last or first).date().isoformat()}
        follow("batch", {"model": model, **days, "version": version}, json)
        return
    for key, day in (("--first", first), ("--last", last)):
        if day is not None:
            wanted = "--input and --output without days, or only --first and --last"
            raise ConfigInvalid(key, day.date().isoformat(), wanted)
    source, target = _named_places(input_, output)
    platform = wiring.existing_platform()
    _check_is_there(source)
    from mlplatform.operations.tables.batch import TableBatch, page, score_table  # ONNX Runtime

    batch = TableBatch(model, source, target, version, column_names(map_), partition_rows)
    with _progress() as report:
        manifest = score_table(platform, batch, report)
    if json:
        print_json(manifest)
    else:
        print_markdown(page(manifest, target))
    raise typer.Exit(FAILED if manifest["output"]["errors"] else 0)


def _named_places(input_: str | None, output: str | None) -> tuple[str, str]:
    """Where to read and where to write, which both have to be named."""
    if input_ is None or output is None:
        options = {"--input": input_, "--output": output}
        lacking = " and ".join(name for name, value in options.items() if value is None)
        raise ConfigInvalid(lacking, None, "--input and --output, or only --first: a past day")
    return input_, output


def _check_is_there(source: str) -> None:
    if "://" not in source and not Path(source).exists():
        wanted = (
            "a Parquet or CSV file, a folder of them, or an address (`mlplatform batch --help`)"
        )
        raise ConfigUnusable("--input", f"there is nothing at {source!r}", wanted)


@contextmanager
def _progress() -> Iterator[Callable[[Partition], None]]:
    """A status line on standard error with the numbers of scored and wrong rows."""
    rows = errors = 0
    with ERR.status("reading and checking") as status:

        def report(one: Partition) -> None:
            nonlocal rows, errors
            rows, errors = rows + one.rows, errors + one.errors
            status.update(f"{rows:,} rows, {errors:,} with an error")

        try:
            yield report
        except KeyboardInterrupt:
            ERR.print(f"stopped after {rows:,} rows; the same command goes on from there")
            raise
