"""Actions on rollouts: open, pass, answer, roll back and look at one."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mlplatform.decisions.records.pseudonym import load_or_create_key
from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.model.routes import Routes
from mlplatform.operations.actions import interim_analyses, last_results, retention, review, traffic
from mlplatform.operations.actions.interim_analyses import InterimAnalysis, StepHistory
from mlplatform.operations.actions.last_results import ArmCounts, Pass
from mlplatform.operations.actions.person_fields import REASON
from mlplatform.operations.prefect_client.prefect import FlowRun
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal import approval_codes
from mlplatform.rollouts.journal.approval_codes import Approver, Question
from mlplatform.rollouts.journal.state import RolloutState, check_approver, fold
from mlplatform.rollouts.journal.transitions import (
    Answer,
    ApprovalAsked,
    Promoted,
    ProvenIdentity,
    RolloutPlan,
    Transition,
)
from mlplatform.rollouts.passes import commands, execute, plan_text, planning, summary
from mlplatform.rollouts.passes.execute import JudgedStep
from mlplatform.rollouts.variants.execute import run_test
from mlplatform.rollouts.verdicts.ramp import Plan
from mlplatform.runtime.errors import Corrupt, NotFound, Refused
from mlplatform.runtime.telemetry.refusals import UNKNOWN, Refusal
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.admission.people import check_may_approve, people
from mlplatform.scoring.admission.secrets import digest, key_id

log = logging.getLogger(__name__)

CONTROL: Final = "control"
"""Surface of refused requests about rollouts and models, from every interface."""
_Asks = ApprovalAsked | Promoted
"""Transitions that ask a question: an emergency promotion asks its own."""


def open_rollout(
    platform: Platform,
    model: str,
    version: int,
    *,
    actor: str,
    reason: str,
    despite_plan: str = "",
    emergency: bool = False,
) -> str:
    """Open a rollout of a validated version; returns the rollout's id.

    Args:
        despite_plan: why to go on although the plan is refused; empty: a refused plan stops the
            rollout.
        emergency: whether to promote at once, without a plan.

    Raises:
        PlanRefused: the rollout can't decide by its deadlines at the present traffic.
    """
    if despite_plan:
        despite_plan = REASON.checked("despite_plan", despite_plan)
    found = platform.registry.get(model, version)

    def plan(routes: Routes) -> RolloutPlan:
        made = _planned(platform, model, routes, found.facts.report, planning.PLANNED_DAYS)
        kept = planning.recorded_plan(made, despite_plan)
        log.info("plan of version %d of %s: %s", version, model, plan_text.whole_ramp(kept))
        return kept

    validated = commands.ValidatedVersion(
        version=found.version,
        bundle=found.digest,
        author=found.facts.author,
        alert_low=found.facts.alert_low,
        alert_high=found.facts.alert_high,
        validation=found.facts.report,
    )
    return commands.open_rollout(
        platform.rollouts,
        model,
        validated,
        approval=platform.definition(model).rollout.approval,
        actor=actor,
        reason=reason,
        clock=platform.clock,
        plan=None if emergency else plan,
        emergency=emergency,
    )


def plan_rollout(
    platform: Platform, model: str, version: int | None, *, days: float = planning.PLANNED_DAYS
) -> Plan | str:
    """The expected course of a version's rollout at the present traffic, or a sentence that says
    why none can be given.

    Args:
        version: number of a validated version; None: any version, without predictions from replay.
        days: number of days of event time that are read from the log.
    """
    report: ValidationReport = {}
    if version is not None:
        report = platform.registry.get(model, version).facts.report
    return _planned(platform, model, platform.rollouts.routes(model), report, days)


def _planned(
    platform: Platform, model: str, routes: Routes, report: ValidationReport, days: float
) -> Plan | str:
    return planning.rollout_plan(
        platform.definition(model),
        platform.log,
        routes,
        report,
        days=days,
        now_event_ms=platform.clock.event_ms(),
    )


def rollout_pass(platform: Platform, model: str, *, dry_run: bool = False) -> dict[str, Any]:
    """One pass over a model's A/B/n test and rollouts, as plain values."""
    definition, ports, holder = (
        platform.definition(model),
        platform.ports(model),
        f"pass {os.getpid()}",
    )
    tested = run_test(definition, ports, holder=holder, dry_run=dry_run)
    report = execute.run_pass(definition, ports, holder=holder, dry_run=dry_run)
    report = dataclasses.replace(
        report, steps=(*tested.steps, *report.steps), waits=(*tested.waits, *report.waits)
    )
    if report.ran and not dry_run:
        with last_results.for_people():
            arms = {arm: msgspec.convert(counts, ArmCounts) for arm, counts in report.arms.items()}
            last_pass = Pass(platform.clock.wall_ms(), arms)
            last_results.keep(platform.settings.home.measured, model, last_pass)
            _keep_analyses(platform, model, report.judged_steps)
        with last_results.for_people():
            traffic.count(platform, model)
        with last_results.for_people():
            review.advance(platform, model)
        retention.expire_with_a_pass(platform, model)
    values = dataclasses.asdict(dataclasses.replace(report, judged_steps=()))
    del values["judged_steps"]  # only for the page
    return values


