"""How often a drift check is right, by simulation of worlds with a known truth.

Each run plays days of one bank through the project's own functions, as nightly checks do: a model
is profiled on its training days, then its champion's days come, with a week's rhythm, clustered
customers and labels that mature later, until something changes (or does not).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlplatform.learning.training_sets.dataset import Matrix
from mlplatform.learning.validation.replay import Recent, predicted_band
from mlplatform.model import profile as profiles
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.model.rhythm import SCORE, Rhythm, rhythm
from mlplatform.rollouts.drift.faults import ViewReading
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.matured_outcomes import ScoredRequests, matured_day
from mlplatform.rollouts.drift.performance import (
    MOST_REFERENCE_DAYS,
    RECENT_DAYS,
    MaturedDay,
    MaturedDays,
    performance_verdict,
)
from mlplatform.rollouts.drift.verdict import (
    Band,
    DriftFinding,
    Window,
    WindowVerdict,
    drift_verdict,
    window_verdict,
)
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")
TRAINING_DAYS, HOLDOUT_DAYS, MATURITY_DAYS = 21, 3, FRAUD.label.maturity_days
INPUTS = FRAUD.drift.inputs
CHANGE_DAY = 17  # of the champion's days: two weeks of labels have matured by then
LIVE_DAYS, DAYS_AFTER = 30, 9
MILD_WEEK = (0.985, 0.985, 0.99, 1.0, 1.02, 1.03, 0.99)
WEEKEND = (1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 1.1)
RETAIL_WEEK = (0.90, 0.93, 0.96, 1.0, 1.10, 1.24, 0.87)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What is true of the days from the change on; what changes nothing is the default.

    Args:
        volumes, amounts: by weekday from Monday, what they are of a usual day's; always.
        level: amounts, as a multiple; a_day: more each day from the champion's third on.
        busy: share of terminals that take twice as many payments.
        blind: share of frauds that look like genuine payments to the model.
        permuted: labels are anybody's.
        attacked: frauds in the segment come three times as often, and look genuine.
        null, stuck, frozen: an input without values, at its default, a view that stands still.
        silent: labels have stopped coming.
    """

    volumes: tuple[float, ...] = MILD_WEEK
    amounts: tuple[float, ...] = (1.0,) * 7
    level: float = 1.0
    a_day: float = 0.0
    busy: float = 0.0
    blind: float = 0.0
    permuted: bool = False
    attacked: bool = False
    null: bool = False
    stuck: bool = False
    frozen: bool = False
    silent: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A world, and what is to be found in it: a kind of incident within so many days, or None."""

    world: World
    kind: str | None = None
    within_days: int = 0


ROWS: dict[str, Row] = {
    "stationary, weeks of 3 %": Row(World()),
    "stationary, weekend amounts x 1.1": Row(World(amounts=WEEKEND)),
    "stationary, retail week": Row(World(volumes=RETAIL_WEEK, amounts=RETAIL_WEEK)),
    "amount x 1.3": Row(World(level=1.3), "drift", 2),
    "amount x 1.3, retail week": Row(
        World(volumes=RETAIL_WEEK, amounts=RETAIL_WEEK, level=1.3), "drift", 2
    ),
    "amount + 1 % a day": Row(World(a_day=0.01), "drift", LIVE_DAYS),
    "amount x 1.1": Row(World(level=1.1), "drift", 9),
    "10 % of terminals x 2": Row(World(busy=0.1), "drift", 9),
    "recall halved": Row(World(blind=0.5), "performance", MATURITY_DAYS + 4),
    "labels permuted": Row(World(permuted=True), "performance", MATURITY_DAYS + 4),
    "one segment compromised": Row(World(attacked=True), "performance", MATURITY_DAYS + 4),
    "a feature is null": Row(World(null=True), "data fault", 1),
    "a feature is at its default": Row(World(stuck=True), "data fault", 1),
    "a view stands still": Row(World(frozen=True), "data fault", 3),
    "labels stop coming": Row(World(silent=True)),
}


@dataclasses.dataclass(slots=True)
class Day:
    """One day's payments as columns; yesterday's counts make its features."""

    number: int
    units: Ints
    inputs: dict[str, Floats]
    scores: Floats
    fraud: Flags
    segment: Flags


class Bank:
    """Customers and terminals that differ, and what they did yesterday."""

    def __init__(self, seed: int, world: World, first_day: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.world, self.day = world, first_day
        activity = self.rng.lognormal(0.0, 1.2, 5_000)
        self.activity = activity / activity.sum()
        self.usual = self.rng.lognormal(np.log(42.0), 0.55, 5_000)
        popularity = self.rng.lognormal(0.0, 0.9, 2_000)
        self.popularity = popularity / popularity.sum()
        self.yesterday: tuple[Ints, Ints, Floats] | None = None

    def next_day(self, changed_days: int, live_days: int) -> Day:
        """The next day; `changed_days` is 0 before the change, 1 on its first day."""
        rng, week, changed = self.rng, (self.day + 3) % 7, changed_days > 0
        world = (
            self.world
            if changed
            else dataclasses.replace(
                World(), volumes=self.world.volumes, amounts=self.world.amounts
            )
        )
        count = rng.poisson(10_000 * world.volumes[week] * rng.lognormal(0.0, 0.03))
        units = rng.choice(5_000, count, p=self.activity)
        cards = rng.choice(5_000, rng.poisson(40 * rng.lognormal(0.0, 0.15)), p=self.activity)
        bursts = np.repeat(cards, rng.geometric(0.5, len(cards)))
        fraud = np.concatenate([np.zeros(count, bool), np.ones(len(bursts), bool)])
        units = np.concatenate([units, bursts])
        attack = np.zeros(len(units), bool)
        if world.attacked:
            segment = np.arange(0, 5_000, 10)
            more = np.repeat(rng.choice(segment, rng.poisson(8)), 2)
            units = np.concatenate([units, more])
            fraud = np.concatenate([fraud, np.ones(len(more), bool)])
            attack = fraud & (units % 10 == 0)
        terminal = self._terminals(len(units), world)
        spread = rng.gamma(3.0, 1.0 / 3.0, len(units))
        level = world.amounts[week] * world.level * (1 + self.world.a_day) ** max(live_days - 2, 0)
        amount = self.usual[units] * spread * level
        scores = self._scores(units, np.log(spread * level), fraud & ~attack, world)
        inputs = self._inputs(units, terminal, amount, world)
        self.yesterday = units, terminal, amount
        self.day += 1
        if world.permuted:
            fraud = rng.permutation(fraud)
        return Day(self.day - 1, units, inputs, scores, fraud, units % 10 == 0)

    def _terminals(self, count: int, world: World) -> Ints:
        popularity = self.popularity
        if world.busy:
            twice = np.where(np.arange(2_000) < 2_000 * world.busy, 2.0, 1.0)
            popularity = popularity * twice / (popularity * twice).sum()
        return self.rng.choice(2_000, count, p=popularity)

    def _scores(self, units: Ints, unusual: Floats, fraud: Flags, world: World) -> Floats:
        """Calibrated as long as nothing changes."""
        rng = self.rng
        seen = fraud & (rng.random(len(fraud)) >= world.blind)
        own = rng.normal(0, 1, 5_000)[units]
        z = 0.4 * unusual / 0.6 + 0.92 * rng.normal(0, 1, len(units))
        z = np.where(seen, 2.4 + 0.6 * own + 0.8 * rng.normal(0, 1, len(units)), z)
        return np.asarray(1 / (1 + np.exp(-(2.4 * z - 2.88 + np.log(0.008 / 0.992)))))

    def _inputs(
        self, units: Ints, terminal: Ints, amount: Floats, world: World
    ) -> dict[str, Floats]:
        before = (units, terminal, amount) if self.yesterday is None else self.yesterday
        count = np.bincount(before[0], minlength=5_000)
        total = np.bincount(before[0], weights=before[2], minlength=5_000)
        at = np.bincount(before[1], minlength=2_000).astype(float)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        if world.null:
            mean = np.where(self.rng.random(5_000) < 0.7, np.nan, mean)
        if world.stuck:
            count = np.zeros_like(count)
        columns = (amount, count[units].astype(float), mean[units], at[terminal])
        return dict(zip(INPUTS, columns, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Champion:
    """What its bundle holds, and a sample of its held-out days for others."""

    sample: Mapping[str, Floats]
    profile: profiles.Profile
    rhythms: Mapping[str, Rhythm]
    band: Band
    review: float


def trained(bank: Bank) -> Champion:
    """A champion that learned from the bank's next days, before any change."""
    days = [bank.next_day(0, 0) for _ in range(TRAINING_DAYS + 1)][1:]  # the first has no yesterday
    return learned(days, HOLDOUT_DAYS, FRAUD.decision.alert_share)


