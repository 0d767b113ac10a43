"""`mlplatform rollouts replay`: the verdicts of a rollout, computed again."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import typer

from mlplatform.commands.arguments import RolloutId
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    AsJson,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.operations import wiring
from mlplatform.operations.actions import verdicts as job
from mlplatform.rollouts.passes.replay import ReplayedVerdict


def add_to(app: typer.Typer) -> None:
    app.command()(replay)


def replay(rollout_id: RolloutId, json: AsJson = False) -> None:
    """Compute every verdict of a rollout again, from the log and the evidence in the journal.

    Later records, voids and labels change nothing. A changed record, label, byte or evidence is
    named, and so is a policy that has changed since. Exits 1 where a verdict is not as it was.

    Example: mlplatform rollouts replay fraud-v2-1
    """
    with progress("counting the log again"):
        found = list(job.replay(wiring.platform(), rollout_id))
    if json:
        print_json([dataclasses.asdict(verdict) for verdict in found])
    else:
        _print(found)
    if any(verdict.differences for verdict in found):
        raise typer.Exit(FAILED)


def _print(found: list[ReplayedVerdict]) -> None:
    if not found:
        print_line("no transition of this rollout followed from a verdict yet")
        return
    rows = [
        (
            f"{datetime.fromtimestamp(verdict.wall_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}",
            verdict.transition,
            verdict.recorded,
            verdict.again or "none",
            "no" if verdict.differences else "yes",
            "; ".join((*verdict.differences, *verdict.notes)),
        )
        for verdict in found
    ]
    columns = ("at (UTC)", "transition", "verdict", "again", "the same", "what differs")
    print_table(columns, rows, prose="what differs")