def _keep_analyses(platform: Platform, model: str, steps: tuple[JudgedStep, ...]) -> None:
    for judged in steps:
        newest = interim_analyses.analysis_of(judged.evidence, judged.event_ms)
        if newest is None:
            continue
        state, generation = judged.state, judged.evidence["generation"]
        percent = state.percent if state.phase == "canary" else None
        arms = judged.evidence.get("arms", {})
        history = StepHistory(state.rollout_id, generation, state.phase, percent, (newest,), arms)
        interim_analyses.keep(platform.settings.home.interim_analyses, model, history)


def roll_back(
    platform: Platform, model: str, *, actor: str, reason: str, only: str | None = None
) -> str:
    """Return the traffic to the champion at once; says which one was rolled back, and who answers.

    Args:
        only: id of the only rollout that may be taken back; None: the one that has the traffic.
    """
    state = take_back(platform, model, actor=actor, reason=reason, only=only)
    champion = platform.rollouts.routes(model).champion
    rollout_pass(platform, model)
    answers = "no version answers" if champion is None else f"version {champion.version} answers"
    return f"{state.rollout_id} is rolled back; {answers}"


def take_back(
    platform: Platform,
    model: str,
    *,
    actor: str,
    reason: str,
    only: str | None = None,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """Record in the journal that a model's traffic goes back to its champion. Gateways follow at
    their next poll; the next pass retires services that are no longer needed.

    Args:
        only: id of the only rollout that may be taken back; None: the one that has the traffic.
        identity: the actor's identity at an identity provider; None if none proved the actor.

    Raises:
        Refused: there is nothing to take back, or another rollout has the traffic.
    """
    with kept_refusal(
        platform, f"roll-back of {model}: {reason}", actor, identity, surface=CONTROL
    ):
        return commands.roll_back(
            platform.rollouts,
            platform.rollouts,
            model,
            actor=actor,
            reason=reason,
            clock=platform.clock,
            only=only,
            identity=identity,
        )


def question(platform: Platform, rollout_id: str, answer: Answer) -> tuple[Question, str]:
    """The question that a rollout asks now, and the evidence from its journal as Markdown.

    Raises:
        NotFound: no rollout has this id.
        Refused: the rollout asks nothing now.
    """
    facts = platform.rollouts.read(rollout_id)
    state = fold(facts)
    asked = [f for f in facts if isinstance(f, _Asks) and f.evidence_digest == state.asked_digest]
    if not state.awaits_answer or not asked:
        raise Refused(
            f"{rollout_id} is {state.phase}: no approval is pending; the next pass may ask for one"
            f" (`mlplatform rollouts pass {state.model}`, or wait a minute)"
        )
    evidence = asked[-1].evidence
    shown = summary.question(rollout_id, evidence)
    return Question(rollout_id, asked[-1].evidence_digest, answer), shown


def evidence(platform: Platform, rollout_id: str, digest: str) -> str:
    """The question with this evidence's digest from a rollout's journal, as Markdown.

    Raises:
        NotFound: the journal never asked this question.
    """
    for fact in platform.rollouts.read(rollout_id):
        if isinstance(fact, _Asks) and fact.evidence_digest == digest:
            return summary.question(rollout_id, fact.evidence)
    raise NotFound(f"{rollout_id} has no approval request with evidence {digest[:16]}")


def approval_code(
    platform: Platform, question: Question, *, approver: str, secret: bytes
) -> tuple[str, int]:
    """An approval code for an approver who proves who they are, and the time at which it expires
    (epoch seconds).

    Raises:
        Refused: nobody has that name and key, or that person may not approve this model's
            rollouts, or made the version.
    """
    keys, now_ms = platform.keys.all_keys(), platform.clock.wall_ms()
    state = fold(platform.rollouts.read(question.rollout_id))
    asked = f"{question.answer} of {question.rollout_id}, as {approver}"
    with kept_refusal(platform, asked, UNKNOWN):
        person = people(keys, now_ms).authenticate(approver, secret)
        if person is None:
            raise Refused(
                f"no person has the name {approver!a} and this key; see `mlplatform keys list`"
            )
    proven = Approver(person.name, key_id(digest(secret)))
    with kept_refusal(platform, asked, proven.name):
        check_may_approve(keys, proven.name, proven.key_id, state.model, now_ms)
        check_approver(state, proven.name)
    return _code(platform, question, proven)


def code_for(
    platform: Platform,
    question: Question,
    proven: Approver,
    *,
    provider_proof: ProviderProof | None = None,
) -> tuple[str, int]:
    """An approval code for a person who has been proven, and the time at which it expires (epoch
    seconds).

    Args:
        provider_proof: the proof by an identity provider, with which the code expires at the
            latest; None if a key proved the person.

    Raises:
        Refused: that person may not approve this model's rollouts, or made the version.
    """
    state = fold(platform.rollouts.read(question.rollout_id))
    asked = f"{question.answer} of {question.rollout_id}"
    with kept_refusal(platform, asked, proven.name, proven.identity):
        _check_may_approve(platform, state.model, proven, provider_proof)
        check_approver(state, proven.name, proven.identity)
        ends_s = float("inf") if provider_proof is None else provider_proof.client.until_s
        return _code(platform, question, proven, ends_s)


def _check_may_approve(
    platform: Platform, model: str, proven: Approver, provider_proof: ProviderProof | None
) -> None:
    now_ms = platform.clock.wall_ms()
    if proven.identity != (None if provider_proof is None else provider_proof.identity):
        raise Refused(f"the key or code belongs to somebody else than {proven.name}")
    if provider_proof is not None:
        provider_proof.check_may_approve(model, now_ms)
    else:
        keys = platform.keys.all_keys()
        check_may_approve(keys, proven.name, proven.key_id, model, now_ms)


def _code(
    platform: Platform, question: Question, proven: Approver, ends_s: float = float("inf")
) -> tuple[str, int]:
    until_s = int(min(platform.clock.wall_ms() // 1000 + approval_codes.VALID_S, ends_s))
    key = load_or_create_key(platform.settings.home.approval_key)
    return approval_codes.code(key, proven, question, until_s=until_s), until_s


def record_approval(platform: Platform, question: Question, *, code: str, reason: str) -> str:
    """Append a person's answer to the journal; returns a sentence that says what was answered.

    Args:
        code: the code that proves who answers (`approval_code`, `code_for`). For a person of an
            identity provider it also holds what the person might do when it was made, until it
            expires.

    Raises:
        InputInvalid: the reason is too short or too long.
        Refused: the code proves nothing, its approver may not approve any more, or the rollout
            refuses, as `rollouts.passes.commands.record_approval` says.
    """
    reason = REASON.checked("reason", reason)
    now_ms = platform.clock.wall_ms()
    key = load_or_create_key(platform.settings.home.approval_key)
    asked = f"{question.answer} of {question.rollout_id}"
    with kept_refusal(platform, f"{asked}, as {code.partition(':')[0]}", UNKNOWN):
        proven = approval_codes.approver(key, code, question, now_s=now_ms / 1000)
    proven_by = f"code of {proven.proof}"
    with kept_refusal(platform, asked, proven.name, proven.identity):
        if proven.identity is None:
            model = fold(platform.rollouts.read(question.rollout_id)).model
            _check_may_approve(platform, model, proven, None)
        return _appended(platform, question, proven, reason=reason, proven_by=proven_by)


def record_answer(
    platform: Platform,
    question: Question,
    proven: Approver,
    *,
    reason: str,
    proven_by: str,
    provider_proof: ProviderProof | None = None,
) -> str:
    """Append a proven person's answer to the journal; returns a sentence that says what was
    answered.

    Args:
        proven_by: how the person was proven, in words.
        provider_proof: the proof by an identity provider; None if a key proved the person.

    Raises:
        InputInvalid: the reason is too short or too long.
        Refused: that key may not approve any more, or the rollout refuses, as
            `rollouts.passes.commands.record_approval` says.
    """
    reason = REASON.checked("reason", reason)
    state = fold(platform.rollouts.read(question.rollout_id))
    asked = f"{question.answer} of {question.rollout_id}"
    with kept_refusal(platform, asked, proven.name, proven.identity):
        _check_may_approve(platform, state.model, proven, provider_proof)
        return _appended(platform, question, proven, reason=reason, proven_by=proven_by)


def _appended(
    platform: Platform, question: Question, proven: Approver, *, reason: str, proven_by: str
) -> str:
    commands.record_approval(
        platform.rollouts,
        question,
        proven.name,
        reason,
        proven_by=proven_by,
        clock=platform.clock,
        identity=proven.identity,
    )
    return f"{question.rollout_id}: {question.answer} by {proven.name}"


def answer_form(platform: Platform, question: Question, proven: Approver, *, reason: str) -> None:
    """Submit an answer that the journal has to the form in Prefect that asks for it, so that the
    waiting run takes a pass now and ends.

    Raises:
        NotFound: no run asks the question.
        Unavailable: Prefect does not answer.
    """
    run = asking_run(platform.prefect.suspended(), question)
    code, _ = _code(platform, question, proven)
    filled = {"decision": question.answer, "code": code, "reason": reason}
    platform.prefect.submit_input(run.id, filled)


def asking_run(suspended: Sequence[FlowRun], question: Question) -> FlowRun:
    """The suspended run that waits for the answer to this question.

    Raises:
        NotFound: no run waits for it.
    """
    wanted = (question.rollout_id, question.evidence)
    for run in reversed(suspended):
        parameters = run.parameters
        if (parameters.get("rollout_id"), parameters.get("evidence_digest")) == wanted:
            return run
    raise NotFound(
        f"the question of {question.rollout_id} has not reached Prefect: the next pass, within a"
        " minute, asks it; `mlplatform rollouts list` says whether it still waits"
    )


@dataclass(frozen=True, slots=True)
class ProviderProof:
    """A person's proof by an identity provider.

    Args:
        client: the person, with the scopes of the groups, until the proof expires.
    """

    identity: ProvenIdentity
    client: Client

    def check_may_approve(self, model: str, now_ms: int) -> None:
        """Raises unless the proof still holds and grants scope `approve` of the model.

        Raises:
            Refused: the sign-in has expired, or the scope is missing; the message says which.
        """
        name, issuer = self.client.name, self.identity.issuer
        if self.client.until_s * 1000 <= now_ms:
            raise Refused(f"the sign-in of {name} at {issuer} has expired: sign in again")
        if not self.client.may(model, "approve"):
            raise Refused(f"no group of {name} at {issuer} has scope {model}:approve")


@contextmanager
def kept_refusal(
    platform: Platform,
    asked: str,
    who: str,
    identity: ProvenIdentity | None = None,
    *,
    surface: str = "approval",
) -> Iterator[None]:
    """Record a refusal raised in the block where people can find it."""
    try:
        yield
    except Refused as refused:
        wall_ms, proof = platform.clock.wall_ms(), "" if identity is None else str(identity)
        platform.refusals.keep(Refusal(wall_ms, surface, who, asked, str(refused), proof))
        raise


def newest_analysis(platform: Platform, state: RolloutState) -> InterimAnalysis | None:
    """The newest pass's analysis of the rollout's present step. None before the first, and if its
    file is damaged: no decision depends on it."""
    try:
        return interim_analyses.newest_analysis(platform.settings.home.interim_analyses, state)
    except Corrupt:
        log.exception("the analyses of the steps of %s can't be read", state.rollout_id)
        return None


def facts(platform: Platform, rollout_id: str) -> list[tuple[str, str]]:
    """Name and value of what a rollout is and where it stands, for a table.

    Raises:
        NotFound: no rollout has this id.
    """
    state, _ = history(platform, rollout_id)
    steps = "none" if state.plan is None else plan_text.whole_ramp(state.plan)
    return [
        ("rollout", rollout_id),
        ("challenger", f"version {state.challenger.version} of {state.model}"),
        ("phase", state.phase),
        ("plan", steps),
    ]


def history(platform: Platform, rollout_id: str) -> tuple[RolloutState, tuple[Transition, ...]]:
    """The state of a rollout and all transitions in its journal."""
    facts = platform.rollouts.read(rollout_id)
    return fold(facts), facts
