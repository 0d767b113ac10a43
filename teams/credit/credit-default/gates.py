"""What the credit team asks of a version beyond the platform's gates: what its decisions cost."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.authoring.gates import GateResult, HeldOut, Measure, Verdict, mean_measure

Floats = NDArray[np.float64]

DEARER_TWD: Final = 1_000.0
"""A year and client, by which a version may cost more than the champion. A client who pays earns
30,000."""


def expected_cost(rows: HeldOut) -> Measure:
    """What a client costs in a year by the decisions, in TWD; a gain is negative."""
    champion = None if rows.champion is None else rows.costs(rows.champion.decisions)
    own = rows.costs(rows.candidate.decisions)
    return mean_measure("expected_cost", own, rows.unit, seed=rows.seed, champion=champion)


def decision_cost(rows: HeldOut) -> GateResult:
    """Shown to cost hardly more than the champion; a first version, less than any one outcome for
    all clients."""
    own = rows.costs(rows.candidate.decisions)
    if rows.is_first:
        every = {name: rows.costs(name) for name in rows.decision.outcomes}
        best = min(every, key=lambda name: float(every[name].mean()))
        return _held(rows, own, every[best], f"deciding {best} about all", 0.0)
    if rows.champion is None:
        reason = "the champion can't be run any more: its decisions are not known"
        return GateResult("decision_cost", "inconclusive", None, DEARER_TWD, reason)
    return _held(rows, own, rows.costs(rows.champion.decisions), "the champion", DEARER_TWD)


def _held(rows: HeldOut, own: Floats, other: Floats, whose: str, limit: float) -> GateResult:
    found = mean_measure("cost", own, rows.unit, seed=rows.seed, champion=other).difference
    assert found is not None
    verdict: Verdict = "inconclusive"
    if found.high <= limit:
        verdict = "passed"
    elif found.low > limit:
        verdict = "failed"
    reason = (
        f"a client costs {found.value:+,.0f} TWD a year beside {whose} (90 % interval by customer "
        f"{found.low:+,.0f} to {found.high:+,.0f}; all of it must be {limit:+,.0f} or less), on "
        f"{len(own):,} clients"
    )
    return GateResult("decision_cost", verdict, found.value, limit, reason, (found.low, found.high))


MEASURES: Final = (expected_cost,)
GATES: Final = (decision_cost,)
