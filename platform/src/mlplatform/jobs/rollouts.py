"""Rollouts as they are asked for: open, pass, answer, take back, look at."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import msgspec

from mlplatform.exporter import measured
from mlplatform.exporter.measured import ArmCounts, Pass
from mlplatform.jobs.signed import ACTOR, REASON
from mlplatform.rollout import commands, execute
from mlplatform.rollout.state import RolloutState, fold
from mlplatform.rollout.transitions import Answer, Transition

if TYPE_CHECKING:
    from mlplatform.wiring import Platform


def open_rollout(platform: Platform, model: str, version: int, *, actor: str, reason: str) -> str:
    """The id of the rollout of a validated version."""
    found = platform.mlflow_rest.get(model, version)
    candidate = commands.Candidate(
        version=found.version,
        bundle=found.digest,
        author=found.facts.author,
        alert_low=found.facts.alert_low,
        alert_high=found.facts.alert_high,
        validation=found.facts.report,
    )
    return commands.open_rollout(
        platform.rollouts, model, candidate, actor=actor, reason=reason, clock=platform.clock
    )


def rollout_pass(platform: Platform, model: str, *, dry_run: bool = False) -> dict[str, Any]:
    """One pass over a model's rollouts, as plain values."""
    report = execute.run_pass(
        platform.definition(model),
        platform.ports(model),
        holder=f"pass {os.getpid()}",
        dry_run=dry_run,
    )
    if report.ran and not dry_run:
        with measured.for_people():
            arms = {arm: msgspec.convert(counts, ArmCounts) for arm, counts in report.arms.items()}
            seen = Pass(platform.clock.wall_ms(), arms)
            measured.keep(platform.settings.home.measured, model, seen)
    return dataclasses.asdict(report)


def roll_back(platform: Platform, model: str, *, actor: str, reason: str) -> str:
    """Take the traffic back at once; returns the id of the rollout that is now rolled back."""
    state = commands.roll_back(
        platform.rollouts,
        platform.rollouts,
        model,
        actor=actor,
        reason=reason,
        clock=platform.clock,
    )
    rollout_pass(platform, model)
    return state.rollout_id


def record_approval(
    platform: Platform,
    rollout_id: str,
    evidence_digest: str,
    decision: Answer,
    *,
    approver: str,
    reason: str,
) -> str:
    """Append a person's answer to the journal, in words.

    Raises:
        InputInvalid: a name or a reason that is too short or too long.
        Refused: by the rollout, as `rollout.commands.record_approval` says.
    """
    approver, reason = ACTOR.checked("approver", approver), REASON.checked("reason", reason)
    state = commands.record_approval(
        platform.rollouts,
        rollout_id,
        evidence_digest,
        decision,
        approver,
        reason,
        clock=platform.clock,
    )
    return f"{state.rollout_id}: {decision} by {approver} (self-declared)"


def check_approver(platform: Platform, rollout_id: str, approver: str) -> None:
    """Refuse the author before the question is answered, and so used up."""
    commands.check_approver(fold(platform.rollouts.read(rollout_id)), approver)


def history(platform: Platform, rollout_id: str) -> tuple[RolloutState, tuple[Transition, ...]]:
    """The state of a rollout and everything that happened to it."""
    facts = platform.rollouts.read(rollout_id)
    return fold(facts), facts
