"""One feature of one decision: the value that it was served beside the value that the records
give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Outcome = Literal["equal", "late", "missing", "different"]
Note = Literal[
    "unserved",
    "stale",
    "unavailable",
    "missing",
    "empty",
    "store",
    "snapshot",
    "redefined",
    "table",
]
"""A further fact about a cell:

- `unserved`: the record does not name the feature;
- the next three: the record's own reason why there was nothing;
- `empty`: the value read for an unknown entity;
- `store`: another value than in the snapshot that the record names;
- `snapshot`: the snapshot's own value;
- `redefined`: that snapshot was made by another definition;
- `table`: another value than the imported table had then.
"""

CLOSE: Final = 1e-9
"""Relative difference up to which two means are the same: one of the same requests, added up in
another order."""


class LateInterval(NamedTuple):
    """The interval that a late value represents: it includes what was known at one moment, and
    lacks what came at another. Epoch milliseconds, None if unknown."""

    until_ms: int | None
    without_ms: int | None
    late_ms: int | None = None


class Cell(NamedTuple):
    """The comparison of one feature of one decision.

    Args:
        position: per writer, the number of the last log record that the served value includes, as
            the decision's record or the snapshot states; None if neither states it.
    """

    feature: str
    decision_id: str
    event_ms: int
    served: float | None
    expected: float | None
    outcome: Outcome
    position: Mapping[str, int] | None = None
    holds: LateInterval | None = None
    note: Note | None = None


def exactly(one: float | None, other: float | None) -> bool:
    """Whether two values are the same, bit for bit except for the sign of zero."""
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def nearly_equal(one: float | None, other: float | None) -> bool:
    """Whether two values are the same except for the order in which floats were added."""
    if one is None or other is None:
        return one is other
    return exactly(one, other) or math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12)
