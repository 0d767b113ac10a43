"""Controls that take effect at once: people stop and start a model, a rollout or an A/B/n test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol

from mlplatform.model.folders import model_names
from mlplatform.operations.actions.rollouts import CONTROL, kept_refusal
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.controls import ControlState, VariantTestState, fold_controls
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.rollouts.passes import controls
from mlplatform.rollouts.passes.controls import ControlsJournal
from mlplatform.rollouts.passes.wait_reasons import reason_to_wait
from mlplatform.rollouts.variants import commands as variants
from mlplatform.rollouts.variants.comparison import ArmFigures, compare
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Refused

OfModel = Literal["kill", "lift", "clear"]
OfRollout = Literal["pause", "resume", "abort"]
Act = Literal["pause", "resume", "abort", "kill", "lift", "clear"]
"""Every act, as one list to choose from."""


class _RolloutAct(Protocol):
    def __call__(
        self,
        journal: ControlsJournal,
        rollout_id: str,
        *,
        actor: str,
        reason: str,
        clock: Clock,
        identity: ProvenIdentity | None = None,
    ) -> RolloutState: ...


class _Act(Protocol):
    def __call__(
        self,
        journal: ControlsJournal,
        model: str,
        *,
        actor: str,
        reason: str,
        clock: Clock,
        identity: ProvenIdentity | None = None,
    ) -> ControlState: ...


_OF_MODEL: Final[dict[OfModel, _Act]] = {
    "kill": controls.kill,
    "lift": controls.lift,
    "clear": controls.clear_stops,
}

_OF_ROLLOUT: Final[dict[OfRollout, _RolloutAct]] = {
    "pause": controls.pause,
    "resume": controls.resume,
    "abort": controls.abort,
}


def control_model(
    platform: Platform,
    model: str,
    act: OfModel,
    *,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None = None,
) -> int:
    """Carry out what a person asks of a model; returns the new generation of the gateways' routes.

    Args:
        identity: the actor's identity at an identity provider; None if none proved the actor.

    Raises:
        Refused: the model's present state does not allow the act. The refusal is stored, as for the
            acts below.
    """
    platform.definition(model)
    journal, asked = platform.rollouts, f"{act} of {model}: {reason}"
    with kept_refusal(platform, asked, actor, identity, surface=CONTROL):
        _OF_MODEL[act](
            journal, model, actor=actor, reason=reason, clock=platform.clock, identity=identity
        )
    return journal.routes(model).generation


def control_rollout(
    platform: Platform,
    rollout_id: str,
    act: OfRollout,
    *,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """Carry out what a person asks of a rollout; returns the rollout's state after it.

    Args:
        identity: the actor's identity at an identity provider; None if none proved the actor.

    Raises:
        NotFound: no rollout has this id.
        Refused: the rollout's present state does not allow the act.
    """
    asked = f"{act} of {rollout_id}: {reason}"
    with kept_refusal(platform, asked, actor, identity, surface=CONTROL):
        return _OF_ROLLOUT[act](
            platform.rollouts,
            rollout_id,
            actor=actor,
            reason=reason,
            clock=platform.clock,
            identity=identity,
        )


def control(
    platform: Platform,
    model: str,
    act: Act,
    rollout_id: str,
    *,
    actor: str,
    reason: str,
) -> str:
    """Carry out what a person asks of a model or of one of its rollouts; returns a sentence that
    says what was done.

    Args:
        rollout_id: the rollout to pause, resume or abort; empty: the model's only one under way.

    Raises:
        NotFound: no rollout has this id.
        Refused: the present state does not allow the act, the rollout belongs to another model, or
            none is named and not exactly one is under way.
    """
    if act == "kill" or act == "lift" or act == "clear":
        generation = control_model(platform, model, act, actor=actor, reason=reason)
        return f"{act} {model}: generation {generation}"
    asked = f"{act} of {rollout_id or f'the rollout of {model}'}: {reason}"
    with kept_refusal(platform, asked, actor, surface=CONTROL):
        named = rollout_id or _under_way(platform, model)
        whose = fold(platform.rollouts.read(named)).model
        if whose != model:
            raise Refused(f"{named} is a rollout of {whose}, not of {model}")
    state = control_rollout(platform, named, act, actor=actor, reason=reason)
    return f"{act} {named}: {state.phase}"


def _under_way(platform: Platform, model: str) -> str:
    """The id of the model's only rollout that a person may pause, resume or abort."""
    found = [state.rollout_id for state in platform.rollouts.active(model) if state.ramping]
    match found:
        case [only]:
            return only
        case []:
            raise Refused(
                f"no rollout of {model} is under way: `mlplatform rollouts list` shows all"
            )
        case _:
            several = ", ".join(found)
            raise Refused(f"several rollouts of {model} are under way, so name one: {several}")


