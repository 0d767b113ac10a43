"""Commands for rollouts: list, show, plan, open, approve, roll back."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Literal

import msgspec
import typer

from mlplatform.commands.controls import rollout_controls
from mlplatform.commands.runs import POLL_S, follow, run_to_end
from mlplatform.commands.terminal.arguments import (
    Actor,
    KeyFile,
    Model,
    OnlyModel,
    OptionalApprover,
    OptionalReason,
    Reason,
    RolloutId,
)
from mlplatform.commands.terminal.exit_codes import REFUSED
from mlplatform.commands.terminal.output import (
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_markdown,
    print_table,
    progress,
)
from mlplatform.commands.terminal.secrets import page_code, secret_of
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.operations.actions import controls
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.actions.person_fields import REASON
from mlplatform.operations.prefect_client.prefect import FlowRun, Poller
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal import approval_codes
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.passes import plan_text
from mlplatform.rollouts.passes.commands import subject_of_roll_back
from mlplatform.rollouts.passes.planning import NO_CHAMPION, PLANNED_DAYS
from mlplatform.rollouts.passes.summary import judged, to_markdown, undecided
from mlplatform.rollouts.verdicts.ramp import Plan
from mlplatform.runtime.errors import ConfigUnusable, MissingHere, NotFound, Refused, Unavailable
from mlplatform.runtime.times import iso_second_text, minute_text
from mlplatform.scoring import wiring as scoring_wiring

RECORD_LIMIT_S = 60.0
ASK_LIMIT_S = 120.0
PROMOTED = frozenset({"promoted", "confirmed", "superseded"})
"""Phases of a rollout whose version was made champion."""


def _despite(text: str | None) -> str | None:
    return None if text is None else REASON.checked("--despite-plan", text)


app = typer.Typer(help="Rollouts: open, follow, approve, take back.", no_args_is_help=True)
rollout_controls.add_to(app)


@app.command("list")
def list_rollouts(
    model: OnlyModel = None,
    everything: Annotated[bool, typer.Option("--all", help="Show finished ones too.")] = False,
    json: AsJson = False,
) -> None:
    """List the rollouts that are under way.

    Example: mlplatform rollouts list fraud --all
    """
    journal = wiring.existing_platform().rollouts
    states = journal.active(model, finished=everything)
    if json:
        print_json(msgspec.to_builtins(states))
        return
    for line in controls.kill_sentences(wiring.existing_platform(), model):
        print_line(line)
    champions = {name: journal.routes(name).champion for name in {s.model for s in states}}
    rows = [
        (
            s.rollout_id,
            s.challenger.version,
            _phase(s, champions[s.model]),
            s.step,
            minute_text(s.since_event_ms),
            s.reason,
        )
        for s in states
    ]
    columns = ("rollout", "version", "phase", "step", "since (event time)", "reason")
    print_table(columns, rows, prose="reason")


@app.command()
def show(rollout_id: RolloutId, json: AsJson = False) -> None:
    """Show everything that happened to a rollout, with the evidence of its last question.

    It also shows what the newest pass saw of the present step.

    Example: mlplatform rollouts show fraud-v2-1
    """
    platform = wiring.existing_platform()
    state, facts = job.history(platform, rollout_id)
    newest = job.newest_analysis(platform, state)
    if json:
        found = {"state": state, "journal": facts, "analysis": newest}
        print_json(msgspec.to_builtins(found))
        return
    phase = _phase(state, platform.rollouts.routes(state.model).champion)
    fields = {"rollout": state.rollout_id, "phase": phase, "author": state.author}
    if state.plan is not None:
        fields["plan"] = plan_text.whole_ramp(state.plan)
    print_fields(fields)
    rows = [(minute_text(f.event_ms), type(f).__name__, f.actor, f.reason) for f in facts]
    print_table(("event time", "transition", "actor", "reason"), rows, prose="reason")
    with_evidence = [f for f in facts if f.evidence]
    if with_evidence:
        print_markdown(to_markdown(rollout_id, with_evidence[-1].evidence))
    if newest is not None:
        print_markdown(judged(newest.gates, newest.event_ms))


@app.command()
def plan(
    model: Model,
    challenger: Annotated[
        int | None,
        typer.Option(
            min=1, help="A validated version. Default: none, so that the plan uses no replay."
        ),
    ] = None,
    days: Annotated[
        float, typer.Option(min=2, max=90, help="Days of event time to read from the decision log.")
    ] = PLANNED_DAYS,
    json: AsJson = False,
) -> None:
    """Show what each step and gate of a rollout needs at the present traffic, and if it can decide.

    Exit code 4: the plan can't decide by its deadlines; the report says what would let it.
    Without enough traffic there is no plan, which refuses no rollout: exit code 0.

    Example: mlplatform rollouts plan fraud --challenger 7
    """
    with progress("reading the decision log"):
        made = job.plan_rollout(wiring.existing_platform(), model, challenger, days=days)
    if json:
        print_json(plan_text.as_values(made))
    elif isinstance(made, str):
        print_line(made)
        if made != NO_CHAMPION:
            policy = load_definition(model).rollout
            for way in plan_text.without_plan(model, challenger, policy):
                print_line(way)
    else:
        _show_plan(made)
    if not isinstance(made, str) and made.refusal:
        raise typer.Exit(REFUSED)


@app.command("open")
def open_rollout(
    model: Model,
    version: Annotated[int, typer.Argument(min=1, help="A validated version.")],
    actor: Actor,
    reason: Reason,
    despite_plan: Annotated[
        str | None,
        typer.Option(
            callback=_despite,
            help="Why you go on with a plan that can't decide in time; kept in the journal.",
        ),
    ] = None,
    emergency: Annotated[
        bool,
        typer.Option(
            help="Promote it at once. If no second person confirms it within a day, it is undone."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Open a rollout of a version (the Prefect deployment MODEL-promote).

    A rollout that can't decide by its deadlines is refused: see `mlplatform rollouts plan`.

    Example: mlplatform rollouts open fraud 3 --actor ana --reason "beats v2 on new terminals"
    """
    parameters = {"model": model, "version": version, "actor": actor, "reason": reason}
    if despite_plan is not None:
        parameters["despite_plan"] = despite_plan
    if emergency:
        parameters["emergency"] = True
    follow("promote", parameters, json)


