"""Days of data that nobody here made, whose outcomes come late, and models that learn from them.

elec2 (Harries 1999): the New South Wales electricity market, half-hourly; whether the price is
above its mean of the last day. The handbook's payments are its authors' simulation (Le Borgne,
Siblini, Lebichot and Bontempi); amounts x 1.4 is a change made here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tests.bench.drift import FRAUD, Champion, Day, learned
from tests.bench.hidden import SEED, Bank, World
from tests.bench.quality import delayed
from tests.support.plain_fit import plain_fit

from mlplatform.learning.training.calibration import fit_calibration
from mlplatform.learning.training.folder import load_training
from mlplatform.learning.training_sets.dataset import input_plan
from mlplatform.learning.validation.statistics import average_precision
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.units import DAY_MS
from models.fraud.sources import read_transactions, sample_customers, with_pattern_change

MARKET: Final = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
WEEK, WARM_UP_DAYS = 7, 37
CHANGE: Final = datetime(2018, 7, 16, tzinfo=UTC)

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
Scoring = Callable[[Floats], Floats]
Fit = Callable[[Floats, Flags], Scoring]
Metric = Callable[[Floats, Flags], float]


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """One day of a stream: inputs by row, outcomes, assignment units."""

    x: Floats
    y: Flags
    units: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Days with their outcomes, and the model that learns from them.

    Args:
        model: its drift, label and training sections count.
        names: of the columns of x.
        alert_share: of requests, with the highest scores, that are alerts.
        views: whose snapshots the rows were made from.
        changed: epoch day of a change that is known of; None where none is.
    """

    name: str
    model: ModelDefinition
    names: tuple[str, ...]
    days: Mapping[int, Rows]
    fit: Fit
    metric: Metric
    alert_share: float
    views: tuple[str, ...] = ()
    changed: int | None = None

    @property
    def first(self) -> int:
        """The first day that a champion can serve."""
        label, training = self.model.label, self.model.training
        return min(self.days) + training.window_days + label.maturity_days

    @property
    def end(self) -> int:
        return max(self.days) + 1

    def train(self, number: int) -> TrainedModel:
        """What is known as that day begins makes a champion."""
        end = number - self.model.label.maturity_days
        training = self.model.training
        rows = [self.days[n] for n in range(end - training.window_days, end)]
        fitted, held = rows[: -training.holdout_days], rows[-training.holdout_days :]
        raw = self.fit(*together(fitted))
        calibrating = together(held[: -(-len(held) // 2)])
        calibration = fit_calibration(
            raw(calibrating[0]).astype(np.float64), calibrating[1].astype(np.int8), None
        )

        def scores(x: Floats) -> Floats:
            return np.asarray(calibration.probabilities(raw(x).astype(np.float64)))

        days = [self._day(end - len(rows) + i, r, scores(r.x)) for i, r in enumerate(rows)]
        return TrainedModel(scores, learned(days, training.holdout_days, self.alert_share))

    def day(self, number: int, scores: Floats) -> Day:
        return self._day(number, self.days[number], scores)

    def _day(self, number: int, rows: Rows, scores: Floats) -> Day:
        watched = {n: rows.x[:, self.names.index(n)] for n in self.model.drift.inputs}
        return Day(number, rows.units, watched, scores, rows.y, np.zeros(len(rows.y), bool))


def together(rows: Sequence[Rows]) -> tuple[Floats, Flags]:
    return np.concatenate([r.x for r in rows]), np.concatenate([r.y for r in rows])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A model and what its bundle holds."""

    scores: Scoring
    champion: Champion


def elec2(path: Path) -> Stream:
    """Half-hours of a market, a week a drift window; outcomes are known after three days."""
    table = pq.read_table(path)
    x = np.column_stack([table[f"c{n}"].to_numpy() for n in range(1, 8)]).astype(np.float32)
    y = np.array(table["c8"].to_pylist()) == "UP"
    first = int(datetime(1996, 5, 7, tzinfo=UTC).timestamp()) // 86_400
    units, names = np.arange(len(y)), ("day", "period", *MARKET)
    starts = np.flatnonzero(x[:, 1] == 0)
    bounds = zip(starts, [*starts[1:], len(y)], strict=True)
    days = {first + n: Rows(x[a:b], y[a:b], units[a:b]) for n, (a, b) in enumerate(bounds)}
    drift = msgspec.structs.replace(
        FRAUD.drift, window_h=168, minimum_rows=300, inputs=MARKET
    )  # a day has 48 rows
    model = msgspec.structs.replace(
        FRAUD, drift=drift, training=_training(FRAUD, window_days=56, holdout_days=14)
    )
    share = float(y[: 56 * 48].mean())
    return Stream("elec2", model, names, days, _boosted, _accuracy, share)


def _training(model: ModelDefinition, **changes: int) -> Any:
    return msgspec.structs.replace(model.training, **changes)


def _boosted(x: Floats, y: Flags) -> Scoring:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, random_state=SEED)
    model.fit(x, y)
    return lambda rows: np.asarray(model.predict_proba(rows)[:, 1])


def _accuracy(scores: Floats, y: Flags) -> float:
    return float(((scores >= 0.5) == y).mean())


def handbook(path: Path, customers: float, change: datetime | None) -> Stream:
    """Payments with the shipped model's inputs; labels and risks by them are a week late."""
    table = sample_customers(read_transactions(path), customers)
    if change is not None:
        table = with_pattern_change(table, int(change.timestamp()) * 1000)
    bank = Bank(table, World("all outcomes known", hides=False))
    delayed(bank, WEEK)
    times = table["event_time"].cast("int64").to_numpy() // (DAY_MS * 1000)
    first, last = int(times.min()) + WARM_UP_DAYS, int(times.max())
    plan = input_plan(bank.definition, bank.folder.views)
    days = {}
    for number in range(first, last + 1):
        bank.snapshot(number * DAY_MS)
        rows = bank.joined(number * DAY_MS, (number + 1) * DAY_MS)
        y = np.array([bank.truth[i] for i in rows["request_id"].to_pylist()]) == 1
        days[number] = Rows(plan.matrix(rows), y, rows["customer_id"].to_numpy())
    label = msgspec.structs.replace(FRAUD.label, maturity_days=WEEK)
    model = msgspec.structs.replace(FRAUD, label=label)
    name = "handbook" if change is None else "handbook, amounts x 1.4"
    changed = None if change is None else int(change.timestamp()) // 86_400
    return Stream(
        name, model, tuple(plan.names), days, _shipped, average_precision,
        FRAUD.decision.alert_share, tuple(v.name for v in bank.folder.views), changed,
    )  # fmt: skip


def _shipped(x: Floats, y: Flags) -> Scoring:
    rows, labels = np.asarray(x, np.float32), y.astype(np.int8)
    model = plain_fit(load_training("fraud"), rows, labels, seed=SEED)
    return lambda rows: np.asarray(model.scores(np.asarray(rows, np.float32)))
