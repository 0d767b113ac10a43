"""Whether there is room for one more request; the lowest class is turned away first.

Requests in flight are counted. Any queue behind the gateway (a slow predictor, a slow disk) keeps
requests in flight longer, so that it shows here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Priority = Literal["critical", "standard", "background"]

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
"""The classes, from the one that is refused last to the one that is refused first."""

SHARES: Final[Mapping[Priority, float]] = {"critical": 1.0, "standard": 0.9, "background": 0.5}
"""Share of all room that may be taken while a class is still admitted. The last tenth is for
critical requests only. Background work is refused while half of the room is still free, because it
can wait."""

SHED_RETRY_S: Final[Mapping[Priority, int]] = {"critical": 1, "standard": 1, "background": 5}
"""Seconds after which a refused request may come back; background work later, so that its retries
do not fill the room again."""


MAX_IN_FLIGHT: Final = 1024
"""Requests that one gateway process answers at a time. At 5 200 a second, the most that one was
seen to answer (`docs/performance.md`), these are what came in the last 0.2 s; more in flight wait
for a predictor that does not keep up, and more room would only have them wait longer. A bank that
needs more has more gateways, each with this room.
"""


@dataclass(frozen=True, slots=True)
class Enter:
    """There is room for the request."""


@dataclass(frozen=True, slots=True)
class ShedRequest:
    """There is no room for a request of this class.

    Args:
        ceiling: number of requests in flight up to which this class is admitted.
    """

    ceiling: int
    retry_after_s: int


ENTER: Final = Enter()


@dataclass(frozen=True, slots=True)
class InFlightLimits:
    """Most requests in flight with which each class is still admitted."""

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
    """The limits of each class if `max_in_flight` requests are answered at a time; each at least
    1."""
    return InFlightLimits(
        **{name: max(int(max_in_flight * share), 1) for name, share in SHARES.items()}
    )


def entry(priority: Priority, in_flight: int, within: InFlightLimits) -> Enter | ShedRequest:
    """Whether a request of this class is admitted beside those in flight."""
    ceiling = within.ceiling(priority)
    return ENTER if in_flight < ceiling else ShedRequest(ceiling, SHED_RETRY_S[priority])


def lowered(own: Priority, requested: Priority) -> Priority:
    """The class of a request whose sender asks for another class: never above the sender's own."""
    return max(own, requested, key=PRIORITIES.index)
