"""Commands about requests from before the decision log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from mlplatform.commands.terminal.arguments import Model, column_names
from mlplatform.commands.terminal.exit_codes import USAGE
from mlplatform.commands.terminal.output import (
    ERR,
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.learning.features.columns import ExpectedColumn, FileCheck
from mlplatform.learning.features.history_files import columns_of, examine_history
from mlplatform.learning.features.input_files import refuse_tables
from mlplatform.model.definition import EVENT_TIME
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import is_ready, load_definition, model_folder
from mlplatform.model.folds import history_days
from mlplatform.operations import wiring
from mlplatform.operations.actions import features as job
from mlplatform.runtime.errors import InputInvalid, PlatformError, Refused
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

SHOWN_ROWS = 10
SHOWN_REFUSALS = 100
SHOWN_ALIKE = 3
"""Most refusals of one kind that are shown, each with another value."""
MORE_DAYS = 14
NEXT = "next: mlplatform retrain {model}{as_of} --actor NAME --reason WHY --rollout"
NEXT_OF_READY = "next: mlplatform validate {model} --actor NAME"
"""Of a ready ONNX file, which is judged by the history and not fitted to it."""
FIT_REFUSED = "a fit to this history would be refused"
SHORT = "this history is short: {why}"
AT_ONCE = "Later imports can add later rows, but no earlier ones: bring all days at once"
ENDED_EARLY = (
    "the history ends before today: its last labels have matured by {day}. Train as of that day,"
    " because a version is judged by the days just before it, and later ones have no requests"
)

CONVERT = (
    "docs/history.md shows how to convert times and numbers of another format, and how to join"
    " labels that are in another file"
)

app = typer.Typer(help="Requests from before there was a decision log.", no_args_is_help=True)


def _reader(model: str) -> tuple[Sequence[ExpectedColumn], Callable[..., FileCheck]]:
    """The columns of a model's history, and the function that reads them: the model's own, or the
    platform's."""
    if (model_folder(model) / "sources.py").is_file():
        sources = load_module(model, "sources")
        return sources.COLUMNS, sources.examine_transactions
    definition = load_definition(model)
    return columns_of(definition), partial(examine_history, definition=definition)


@app.command("import")
def import_history(
    model: Model,
    path: Annotated[
        Path, typer.Argument(help="A Parquet or CSV file, or a folder of them, read by name.")
    ],
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=COLUMN",
            help="Which column of the file is which; `mlplatform history schema` lists the names.",
        ),
    ] = None,
    from_: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=["%Y-%m-%d"], help="Leave out the rows of the days before (UTC)."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Show ten rows as they would be and every refusal; import none.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check the files, import all of them or none, and snapshot the features of their days.

    Later imports add what follows the last one, until the first request is answered.

    Example: mlplatform history import fraud payments.csv --map amount=TX_AMOUNT --dry-run
    """
    refuse_tables(path)
    wanted, examine = _reader(model)
    platform = wiring.Platform(wiring.settings(), creates=False)
    now_ms = platform.clock.event_ms() if platform.settings.clock == "system" else None
    with progress("reading and checking"):
        found = examine(path, now_ms=now_ms, columns=column_names(map_))
    if from_ is not None and not found.refusals:
        found = _since(found, from_, path.name)
    if dry_run:
        refusals = found.refusals or _unaddable(platform, model, found.table, path.name)
        fit = None if refusals else _fit_if_in(platform, model, found.table)
        show_check(found, refusals, _assumed(wanted, found), fit, json)
        raise typer.Exit(USAGE if refusals else 0)
    if found.refusals:
        raise first_refusal(found)
    with progress("taking in"), wiring.first_platform() as platform:
        rows = job.import_history(platform, model, found.table, path.name)
    fit = job.first_fit(platform, model, found.table, platform.clock.event_ms(), is_in=True)
    facts = {"model": model, "rows": rows, "left_out": found.left_out, **_span(found.table)}
    if json:
        print_json({**facts, "lacks": fit.problem, "short": fit.short})
        return
    print_fields(facts)
    _show_left_out(found, _assumed(wanted, found))
    _show_next(model, fit)


@app.command()
def generate(
    model: Model,
    seed: Annotated[int, typer.Option(help="The seed of the draw.")] = 1,
    days: Annotated[
        int | None,
        typer.Option(
            min=1, max=3660, help="Days of requests. Default: what training needs, and 14 more."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Import generated requests of the last days, for people who have no history of their own.

    The model's folder makes them: `generate` in its sources.py.

    Example: mlplatform history generate fraud --seed 7 --days 40
    """
    definition, folder = load_definition(model), model_folder(model)
    sources = load_module(model, "sources") if (folder / "sources.py").is_file() else None
    if sources is None:
        ways = "write one with `generate`, or import files (docs/history.md)"
        raise Refused(f"{model} can't generate history: {folder} has no sources.py; {ways}")
    if not hasattr(sources, "generate"):
        raise Refused(f"{model} can't generate history: {folder}/sources.py has no `generate`")
    maturity_days = definition.label.maturity_days
    length = days or history_days(definition) - 1 + MORE_DAYS
    with progress("making up requests and taking them in"), wiring.first_platform() as platform:
        until_ms = platform.clock.event_ms() // DAY_MS * DAY_MS
        start_ms = until_ms - length * DAY_MS
        table = sources.generate(
            seed=seed, start_ms=start_ms, days=length, maturity_days=maturity_days
        )
        rows = job.import_history(platform, model, table, f"generated by seed {seed}")
    facts = {"model": model, "rows": rows, **_span(table)}
    if json:
        print_json(facts)
        return
    print_fields(facts)
    now_ms = platform.clock.event_ms()
    _show_next(model, job.first_fit(platform, model, table, now_ms, is_in=True))


