"""The traffic profile of slices that are known at once."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.rollouts.verdicts.traffic_profile import ProfileBuilder, Slice, TrafficProfile


def profile_of(slices: Sequence[Slice], *, speed: float = 1.0) -> TrafficProfile | None:
    """The profile of slices that follow each other without a gap."""
    builder = ProfileBuilder(days=sum(s.hours for s in slices) / 24, speed=speed)
    for each in slices:
        builder.add(each)
    return builder.profile()