def kill_sentences(platform: Platform, model: str | None) -> list[str]:
    """Returns one sentence for each model that is switched off.

    Args:
        model: name of the only model to check; None means all models.
    """
    found = []
    for name in model_names() if model is None else [model]:
        killed = fold_controls(platform.rollouts.controls(name)).killed
        if killed is not None:
            found.append(f"{name} is switched off by {killed.actor}: {killed.reason}")
    return found


def why_no_step(platform: Platform, state: RolloutState) -> str:
    """Why a rollout takes no step forward now, whatever its gates show: its model is switched off,
    it is paused or frozen, or its service is not ready; "" if nothing of this holds it."""
    if off := kill_sentences(platform, state.model):
        return f"{off[0]}. Next: `mlplatform rollouts lift {state.model}`"
    routes, policy = platform.rollouts.routes(state.model), platform.definition(state.model).rollout
    if held := reason_to_wait(state, routes, policy, platform.clock.wall_ms()):
        return held
    if state.phase != "deploying":
        return ""
    return state.refused or f"{state.challenger.service} is not ready; the next pass looks again"


def start_variants(
    platform: Platform,
    model: str,
    shares: Mapping[int, float],
    *,
    days: float,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None = None,
) -> VariantTestState:
    """Start an A/B/n test of former champions beside the champion; returns its state.

    Args:
        shares: version → percent of the customers.
        days: days for which the variants answer.
        identity: as in `control_model`.

    Raises:
        Refused: the model's present state allows no test, or no test of these versions.
    """
    platform.definition(model)
    asked = f"variants start of {model}: {reason}"
    with kept_refusal(platform, asked, actor, identity, surface=CONTROL):
        state = variants.start(
            platform.rollouts,
            model,
            shares,
            days=days,
            actor=actor,
            reason=reason,
            clock=platform.clock,
            identity=identity,
        )
    return _test_of(state)


def raise_variants(
    platform: Platform,
    model: str,
    shares: Mapping[int, float],
    *,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None = None,
) -> VariantTestState:
    """Raise shares of the running test; returns its state.

    Raises:
        Refused: no test runs, or a share is smaller than before.
    """
    platform.definition(model)
    asked = f"variants raise of {model}: {reason}"
    with kept_refusal(platform, asked, actor, identity, surface=CONTROL):
        state = variants.raise_shares(
            platform.rollouts,
            model,
            shares,
            actor=actor,
            reason=reason,
            clock=platform.clock,
            identity=identity,
        )
    return _test_of(state)


def end_variants(
    platform: Platform,
    model: str,
    *,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None = None,
) -> VariantTestState:
    """End the running test; returns its state.

    Raises:
        Refused: no test of the model runs.
    """
    platform.definition(model)
    asked = f"variants end of {model}: {reason}"
    with kept_refusal(platform, asked, actor, identity, surface=CONTROL):
        state = variants.end(
            platform.rollouts,
            model,
            actor=actor,
            reason=reason,
            clock=platform.clock,
            identity=identity,
        )
    return _test_of(state)


def compare_variants(
    platform: Platform, model: str
) -> tuple[VariantTestState | None, tuple[ArmFigures, ...]]:
    """The model's newest A/B/n test, and what its arms have done; None if there was none."""
    definition = platform.definition(model)
    test = fold_controls(platform.rollouts.controls(model)).test
    if test is None:
        return None, ()
    return test, compare(definition, platform.log, test, now_ms=platform.clock.event_ms())


def _test_of(state: ControlState) -> VariantTestState:
    assert state.test is not None  # every fact of a test leaves one
    return state.test
