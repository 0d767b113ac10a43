"""Commands of analysts: list decisions that wait for review, and record how one turned out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mlplatform.commands.terminal.arguments import KeyFile, LoggedReason, Model, analyst_name
from mlplatform.commands.terminal.output import AsJson, print_json, print_line
from mlplatform.commands.terminal.secrets import secret_of
from mlplatform.operations import wiring
from mlplatform.operations.actions import review as job
from mlplatform.operations.actions.review import ReviewResult
from mlplatform.operations.review.opinions import PendingCorrection, outcome_of, outcome_text
from mlplatform.operations.review.queue import QueuedDecision
from mlplatform.runtime.times import utc_minute_text

MOST_ROWS = 1_000

app = typer.Typer(
    help="Decisions that wait for a person: list them, record how they turned out.",
    no_args_is_help=True,
)

Analyst = Annotated[
    str, typer.Option("--analyst", callback=analyst_name, help="Your name, as your key has it.")
]


@app.command("list")
def list_waiting(
    model: Model,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, help="The most decisions to show.")
    ] = 50,
    json: AsJson = False,
) -> None:
    """List decisions that wait for review, the oldest first (`label.review` in model.yaml).

    The command first reads what is new in the log, for ten seconds at most.

    Example: mlplatform review list fraud --limit 20
    """
    platform = wiring.existing_platform()
    job.advance(platform, model)
    found = job.review_queue(platform, model, limit)
    if json:
        rows = [_as_values(row) for row in found.rows]
        print_json({"total": found.total, "complete": found.complete, "decisions": rows})
        return
    label = platform.definition(model).label.name
    for row in found.rows:
        for line in _lines(row, label):
            print_line(line)
    more = "" if found.complete else "; the log is not read to its end yet: ask again"
    print_line(f"{len(found.rows)} of {found.total} that wait{more}")


@app.command("corrections")
def list_corrections(
    model: Model,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, help="The most corrections to show.")
    ] = 50,
    json: AsJson = False,
) -> None:
    """List corrections of labels that wait for a second person, the oldest request first.

    A correction waits if model.yaml has `label.review.four_eyes`. Another person confirms it by
    `mlplatform review correct` with the outcome that is asked for, or keeps the label with the
    outcome that it has.

    Example: mlplatform review corrections fraud
    """
    platform = wiring.existing_platform()
    is_complete = job.advance(platform, model)
    found, total = job.pending_corrections(platform, model, limit)
    label = platform.definition(model).label.name
    if json:
        rows = [_correction_values(one) for one in found]
        print_json({"total": total, "complete": is_complete, "corrections": rows})
        return
    for one in found:
        for line in _correction_lines(one, label):
            print_line(line)
    more = "" if is_complete else "; the log is not read to its end yet: ask again"
    print_line(f"{len(found)} of {total} that wait{more}")
    if found:
        print_line(
            "confirm or keep: mlplatform review correct ID OUTCOME --analyst NAME --reason WHY"
        )


@app.command()
def record(
    decision_id: Annotated[
        str, typer.Argument(help="The decision's id, as `review list` shows it.")
    ],
    outcome: Annotated[
        str, typer.Argument(help="The label's name or not-NAME, for example: fraud, not-fraud")
    ],
    analyst: Analyst,
    key_file: KeyFile = None,
    note: Annotated[str, typer.Option(help="A reason, if you like; kept in the log.")] = "",
    json: AsJson = False,
) -> None:
    """Record how a decision turned out, with your own key: it is labelled in your name.

    If model.yaml has `label.review.four_eyes`, it is labelled once another person says the same. To
    make a key for this: mlplatform keys create --name ana --model fraud --scope review

    Example: mlplatform review record DECISION_ID not-fraud --analyst ana --key-file fraud.key
    """
    _record(decision_id, outcome, analyst, key_file, note, json=json, corrects=False)


@app.command()
def correct(
    decision_id: Annotated[str, typer.Argument(help="The id of a decision that has a label.")],
    outcome: Annotated[
        str, typer.Argument(help="The right one: the label's name or not-NAME, as in `record`.")
    ],
    analyst: Analyst,
    reason: LoggedReason,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Correct the label that an analyst gave a decision; the log keeps the former label.

    If model.yaml has `label.review.four_eyes`, the label is corrected once another person types the
    same; `review corrections` lists what waits. The outcome that the label has keeps it, against
    somebody who asks for the other one. A label of an application is corrected by that application.

    Example: mlplatform review correct DECISION_ID fraud --analyst ana --reason "the wrong key"
    """
    _record(decision_id, outcome, analyst, key_file, reason, json=json, corrects=True)