@app.command()
def approve(
    rollout_id: RolloutId,
    decision: Annotated[Literal["approve", "reject"], typer.Option(help="Your answer.")],
    approver: OptionalApprover = None,
    key_file: KeyFile = None,
    code: Annotated[
        bool, typer.Option("--code", help="Only show a code, to be typed into Prefect's form.")
    ] = False,
    by_page: Annotated[
        bool,
        typer.Option("--page-code", help="Answer by a code of the page; the command asks for it."),
    ] = False,
    reason: OptionalReason = None,
    json: AsJson = False,
) -> None:
    """Answer the question that a rollout waits for, with your own key, as Prefect's form does.

    The evidence is shown as the journal has it now, and the answer is bound to it. The command ends
    when the answer is in the journal, or says that it is not there yet. To make a key that may
    approve: mlplatform keys create --name bo --model fraud --scope approve

    People who sign in at an identity provider have no key: the page gives them a code for
    `--page-code`.

    Example: mlplatform rollouts approve fraud-v2-1 --decision approve --approver bo --key-file
    bo.key --reason "gates read"
    """
    platform = wiring.existing_platform()
    question, evidence = job.question(platform, rollout_id, decision)
    if by_page:
        proof = page_code()
    elif approver is None:
        raise ConfigUnusable(
            "--approver", "missing", "your name, as your key has it; or --page-code"
        )
    else:
        secret = secret_of(approver, key_file)
        proof, until_s = job.approval_code(platform, question, approver=approver, secret=secret)
        if code:
            _show_code(rollout_id, question.evidence, evidence, proof, until_s, json)
            return
    if reason is None:
        raise ConfigUnusable("--reason", "missing", "why you answer so, in 5 to 500 characters")
    prefect = platform.prefect
    run = _wait_for_asking_run(platform, question)
    try:
        prefect.submit_input(run.id, {"decision": decision, "code": proof, "reason": reason})
    except Refused as refused:
        if not by_page:
            raise
        way = f"the page of {rollout_id} gives a new code, for this answer and what it shows now"
        raise Refused(f"{refused}; {way}") from refused
    with progress("writing the answer into the journal"):
        recorded = _is_recorded(platform, rollout_id, run)
    if json:
        facts = {"rollout": rollout_id, "decision": decision, "flow_run": run.id}
        print_json(facts | {"recorded": recorded})
        return
    show = f"mlplatform rollouts show {rollout_id}"
    if recorded:
        then = f"it is recorded; the next pass acts on it, within a minute ({show})"
    else:
        then = f"not recorded yet: flow run {run.name} still checks it ({show})"
    print_line(f"{rollout_id}: {decision} by {approval_codes.claimed_identity(proof)}; {then}")


@app.command("pass")
def take_pass(
    model: Model,
    dry_run: Annotated[bool, typer.Option(help="Only show what the next step would be.")] = False,
    json: AsJson = False,
) -> None:
    """Take the steps that are due now (the Prefect deployment MODEL-rollout, also on a schedule).

    Example: mlplatform rollouts pass fraud --dry-run
    """
    if not dry_run:
        code = run_to_end("rollout", {"model": model}, json)
        if not json and scoring_wiring.has_rollouts(wiring.settings()):
            _show_undecided(model)
        raise typer.Exit(code)
    report = job.rollout_pass(wiring.existing_platform(), model, dry_run=True)
    if json:
        print_json(report)
    else:
        print_fields(report)


