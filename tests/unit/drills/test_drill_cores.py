"""What a drill knows of how long threads waited for a core."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from tests.drills import cores
from tests.drills.cores import Waits


@pytest.mark.parametrize(
    ("from_s", "to_s", "waited_ms"),
    [
        pytest.param(1.0, 2.0, 5.0, id="between two samples"),
        pytest.param(1.5, 1.6, 5.0, id="within two samples: all that was waited there"),
        pytest.param(0.0, 9.0, 12.0, id="beyond the samples: all of them"),
        pytest.param(2.0, 3.0, 7.0, id="what was waited before does not count"),
    ],
)
def test_waits_are_those_between_the_samples_around(
    from_s: float, to_s: float, waited_ms: float
) -> None:
    at_s, waits_ns = [1.0, 2.0, 3.0], [40_000_000, 45_000_000, 52_000_000]
    assert cores._waited_ms(at_s, waits_ns, from_s, to_s) == waited_ms


def test_nobody_known_has_waited_for_nothing() -> None:
    with Waits(lambda: []) as waits:
        pass
    assert waits.longest_ms(0.0, 1e9) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts waits for a core")
def test_threads_that_share_a_core_are_seen_to_wait() -> None:
    """Two processes on one core: each waits about half of the time."""
    before = os.sched_getaffinity(0)
    began_s = time.monotonic()
    os.sched_setaffinity(0, {min(before)})
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with Waits(lambda: [child.pid]) as waits:
            deadline_s = time.monotonic() + 20
            while waits.longest_ms(began_s, time.monotonic()) < 20:
                assert time.monotonic() < deadline_s
    finally:
        child.kill()
        child.wait()
        os.sched_setaffinity(0, before)
