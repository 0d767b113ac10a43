"""Controls that take effect at once: people stop and start a model or a rollout."""

from __future__ import annotations

from typing import Final, Literal, Protocol

from mlplatform.model.folders import model_names
from mlplatform.operations.actions.rollouts import CONTROL, kept_refusal
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.controls import ControlState, fold_controls
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.rollouts.passes import controls
from mlplatform.rollouts.passes.controls import ControlsJournal
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Refused

OfModel = Literal["kill", "lift", "clear"]
OfRollout = Literal["pause", "resume", "abort"]


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
    act: OfModel | OfRollout,
    rollout_id: str,
    *,
    actor: str,
    reason: str,
) -> str:
    """Carry out what a person asks of a model or of one of its rollouts; returns a sentence that
    says what was done.

    Raises:
        NotFound: no rollout has this id.
        Refused: the present state does not allow the act, or the rollout belongs to another model.
    """
    if act == "kill" or act == "lift" or act == "clear":
        generation = control_model(platform, model, act, actor=actor, reason=reason)
        return f"{act} {model}: generation {generation}"
    whose = fold(platform.rollouts.read(rollout_id)).model
    with kept_refusal(platform, f"{act} of {rollout_id}: {reason}", actor, surface=CONTROL):
        if whose != model:
            raise Refused(f"{rollout_id} is a rollout of {whose}, not of {model}")
    state = control_rollout(platform, rollout_id, act, actor=actor, reason=reason)
    return f"{act} {rollout_id}: {state.phase}"


def kill_sentences(platform: Platform, model: str | None) -> list[str]:
    """Returns one sentence for each killed model.

    Args:
        model: name of the only model to check; None means all models.
    """
    found = []
    for name in model_names() if model is None else [model]:
        killed = fold_controls(platform.rollouts.controls(name)).killed
        if killed is not None:
            found.append(f"{name} is switched off by {killed.actor}: {killed.reason}")
    return found
