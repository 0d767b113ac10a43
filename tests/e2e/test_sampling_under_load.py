"""Under load a gateway keeps every trace that matters, and few of the others."""

from __future__ import annotations

import pytest
from tests.bench.sampling import SampleReport, sampled

pytestmark = pytest.mark.slow
REST_SHARE = 0.05
CHANCE = 10
"""So many of the rest may be kept where there are few of them: a busy machine makes all slow."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SampleReport:
    """At a rate that a machine keeps up with while other tests run; docs/performance.md has the
    figures of full load."""
    return sampled(tmp_path_factory.mktemp("load"), rate=300.0, seconds=8.0)


def test_all_of_them_happened(found: SampleReport) -> None:
    assert found.unanswered == 0
    assert min(found.happened.values()) > 0, found.happened


def test_every_failed_degraded_and_canary_request_is_kept(found: SampleReport) -> None:
    assert found.unkept == []
    assert found.kept["error"] == found.happened["failed"]


def test_every_slow_request_is_kept_or_counted_as_dropped(found: SampleReport) -> None:
    assert found.happened["slow"] - found.dropped <= found.kept_slow


def test_few_of_the_rest_are_kept(found: SampleReport) -> None:
    assert found.kept.get("share", 0) <= max(REST_SHARE * found.rest, CHANCE)
