"""The acts that a person may do now on a rollout or a model: pure rules over the journal's
states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import Phase, RolloutState, check_approver
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.rollouts.passes.summary import rejection
from mlplatform.runtime.errors import Refused
from mlplatform.scoring.admission.clients import Client, Operation

OfRollout = Literal["approve", "reject", "pause", "resume", "abort", "roll-back"]
OfModel = Literal["kill", "lift", "clear"]
Act = OfRollout | OfModel
OF_ROLLOUT: Final[tuple[OfRollout, ...]] = get_args(OfRollout)
OF_MODEL: Final[tuple[OfModel, ...]] = get_args(OfModel)
ANSWERS: Final[frozenset[Act]] = frozenset({"approve", "reject"})
BOUND: Final[frozenset[Act]] = ANSWERS | {"resume", "lift", "clear"}
"""Acts that are refused if the state that their form showed has changed. Acts that stop something
are never refused for that."""
ROLES: Final[tuple[tuple[str, Operation], ...]] = (
    ("approver", "approve"),
    ("engineer", "run"),
    ("operator", "operate"),
    ("analyst", "review"),
)
WORDS: Final[dict[Act, tuple[str, str]]] = {
    "approve": ("Approve", "the version goes on to its next step"),
    "reject": ("Reject", rejection(emergency=False)),
    "pause": (
        "Pause",
        "the rollout takes no step forward until somebody resumes it; the deadline is suspended,"
        " and guardrails can still take the rollout back",
    ),
    "resume": ("Resume", "the rollout goes on, with the time that its phase had left"),
    "abort": ("Abort", "the rollout ends at once, and its version answers nobody any more"),
    "roll-back": (
        "Roll back",
        "the champion before this version answers again, within a second",
    ),
    "kill": (
        "Switch off",
        "the small model, rules or safe decision answer in place of the model's versions, and no"
        " rollout moves forward until somebody switches the model on",
    ),
    "lift": ("Switch on", "the versions of the model answer again, as its routes say"),
    "clear": (
        "Clear stops",
        "gateways send requests again to the versions that they stopped for too many alerts",
    ),
}
"""Act → text of its button, and its effect."""


@dataclass(frozen=True, slots=True)
class Button:
    """An act that is offered, and the path where it is confirmed."""

    act: Act
    title: str
    path: str


def may(client: Client | None, act: Act, model: str) -> bool:
    """Whether a person's scopes allow an act; None stands for somebody who only looks."""
    if client is None:
        return False
    return client.may(model, "approve") if act in ANSWERS else client.may_stop(model)


def scope_of(act: Act, model: str) -> str:
    """The scope that an act needs, in the form of `keys create`."""
    if act in ANSWERS:
        return f"{model}:approve"
    return f"{model}:operate or {model}:run"


WAY_OUT: Final[Mapping[Act, str]] = MappingProxyType(
    {
        "roll-back": ". A champion is rolled back as long as the champion before it is kept ready;"
        " without one, open a rollout of the version that you want"
    }
)
"""Act → what to do where the state does not allow it, as the rest of a sentence."""


def role_for(act: Act) -> str:
    """The word for people who may do this act."""
    return "an approver" if act in ANSWERS else "an operator or an engineer"


def roles(client: Client | None) -> tuple[str, ...]:
    """The words for somebody with these scopes."""
    if client is None:
        return ("viewer",)
    found = tuple(role for role, operation in ROLES if client.may_on_some(operation))
    return found or ("viewer",)


def of_rollout(state: RolloutState, routes: Routes) -> tuple[OfRollout, ...]:
    """The acts that the state of a rollout allows, before a person's scopes are checked."""
    found: list[OfRollout] = []
    if state.awaits_answer and state.answer is None:
        found += ["approve", "reject"]
    if state.ramping:
        found += ["pause" if state.paused is None else "resume", "abort"]
    is_champion = state.phase == "promoted" and routes.champion == state.challenger
    if is_champion and routes.previous is not None:
        found.append("roll-back")
    return tuple(found)


def of_model(routes: Routes, *, is_stopped: bool) -> tuple[OfModel, ...]:
    """The acts that a model's routes allow, before a person's scopes are checked.

    Args:
        is_stopped: whether a running gateway has stopped one of the model's versions.
    """
    found: list[OfModel] = []
    if routes.killed:
        found.append("lift")
    elif routes.champion is not None:
        found.append("kill")
    if is_stopped:
        found.append("clear")
    return tuple(found)


def phase_words(phase: Phase) -> str:
    """A phase after "is": "in shadow", "rolled back"."""
    return f"in {phase}" if phase in ("shadow", "canary") else phase.replace("_", " ")


def answer_refusal(state: RolloutState, name: str, identity: ProvenIdentity | None = None) -> str:
    """Why this person may not answer for a rollout; empty if they may."""
    try:
        check_approver(state, name, identity)
    except Refused as refused:
        return str(refused)
    return ""


def state_id_of_rollout(state: RolloutState, facts: int, act: Act) -> str:
    """Names the state that an act on a rollout is bound to, by the digest of the evidence of its
    question, else by the length of its journal."""
    return state.asked_digest or "" if act in ANSWERS else f"fact {facts}"


def state_id_of_model(routes: Routes) -> str:
    """Names the state that an act on a model is bound to, by the generation of its routes."""
    return f"generation {routes.generation}"
