"""The routes of a model: which version answers whom. Rollouts write this value, and gateways read
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Phase = Literal["none", "steady", "shadow", "canary"]
ArmRole = Literal["champion", "challenger", "previous"]

VERSION_HEADER: Final = "mlplatform-version"
"""Request header that names the version which must answer."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One deployed bundle: its registry version, content digest and InferenceService name."""

    version: int
    bundle: str
    service: str


@dataclass(frozen=True, slots=True)
class Routes:
    """The routing of a model's traffic.

    Args:
        generation: number that grows with every change; records of other generations are not
            counted.
        champion: None only before the first version is promoted (phase "none").
        challenger: the arm in "shadow" (gets copies) or "canary" (answers a share of the units);
            else None.
        previous: the champion's predecessor, kept warm as its first fallback.
        rollout_id: id of the present rollout; in "steady", of the one that promoted the champion.
        challenger_percent: 0 to 100; 0 outside "canary".
        cleared: generation in which a person last told gateways to ask stopped arms again, after
            they were stopped for the volume of their decisions.
        killed: whether a person has switched the model off; then no arm is asked, and the fallback
            decides.
    """

    model: str
    generation: int
    champion: Arm | None
    challenger: Arm | None
    previous: Arm | None
    rollout_id: str | None
    phase: Phase
    challenger_percent: float
    cleared: int = 0
    killed: bool = False

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that must keep running while these routes may be applied."""
        return tuple(arm for _, arm in self.roles)

    @property
    def roles(self) -> tuple[tuple[ArmRole, Arm], ...]:
        """The arms with their roles, champion first."""
        listed: tuple[tuple[ArmRole, Arm | None], ...] = (
            ("champion", self.champion),
            ("challenger", self.challenger),
            ("previous", self.previous),
        )
        return tuple((role, arm) for role, arm in listed if arm is not None)

    @property
    def services(self) -> frozenset[str]:
        return frozenset(arm.service for arm in self.arms)


def no_routes(model: str) -> Routes:
    """The routes of a model that has never had a champion."""
    return Routes(
        model=model,
        generation=0,
        champion=None,
        challenger=None,
        previous=None,
        rollout_id=None,
        phase="none",
        challenger_percent=0.0,
    )
