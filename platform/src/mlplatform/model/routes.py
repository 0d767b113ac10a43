"""The routes of a model: which version answers whom. Rollouts write this value, and gateways read
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Phase = Literal["none", "steady", "shadow", "canary"]
ArmRole = Literal["champion", "challenger", "previous", "variant"]

BUCKETS: Final = 10_000
"""Number of buckets of a model's customers: hundredths of a percent."""
VERSION_HEADER: Final = "mlplatform-version"
"""Request header that names the version which must answer."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One deployed bundle: its registry version, content digest and InferenceService name."""

    version: int
    bundle: str
    service: str


@dataclass(frozen=True, slots=True)
class Variant:
    """A version that answers a fixed share of the customers beside the champion, in a test.

    Args:
        percent: its share of the customers, in hundredths of a percent or coarser; above 0, below
            100.
        buckets: ranges of the customers' buckets that are its own, as (first, end), 0 to 10,000,
            the end exclusive. No two variants of a test share a bucket.
    """

    arm: Arm
    percent: float
    buckets: tuple[tuple[int, int], ...]

    def has(self, bucket: int) -> bool:
        """Whether a bucket is this variant's."""
        return any(first <= bucket < end for first, end in self.buckets)


@dataclass(frozen=True, slots=True)
class VariantTest:
    """An A/B/n test: variants beside the champion, which answers all other customers.

    Args:
        test_id: id of the test, and the salt of its customers' buckets.
        answering: whether the variants answer; False while their services start.
    """

    test_id: str
    variants: tuple[Variant, ...]
    answering: bool = False

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(variant.arm for variant in self.variants)


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
        test: the A/B/n test that runs beside the champion; None if none does. There is none while
            there is a challenger.
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
    test: VariantTest | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that must keep running while these routes may be applied."""
        return tuple(arm for _, arm in self.roles)

    @property
    def roles(self) -> tuple[tuple[ArmRole, Arm], ...]:
        """The arms with their roles, champion first. Variants count once they answer."""
        listed: tuple[tuple[ArmRole, Arm | None], ...] = (
            ("champion", self.champion),
            ("challenger", self.challenger),
            ("previous", self.previous),
        )
        found = tuple((role, arm) for role, arm in listed if arm is not None)
        if (test := self.test) is None or not test.answering:
            return found
        return (*found, *(("variant", arm) for arm in test.arms))

    @property
    def starting(self) -> tuple[Arm, ...]:
        """The variants whose services are still to start."""
        return () if self.test is None or self.test.answering else self.test.arms

    @property
    def services(self) -> frozenset[str]:
        """The services that must run: of the arms, and of variants that are still to answer."""
        return frozenset(arm.service for arm in (*self.arms, *self.starting))


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
