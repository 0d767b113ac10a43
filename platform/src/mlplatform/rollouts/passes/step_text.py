"""The steps of a rollout in words, as a pass reports them."""

from __future__ import annotations

from typing import assert_never

from mlplatform.rollouts.passes.next_step import (
    Advance,
    AskApproval,
    Confirm,
    Deploy,
    Hold,
    Move,
    Promote,
    Retire,
    RollBack,
    Supersede,
)


def step_text(step: Move | Retire) -> str:
    """The action of a step and its reason."""
    match step:
        case Deploy():
            return f"deploy {step.arm.service}: {step.reason}"
        case Retire():
            return f"retire {step.service}: {step.reason}"
        case Advance(to="shadow"):
            return f"start the shadow: {step.reason}"
        case Advance():
            return f"canary {step.routes.challenger_percent:g} %: {step.reason}"
        case AskApproval():
            return f"ask for approval: {step.reason}"
        case Promote():
            return f"promote: {step.reason}"
        case Confirm():
            return f"confirm: {step.reason}"
        case Supersede():
            return f"close: {step.reason}"
        case RollBack():
            return f"roll back: {step.reason}"
        case Hold():
            return f"hold: {step.reason}"
        case _:
            assert_never(step)
