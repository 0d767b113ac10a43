"""The command that shows what the platform's surfaces refused."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from mlplatform.commands.terminal.output import AsJson, print_json, print_table
from mlplatform.operations import wiring
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.times import second_text
from mlplatform.runtime.units import DAY_MS

MOST_DAYS = 366


def add_to(app: typer.Typer) -> None:
    app.command()(refusals)


def refusals(
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="How far back.")] = 1,
    json: AsJson = False,
) -> None:
    """List refused requests: the surface, who asked, for what, and the rule. The newest is last.

    Example: mlplatform refusals --days 7
    """
    since_ms = SystemClock().wall_ms() - days * DAY_MS
    found = list(wiring.existing_platform().refusals.since(since_ms))
    if json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [(second_text(r.wall_ms), r.door, r.who, r.asked, r.why) for r in found]
    print_table(("when (UTC)", "surface", "who", "asked", "why"), rows, prose="why")