@app.command()
def windows(model: Model, json: AsJson = False) -> None:
    """Rebuild the state of a model's real-time windows from its history and the decision log.

    Windows that are new in model.yaml are stale until then. Gateways may run meanwhile. A series is
    the tiles of one entity at one resolution.

    Example: mlplatform history windows fraud
    """
    with progress("adding up requests"):
        rows = job.build_windows(wiring.opened_platform(), model)
    facts = {"model": model, "windows": len(load_definition(model).windows), "series": rows}
    if json:
        print_json(facts)
    else:
        print_fields(facts)


@app.command()
def schema(model: Model, json: AsJson = False) -> None:
    """Show the columns of a model's history, and the names by which they are recognised.

    Example: mlplatform history schema fraud
    """
    wanted, _ = _reader(model)
    if json:
        print_json(
            [
                {
                    "name": one.name,
                    "types": list(one.kinds),
                    "taken as": list(one.usual),
                    "needed": one.is_needed,
                    "meaning": one.meaning,
                }
                for one in wanted
            ]
        )
        return
    rows = [
        (
            one.name,
            " or ".join(one.kinds),
            " or ".join(one.usual),
            "yes" if one.is_needed else "no",
            one.meaning,
        )
        for one in wanted
    ]
    print_table(
        ("name", "types", "taken without --map", "needed", "meaning"), rows, prose="meaning"
    )


def _since(found: FileCheck, day: datetime, source: str) -> FileCheck:
    """The rows from this midnight on.

    Raises:
        InputInvalid: there is none.
    """
    times = found.table.column(EVENT_TIME)
    table = found.table.filter(pc.greater_equal(times, pa.scalar(day, times.type)))
    if found.table.num_rows and not table.num_rows:
        last = pc.max(times).as_py().isoformat()
        raise InputInvalid(source, None, f"no row is from {day.date()} (--from) on: it ends {last}")
    return replace(found, table=table, left_out=found.table.num_rows - table.num_rows)


def _unaddable(
    platform: wiring.Platform, model: str, table: Any, source: str
) -> list[PlatformError]:
    try:
        if table.num_rows:
            job.check_addable(platform, model, table, source)
    except PlatformError as error:
        return [error]
    return [] if table.num_rows else [InputInvalid(source, None, "there is no row in it")]


def _fit_if_in(platform: wiring.Platform, model: str, table: Any) -> job.FirstFit:
    """The fit that the history would lead to once this table were in it."""
    return job.first_fit(platform, model, table, platform.clock.event_ms(), is_in=False)


def first_refusal(found: FileCheck) -> InputInvalid:
    """The first refusal, and how many more there are."""
    first, count = found.refusals[0], sum(found.refused.values())
    if count == 1:
        return first
    more = f"{count - 1} more refusals: --dry-run shows them; nothing was taken in"
    return InputInvalid(first.source, first.row, f"{first.problem} ({more})")


def _assumed(wanted: Sequence[ExpectedColumn], found: FileCheck) -> dict[str, str]:
    """Column that the files lack → what is assumed of a file without it."""
    return {one.name: one.without for one in wanted if one.without and one.name not in found.names}


def _show_left_out(found: FileCheck, assumed: Mapping[str, str]) -> None:
    if found.left_out:
        print_line(f"{found.left_out} rows are of days before --from, and left out")
    if found.unread:
        print_line(f"not read: {', '.join(found.unread)}")
    for name, without in assumed.items():
        print_line(f"no column is {name}: {without}")


