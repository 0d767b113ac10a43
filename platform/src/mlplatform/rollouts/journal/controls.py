"""The controls of people over all of a model's traffic, beside its rollouts: facts and their
fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

import msgspec

from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.transitions import (
    CanaryStepped,
    Confirmed,
    Promoted,
    ProvenIdentity,
    ShadowStarted,
    Transition,
)
from mlplatform.runtime.errors import Refused


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The fields of every control: its time on both clocks, its actor and its reason.

    Args:
        identity: identity of the actor that an identity provider proved; None if a key or a command
            did it.
    """

    model: str
    event_ms: int
    wall_ms: int
    actor: str
    reason: str
    identity: ProvenIdentity | None = None


class Killed(_Fact, frozen=True, tag="killed"):
    """The model is switched off: no version is asked, and the fallback of its chain decides."""


class KillLifted(_Fact, frozen=True, tag="kill-lifted"):
    """The model is switched on again: versions are asked as the routes say."""


class StopsCleared(_Fact, frozen=True, tag="stops-cleared"):
    """Gateways ask the versions again that they had stopped for the volume of their decisions."""


Control = Killed | KillLifted | StopsCleared

_decoder: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)


@dataclass(frozen=True, slots=True)
class ControlState:
    """The controls in force for a model.

    Args:
        killed: fact that switched the model off; None if the model is on.
    """

    killed: Killed | None = None


def fold_controls(facts: Iterable[Control]) -> ControlState:
    """The state after these facts of one model, in order.

    Raises:
        Refused: a fact can't follow those before it.
    """
    state = ControlState()
    for fact in facts:
        state = apply_control(state, fact)
    return state


def apply_control(state: ControlState, fact: Control) -> ControlState:
    """The state after one more fact.

    Raises:
        Refused: the fact can't follow: the model is killed already, or it is not killed.
    """
    match fact:
        case Killed():
            if state.killed is not None:
                who = f"{state.killed.actor}: {state.killed.reason}"
                raise Refused(f"{fact.model} is killed already, by {who}")
            return ControlState(killed=fact)
        case KillLifted():
            if state.killed is None:
                raise Refused(f"{fact.model} is not killed: there is nothing to lift")
            return ControlState()
        case StopsCleared():
            return state
        case _:
            assert_never(fact)


def controlled_routes(fact: Control, routes: Routes) -> Routes:
    """The routes after a control."""
    generation = routes.generation + 1
    match fact:
        case Killed():
            return dataclasses.replace(routes, generation=generation, killed=True)
        case KillLifted():
            return dataclasses.replace(routes, generation=generation, killed=False)
        case StopsCleared():
            return dataclasses.replace(routes, generation=generation, cleared=generation)
        case _:
            assert_never(fact)


def check_may_move(fact: Transition, present: Routes, following: Routes | None) -> None:
    """Raises unless a rollout's transition may write these routes; None leaves the present ones.

    Raises:
        Refused: the model is killed and the transition leads forward, or the transition changes
            fields that only a control may change.
    """
    forward = ShadowStarted | CanaryStepped | Promoted | Confirmed
    if present.killed and isinstance(fact, forward):
        raise Refused(f"{fact.model} is killed: no rollout moves until `rollouts lift` ends it")
    if following is None:
        return
    if (following.killed, following.cleared) != (present.killed, present.cleared):
        raise Refused(f"a rollout of {fact.model} can't change what people control")


def encode_control(fact: Control) -> bytes:
    """The fact in the journal's encoding."""
    return msgspec.json.encode(fact, order="sorted")


def decode_control(text: bytes) -> Control:
    """The fact that a journal row holds.

    Raises:
        msgspec.ValidationError: the row holds no control that this release knows.
    """
    return _decoder.decode(text)
