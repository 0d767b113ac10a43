"""What another bundle would have decided about the requests of the last days: pure, from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from mlplatform.learning.validation.statistics import share_band
from mlplatform.model.decision_scale import DecisionScale
from mlplatform.rollouts.verdicts.hidden import PartlySeen
from mlplatform.rollouts.verdicts.outcomes import Outcomes, recall_at_capacity
from mlplatform.rollouts.verdicts.verdict import Errors, number_of

DAY_MS: Final = 86_400_000
ERROR_SHARE: Final = 0.05
"""Of either end of an interval of outcomes."""
UNKNOWN, GENUINE, FRAUD = -1, 0, 1

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """What one bundle gives for each request.

    Args:
        score: calibrated, 0-1. decision: by its place among the names of the scale.
    """

    score: Floats
    decision: Codes
    scale: DecisionScale

    @property
    def alert(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self.scale.alerting(self.decision)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Payments:
    """Payments that both bundles have decided; one array element per payment.

    Args:
        outcome: FRAUD or GENUINE where it is known, else UNKNOWN.
        hidden: those of UNKNOWN whose decision hid their outcome: nobody can report them.
        bands: by input, the upper edges of its bands and the band of each payment; that of a
            missing value is -1.
    """

    event_ms: Integers
    unit: Integers
    reference: Decided
    candidate: Decided
    outcome: Codes
    hidden: npt.NDArray[np.bool_]
    bands: Mapping[str, tuple[Sequence[float], Integers]]

    def __len__(self) -> int:
        return len(self.unit)


class Share(msgspec.Struct, frozen=True):
    """Payments with an alert, and the share (0-1) to expect of a coming day; None: fewer than two
    days or customers say nothing of that."""

    count: int
    share: float
    low: float | None = None
    high: float | None = None


class Segment(msgspec.Struct, frozen=True):
    """Payments whose input lies in (above, upto]; None: no bound. Both: the value is missing."""

    input: str
    above: float | None
    upto: float | None
    payments: int
    reference_alerts: int
    candidate_alerts: int
    flips: int


class FraudsFound(msgspec.Struct, frozen=True):
    """What one bundle's own alerts find among payments of which the outcome is known.

    Args:
        caught: frauds among its alerts. at_capacity: frauds among as many of its highest scores as
            people can look at.
    """

    alerts: int
    caught: int
    at_capacity: int


class Known(msgspec.Struct, frozen=True):
    """What matured labels say.

    Args:
        immature: payments that may still get a label. hidden: those whose decision hid their
            outcome, which get none.
        more, low, high: share (0-1) of the frauds that the candidate finds more at capacity, with
            bounds that are wrong with probability .05 each, whatever the hidden ones were; None: no
            fraud.
    """

    payments: int
    frauds: int
    immature: int
    hidden: int
    capacity: float
    reference: FraudsFound
    candidate: FraudsFound
    more: float | None
    low: float | None
    high: float | None


class WhatIf(msgspec.Struct, frozen=True):
    """The two bundles side by side.

    Args:
        decisions: payments by the reference's decision, then by the candidate's.
        both_alerts: payments on which both raise an alert.
    """

    payments: int
    customers: int
    from_ms: int
    to_ms: int
    decisions: dict[str, dict[str, int]]
    reference_alerts: Share
    candidate_alerts: Share
    both_alerts: int
    flips: Share
    segments: tuple[Segment, ...]
    known: Known


def what_if(payments: Payments, *, capacity: float) -> WhatIf:
    """Counts, shares and outcomes of both bundles.

    Args:
        payments: at least one. capacity: share (0-1) of payments that may be alerts.
    """
    one, other = payments.reference, payments.candidate
    flipped = one.decision != one.scale.places_of(other.scale, other.decision)
    return WhatIf(
        payments=len(payments),
        customers=len(np.unique(payments.unit)),
        from_ms=int(payments.event_ms.min()),
        to_ms=int(payments.event_ms.max()) + 1,
        decisions={
            mine: {
                theirs: int(((one.decision == i) & (other.decision == j)).sum())
                for j, theirs in enumerate(other.scale.names)
            }
            for i, mine in enumerate(one.scale.names)
        },
        reference_alerts=_share(one.alert, payments),
        candidate_alerts=_share(other.alert, payments),
        both_alerts=int((one.alert & other.alert).sum()),
        flips=_share(flipped, payments),
        segments=tuple(
            segment
            for name, (edges, codes) in payments.bands.items()
            for segment in _segments(name, edges, codes, payments, flipped)
        ),
        known=_known(payments, capacity),
    )


def _share(flags: npt.NDArray[np.bool_], payments: Payments) -> Share:
    band = share_band(flags, payments.unit, payments.event_ms // DAY_MS)
    count, share = int(flags.sum()), float(flags.mean())
    return Share(count, share) if band is None else Share(count, share, band.low, band.high)


def _segments(
    name: str,
    edges: Sequence[float],
    codes: Integers,
    payments: Payments,
    flipped: npt.NDArray[np.bool_],
) -> list[Segment]:
    counts = [
        np.bincount(codes + 1, weights=flags, minlength=len(edges) + 2).astype(int).tolist()
        for flags in (None, payments.reference.alert, payments.candidate.alert, flipped)
    ]
    bounds: list[tuple[Any, Any]] = [(None, None)]
    bounds += zip((None, *edges), (*edges, None), strict=True)
    rows = zip(bounds, *counts, strict=True)
    return [Segment(name, *bound, *numbers) for bound, *numbers in rows if numbers[0]]


def _known(payments: Payments, capacity: float) -> Known:
    known = payments.outcome != UNKNOWN
    fraud = payments.outcome[known] == FRAUD
    immature = int((~known & ~payments.hidden).sum())
    mature = known | payments.hidden
    champion = payments.reference.score[mature]
    seen = Outcomes(
        payments=PartlySeen(
            unit=payments.unit[mature],
            fraud=payments.outcome[mature] == FRAUD,
            seen=known[mature],
            chance=known[mature].astype(np.float64),
            guess=np.clip(champion, 0.0, 1.0),
            came=np.ones(len(champion)),
        ),
        challenger=payments.candidate.score[mature],
        champion=champion,
        immature=immature,
        silent=False,
        come={},
    )
    errors = Errors(ERROR_SHARE, ERROR_SHARE)
    recall = recall_at_capacity(seen, capacity=capacity, errors=errors)
    alerts = [arm.alert[known] for arm in (payments.reference, payments.candidate)]
    reference, candidate = (
        FraudsFound(int(flags.sum()), int((flags & fraud).sum()), caught)
        for flags, caught in zip(
            alerts, (recall.champion.caught, recall.challenger.caught), strict=True
        )
    )
    return Known(
        payments=int(known.sum()),
        frauds=int(fraud.sum()),
        immature=immature,
        hidden=seen.hidden,
        capacity=capacity,
        reference=reference,
        candidate=candidate,
        more=number_of(recall.known.value),
        low=number_of(recall.known.low),
        high=number_of(recall.known.high),
    )
