"""Worlds with a known truth, in which rollouts are played: what is true of two arms."""

from __future__ import annotations

import dataclasses
from typing import Final

from mlplatform.model.policies.segments import (
    RolloutSegment,
    SegmentLimits,
    SegmentPolicy,
)

BASE_US, ROW_US = 2000.0, 2000.0
"""A call's median time: what it takes without a row, and for each row."""
A_DAY: Final = 10_000
BUSY: Final = 86_400_000
"""Payments a day, at 1 000/s."""
BUSY_HOURS: Final = 0.25
"""Of a step's deadline, at 1 000/s: what a simulation can hold."""
BUSY_PODS: Final = 10
"""Of the challenger: at 1 000/s one would be busy for two seconds of each second."""


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What is true of both arms.

    Args:
        activity: sigma of the customers' lognormal activity.
        icc: how alike the alerts of one customer are (0-1).
        outage_s: length of an outage, in which an arm fails; 0: failures are independent.
        failing: share of requests that either arm fails.
        more_failing: that the challenger fails besides; late: in canary alone, where it is held to
            a deadline that shadow calls do not have.
        alerts, more_alerts: the challenger's alerts, as a multiple of the champion's, and a share
            of payments besides.
        foretold: replay was of the challenger as it is, not of one as good as the champion.
        redrawn: payments on which the challenger decides as if by another draw of the same rate.
        slower, tail: median and 99th percentile of its latency, as multiples of the champion's.
        row_us: that one more row takes in a call. batched: rows of a call besides the first, on
            average. pods: of the challenger with all of the traffic.
        segmented: the policy declares segments besides: a tenth of the customers and nights, that
            shadow has to show, and a fiftieth of them and weekends.
        inverted: in the tenth, the challenger ranks payments upside down: as many alerts, and none
            in common with the champion.
        in_segment: the challenger's alerts in the tenth, as a multiple of the champion's.
        late_alerts: the challenger's alerts from the 25 % step on, as a multiple of those before.
        swapped: of the payments with an alert of both arms, those that the challenger decides as
            another alert: it declines what the champion has reviewed.
    """

    payments_a_day: int = A_DAY
    customers: int = 5_000
    activity: float = 1.2
    icc: float = 0.05
    alert_share: float = 0.013
    outage_s: float = 60.0
    failing: float = 0.001
    more_failing: float = 0.0
    late: float = 0.0
    alerts: float = 1.0
    more_alerts: float = 0.0
    foretold: bool = False
    redrawn: float = 0.2
    slower: float = 1.0
    tail: float = 1.0
    row_us: float = ROW_US
    batched: float = 0.0
    pods: int = 1
    segmented: bool = False
    inverted: bool = False
    in_segment: float = 1.0
    late_alerts: float = 1.0
    swapped: float = 0.0

    @property
    def is_busy(self) -> bool:
        return self.payments_a_day >= BUSY

    def deadline_h(self, asked_h: float) -> float:
        """A step's deadline, or as much of it as is played."""
        return min(asked_h, BUSY_HOURS) if self.is_busy else asked_h

    def least_h(self, asked_h: float | None) -> float:
        """A step's `minimum_h`, which at 1 000/s is longer than what is played."""
        return 0.0 if self.is_busy else asked_h or 0.0

    def in_step(self, percent: float | None) -> World:
        """What is true in a step of this share; None in shadow."""
        if percent is None or percent < 25 or self.late_alerts == 1.0:
            return self
        return dataclasses.replace(self, alerts=self.alerts * self.late_alerts)


QUIET_WORLDS: Final[dict[str, World]] = {
    "A/A, independent failures": World(outage_s=0.0),
    "A/A, outages of 60 s": World(),
    "A/A, outages of 600 s": World(outage_s=600.0),
    "A/A, tails of 2.0": World(activity=2.0),
    "A/A, alerts with ICC .17": World(icc=0.17),
    "failures 2 %": World(more_failing=0.02),
    "failures 5 %": World(more_failing=0.05),
    "failures 2 %, in canary alone": World(late=0.02),
    "failures 5 %, in canary alone": World(late=0.05),
    "alerts x 2": World(alerts=2.0),
    "alerts + .5 point": World(more_alerts=0.005),
    "alerts x .25": World(alerts=0.25),
    "never an alert": World(alerts=0.0),
    "alerts x 2, from the 25 % step on": World(late_alerts=2.0),
    "never an alert, from the 25 % step on": World(late_alerts=0.0),
    "alerts x 1.5, as replay said": World(alerts=1.5, foretold=True),
    "alerts half redrawn": World(redrawn=0.7),
    "no alert in common": World(redrawn=1.0),
    "reviews declined": World(swapped=0.7),
    "4 s a row": World(row_us=4e6),
    "3 x p50": World(slower=3.0),
    "+ 20 % p99": World(tail=1.2),
    "A/A, four segments": World(segmented=True),
    "A/A, four segments, alerts with ICC .17": World(segmented=True, icc=0.17),
    "a segment of 10 % upside down": World(segmented=True, inverted=True),
    "never an alert in a segment of 10 %": World(segmented=True, in_segment=0.0),
    "alerts x 3 in a segment of 10 %": World(segmented=True, in_segment=3.0),
}
"""At 10 000 payments a day."""


def busy(world: World) -> World:
    """The same at 1 000/s, where copies share calls: an outage of 60 s becomes one of .3 s, which
    hits about as many payments."""
    outage_s = {0.0: 0.0, 60.0: 0.3, 600.0: 5.0}[world.outage_s]
    return dataclasses.replace(
        world, payments_a_day=BUSY, customers=200_000, outage_s=outage_s, batched=1.0,
        pods=BUSY_PODS, row_us=10_000.0 if world.row_us > ROW_US else ROW_US,
    )  # fmt: skip


_ELSEWHERE = {
    "A/A, outages of 60 s": "A/A, outages of .3 s",
    "A/A, outages of 600 s": "A/A, outages of 5 s",
    "4 s a row": "10 ms a row",
}
CELLS: Final[dict[str, World]] = QUIET_WORLDS | {
    f"{_ELSEWHERE.get(name, name)}, 1 000/s": busy(world)
    for name, world in QUIET_WORLDS.items()
    if not name.startswith(("A/A, four segments, ", "never an alert in", "alerts x 3"))
}
TENTH, FIFTIETH = 10, 50
"""Of the customers, every tenth is in one segment, and every fiftieth in another."""
SEGMENTS = SegmentPolicy(
    stop=SegmentLimits(alerts=0.5, disagreement=0.3),
    tolerance=SegmentLimits(alerts=1.0, disagreement=0.5),
    groups=tuple(
        # the world says who is in it
        RolloutSegment(name=name, input="amount", at_least=0, required=required)
        for name, required in (
            ("tenth", True),
            ("fiftieth", False),
            ("weekend", False),
            ("night", True),
        )
    ),
)


def segments_of(world: World) -> SegmentPolicy | None:
    """What the policy declares in this world: a quarter of an hour holds no night to show."""
    if not world.segmented:
        return None
    if not world.is_busy:
        return SEGMENTS
    groups = tuple(
        RolloutSegment(name=g.name, input="amount", at_least=0, required=g.name == "tenth")
        for g in SEGMENTS.groups
    )
    return SegmentPolicy(stop=SEGMENTS.stop, tolerance=SEGMENTS.tolerance, groups=groups)
