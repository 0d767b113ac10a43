"""The rule by which a drill tells a leak from the ups and downs of a process's memory."""

from __future__ import annotations

import random

import pytest
from tests.drills.memory import Sample, growth

REQUESTS = 1_000_000
RUN_S = 600


def run(leak_mb: float, *, first_mb: float = 0.0, spikes_mb: float = 0.0) -> list[Sample]:
    """A sample a second of 100 MB, with noise and, at first, some that is not there later."""
    chance = random.Random(3)
    return [
        Sample(
            at_s,
            100.0
            + leak_mb * at_s / RUN_S
            - first_mb * max(0.0, 1 - at_s / 60)
            + chance.gauss(0, 0.5)
            + (spikes_mb if chance.random() < 0.05 else 0.0),
        )
        for at_s in range(RUN_S)
    ]


@pytest.mark.parametrize(
    ("samples", "is_flat"),
    [
        pytest.param(run(0.0), True, id="noise"),
        pytest.param(run(0.0, first_mb=40.0), True, id="filled up in the first minute"),
        pytest.param(run(0.0, spikes_mb=50.0), True, id="peaks now and then"),
        pytest.param(run(3.0), True, id="less than is allowed"),
        pytest.param(run(10.0), False, id="ten bytes a request"),
        pytest.param(run(10.0, spikes_mb=50.0), False, id="a leak under peaks"),
        pytest.param(run(10.0)[:15], None, id="too short to say"),
    ],
)
def test_growth_of_the_later_part_decides(samples: list[Sample], is_flat: bool | None) -> None:
    assert growth(samples, REQUESTS).is_flat is is_flat


def test_growth_is_that_of_the_line_through_the_later_part() -> None:
    found = growth([Sample(at_s, 100.0 + at_s / 60) for at_s in range(601)], REQUESTS)
    assert found.slope_mb_per_min == 1.0
    assert found.growth_mb == pytest.approx(8.0)
    assert found.bytes_per_request == pytest.approx(10.0)
    assert (found.allowed_mb, found.samples) == (pytest.approx(5.3, abs=0.05), 481)
