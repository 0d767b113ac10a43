"""What is known of recall and precision where declines hide outcomes and labels come late.

Each run plays weeks of payments with a known truth: heavy-tailed customers, frauds clustered by
customer, two models of which the champion declines its highest scores, and a slice of those
declines let through. It counts how often intervals hold the truth, how far off the share is that
leaves hidden payments out, and which challengers are stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.support.delays import delay_curve

from mlplatform.rollouts.verdicts.hidden_outcomes import (
    Metric,
    MetricBounds,
    PartialOutcomes,
    as_seen,
    interval,
    inverse_propensity,
    precision,
    recall,
    recall_difference,
)
from mlplatform.runtime.units import DAY_MS

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

Integers = npt.NDArray[np.int64]
Rule = Callable[[Metric, PartialOutcomes, float], MetricBounds]

DAYS, FRAUD, CAPACITY = 28, 0.008, 0.013
LIMIT, STOP_ERROR = 0.05, 0.01 / 30
TOLERANCE, PASS_ERROR = 0.2, 0.05
"""Share of the frauds that may be missed: more is stopped, and no more is shown to confirm a
promotion (`rollout.stop.recall`, `confirm_recall_drop` of the fraud model)."""
ERROR = 0.025
"""Of either end of an interval."""
LONGEST_D = 90
WEAK, SOUND, STRONG = 2.31, 2.65, 2.95
"""How far frauds score above genuine payments, in standard deviations: recall .48, .60, .70."""
SLICES = (0.0, 0.01, 0.02, 0.05)
LEFT_OUT = "hidden left out"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Payments:
    """Four weeks, before any model: who pays, what is fraud, when labels come, and all chances."""

    unit: Integers
    fraud: Flags
    noise: Floats
    other_noise: Floats
    draw: Floats
    age_ms: Integers
    delay_ms: Integers


def payments_of(
    seed: int, a_day: int, *, days: int = DAYS, customers: int | None = None
) -> Payments:
    """Labels of frauds come 1 to 90 days late; today is 90 days after the first payment."""
    rng = np.random.default_rng(seed)
    count, customers = days * a_day, customers or a_day // 2
    activity = rng.lognormal(0.0, 1.2, customers)
    unit = rng.choice(customers, count, p=activity / activity.sum())
    frailty = rng.gamma(0.5, 2.0, customers)
    noise = rng.normal(0, 1, count)
    return Payments(
        unit=unit,
        fraud=rng.random(count) < np.minimum(FRAUD * frailty[unit], 1.0),
        noise=noise,
        other_noise=0.8 * noise + 0.6 * rng.normal(0, 1, count),
        draw=rng.random(count),
        age_ms=LONGEST_D * DAY_MS - rng.integers(0, days * DAY_MS, count),
        delay_ms=rng.integers(DAY_MS, LONGEST_D * DAY_MS, count),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Arms:
    """Two models on the same payments, of which the champion decides.

    Args:
        declines: share of payments that it declines. slice: of them let through.
        champion, challenger: their skill.
    """

    slice: float
    declines: float = 0.003
    champion: float = SOUND
    challenger: float = SOUND


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PlayedPayments:
    """Payments as the platform sees them, and their truth."""

    payments: PartialOutcomes
    truth: PartialOutcomes
    scores: Floats
    challenger_scores: Floats

    @property
    def flagged(self) -> Flags:
        return _highest(self.scores, CAPACITY)

    @property
    def challenger_flagged(self) -> Flags:
        return _highest(self.challenger_scores, CAPACITY)


def played(found: Payments, arms: Arms) -> PlayedPayments:
    fraud = found.fraud
    scores = arms.champion * fraud + found.noise
    declined = _highest(scores, arms.declines) if arms.declines else found.draw < 0
    seen = ~declined | (found.draw < arms.slice)
    known = fraud & seen & (found.delay_ms <= found.age_ms)
    curve = delay_curve(found.age_ms[seen], np.where(known, found.delay_ms, -1)[seen])
    margin = arms.champion * scores - arms.champion**2 / 2 + np.log(FRAUD / (1 - FRAUD))
    guess, one = 1 / (1 + np.exp(-margin)), np.ones(len(fraud))
    chance = np.where(declined, arms.slice, 1.0)
    return PlayedPayments(
        PartialOutcomes(found.unit, known, seen, chance, guess, curve.share(found.age_ms)),
        PartialOutcomes(found.unit, fraud, one > 0, one, guess, one),
        scores,
        arms.challenger * fraud + found.other_noise,
    )


def _highest(scores: Floats, share: float) -> Flags:
    least = np.partition(scores, -round(share * len(scores)))[-round(share * len(scores))]
    return np.asarray(scores >= least)


def left_out(metric: Metric, payments: PartialOutcomes, error_share: float) -> MetricBounds:
    """By a rule that leaves hidden payments out, and weighs none."""
    kept = payments.of(payments.seen)
    one = np.ones(len(kept.unit))
    plain = dataclasses.replace(kept, chance=one, came=one)
    return interval(metric.of(payments.seen), plain, error_share, as_seen)


def by_inverse_propensity(
    metric: Metric, payments: PartialOutcomes, error_share: float
) -> MetricBounds:
    return interval(metric, payments, error_share, inverse_propensity)


RULES: dict[str, Rule] = {
    "doubly robust": interval,
    "inverse propensity": by_inverse_propensity,
    LEFT_OUT: left_out,
}


@dataclasses.dataclass(slots=True)
class Tally:
    """Of one metric and rule: intervals that held, their widths, and the errors of values."""

    held: list[bool] = dataclasses.field(default_factory=list)
    widths: list[float] = dataclasses.field(default_factory=list)
    errors: list[float] = dataclasses.field(default_factory=list)

    def add(self, found: MetricBounds, truth: float) -> None:
        self.held.append(found.low <= truth <= found.high)
        self.widths.append(found.high - found.low)
        self.errors.append(found.value - truth)

    def row(self) -> dict[str, float]:
        return {
            "held": float(np.mean(self.held)),
            "width": round(float(np.median(self.widths)), 4),
            "bias": round(float(np.mean(self.errors)), 4),
        }


PAIRED = {
    "as good": Arms(0.0),
    "better": Arms(0.0, challenger=STRONG),
    "worse": Arms(0.0, challenger=WEAK),
    "worse, beside one that declines 1 %": Arms(0.0, declines=0.01, challenger=WEAK),
}
"""Both models' scores of the same payments are compared, as in shadow."""
APART = {
    "better, and declines 1 %": Arms(0.0, declines=0.01, champion=STRONG),
    "worse, and declines .1 %": Arms(0.0, declines=0.001, champion=WEAK),
}
"""It has replaced a model of skill SOUND that declined .3 %: each by its own payments."""