def learned(days: Sequence[Day], holdout_days: int, alert_share: float) -> Champion:
    """What a bundle holds of the days of its training set, the last of them held out.

    Args:
        days: with the scores of the model that was fitted on those before the held-out ones.
    """
    held, names = days[-holdout_days:], tuple(days[0].inputs)
    calibrating = np.concatenate([d.scores for d in held[: -(-holdout_days // 2)]])
    review = float(np.quantile(calibrating, 1 - alert_share))
    scores, units = (np.concatenate([getattr(d, n) for d in held]) for n in ("scores", "units"))
    matrix = np.concatenate([_matrix(d) for d in held])
    profile = profiles.profile(matrix, names, scores, scores >= review, units)
    numbers = np.concatenate([np.full(len(d.units), d.number) for d in days])
    everything = np.concatenate([_matrix(d) for d in days])
    found = {
        name: rhythm(profile.inputs[name], everything[:, i], numbers)
        for i, name in enumerate(names)
    }
    fitted = numbers < held[0].number
    own = np.concatenate([d.scores for d in days])[fitted]
    found[SCORE] = rhythm(profiles.column(own, SCORE), own, numbers[fitted], by_weekday=False)
    event_ms = np.concatenate([np.full(len(d.units), d.number * DAY_MS) for d in held])
    rows = Matrix(names, matrix.astype(np.float32), event_ms, units)
    band = predicted_band(
        (scores >= review).astype(np.int8), Recent(rows, "held-out days"),
        factor=FRAUD.gates.alert_band_factor,
    )  # fmt: skip
    rhythms = {name: r for name, r in found.items() if r is not None}
    sample = {name: matrix[:, i] for i, name in enumerate(names)} | {SCORE: scores}
    sample = {name: values[np.isfinite(values)] for name, values in sample.items()}
    return Champion(sample, profile, rhythms, Band(band.low, band.high), review)


def _matrix(day: Day) -> Floats:
    return np.column_stack(list(day.inputs.values()))


def window(day: Day, review: float, frozen_ms: int | None) -> Window:
    start_ms = day.number * DAY_MS
    newest_ms = start_ms if frozen_ms is None else frozen_ms
    return Window(
        start_ms, start_ms + DAY_MS, day.inputs, day.units, day.scores, day.scores >= review,
        day.units, views={"customer_stats": ViewReading(newest_ms, int(1.5 * DAY_MS))},
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class PlayedRun:
    """One run: the first day, from the change on, of each kind of incident and alarm of a baseline.

    Args:
        before: the kinds that opened before there was anything to find.
        inconclusive: checks of performance that said so after the change.
    """

    first: Mapping[str, int]
    before: frozenset[str]
    inconclusive: int


ONE_COLUMN, HALF = "evidently, one column", "evidently, half of the columns"


class Baselines:
    """What others would say of the same days.

    Evidently: the tests that its preset takes by default for a column (with more than 1 000 rows of
    reference the normed Wasserstein distance at .1), without its pictures, which take seconds; a
    day is an alarm when one column drifted, or half of them. ADWIN: its cut over days, on the mean
    score and on the share of mistakes that matured labels tell.
    """

    def __init__(self, champion: Champion) -> None:
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType

        self._test, self._type = get_stattest, ColumnType.Numerical
        self._then = {name: pd.Series(values) for name, values in champion.sample.items()}
        self._review = champion.review
        self._streams: dict[str, list[tuple[int, float]]] = {"scores": [], "mistakes": []}

    def seen(self, day: Day, matured: Day | None) -> dict[str, bool]:
        return self.evidently(day) | self.adwin(day, matured)

    def evidently(self, day: Day) -> dict[str, bool]:
        now = {**day.inputs, SCORE: day.scores}
        drifted = []
        for name, then in self._then.items():
            values = pd.Series(now[name]).dropna()
            test = self._test(then, values, self._type, None)
            drifted.append(test(then, values, self._type, None).drifted)
        return {ONE_COLUMN: any(drifted), HALF: sum(drifted) * 2 >= len(drifted)}

    def adwin(self, day: Day, matured: Day | None) -> dict[str, bool]:
        self._streams["scores"].append((len(day.scores), float(day.scores.mean())))
        if matured is not None:
            wrong = (matured.scores >= self._review) != matured.fraud
            self._streams["mistakes"].append((len(wrong), float(wrong.mean())))
        return {f"adwin, {name}": _adwin(stream) for name, stream in self._streams.items()}


ADWIN_DELTA = 0.002


def _adwin(buckets: list[tuple[int, float]]) -> bool:
    """Whether the window of days is to be cut; then its older part is dropped.

    Source: Bifet and Gavalda (2007), Learning from time-changing data with adaptive windowing,
    equation 3.1, with days as buckets.
    """
    if len(buckets) < 2:
        return False
    rows, means = (np.array(part, dtype=float) for part in zip(*buckets, strict=True))
    total = rows.sum()
    mean = float((rows * means).sum() / total)
    spread = mean * (1 - mean)
    for cut in range(1, len(rows)):
        older, newer = rows[:cut].sum(), rows[cut:].sum()
        gap = abs((rows * means)[:cut].sum() / older - (rows * means)[cut:].sum() / newer)
        harmonic = 1 / (1 / older + 1 / newer)
        error = np.log(2 * np.log(total) / ADWIN_DELTA)
        if gap > np.sqrt(2 / harmonic * spread * error) + 2 / (3 * harmonic) * error:
            del buckets[:cut]
            return True
    return False


def play(row: Row, seed: int, policy: DriftPolicy, *, others: bool) -> PlayedRun:
    world, gradual = row.world, row.world.a_day > 0
    changes = dataclasses.replace(world, volumes=MILD_WEEK, amounts=(1.0,) * 7) != World()
    change = 0 if gradual else CHANGE_DAY if changes else LIVE_DAYS
    bank = Bank(seed, world, 20_000 + seed % 7)
    champion = trained(bank)
    verdicts: list[WindowVerdict] = []
    matured: list[MaturedDay] = []
    lived: list[Day] = []
    baselines = Baselines(champion) if others else None
    first: dict[str, int] = {}
    before, is_open, inconclusive = set[str](), set[str](), 0
    days = LIVE_DAYS if gradual or not changes else CHANGE_DAY + DAYS_AFTER
    for number in range(days):
        changed = max(number - change + 1, 0)
        day = bank.next_day(changed, number + 1)
        frozen_ms = (day.number - changed) * DAY_MS if world.frozen and changed else None
        verdicts.append(
            window_verdict(
                champion.profile, window(day, champion.review, frozen_ms), policy, champion.band,
                champion.rhythms,
            )
        )  # fmt: skip
        matured.append(_matured(day))
        known = matured[: max(len(matured) - MATURITY_DAYS, 0)]
        quiet = ()
        if world.silent and changed > MATURITY_DAYS:
            known, quiet = known[: change - 1], ("labels have stopped coming",)
        known = [*known[:MOST_REFERENCE_DAYS], *known[MOST_REFERENCE_DAYS:][-RECENT_DAYS:]]
        performance = performance_verdict(MaturedDays(tuple(known), quiet), policy)
        now = {
            "drift": isinstance(drift_verdict(verdicts, policy), DriftFinding),
            "performance": performance.health is Health.UNHEALTHY,
            "data fault": bool(verdicts[-1].faults),
        }
        if baselines is not None:
            lived = [*lived, day][-MATURITY_DAYS - 1 :]
            old = lived[0] if number >= MATURITY_DAYS and not world.silent else None
            now |= baselines.seen(day, old)
        inconclusive += bool(changed) and performance.health is Health.INCONCLUSIVE
        for kind, found in now.items():
            if found and kind not in is_open:
                if changed:
                    first.setdefault(kind, changed)
                else:
                    before.add(kind)
        is_open = {kind for kind, found in now.items() if found}
    return PlayedRun(first, frozenset(before), inconclusive)


def _matured(day: Day) -> MaturedDay:
    return matured_day(
        day.number * DAY_MS, ScoredRequests(day.units, day.scores, day.fraud),
        capacity=FRAUD.decision.alert_share, segments={"tenth": day.segment},
    )  # fmt: skip


KINDS = ("drift", "performance", "data fault")
OTHERS = (
    *(ONE_COLUMN, HALF),
    *("adwin, scores", "adwin, mistakes"),
)


def cell(row: Row, runs: int, compared_runs: int, policy: DriftPolicy) -> dict[str, Any]:
    """Shares of runs with incidents, and how long what was to be found took."""
    played = [play(row, seed, policy, others=seed < compared_runs) for seed in range(runs)]
    compared = played[:compared_runs]
    found = [p.first[row.kind] for p in played if row.kind in p.first] if row.kind else []
    changes = any(p.first for p in played) or row.kind is not None
    return {
        "runs": runs,
        "to_find": row.kind,
        "within_days": row.within_days,
        "found": sum(d <= row.within_days for d in found) / runs if row.kind else None,
        "median_days": float(np.median(found)) if found else None,
        "incidents_without_cause": sum(bool(p.before & set(KINDS)) for p in played) / runs,
        "with": {kind: sum(kind in p.first for p in played) / runs for kind in KINDS},
        "inconclusive_checks": sum(p.inconclusive for p in played) / runs,
        "compared_runs": len(compared),
        "others": {
            kind: {
                "without_cause": sum(kind in p.before for p in compared) / len(compared),
                "in_time": sum(p.first.get(kind, 999) <= row.within_days for p in compared)
                / len(compared)
                if changes
                else None,
            }
            for kind in (OTHERS if compared else ())
        },
    }


def printed(module: str, *words: str) -> dict[str, Any]:
    """What a module that runs as a process of its own prints."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *words]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=7200)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def _write(out: Path, found: Mapping[str, Any]) -> None:
    out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Write build/bench/drift.json, row by row, and a line for each to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stationary", type=int, default=50, help="runs of a stationary world")
    parser.add_argument("--runs", type=int, default=12, help="runs of each other world")
    parser.add_argument("--compared", type=int, default=4, help="of these, runs with others beside")
    parser.add_argument("--memory", type=int, default=0, metavar="ROWS",
                        help="also the memory of one window of so many decisions")  # fmt: skip
    parser.add_argument("--elec2", metavar="FILE", help="also real data: elec2 as Parquet")
    parser.add_argument("--handbook", metavar="FOLDER", help="also the handbook's transactions")
    parser.add_argument("--only", nargs="*", default=list(ROWS), metavar="WORLD")
    parser.add_argument("--out", type=Path, default=Path("build/bench/drift.json"))
    options = parser.parse_args()
    os.environ["DO_NOT_TRACK"] = "1"  # read by Evidently at import
    found: dict[str, Any] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.memory:
        found["memory"] = printed("drift_memory", str(options.memory))
    for name in ("elec2", "handbook"):
        if path := getattr(options, name):
            found.setdefault("real", {}).update(printed("drift_real", f"--{name}", path))
    _write(options.out, found)
    for name in options.only:
        started, row = time.monotonic(), ROWS[name]
        runs = options.stationary if name.startswith("stationary") else options.runs
        found[name] = cell(row, runs, options.compared, FRAUD.drift)
        keys = ("found", "median_days", "incidents_without_cause", "with")
        summary = {key: found[name][key] for key in keys}
        print(
            f"{name}: {summary} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True
        )
        _write(options.out, found)


if __name__ == "__main__":
    main()
