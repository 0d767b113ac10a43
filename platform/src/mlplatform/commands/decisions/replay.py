"""Commands that decide the last days' requests with another version, and compute a rollout's
verdicts again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mlplatform.commands.terminal.arguments import Model, RolloutId
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    ERR,
    AsJson,
    print_fields,
    print_heading,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.operations import wiring
from mlplatform.operations.actions import verdicts
from mlplatform.operations.whatif import replay as whatif
from mlplatform.operations.whatif.replay import Replay
from mlplatform.operations.whatif.replay_text import fields, tables
from mlplatform.rollouts.passes.replay import ReplayedVerdict
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.times import second_text

_FOLDER = typer.Option(exists=True, file_okay=False, help="A bundle's folder, from anywhere.")
_FROM = typer.Option(
    "--from",
    help="OUTCOME=SCORE: the score (0-1), or number, at which the outcome begins; may be repeated."
    " SEGMENT.OUTCOME=SCORE: in a segment with thresholds of its own.",
)


def add_to(app: typer.Typer, rollouts: typer.Typer) -> None:
    app.command()(replay)
    rollouts.command("replay")(replay_verdicts)


def replay(
    model: Model,
    version: Annotated[int | None, typer.Option(help="A version of the registry.")] = None,
    bundle: Annotated[Path | None, _FOLDER] = None,
    against: Annotated[int | None, typer.Option(help="A version; default: the champion.")] = None,
    begins: Annotated[list[str] | None, _FROM] = None,
    days: Annotated[int, typer.Option(min=1, max=90, help="How far back, in event time.")] = 7,
    json: AsJson = False,
) -> None:
    """Decide the requests of the last days again, by two bundles, from the inputs in the log.

    The report shows which decisions differ and for whom, what labels say about both bundles, and
    what the shadow phase is expected to see. Nothing is written. Without --version and --bundle,
    the second bundle is the champion's with other thresholds (--from review=0.12).

    Example: mlplatform replay fraud --version 7 --days 7
    """
    if version is not None and bundle is not None:
        raise ConfigInvalid("--bundle", str(bundle), "--version or --bundle, not both")
    scores = _scores(begins or ())
    if version is None and bundle is None and not scores:
        wanted = f"one of these, as in `mlplatform replay {model} --version 7`"
        raise ConfigInvalid("--version, --bundle or --from", None, wanted)
    platform = wiring.existing_platform()
    reference = whatif.side_of_version(platform, model, against)
    if bundle is not None:
        candidate = whatif.side_of_folder(bundle)
    else:
        other = version if version is not None else against
        candidate = whatif.side_of_version(platform, model, other)
    candidate = whatif.with_thresholds(candidate, scores)
    with (
        closing(reference.model),
        closing(candidate.model),
        ERR.status("reading the log") as status,
    ):
        found = whatif.replay(
            platform,
            model,
            reference,
            candidate,
            days=days,
            report=lambda done: status.update(f"{done:,} requests decided again"),
        )
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        _print(found)


def _scores(written: Sequence[str]) -> dict[str, float]:
    """Outcome → score, from texts of the form OUTCOME=SCORE."""
    found = {}
    for text in written:
        name, _, score = text.partition("=")
        try:
            found[name] = float(score)
        except ValueError as error:
            raise ConfigInvalid("--from", text, "OUTCOME=SCORE, as in review=0.12") from error
    return found


def _print(found: Replay) -> None:
    print_heading(f"{found.candidate} beside {found.reference}, {found.model}")
    print_fields(fields(found))
    for table in tables(found):
        print_table(table.columns, table.rows)


def replay_verdicts(rollout_id: RolloutId, json: AsJson = False) -> None:
    """Compute every verdict of a rollout again, from the log and the evidence in the journal.

    Later records, voids and labels do not matter. The report names each record, label, byte and
    piece of evidence that was changed, and a policy that has changed since. It checks the whole log
    and the journal for that. Exit code 1: a verdict is not as it was, or log or journal are not.

    Example: mlplatform rollouts replay fraud-v2-1
    """
    platform = wiring.existing_platform()
    with progress("counting the log again"):
        found = list(verdicts.replay(platform, rollout_id))
        changes = verdicts.changes(platform, rollout_id)
    if json:
        print_json([dataclasses.asdict(each) | {"changes": changes} for each in found])
    else:
        _print_verdicts(found)
        for change in changes:
            print_line(change)
    if changes or any(verdict.differences for verdict in found):
        raise typer.Exit(FAILED)


def _print_verdicts(found: Sequence[ReplayedVerdict]) -> None:
    if not found:
        print_line("no verdict has moved this rollout to another phase yet")
        return
    rows = [
        (
            second_text(verdict.wall_ms),
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
