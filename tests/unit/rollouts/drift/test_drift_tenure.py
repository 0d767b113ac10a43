"""What has matured of a champion is told with intervals that cover the truth, at every check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlplatform.operations.actions import tenures
from mlplatform.rollouts.drift.performance import CALIBRATION, DailyHits, MaturedDay, MaturedDays
from mlplatform.rollouts.drift.tenure import matured_metric, matured_tenure
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.units import DAY_MS


def day(rng: np.random.Generator, frauds: int = 40, recall: float = 0.6) -> DailyHits:
    """A day's frauds: two or three of one customer are found, or missed, together."""
    customers = rng.integers(0, 10_000, frauds // 2)
    found = rng.random(len(customers)) < recall
    times = rng.integers(2, 4, len(customers))
    return DailyHits(np.repeat(customers, times), np.repeat(found, times), float(times.sum()))


def matured(count: int, hidden: int = 0) -> MaturedDays:
    rng = np.random.default_rng(1)
    metrics = [{"recall": day(rng), "precision": day(rng)} for _ in range(count)]
    days = (MaturedDay(n * DAY_MS, 1_000, hidden, m) for n, m in enumerate(metrics))
    return MaturedDays(tuple(days), ("a gap",))


def test_intervals_cover_the_truth_at_every_look_though_frauds_come_in_clusters() -> None:
    missed = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        seen = [day(rng) for _ in range(20)]
        found = [matured_metric("recall", seen[:n]) for n in (3, 8, 20)]
        missed += any(not (m.low or 0) <= 0.6 <= (m.high or 0) for m in found)
    assert missed <= 5


def test_an_interval_narrows_with_days() -> None:
    rng = np.random.default_rng(2)
    seen = [day(rng) for _ in range(21)]
    few, many = matured_metric("recall", seen[:5]), matured_metric("recall", seen)
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert many.high - many.low < few.high - few.low < 0.6


def test_calibration_is_over_what_the_scores_expect() -> None:
    frauds = np.ones(30, dtype=bool)
    days = [DailyHits(np.arange(30) + 100 * n, frauds, 20.0) for n in range(10)]
    found = matured_metric(CALIBRATION, days)
    assert found.value == pytest.approx(1.5)
    assert found.low is not None
    assert found.high is not None
    assert 1.0 < found.low < 1.5 < found.high


@pytest.mark.parametrize("name", ["recall", CALIBRATION])
def test_of_nothing_nothing_is_told(name: str) -> None:
    nothing = DailyHits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), 0.0)
    found = matured_metric(name, [nothing, nothing])
    assert (found.value, found.low, found.high) == (None, None, None)


def test_no_positive_is_no_recall_and_a_calibration_that_may_be_low() -> None:
    none = DailyHits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), 9.0)
    found = matured_metric(CALIBRATION, [none] * 8)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high is not None
    assert found.high > 0


def test_first_days_and_last_ones_are_told_apart() -> None:
    found = matured_tenure(matured(30, hidden=2), version=4, since_ms=5, now_ms=40 * DAY_MS)
    assert [(s.days, s.hidden, s.requests) for s in found.stretches] == [
        (21, 42, 21_000),
        (9, 18, 9_000),
    ]
    assert (found.stretches[1].from_ms, found.stretches[1].to_ms) == (21 * DAY_MS, 30 * DAY_MS)
    assert (found.version, found.since_ms, found.gaps) == (4, 5, ("a gap",))
    assert matured_tenure(MaturedDays(()), version=4, since_ms=5, now_ms=9).stretches == ()


def test_what_was_kept_of_a_version_is_read_back_and_damage_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    assert tenures.last(folder, "fraud", 4) is None
    found = matured_tenure(matured(9), version=4, since_ms=5, now_ms=40 * DAY_MS)
    tenures.keep(folder, "fraud", found)
    assert tenures.last(folder, "fraud", 4) == found
    assert tenures.last(folder, "fraud", 5) is None
    (file,) = folder.iterdir()
    file.write_text('{"version": "four"}')
    with pytest.raises(Corrupt, match="matured"):
        tenures.last(folder, "fraud", 4)