def _record(
    decision_id: str,
    outcome: str,
    analyst: str,
    key_file: Path | None,
    note: str,
    *,
    json: bool,
    corrects: bool,
) -> None:
    platform = wiring.existing_platform()
    model = job.model_of(platform, decision_id)
    label = platform.definition(model).label.name
    value = outcome_of(outcome, label)
    does = "correct the label of" if corrects else "say how"
    asked = f"{does} {model} decision {decision_id}{'' if corrects else ' turned out'}"
    person = job.person(platform, analyst, secret_of(analyst, key_file), f"{asked}, as {analyst}")
    done = job.record(
        platform, model, decision_id, value, analyst=person, note=note, corrects=corrects
    )
    if json:
        print_json(msgspec.to_builtins(done))
    else:
        print_line(_sentence(done, label))


def _sentence(done: ReviewResult, label: str) -> str:
    outcome = outcome_text(done.outcome, label)
    answer = f"{done.decision_id}: {outcome}"
    if done.keeps and done.differs:
        return (
            f"{done.decision_id}: you say that {outcome} is right; another person asks for the"
            " opposite, and a third person decides"
        )
    if done.keeps:
        return f"{answer}; the label stays"
    if done.is_label:
        return f"{answer}; it is labelled (a slip? `mlplatform review correct` corrects it)"
    if done.differs:
        return f"{answer}; somebody says the opposite, and one more person has to look at it"
    return f"{answer}; another person has to confirm it"


def _correction_values(one: PendingCorrection) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(one)
    values["opinions"] = [
        {**msgspec.to_builtins(stated.opinion), "at_ms": stated.at_ms} for stated in one.opinions
    ]
    return {**values, "asked_ms": one.asked_ms}


def _correction_lines(one: PendingCorrection, label: str) -> list[str]:
    """Lines on a correction: the decision's id alone in the first, to be copied."""
    now, wanted = (outcome_text(value, label) for value in (one.label, 1 - one.label))
    since = utc_minute_text(one.asked_ms)
    lines = [one.decision_id, f"  {since}; {now}, by {one.labelled_by}; asked for: {wanted}"]
    for stated in one.opinions:
        what = "says that the label is right" if stated in one.keeps else f"asks for {wanted}"
        lines.append(f"  {stated.opinion.analyst} {what}: {stated.opinion.note}")
    return lines


def _as_values(row: QueuedDecision) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(row)
    shown, opinions = values.pop("shown"), values.pop("opinions")
    return {
        **values,
        "said": opinions,
        "reasons": shown["reasons"],
        "fields": dict(row.shown.fields),
    }


def _lines(row: QueuedDecision, label: str) -> list[str]:
    """Lines on a decision: its id alone in the first, to be copied, and its details in the
    second."""
    score = "no score" if row.score is None else f"score {row.score:.4f}"
    fields = ((name, "missing" if value is None else value) for name, value in row.shown.fields)
    asked = ", ".join(f"{name} {value}" for name, value in fields)
    columns = [
        utc_minute_text(row.event_ms),
        row.decision,
        score,
        asked,
        " ".join(row.shown.reasons),
    ]
    opinions = (f"{one.analyst} says {outcome_text(one.outcome, label)}" for one in row.opinions)
    return [row.decision_id, "  " + "; ".join(text for text in (*columns, *opinions) if text)]
