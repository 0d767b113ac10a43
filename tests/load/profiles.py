"""Arrival rates over time: an open model, whose requests come when they are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Profile = Literal["steady", "day"]
PROFILES: Final[tuple[Profile, ...]] = ("steady", "day")
MAX_RATE_PER_S: Final = 50_000.0
MAX_SECONDS: Final = 4 * 3600.0
MAX_USERS: Final = 4_000
HOURS_A_DAY: Final = 24.0
DAY: Final = (
    (5.0, 0.1),  # night
    (4.0, 0.8),
    (3.0, 1.0),
    (0.25, 4.0),  # salaries have arrived
    (0.75, 4.0),
    (0.25, 1.0),
    (4.75, 0.9),
    (3.0, 0.5),
    (3.0, 0.1),
)
"""Hours, and the rate at their end by that of midday; from one end to the next it is a line."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of time in which the rate changes along a line.

    Args:
        from_per_s: requests a second at its start.
        to_per_s: at its end.
    """

    seconds: float
    from_per_s: float
    to_per_s: float

    @property
    def requests(self) -> float:
        return (self.from_per_s + self.to_per_s) / 2 * self.seconds


def stages(profile: Profile, *, rate_per_s: float, seconds: float) -> tuple[Stage, ...]:
    """The arrival rate over a run.

    Args:
        rate_per_s: of the whole run, or of a day's midday.
        seconds: of the run; a day is compressed to it.

    Raises:
        ValueError: the highest rate or the time is none that is allowed; says the limit.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"--seconds is {seconds:g}; wanted: more than 0, at most {MAX_SECONDS:g}")
    if profile == "steady":
        found: tuple[Stage, ...] = (Stage(seconds, rate_per_s, rate_per_s),)
    else:
        scale = seconds / HOURS_A_DAY
        shares = (DAY[-1][1], *(share for _, share in DAY))
        found = tuple(
            Stage(hours * scale, rate_per_s * before, rate_per_s * share)
            for before, (hours, share) in zip(shares, DAY, strict=False)
        )
    if not 0 < peak(found) <= MAX_RATE_PER_S:
        wanted = f"more than 0, at most {MAX_RATE_PER_S:g} a second at the peak"
        raise ValueError(f"--rate is {rate_per_s:g}, {peak(found):g} at the peak; wanted: {wanted}")
    return found


def peak(of: Sequence[Stage]) -> float:
    """The highest rate, requests a second."""
    return max(max(stage.from_per_s, stage.to_per_s) for stage in of)


def offered(of: Sequence[Stage]) -> int:
    """Requests that are due in all."""
    return round(sum(stage.requests for stage in of))


def scenario(of: Sequence[Stage], *, held_s: float) -> dict[str, Any]:
    """k6's scenario of these stages.

    All virtual users are there from the start, so that none is made while requests are due; one
    that is due while all are busy is dropped, and fails the run.

    Args:
        held_s: how long a request may hold a virtual user, for their number.
    """
    users = min(int(peak(of) * held_s) + 10, MAX_USERS)
    return {
        "executor": "ramping-arrival-rate",
        "timeUnit": "1m",
        "preAllocatedVUs": users,
        "maxVUs": users,
        "gracefulStop": "30s",
        "startRate": _per_minute(of[0].from_per_s),
        "stages": [{"duration": _ms(s.seconds), "target": _per_minute(s.to_per_s)} for s in of],
    }


def closed(of: Sequence[Stage], *, users: int) -> dict[str, Any]:
    """k6's scenario of so many users, for as long as the stages take."""
    seconds = sum(stage.seconds for stage in of)
    return {
        "executor": "constant-vus",
        "vus": users,
        "duration": _ms(seconds),
        "gracefulStop": "30s",
    }


def as_sent(of: Sequence[Stage]) -> list[dict[str, float]]:
    """The stages as k6 keeps them, whose rates are whole requests a minute."""
    return [
        asdict(Stage(s.seconds, _per_minute(s.from_per_s) / 60, _per_minute(s.to_per_s) / 60))
        for s in of
    ]


def _per_minute(per_s: float) -> int:
    return max(round(per_s * 60), 1)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
