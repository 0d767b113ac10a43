"""The capacity model against what queueing theory says."""

from __future__ import annotations

import numpy as np
import pytest
from tests.bench.capacity import SPREAD, plan, waits_s


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(busy: float) -> None:
    service_s = 200e-6
    expected = busy * service_s * (1 + SPREAD**2) / (2 * (1 - busy))
    assert float(np.mean(waits_s(busy / service_s, service_s))) == pytest.approx(expected, rel=0.1)


def test_a_core_that_cannot_keep_up_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than a core"):
        waits_s(6000, 200e-6)


def test_a_plan_has_a_core_for_every_share_of_the_work() -> None:
    found = plan(50_000, 200e-6, 50e-6, base_ms=1.0, limit_ms=10.0)
    assert found is not None
    assert found.gateways * found.busy_share >= 50_000 * 200e-6
    assert found.predictors * found.busy_share >= 50_000 * 50e-6
    assert found.p99_ms <= 10.0


def test_no_plan_where_one_request_alone_takes_too_long() -> None:
    assert plan(50_000, 200e-6, 50e-6, base_ms=11.0, limit_ms=10.0) is None
