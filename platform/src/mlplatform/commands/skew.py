"""`mlplatform skew`: whether decisions read the features that they should have."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from mlplatform.commands.terminal.arguments import Model, moment
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    AsJson,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.learning.skew.comparison import MOST_SAMPLED, SAMPLE
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.operations import wiring
from mlplatform.operations.actions import skew as job
from mlplatform.operations.actions.training import milliseconds
from mlplatform.runtime.times import second_text


def add_to(app: typer.Typer) -> None:
    app.command()(skew)


def skew(
    model: Model,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=moment, help="Check decisions since this event time (UTC); keep no result."
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=366, help="Check decisions of the last days; keep no result."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, max=MOST_SAMPLED, help="The most decisions to check.")
    ] = SAMPLE,
    json: AsJson = False,
) -> None:
    """Compute the features of a sample of decisions again from raw records; show what differs.

    Without --since and --days, the sample is of the decisions since the last pass, the first time
    of the last week. Exit code 1: a feature is skewed.

    Example: mlplatform skew fraud --days 3 --sample 5000
    """
    platform = wiring.existing_platform()
    with progress("counting again"):
        if since is None and days is None:
            report = job.check(platform, model, size=sample)
        else:
            report = job.check_period(
                platform,
                model,
                since_ms=milliseconds(since),
                days=days or job.FIRST_DAYS,
                size=sample,
            )
    if json:
        print_json(msgspec.to_builtins(report) | {"words": report.summary})
    else:
        _print(report)
    raise typer.Exit(FAILED if report.skewed else 0)


def _print(report: SkewReport) -> None:
    columns = ("feature", "verdict", "equal", "late", "missing", "different", "likely cause")
    rows = [
        (f.name, f.verdict, f.equal, f.late, f.missing, f.different, f.cause or "")
        for f in report.features
    ]
    print_table(columns, rows, prose="likely cause")
    examples = [*_examples(report)]
    if examples:
        print_table(
            ("feature", "decision", "event time", "served", "expected", "at position"), examples
        )
    if report.unreadable:
        print_line(
            f"{report.unreadable:,} records were not read: their payload is erased, or not as"
            " model.yaml declares it now"
        )
    counted = f"{report.sampled:,} of {report.population:,} decisions were counted again"
    print_line(f"{report.summary}; {counted}")


def _examples(report: SkewReport) -> Iterator[tuple[str, ...]]:
    for one in report.skewed:
        for example in one.examples:
            at = example.position
            yield (
                one.name,
                example.decision_id,
                second_text(example.event_ms),
                _value(example.served),
                _value(example.expected),
                "" if at is None else " ".join(f"{w}:{n}" for w, n in sorted(at.items())),
            )


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"
