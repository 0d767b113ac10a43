"""A bundle that a gateway would stop on ordinary requests does not pass."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from mlplatform.learning.training_sets.dataset import Matrix
from mlplatform.learning.validation.gate_report import VolumeReplay
from mlplatform.learning.validation.gates import ReplayEvidence, judge_volume
from mlplatform.learning.validation.replay import replay_volume
from mlplatform.learning.validation.replay_result import ReplayResult
from mlplatform.model.bundle import AlertBand
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.decision_scale import EARLIER, VolumeLimit
from mlplatform.runtime.units import HOUR_MS

LIMIT = cast(VolumeLimit, load_definition("fraud").decision.limit)
SEEN = ReplayEvidence(
    rows=2_400,
    source="held-out days",
    band=AlertBand(low=0.005, high=0.03, share=0.012, how="by hand"),
    alert_share=0.03,
    flip_share=None,
)


def a_day(at_night: float, by_day: float, *, nightly: int = 40, hourly: int = 100) -> VolumeReplay:
    """The finding on a day of customers who pay once, whose first five hours are night."""
    counts = [nightly if hour < 5 else hourly for hour in range(24)]
    event_ms = np.concatenate(
        [hour * HOUR_MS + np.arange(count) * HOUR_MS // count for hour, count in enumerate(counts)]
    ).astype(np.int64)
    shares = np.where(event_ms < 5 * HOUR_MS, at_night, by_day)
    reviews = np.random.default_rng(5).uniform(size=len(event_ms)) < shares
    shuffled = np.random.default_rng(6).permutation(len(event_ms))
    rows = Matrix(
        names=("amount",),
        x=np.zeros((len(event_ms), 1), np.float32),
        event_ms=event_ms[shuffled],
        unit=np.arange(len(event_ms), dtype=np.int64),
    )
    places = reviews[shuffled].astype(np.int8)
    return replay_volume(LIMIT, ReplayResult(EARLIER, np.zeros(len(event_ms)), places), rows)


def test_a_share_that_days_keep_to_and_nights_do_not_is_found_with_its_time() -> None:
    found = a_day(at_night=0.7, by_day=0.01)
    assert found.stop is not None
    assert found.at_ms < 5 * HOUR_MS
    (result,) = judge_volume(replace(SEEN, volume=found))
    assert result.verdict == "failed"
    assert result.limit == LIMIT.alert_share
    assert result.observed is not None
    assert result.observed > LIMIT.alert_share
    assert "would have stopped this bundle at 1970-01-01 0" in result.reason
    assert "decided review or decline for " in result.reason


def test_nights_within_the_limit_pass() -> None:
    found = a_day(at_night=0.2, by_day=0.01)
    (result,) = judge_volume(replace(SEEN, volume=found))
    assert (found.stop, result.verdict) == (None, "passed")


def test_few_requests_prove_nothing_and_no_limit_is_no_gate() -> None:
    (result,) = judge_volume(replace(SEEN, rows=200, volume=VolumeReplay()))
    assert result.verdict == "inconclusive"
    assert judge_volume(SEEN) == ()


def test_a_version_that_no_gateway_would_have_stopped_is_told_with_the_requests() -> None:
    (result,) = judge_volume(replace(SEEN, volume=VolumeReplay(None, 0)))
    told = f"no gateway would have stopped this bundle in {SEEN.rows:,} requests ({SEEN.source})"
    assert result.reason == told