def _show_undecided(model: str) -> None:
    """Print the step of each rollout of the model, and what keeps it there."""
    platform = wiring.existing_platform()
    for state in platform.rollouts.active(model, finished=False):
        why = controls.why_no_step(platform, state)
        newest = None if why else job.newest_analysis(platform, state)
        if newest is not None:
            why = undecided(newest.gates)
        step = f" {state.percent:g} %" if state.phase == "canary" else ""
        print_line(f"{state.rollout_id}: {state.phase}{step}{f'. {why}' if why else ''}")


@app.command()
def rollback(
    model: Model,
    actor: Actor,
    reason: Reason,
    without_prefect: Annotated[
        bool,
        typer.Option(
            "--without-prefect", help="Write only to the journal, without asking Prefect."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Take a model's traffic back at once (the Prefect deployment MODEL-rollback).

    The command rolls back the rollout that is under way at that moment, in shadow too, or else the
    champion's, and no other one. If Prefect does not answer, use `--without-prefect`: it needs only
    the journal.

    Example: mlplatform rollouts rollback fraud --actor ana --reason "too many declines"
    """
    only = _rollout_with_traffic(model)
    if without_prefect:
        state = job.take_back(
            wiring.existing_platform(), model, actor=actor, reason=reason, only=only
        )
        if json:
            print_json({"model": model, "rollout": state.rollout_id, "phase": state.phase})
        else:
            print_line(f"{state.rollout_id} is rolled back; gateways follow within a second")
        return
    try:
        asked = {"model": model, "actor": actor, "reason": reason, "only": only}
        follow("rollback", asked, json)
    except Unavailable as error:
        again = "the same command with --without-prefect needs only the journal"
        raise Unavailable(f"Prefect did not answer the rollback of {model}; {again}") from error


def _rollout_with_traffic(model: str) -> str | None:
    """The rollout that a rollback would take back now. None if there is none, or if the journal is
    elsewhere; the rollback itself then refuses, and the refusal is recorded."""
    try:
        journal = wiring.existing_platform().rollouts
        states = journal.active(model, finished=True)
        return subject_of_roll_back(states, journal.routes(model)).rollout_id
    except (MissingHere, Refused):
        return None


def _show_plan(made: Plan) -> None:
    print_line(plan_text.traffic(made))
    print_table(plan_text.STEP_COLUMNS, plan_text.step_rows(made), title="steps")
    good = "a challenger as good as the champion, by gate"
    print_table(plan_text.NEED_COLUMNS, plan_text.need_rows(made), title=good)
    print_table(plan_text.HARM_COLUMNS, plan_text.harm_rows(made), title=plan_text.harm_title())
    for line in plan_text.conclusions(made):
        print_line(line)


def _show_code(
    rollout_id: str, digest: str, evidence: str, code: str, until_s: int, as_json: bool
) -> None:
    until = iso_second_text(until_s * 1000)
    if as_json:
        facts = {"rollout": rollout_id, "evidence_digest": digest, "evidence": evidence}
        print_json(facts | {"code": code, "until": until})
        return
    print_markdown(evidence)
    print_fields({"evidence": digest, "code": code, "good until": until})


def _wait_for_asking_run(platform: Platform, question: approval_codes.Question) -> FlowRun:
    """The run in Prefect that asks this question; waits for the next pass, which comes every
    minute.

    Raises:
        NotFound: no run asked the question within `ASK_LIMIT_S`.
    """
    give_up_at = time.monotonic() + ASK_LIMIT_S
    with progress("waiting up to two minutes, until the next pass asks in Prefect"):
        while True:
            try:
                return job.asking_run(platform.prefect.suspended(), question)
            except NotFound:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(POLL_S)


def _is_recorded(platform: Platform, rollout_id: str, run: FlowRun) -> bool:
    """Whether the answer reached the journal within `RECORD_LIMIT_S`.

    Raises:
        Refused: the flow turned the answer down and asks again, or ended without it.
    """
    give_up_at = time.monotonic() + RECORD_LIMIT_S
    state = Poller(partial(platform.prefect.run, run.id), RECORD_LIMIT_S)
    while time.monotonic() < give_up_at:
        now = state.ask() or run  # first: an ended run writes nothing more
        if fold(platform.rollouts.read(rollout_id)).answer is not None:
            return True
        asks_again = now.state == "PAUSED" and now.state_ms > run.state_ms
        if now.final or asks_again:
            raise Refused(f"the answer was rejected; flow run {now.name} says why")
        time.sleep(POLL_S)
    return False


def _phase(state: RolloutState, champion: Arm | None) -> str:
    """The phase of a rollout; of a promoted version also whether it still is the champion."""
    if state.paused is not None:
        return f"{state.phase}, paused"
    if champion is None or state.phase not in PROMOTED:
        return state.phase
    is_champion = champion.version == state.challenger.version
    return f"{state.phase}, {'champion' if is_champion else f'replaced by v{champion.version}'}"