def _times(table: pa.Table) -> str:
    """The first and the last time of these requests, in words; empty without any."""
    if EVENT_TIME not in table.column_names:
        return ""
    times = table.column(EVENT_TIME)
    if not pa.types.is_timestamp(times.type):
        return ""
    first, last = (getattr(pc, name)(times).as_py() for name in ("min", "max"))
    if first is None:
        return ""
    utc = "a time without an offset is read as UTC"
    return f"requests of {first.isoformat()} to {last.isoformat()} UTC; {utc}"


def show_check(
    found: FileCheck,
    refusals: Sequence[PlatformError],
    assumed: Mapping[str, str],
    fit: job.FirstFit | None,
    as_json: bool,
) -> None:
    """Print what an import of these files would do.

    Args:
        assumed: column that the files lack → what is assumed without it.
        fit: the fit that they would lead to; None if they are refused.
    """
    lacks, short = ("", "") if fit is None else (fit.problem, fit.short)
    names = found.table.column_names
    first = found.table.slice(0, SHOWN_ROWS).to_pylist()
    if as_json:
        facts = {
            "columns": dict(found.names),
            "unread": list(found.unread),
            "assumed": dict(assumed),
            "rows": found.table.num_rows,
            "left_out": found.left_out,
            "first": first,
            "refusals": [str(r) for r in refusals],
            "refused": sum(found.refused.values()) or len(refusals),
            "lacks": lacks,
            "short": short,
        }
        print_json(facts)
        return
    print_fields({name: f"is column {column}" for name, column in found.names.items()})
    _show_left_out(found, assumed)
    if rows := [[_cell(row[name]) for name in names] for row in first]:
        which = "rows that could be read" if found.refusals else "rows"
        print_table(names, rows, f"the first {len(rows)} of {found.table.num_rows} {which}")
    if times := _times(found.table):
        print_line(times)
    count = sum(found.refused.values()) or len(refusals)
    lines = _refusal_lines(refusals, found.refused)
    for line in lines[:SHOWN_REFUSALS]:
        print_line(line)
    if len(lines) > SHOWN_REFUSALS:
        print_line("and others, of which --json shows more")
    verdict = (
        f"{count} refusal{'s' * (count > 1)}: an import would take in nothing"
        if refusals
        else "an import would take all of it in; nothing was taken in now"
    )
    print_line(verdict)
    if lacks:
        print_line(f"{FIT_REFUSED}: {lacks}. {AT_ONCE}")
    elif short:
        print_line(SHORT.format(why=short))
    if found.refusals:
        print_line(CONVERT)
    elif not refusals and not lacks:
        print_line("next: the same command without --dry-run")


def _refusal_lines(
    refusals: Sequence[PlatformError], refused: Mapping[tuple[str, str], int]
) -> list[str]:
    """Lines with the first refusals of each kind, and the number of other rows with the same
    problem."""
    groups: dict[tuple[str, str], dict[str, PlatformError]] = {}
    for one in refusals:
        kind, problem = (str(one), ""), str(one)
        if isinstance(one, InputInvalid):
            kind, problem = (one.source, one.kind), one.problem
        groups.setdefault(kind, {}).setdefault(problem, one)
    lines = []
    for kind, group in groups.items():
        shown = [f"refused: {one}" for one in list(group.values())[:SHOWN_ALIKE]]
        if (more := refused.get(kind, 1) - len(shown)) > 0:
            shown[-1] += f" (and {more} more row{'s' * (more > 1)})"
        lines += shown
    return lines


def _cell(value: object) -> object:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _show_next(model: str, fit: job.FirstFit) -> None:
    if fit.problem:
        ERR.print(f"{FIT_REFUSED}: {fit.problem}", soft_wrap=True, markup=False)
        return
    if fit.short:
        ERR.print(SHORT.format(why=fit.short), soft_wrap=True, markup=False)
    if is_ready(model_folder(model)):
        ERR.print(NEXT_OF_READY.format(model=model), soft_wrap=True)
        return
    if fit.as_of_ms is None:
        ERR.print(NEXT.format(model=model, as_of=""), soft_wrap=True)
        return
    day = day_text(fit.as_of_ms)
    ERR.print(ENDED_EARLY.format(day=day), soft_wrap=True)
    ERR.print(NEXT.format(model=model, as_of=f" --as-of {day}"), soft_wrap=True)


def _span(table: Any) -> Mapping[str, str]:
    times = table.column(EVENT_TIME)
    return {"from": times[0].as_py().isoformat(), "to": times[-1].as_py().isoformat()}
