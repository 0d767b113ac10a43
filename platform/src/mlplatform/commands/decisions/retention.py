"""`mlplatform log retention`: the number of days for which models keep payloads, and what is
due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from mlplatform.commands.terminal.arguments import OfModel
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    AsJson,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.decisions.log import retention_acts
from mlplatform.model.folders import model_names
from mlplatform.operations import wiring
from mlplatform.operations.actions import retention as job
from mlplatform.operations.actions.retention import ModelRetention
from mlplatform.runtime.times import minute_text

_COLUMNS = ("model", "days", "oldest payload", "removed now", "due, removed later", "next is due")


def retention(
    model: OfModel = None,
    dry_run: Annotated[
        bool, typer.Option(help="Show what today's model.yaml would remove; remove nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Remove payloads that are older than their model keeps them, as passes do once a day.

    A payload is request, features and reasons. model.yaml says for how many days of event time it
    is kept (`retention.payload_days`); without this setting it is kept for ever. Payloads of a
    sealed file are removed once all of the model in it are due, and one pass covers at most 31 days
    of event time. What is removed is put on record first. Only a backup can bring a payload back.
    """
    platform = wiring.existing_platform()
    folder = platform.settings.home.decisions
    _ = platform.log  # first: without a log there is nothing to look for
    models = sorted(model_names()) if model is None else [model]
    with progress("looking for payloads that are due"):
        act = job.preview if dry_run else job.expire
        found = [act(platform, name) for name in models]
    is_done = True
    if not dry_run:
        with progress("taking payloads out of the log"):
            is_done = retention_acts.carry_out(folder)
    if json:
        report = {"models": [_values(one) for one in found], "dry_run": dry_run, "is_done": is_done}
        print_json(report)
    else:
        _print(found, dry_run=dry_run, is_done=is_done)
    raise typer.Exit(0 if is_done else FAILED)


def _values(one: ModelRetention) -> dict[str, Any]:
    due = {} if one.due is None else asdict(one.due)
    due.pop("ranges", None)
    return {"model": one.model, "payload_days": one.payload_days, **due}


def _print(found: Sequence[ModelRetention], *, dry_run: bool, is_done: bool) -> None:
    print_table(_COLUMNS, [_row(one) for one in found])
    resting = [one.due.rests_until_ms for one in found if one.due and one.due.rests_until_ms]
    if resting and any(one.due and one.due.later for one in found):
        print_line(
            f"One pass a day removes them; the next begins after {minute_text(min(resting))}."
        )
    if dry_run:
        print_line("Nothing was removed.")
    elif not is_done:
        print_line("A reader holds the log, or a file is damaged: the next seal removes the rest.")


def _row(one: ModelRetention) -> tuple[str, ...]:
    if one.payload_days is None:
        return (one.model, "for ever", "", "", "", "")
    if one.due is None:
        return (one.model, str(one.payload_days), "none", "0", "0", "")
    due = one.due
    numbers = (f"{due.payloads:,}", f"{due.later:,}")
    return (one.model, str(one.payload_days), _time(due.oldest_ms), *numbers, _time(due.next_ms))


def _time(ms: int | None) -> str:
    return "none" if ms is None else minute_text(ms)
