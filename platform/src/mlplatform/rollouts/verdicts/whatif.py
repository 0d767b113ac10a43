"""What another bundle would have decided about the requests of the last days: pure, from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from mlplatform.learning.validation.statistics import share_band
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.rollouts.verdicts.hidden_outcomes import PartialOutcomes
from mlplatform.rollouts.verdicts.outcomes import Outcomes, recall_at_capacity
from mlplatform.rollouts.verdicts.verdict import Errors, number_of

DAY_MS: Final = 86_400_000
ERROR_SHARE: Final = 0.05
"""Of either end of an interval of outcomes."""
UNKNOWN, NEGATIVE, POSITIVE = -1, 0, 1

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class BundleDecisions:
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
class Requests:
    """Requests that both bundles have decided; one array element per request.

    Args:
        outcome: POSITIVE or NEGATIVE where it is known, else UNKNOWN.
        hidden: those of UNKNOWN whose decision hid their outcome: nobody can report them.
        bands: by input, the upper edges of its bands and the band of each request; that of a
            missing value is -1.
    """

    event_ms: Integers
    unit: Integers
    reference: BundleDecisions
    candidate: BundleDecisions
    outcome: Codes
    hidden: npt.NDArray[np.bool_]
    bands: Mapping[str, tuple[Sequence[float], Integers]]

    def __len__(self) -> int:
        return len(self.unit)


class _Counts(msgspec.Struct, frozen=True, rename={"requests": "payments", "positives": "frauds"}):
    """Counts, by the keys that their JSON has."""


class Share(_Counts, frozen=True):
    """Requests with an alert, and the share (0-1) to expect of a coming day; None: fewer than two
    days or customers say nothing of that."""

    count: int
    share: float
    low: float | None = None
    high: float | None = None


class Segment(_Counts, frozen=True):
    """Requests whose input lies in (above, upto]; None: no bound. Both: the value is missing."""

    input: str
    above: float | None
    upto: float | None
    requests: int
    reference_alerts: int
    candidate_alerts: int
    flips: int


class PositiveCounts(_Counts, frozen=True):
    """What one bundle's own alerts find among requests of which the outcome is known.

    Args:
        caught: positives among its alerts. at_capacity: positives among as many of its highest
            scores as people can look at.
    """

    alerts: int
    caught: int
    at_capacity: int


class LabelCounts(_Counts, frozen=True):
    """What matured labels say.

    Args:
        immature: requests that may still get a label. hidden: those whose decision hid their
            outcome, which get none.
        more, low, high: share (0-1) of the positives that the candidate finds more at capacity,
            with bounds that are wrong with probability .05 each, whatever the hidden ones were;
            None: no positive.
    """

    requests: int
    positives: int
    immature: int
    hidden: int
    capacity: float
    reference: PositiveCounts
    candidate: PositiveCounts
    more: float | None
    low: float | None
    high: float | None


class WhatIf(_Counts, frozen=True):
    """The two bundles side by side.

    Args:
        decisions: requests by the reference's decision, then by the candidate's.
        both_alerts: requests on which both raise an alert.
    """

    requests: int
    customers: int
    from_ms: int
    to_ms: int
    decisions: dict[str, dict[str, int]]
    reference_alerts: Share
    candidate_alerts: Share
    both_alerts: int
    flips: Share
    segments: tuple[Segment, ...]
    known: LabelCounts


def what_if(requests: Requests, *, capacity: float) -> WhatIf:
    """Counts, shares and outcomes of both bundles.

    Args:
        requests: at least one. capacity: share (0-1) of requests that may be alerts.
    """
    one, other = requests.reference, requests.candidate
    flipped = one.decision != one.scale.places_of(other.scale, other.decision)
    return WhatIf(
        requests=len(requests),
        customers=len(np.unique(requests.unit)),
        from_ms=int(requests.event_ms.min()),
        to_ms=int(requests.event_ms.max()) + 1,
        decisions={
            mine: {
                theirs: int(((one.decision == i) & (other.decision == j)).sum())
                for j, theirs in enumerate(other.scale.names)
            }
            for i, mine in enumerate(one.scale.names)
        },
        reference_alerts=_share(one.alert, requests),
        candidate_alerts=_share(other.alert, requests),
        both_alerts=int((one.alert & other.alert).sum()),
        flips=_share(flipped, requests),
        segments=tuple(
            segment
            for name, (edges, codes) in requests.bands.items()
            for segment in _segments(name, edges, codes, requests, flipped)
        ),
        known=_known_labels(requests, capacity),
    )


def _share(flags: npt.NDArray[np.bool_], requests: Requests) -> Share:
    band = share_band(flags, requests.unit, requests.event_ms // DAY_MS)
    count, share = int(flags.sum()), float(flags.mean())
    return Share(count, share) if band is None else Share(count, share, band.low, band.high)


def _segments(
    name: str,
    edges: Sequence[float],
    codes: Integers,
    requests: Requests,
    flipped: npt.NDArray[np.bool_],
) -> list[Segment]:
    counts = [
        np.bincount(codes + 1, weights=flags, minlength=len(edges) + 2).astype(int).tolist()
        for flags in (None, requests.reference.alert, requests.candidate.alert, flipped)
    ]
    bounds: list[tuple[Any, Any]] = [(None, None)]
    bounds += zip((None, *edges), (*edges, None), strict=True)
    rows = zip(bounds, *counts, strict=True)
    return [Segment(name, *bound, *numbers) for bound, *numbers in rows if numbers[0]]


def _known_labels(requests: Requests, capacity: float) -> LabelCounts:
    known = requests.outcome != UNKNOWN
    positive = requests.outcome[known] == POSITIVE
    immature = int((~known & ~requests.hidden).sum())
    mature = known | requests.hidden
    champion = requests.reference.score[mature]
    seen = Outcomes(
        requests=PartialOutcomes(
            unit=requests.unit[mature],
            positive=requests.outcome[mature] == POSITIVE,
            seen=known[mature],
            chance=known[mature].astype(np.float64),
            guess=np.clip(champion, 0.0, 1.0),
            came=np.ones(len(champion)),
        ),
        challenger=requests.candidate.score[mature],
        champion=champion,
        immature=immature,
        silent=False,
        come={},
    )
    errors = Errors(ERROR_SHARE, ERROR_SHARE)
    recall = recall_at_capacity(seen, capacity=capacity, errors=errors)
    alerts = [arm.alert[known] for arm in (requests.reference, requests.candidate)]
    reference, candidate = (
        PositiveCounts(int(flags.sum()), int((flags & positive).sum()), caught)
        for flags, caught in zip(
            alerts, (recall.champion.caught, recall.challenger.caught), strict=True
        )
    )
    return LabelCounts(
        requests=int(known.sum()),
        positives=int(positive.sum()),
        immature=immature,
        hidden=seen.hidden,
        capacity=capacity,
        reference=reference,
        candidate=candidate,
        more=number_of(recall.known.value),
        low=number_of(recall.known.low),
        high=number_of(recall.known.high),
    )