class Slice:
    """What is found with one slice."""

    def __init__(self, share: float) -> None:
        self.share = share
        metrics = ("recall", "precision", "difference")
        self.intervals = {m: {rule: Tally() for rule in RULES} for m in metrics}
        compared = {**PAIRED, **{f"apart: {name}": arms for name, arms in APART.items()}}
        rules = ("doubly robust", LEFT_OUT)
        self.stops = {name: dict.fromkeys(rules, 0) for name in compared}
        self.confirmed = {name: dict.fromkeys(rules, 0) for name in PAIRED}

    def _played(self, payments: Payments, arms: Arms) -> PlayedPayments:
        return played(payments, dataclasses.replace(arms, slice=self.share))

    def add(self, before: Payments, after: Payments) -> None:
        old = self._played(before, Arms(0.0))
        metrics = {
            "recall": recall(old.flagged),
            "precision": precision(old.flagged),
            "difference": recall_difference(old.challenger_flagged, old.flagged),
        }
        for name, metric in metrics.items():
            truth = interval(metric, old.truth, ERROR, as_seen).value
            for rule, tally in self.intervals[name].items():
                tally.add(RULES[rule](metric, old.payments, ERROR), truth)
        for name, arms in PAIRED.items():
            run = self._played(before, arms)
            metric = recall_difference(run.challenger_flagged, run.flagged)
            for rule in self.stops[name]:
                high = RULES[rule](metric, run.payments, STOP_ERROR).high
                self.stops[name][rule] += -high > LIMIT
                low = RULES[rule](metric, run.payments, PASS_ERROR).low
                self.confirmed[name][rule] += -low <= TOLERANCE
        for name, arms in APART.items():
            pair = (old, self._played(after, arms))
            for rule in (tallies := self.stops[f"apart: {name}"]):
                one, other = (
                    RULES[rule](recall(r.flagged), r.payments, STOP_ERROR / 2) for r in pair
                )
                tallies[rule] += one.low - other.high > LIMIT

    def rows(self, runs: int) -> dict[str, Any]:
        return {
            "intervals": {
                name: {rule: tally.row() for rule, tally in tallies.items()}
                for name, tallies in self.intervals.items()
            },
            "stopped": _shares(self.stops, runs),
            "confirmed": _shares(self.confirmed, runs),
        }


def _shares(counts: dict[str, dict[str, int]], runs: int) -> dict[str, dict[str, float]]:
    return {
        name: {rule: count / runs for rule, count in found.items()}
        for name, found in counts.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each row (10)")
    parser.add_argument("--payments-a-day", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("build/bench/labels.json"))
    asked = parser.parse_args(arguments)
    started_s = time.monotonic()
    slices = [Slice(share) for share in SLICES]
    for seed in range(asked.runs):
        before, after = (payments_of(2 * seed + n, asked.payments_a_day) for n in (0, 1))
        for one in slices:
            one.add(before, after)
    found: dict[str, Any] = {"runs": asked.runs, "payments_a_day": asked.payments_a_day}
    found |= {f"slice {one.share:g}": one.rows(asked.runs) for one in slices}
    for share, rows in found.items():
        if isinstance(rows, dict):
            _tell(share, rows)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{asked.out} after {time.monotonic() - started_s:.0f} s")
    return 0


def _tell(share: str, rows: dict[str, Any]) -> None:
    print(share)
    for metric, rules in rows["intervals"].items():
        for rule, row in rules.items():
            told = " ".join(f"{name} {value:7.4f}" for name, value in row.items())
            print(f"  {metric:10} {rule:18} {told}")
    for what in ("stopped", "confirmed"):
        for name, rules in rows[what].items():
            told = ", ".join(f"{rule} {value:.0%}" for rule, value in rules.items())
            print(f"  {what:9} {name:36} {told}")


if __name__ == "__main__":
    sys.exit(main())
