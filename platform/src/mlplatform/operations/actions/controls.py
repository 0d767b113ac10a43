"""What people ask beside opening and answering: stopping and starting what runs, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

from mlplatform.rollouts.journal.controls import ControlState, fold_controls
from mlplatform.rollouts.passes import controls
from mlplatform.rollouts.passes.controls import Journal
from mlplatform.runtime.clock import Clock

if TYPE_CHECKING:
    from mlplatform.operations.wiring import Platform

OfModel = Literal["kill", "lift", "clear"]


class _Act(Protocol):
    def __call__(
        self, journal: Journal, model: str, *, actor: str, reason: str, clock: Clock
    ) -> ControlState: ...


_OF_MODEL: Final[dict[OfModel, _Act]] = {
    "kill": controls.kill,
    "lift": controls.lift,
    "clear": controls.clear_stops,
}


def control_model(platform: Platform, model: str, act: OfModel, *, actor: str, reason: str) -> int:
    """Carry out what a person asks of a model; returns the generation of the routes that gateways
    follow.

    Raises:
        Refused: it can't follow what holds now.
    """
    platform.definition(model)
    journal = platform.rollouts
    _OF_MODEL[act](journal, model, actor=actor, reason=reason, clock=platform.clock)
    return journal.routes(model).generation


def controls_of(platform: Platform, model: str) -> ControlState:
    """What holds for a model."""
    return fold_controls(platform.rollouts.controls(model))
