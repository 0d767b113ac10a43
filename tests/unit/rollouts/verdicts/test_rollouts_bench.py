"""The bench of rollouts reads what passes read, and its other rules are what they are called."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from scipy import stats
from tests.bench import rollouts as bench
from tests.bench.rollout_counts import Counts, recounted
from tests.bench.rollout_rules import rank_z
from tests.bench.rollout_traffic import Stream, drawn_customers, drawn_prediction, true_prediction
from tests.bench.rollout_worlds import SEGMENTS, World, busy

from mlplatform.rollouts.verdicts.judgement import judge
from mlplatform.rollouts.verdicts.traffic import Traffic

QUIET = World(more_failing=0.01, alerts=1.5, slower=1.2, segmented=True, outage_s=600.0)


@pytest.mark.parametrize("world", [QUIET, busy(QUIET)], ids=["10 000 a day", "1 000/s"])
@pytest.mark.parametrize("number", [0, 2], ids=["shadow", "canary"])
def test_the_verdict_of_each_look_is_that_of_a_recount_of_everything(
    world: World, number: int
) -> None:
    rng, asked = np.random.default_rng(1), bench.steps()[number]
    customers, percent = drawn_customers(rng, world), bench.percent_of(asked)
    limits = bench.limits_in(world, asked, *drawn_prediction(rng, world, customers))
    hours, names = (16 / 3600 if world.is_busy else 32.0), tuple(s.name for s in SEGMENTS.groups)
    looks = [hours * part for part in (0.125, 0.25, 0.5, 1.0)]
    stream, whole = (
        Stream(np.random.default_rng(2), world, hours, percent, customers) for _ in range(2)
    )
    in_canary = percent is not None
    kept = Counts(world.customers, hours, in_canary=in_canary, segments=names)
    parts = []
    for hour in looks:
        kept.add(stream.traffic(stream.until(hour)))
        parts.append(whole.traffic(whole.until(hour)))
        again = recounted(_joined(parts), in_canary=in_canary, segments=names)
        wanted, found = (judge(a, a, limits, bench.COMPLETE) for a in (again, kept.aggregates()))
        assert again.records > 0
        assert wanted.evidence.pop("counted") != found.evidence.pop("counted") == ""
        assert wanted == found


def _joined(parts: list[Traffic]) -> Traffic:
    names = [f.name for f in fields(Traffic) if f.name not in ("dropped", "uncopied_ms")]
    return Traffic(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def test_ranks_of_binned_samples_are_those_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(3)
    mine, other = rng.integers(0, 12, 700), rng.integers(1, 13, 900)
    p_value = stats.mannwhitneyu(mine, other, use_continuity=False, method="asymptotic").pvalue
    z = rank_z(np.stack([np.bincount(sample, minlength=13) for sample in (mine, other)]))
    assert z < 0
    assert 2 * stats.norm.sf(-z) == pytest.approx(p_value)


@pytest.mark.parametrize("world", [World(), World(alerts=1.5, redrawn=0.6), World(alerts=0.4)])
def test_what_replay_says_of_many_payments_is_what_is_true(world: World) -> None:
    rng = np.random.default_rng(4)
    customers = drawn_customers(rng, world)
    stream = Stream(rng, world, 24.0 * 60, None, customers)
    mine, other = (scores > 1.0 for scores in reversed(stream.until(24.0 * 60).scores))
    found = true_prediction(world, customers)
    assert found.alert_ratio == pytest.approx(mine.sum() / other.sum(), rel=0.03)
    alone = (mine ^ other).sum() / (mine | other).sum()
    assert found.disagreement == pytest.approx(alone, abs=0.02)
