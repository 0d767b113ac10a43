"""Whether there is room for one more request: the lowest class is turned away first.

What is counted is requests in flight. A queue anywhere behind the gateway (a slow predictor, a
slow disk) keeps requests in flight longer, so that it shows here, whatever its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Priority = Literal["critical", "standard", "background"]

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
"""From the one that is kept longest to the one that goes first."""

SHARES: Final[Mapping[Priority, float]] = {"critical": 1.0, "standard": 0.9, "background": 0.5}
"""How much of all room each class may find taken and still get in. A tenth is kept for critical
requests alone; background work stops while half is still free, as it can wait and others can't."""

SHED_RETRY_S: Final[Mapping[Priority, int]] = {"critical": 1, "standard": 1, "background": 5}
"""When to come back; background work later, so that its retries do not fill the room again."""


MAX_IN_FLIGHT: Final = 1024
"""Requests that one gateway process answers at a time. At 5 200 a second, the most that one was
seen to answer (`docs/performance.md`), these are what came in the last 0.2 s; more in flight wait
for a predictor that does not keep up, and more room would only have them wait longer. A bank that
needs more has more gateways, each with this room.
"""


@dataclass(frozen=True, slots=True)
class Enter:
    """There is room."""


@dataclass(frozen=True, slots=True)
class ShedRequest:
    """There is no room for this class.

    Args:
        ceiling: how many requests may be in flight for this class to get in.
    """

    ceiling: int
    retry_after_s: int


ENTER: Final = Enter()


@dataclass(frozen=True, slots=True)
class InFlightLimits:
    """The most requests in flight up to which each class still gets in."""

    critical: int
    standard: int
    background: int

    def ceiling(self, priority: Priority) -> int:
        match priority:
            case "critical":
                return self.critical
            case "standard":
                return self.standard
            case "background":
                return self.background


def in_flight_limits(max_in_flight: int) -> InFlightLimits:
    """The ceilings where `max_in_flight` requests are answered at a time; each at least 1."""
    return InFlightLimits(
        **{name: max(int(max_in_flight * share), 1) for name, share in SHARES.items()}
    )


def entry(priority: Priority, in_flight: int, within: InFlightLimits) -> Enter | ShedRequest:
    """Whether a request of this class gets in beside those that are in flight already."""
    ceiling = within.ceiling(priority)
    return ENTER if in_flight < ceiling else ShedRequest(ceiling, SHED_RETRY_S[priority])


def lowered(own: Priority, asked: Priority) -> Priority:
    """The class of a request whose sender asks for another: never above the sender's own."""
    return max(own, asked, key=PRIORITIES.index)
