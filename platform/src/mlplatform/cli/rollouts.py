"""Commands for rollouts: list, show, open, approve, roll back."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

import msgspec
import typer

from mlplatform import wiring
from mlplatform.cli.arguments import Actor, Approver, Model, OnlyModel, Reason, RolloutId
from mlplatform.cli.output import (
    OUT,
    AsJson,
    print_fields,
    print_json,
    print_markdown,
    print_table,
    progress,
)
from mlplatform.cli.runs import POLL_S, follow
from mlplatform.errors import NotFound, Refused
from mlplatform.jobs import rollouts as job
from mlplatform.orchestration.prefect import FlowRun, Patience
from mlplatform.rollout.state import fold
from mlplatform.rollout.summary import to_markdown
from mlplatform.wiring import Platform

RECORD_LIMIT_S = 60.0

app = typer.Typer(help="Who answers whom: open, follow, approve, take back.", no_args_is_help=True)


@app.command("list")
def list_rollouts(
    model: OnlyModel = None,
    everything: Annotated[bool, typer.Option("--all", help="Finished ones too.")] = False,
    json: AsJson = False,
) -> None:
    """Rollouts that are under way.

    Example: mlplatform rollouts list fraud --all
    """
    states = wiring.platform().rollouts.active(model, finished=everything)
    if json:
        print_json([dataclasses.asdict(s) for s in states])
        return
    rows = [
        (s.rollout_id, s.challenger.version, s.phase, s.step, _time(s.since_event_ms), s.reason)
        for s in states
    ]
    columns = ("rollout", "version", "phase", "step", "since (event time)", "reason")
    print_table(columns, rows, prose="reason")


@app.command()
def show(rollout_id: RolloutId, json: AsJson = False) -> None:
    """Everything that happened to a rollout, with the evidence of its last question.

    Example: mlplatform rollouts show fraud-v2-1
    """
    state, facts = job.history(wiring.platform(), rollout_id)
    if json:
        print_json({"state": dataclasses.asdict(state), "journal": msgspec.to_builtins(facts)})
        return
    print_fields({"rollout": state.rollout_id, "phase": state.phase, "author": state.author})
    rows = [(_time(f.event_ms), type(f).__name__, f.actor, f.reason) for f in facts]
    print_table(("event time", "transition", "actor", "reason"), rows, prose="reason")
    with_evidence = [f for f in facts if f.evidence]
    if with_evidence:
        print_markdown(to_markdown(rollout_id, with_evidence[-1].evidence))


@app.command("open")
def open_rollout(
    model: Model,
    version: Annotated[int, typer.Argument(help="A validated version.")],
    actor: Actor,
    reason: Reason,
    json: AsJson = False,
) -> None:
    """Start to promote a version (the Prefect deployment MODEL-promote).

    Example: mlplatform rollouts open fraud 3 --actor ana --reason "beats v2 on new terminals"
    """
    parameters = {"model": model, "version": version, "actor": actor, "reason": reason}
    follow("promote", parameters, json)


@app.command()
def approve(
    rollout_id: RolloutId,
    approver: Approver,
    reason: Reason,
    decision: Annotated[Literal["approve", "reject"], typer.Option(help="Your answer.")],
    json: AsJson = False,
) -> None:
    """Answer the question that a rollout waits for, as the form in Prefect's UI would.

    Ends when the answer stands in the journal, or says that it does not yet.

    Example: mlplatform rollouts approve fraud-v2-1 --decision approve --approver bo
    --reason "gates read"
    """
    platform = wiring.platform()
    prefect = platform.prefect
    job.check_approver(platform, rollout_id, approver)
    waiting = [r for r in prefect.suspended() if r.parameters.get("rollout_id") == rollout_id]
    if not waiting:
        raise NotFound(f"no approval of {rollout_id} is waiting; see `mlplatform rollouts list`")
    run = waiting[-1]
    prefect.answer(run.id, {"decision": decision, "approver": approver, "reason": reason})
    with progress("writing the answer into the journal"):
        recorded = _is_recorded(platform, rollout_id, run)
    if json:
        facts = {"rollout": rollout_id, "decision": decision, "flow_run": run.id}
        print_json(facts | {"recorded": recorded})
        return
    then = "a pass carries it out" if recorded else "its flow has not written it yet"
    OUT.print(f"{rollout_id}: {decision} by {approver}; {then}", soft_wrap=True)


@app.command("pass")
def take_pass(
    model: Model,
    dry_run: Annotated[bool, typer.Option(help="Only say what the next step would be.")] = False,
    json: AsJson = False,
) -> None:
    """Take the steps that are due, now (the Prefect deployment MODEL-rollout, scheduled too).

    Example: mlplatform rollouts pass fraud --dry-run
    """
    if not dry_run:
        follow("rollout", {"model": model}, json)
        return
    report = job.rollout_pass(wiring.platform(), model, dry_run=True)
    if json:
        print_json(report)
    else:
        print_fields(report)


@app.command()
def rollback(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Take a model's traffic back at once (the Prefect deployment MODEL-rollback).

    Example: mlplatform rollouts rollback fraud --actor ana --reason "too many declines"
    """
    follow("rollback", {"model": model, "actor": actor, "reason": reason}, json)


def _is_recorded(platform: Platform, rollout_id: str, asked: FlowRun) -> bool:
    """Whether the answer reached the journal within `RECORD_LIMIT_S`.

    Raises:
        Refused: the flow turned the answer down and asks again, or ended without it.
    """
    give_up_at = time.monotonic() + RECORD_LIMIT_S
    state = Patience(partial(platform.prefect.run, asked.id), RECORD_LIMIT_S)
    while time.monotonic() < give_up_at:
        now = state.ask() or asked  # first: a run that has ended wrote what it writes
        if fold(platform.rollouts.read(rollout_id)).answer is not None:
            return True
        asks_again = now.state == "PAUSED" and now.state_ms > asked.state_ms
        if now.final or asks_again:
            raise Refused(f"the answer was turned down; flow run {now.name} says why")
        time.sleep(POLL_S)
    return False


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
