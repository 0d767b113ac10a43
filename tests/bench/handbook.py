"""What groups of inputs add to the fraud model, by the Fraud Detection Handbook's protocol.

The payments are simulated, by the book's authors. A model learns from seven days, labels are known
seven days late, and the week after that judges it: average precision of payments, and card
precision, the share of compromised cards among the 100 of a day with the highest scores, without
those that were found on an earlier day. Cards known to be compromised are left out. Four such weeks
for validation, on which inputs were chosen, come before the four for tests, on which nothing was
chosen. August is the last month here, so both are a week earlier than in the book. Two rows are
what no model can exceed: the scores of somebody who knows the simulator, for what the past tells.

Windows come from the SQL that training uses, risk and snapshots from that of feature views, inputs
from the platform's plan, the learner is the shipped model's. The book's rows use the book's inputs.

Source: Le Borgne, Siblini, Lebichot, Bontempi, Reproducible Machine Learning for Credit Card Fraud
Detection - Practical Handbook, chapters 3.4 (inputs), 4.5 (card precision) and 5.3 (weeks).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from tests.bench.hidden import SEED, Bank, World, at_time
from tests.bench.quality import delayed
from tests.support.plain_fit import plain_fit
from threadpoolctl import threadpool_limits

from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.learning.training.folder import load_folder, load_training
from mlplatform.learning.training_sets.dataset import input_plan
from mlplatform.learning.validation.statistics import average_precision
from mlplatform.model.definition import InputSpec
from mlplatform.model.windows.declaration import Window
from mlplatform.model.windows.tiles import series_of
from mlplatform.runtime.units import DAY_MS
from models.fraud.sources import read_transactions

WEEK: Final = 7
CARDS: Final = 100
WEEKS: Final = {"validation": datetime(2018, 7, 11, tzinfo=UTC),
                "test": datetime(2018, 8, 8, tzinfo=UTC)}  # fmt: skip
"""First training day of the last of four folds; the others begin a week, two and three before."""
CHAPTER_3: Final = datetime(2018, 7, 25, tzinfo=UTC)
DAYS: Final = (1, 7, 30)

FIRST: Final = "counts, means and three spans of risk"
SHIPPED: Final = "+ the amount's ratios to them: as shipped"
SPREAD: Final = ("customer_std_", "customer_max_")
RISK_AT_FIRST: Final = frozenset(f"terminal_risk_{days}d" for days in DAYS)

Floats = NDArray[np.float64]
Model = Callable[[Floats, NDArray[np.int8]], Callable[[Floats], Floats]]


def declared() -> dict[str, tuple[Window, ...]]:
    """Windows by group."""

    def window(entity: str, aggregate: Any, days: int) -> Window:
        of = None if aggregate in ("count", "seconds_since") else "amount"
        return Window(
            name=f"{entity}_{aggregate}_{days}d_now", entity=entity, aggregate=aggregate, of=of,
            window=f"{days}d", resolution="6h",
        )  # fmt: skip

    return {
        "customers": tuple(
            window("customer", a, d)
            for a, days in (("count", DAYS), ("mean", DAYS), ("std", (30,)), ("max", (7, 30)))
            for d in days
        ),
        "amounts": (
            window("customer", "seconds_since", 30),
            *(window("terminal", a, d) for a, d in (("mean", 1), ("mean", 7), ("max", 7))),
            *(window("terminal", a, 30) for a in ("std", "seconds_since")),
        ),
    }


def groups() -> dict[str, tuple[InputSpec, ...]]:
    """The inputs of each row but the book's, every row with what it adds or replaces."""
    shipped = load_folder("fraud").definition.inputs
    later = {
        i.name: group
        for i in shipped
        for group, is_of in enumerate((_more_spans(i), _spread(i), _ratio_to_spread(i)))
        if is_of
    }
    first, spans, spread = (
        tuple(i for i in shipped if later.get(i.name, -1) < group) for group in range(3)
    )
    customers = tuple(_now(i) for i in shipped)
    rest = tuple(InputSpec(name=w.name, kind="window", of=w.entity) for w in declared()["amounts"])
    return {
        FIRST: first,
        "+ more spans of terminals' risk": spans,
        "+ customers' deviation and largest amounts": spread,
        SHIPPED: shipped,
        "customers' snapshots become windows": customers,
        "+ customers' last payment, terminals' amounts": (*customers, *rest),
    }


def _more_spans(one: InputSpec) -> bool:
    return one.name.startswith("terminal_risk_") and one.name not in RISK_AT_FIRST


def _spread(one: InputSpec) -> bool:
    return one.name.startswith(SPREAD)


def _ratio_to_spread(one: InputSpec) -> bool:
    return one.kind == "ratio" and (one.to or "").startswith(SPREAD)


def _now(one: InputSpec) -> InputSpec:
    """The same input as a real-time window, where it is a view's feature of a customer."""
    if one.kind == "view" and one.of == "customer_stats":
        return InputSpec(name=f"{one.name}_now", kind="window", of="customer")
    if one.kind == "ratio":
        return msgspec.structs.replace(one, name=f"{one.name}_now", to=f"{one.to}_now")
    return one


class Payments:
    """Payments with every feature, in order of time."""

    def __init__(self, data: Path) -> None:
        table = read_transactions(data)
        first_ms = _ms(WEEKS["validation"]) - 35 * DAY_MS  # four folds, and 21 days to learn from
        table = table.filter(pc.field("event_time") >= at_time(first_ms - 45 * DAY_MS))
        late = pc.add(table["event_time"], pa.scalar(WEEK * DAY_MS * 1000, pa.duration("us")))
        position = table.schema.get_field_index("label_time")
        table = table.set_column(position, "label_time", late)
        bank = Bank(table, World("labels a week late", hides=False))
        delayed(bank, WEEK)
        end_ms = _ms(WEEKS["test"]) + 21 * DAY_MS
        for at_ms in range(first_ms, end_ms, DAY_MS):
            bank.snapshot(at_ms)
        windows = tuple(w for group in declared().values() for w in group)
        self.definition = msgspec.structs.replace(bank.definition, windows=windows)
        self.views = bank.folder.views
        bank.db.execute(
            "CREATE TABLE payments AS SELECT row_number() OVER (ORDER BY event_time, request_id)"
            " - 1 AS _row, epoch_ms(event_time) AS _event_ms, _row AS _rank, _row - 1 AS _seen, *"
            " FROM requests"
        )
        bank.db.register("joined", bank.joined(first_ms, end_ms))
        bank.db.register("book", book_inputs(bank))
        found = windows_sql(
            series_of(windows, bank.definition.entities), "payments", f"_event_ms >= {first_ms}"
        )
        self.table: pa.Table = bank.db.sql(
            "SELECT joined.*, f.* EXCLUDE (_row), book.* EXCLUDE (request_id) FROM joined"
            f" JOIN payments p USING (request_id) JOIN ({found}) f ON f._row = p._row"
            " JOIN book USING (request_id) ORDER BY p._row"
        ).to_arrow_table()
        self.y = self.table["label"].to_numpy().astype(np.int8)
        self.customer = self.table["customer_id"].to_numpy()
        self.day = self.table["event_time"].cast(pa.int64()).to_numpy() // (DAY_MS * 1000)

    def inputs(self, specs: Sequence[InputSpec]) -> Floats:
        definition = msgspec.structs.replace(self.definition, inputs=tuple(specs))
        x: Any = input_plan(definition, self.views).matrix(self.table)
        return x

    def book(self) -> Floats:
        names = [n for n in self.table.column_names if n.startswith("book_")]
        return np.column_stack([self.table[n].to_numpy() for n in names])


def book_inputs(bank: Bank) -> pa.Table:
    """The book's 15 inputs: windows that slide by the second and hold the payment itself."""
    second = 1_000_000
    day = 86_400 * second
    cells, frames = [], []
    for days in DAYS:
        frames.append(
            f"c{days} AS (PARTITION BY customer_id ORDER BY time_us RANGE BETWEEN"
            f" {days * day - second} PRECEDING AND CURRENT ROW)"
        )
        for name, length in ((f"t{days}", WEEK + days), (f"d{days}", WEEK)):
            frames.append(
                f"{name} AS (PARTITION BY terminal_id ORDER BY time_us RANGE BETWEEN"
                f" {length * day - second} PRECEDING AND CURRENT ROW)"
            )
        cells += [f"count(*) OVER c{days}", f"avg(amount) OVER c{days}"]
        paid = f"count(*) OVER t{days} - count(*) OVER d{days}"
        fraud = f"sum(label) OVER t{days} - sum(label) OVER d{days}"
        cells += [paid, f"CASE WHEN {paid} > 0 THEN ({fraud}) / ({paid}) ELSE 0 END"]
    named = ", ".join(f"CAST({cell} AS DOUBLE) AS book_{n}" for n, cell in enumerate(cells))
    found: pa.Table = bank.db.sql(
        f"SELECT request_id, amount AS book_amount, {named},"
        " CAST(isodow(event_time) >= 6 AS DOUBLE) AS book_weekend,"
        " CAST(hour(event_time) <= 6 AS DOUBLE) AS book_night"
        " FROM (SELECT *, epoch_us(event_time) AS time_us FROM requests"
        " JOIN labels USING (request_id))"
        f" WINDOW {', '.join(frames)}"
    ).to_arrow_table()
    return found


def judged(
    payments: Payments, x: Floats, model: Model, start: datetime, learned_days: int = WEEK
) -> tuple[float, float]:
    """Average precision and card precision of the week that begins 14 days after `start`."""
    day, y, customer = payments.day, payments.y, payments.customer
    first = _ms(start) // DAY_MS
    learned = (day >= first + WEEK - learned_days) & (day < first + WEEK)
    scores_of = model(x[learned], y[learned])
    rows = []
    for number in range(WEEK):
        # frauds of the week that the book learns from, and of the days whose labels came since
        told = (day >= first) & (day < first + WEEK + number) & (y == 1)
        chosen = (day == first + 2 * WEEK + number) & ~np.isin(customer, customer[told])
        rows.append(np.flatnonzero(chosen))
    every = np.concatenate(rows)
    scores = np.zeros(len(y))
    scores[every] = scores_of(x[every])
    return average_precision(scores[every], y[every]), card_precision(
        [(customer[r], scores[r], y[r]) for r in rows]
    )


def card_precision(days: Sequence[tuple[Any, Floats, Any]]) -> float:
    """Mean over days of the share of compromised cards among those with the highest scores."""
    found: set[int] = set()
    shares = []
    for customer, score, y in days:
        new = ~np.isin(customer, list(found))
        cards, place = np.unique(customer[new], return_inverse=True)
        highest, fraud = np.full(len(cards), -np.inf), np.zeros(len(cards), np.int8)
        np.maximum.at(highest, place, score[new])
        np.maximum.at(fraud, place, y[new])
        top = np.argsort(-highest, kind="stable")[:CARDS]
        hits = cards[top][fraud[top] == 1]
        found.update(hits.tolist())
        shares.append(len(hits) / CARDS)
    return float(np.mean(shares))


def shipped(x: Floats, y: NDArray[np.int8]) -> Callable[[Floats], Floats]:
    model = plain_fit(load_training("fraud"), np.asarray(x, np.float32), y, seed=SEED)
    return lambda rows: model.scores(np.asarray(rows, np.float32))


def knowable(payments: Payments, data: Path, label_step_us: int) -> Floats:
    """The scores [n, 1] of somebody who knows how the simulator makes frauds, in `judged`'s order.

    Frauds of scenario 1 (large amounts) and 3 (a customer's card) score 1, as if each could be
    told. Those of scenario 2, at a terminal whatever the amount, score 1 if labels of the 28 days
    before tell of that terminal; nothing but labels does. All other payments score at random.

    Args:
        label_step_us: interval at whose ends labels become known, microseconds: 1 s or a day.
    """
    db = duckdb.connect()
    db.register("payments", payments.table.select(["request_id", "event_time", "terminal_id"]))
    files = ", ".join(f"'{file}'" for file in sorted(data.glob("*.parquet")))
    found = db.sql(
        "WITH p AS (SELECT row_number() OVER () - 1 AS n, epoch_us(event_time) AS at, terminal_id,"
        " request_id FROM payments), made AS (SELECT CAST(TRANSACTION_ID AS VARCHAR) AS id,"
        " epoch_us(TX_DATETIME) AS at, TERMINAL_ID AS terminal_id, TX_FRAUD_SCENARIO AS scenario"
        f" FROM read_parquet([{files}]) WHERE TX_FRAUD_SCENARIO > 0)"
        " SELECT p.n, scenario <> 2 OR EXISTS (SELECT 1 FROM made known"
        "  WHERE known.scenario = 2 AND known.terminal_id = p.terminal_id"
        f"  AND known.at <= p.at // {label_step_us} * {label_step_us} - {WEEK * DAY_MS * 1000}"
        f"  AND known.at > p.at - {28 * DAY_MS * 1000})"
        " FROM p JOIN made ON made.id = p.request_id"
    ).fetchnumpy()
    place, is_known = found.values()
    scores = np.random.default_rng(SEED).random(len(payments.y)) / 2
    scores[np.asarray(place)[np.asarray(is_known, bool)]] = 1.0
    return scores[:, None]


def as_given(_x: Floats, _y: NDArray[np.int8]) -> Callable[[Floats], Floats]:
    """The model whose score is its only input."""
    return lambda rows: rows[:, 0]


def of_book(make: Callable[[], Any]) -> Model:
    def fit(x: Floats, y: NDArray[np.int8]) -> Callable[[Floats], Floats]:
        model = make_pipeline(StandardScaler(), make()).fit(x, y)
        return lambda rows: model.predict_proba(rows)[:, 1]

    return fit


BOOK: Final[dict[str, tuple[Model, tuple[float, float]]]] = {
    "logistic regression": (of_book(lambda: LogisticRegression(random_state=0)), (0.606, 0.291)),
    "tree of depth 2": (
        of_book(lambda: DecisionTreeClassifier(max_depth=2, random_state=0)), (0.496, 0.241)
    ),
    "random forest": (of_book(lambda: RandomForestClassifier(random_state=0)), (0.658, 0.287)),
}  # fmt: skip
"""Chapter 3's models, with the average precision and card precision that it prints."""


def xgboost(**settings: Any) -> Model:
    """XGBoost as it was when the book was written: its releases from 2 on take other trees and
    another base score where none is given."""
    from xgboost import XGBClassifier

    return of_book(lambda: XGBClassifier(tree_method="exact", base_score=0.5, **settings))


def of_xgboost(book: Floats) -> list[Row]:
    """The book's rows of XGBoost: chapter 3's, and the best of chapter 5; none without
    `make train-xgboost`."""
    if importlib.util.find_spec("xgboost") is None:
        print("XGBoost's rows are left out: make train-xgboost installs it", flush=True)
        return []
    best = xgboost(n_estimators=100, learning_rate=0.1, max_depth=3)
    return [
        Row("XGBoost", book, xgboost(random_state=0), WEEK, (0.639, 0.273)),
        Row("book's 15 inputs, its best XGBoost (0.694, 0.304)", book, best),
    ]


def folds(payments: Payments, x: Floats, model: Model, base: datetime, days: int) -> dict[str, Any]:
    starts = [datetime.fromtimestamp(base.timestamp() - 7 * k * 86_400, UTC) for k in range(4)]
    found = np.array([judged(payments, x, model, start, days) for start in starts])
    (ap, cp), (ap_spread, cp_spread) = found.mean(axis=0), found.std(axis=0)
    return {
        "average precision": round(float(ap), 4), "its spread": round(float(ap_spread), 4),
        "card precision": round(float(cp), 4), "spread of that": round(float(cp_spread), 4),
        "by week": found.round(4).tolist(),
    }  # fmt: skip


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What is to be measured: a model on some inputs; `printed` is what the book says of it."""

    name: str
    x: Floats
    model: Model
    learned_days: int = WEEK
    printed: tuple[float, float] | None = None


KNOWN: Final = {"by the second": 1_000_000, "at midnight": DAY_MS * 1000}


def rows_of(payments: Payments, data: Path) -> list[Row]:
    book, sets = payments.book(), groups()
    found = [Row(name, book, model, WEEK, printed) for name, (model, printed) in BOOK.items()]
    found += of_xgboost(book)
    regression, _ = BOOK["logistic regression"]
    found.append(Row("book's 15 inputs, logistic regression", book, regression))
    found.append(Row("book's 15 inputs, shipped learner", book, shipped))
    of_sets = {name: payments.inputs(specs) for name, specs in sets.items()}
    found += [Row(name, x, shipped) for name, x in of_sets.items()]
    for name in (FIRST, SHIPPED, list(sets)[-1]):
        found.append(Row(f"{name}; 21 days to learn", of_sets[name], shipped, 3 * WEEK))
    for name, step_us in KNOWN.items():
        x = knowable(payments, data, step_us)
        found.append(Row(f"all that labels known {name} can tell", x, as_given))
    return found


def measured(payments: Payments, row: Row, weeks: str) -> dict[str, Any]:
    """One row over the weeks of one kind, or over the book's own week."""
    begun = time.monotonic()
    found: dict[str, Any] = {"row": row.name, "inputs": row.x.shape[1], "weeks": weeks}
    if row.printed is not None:
        ours = judged(payments, row.x, row.model, CHAPTER_3)
        found |= {"book": row.printed, "here": [round(v, 4) for v in ours]}
        told = f"book {row.printed[0]:.3f} {row.printed[1]:.3f}  here {ours[0]:.3f} {ours[1]:.3f}"
    else:
        found |= folds(payments, row.x, row.model, WEEKS[weeks], row.learned_days)
        told = (
            f"AP {found['average precision']:.3f} +- {found['its spread']:.3f}"
            f"  CP@100 {found['card precision']:.3f} +- {found['spread of that']:.3f}"
        )
    took_s = time.monotonic() - begun
    print(f"{row.name:<58} {row.x.shape[1]:>3} {weeks:<10} {told}  {took_s:.0f} s", flush=True)
    return found


_tasks: list[tuple[Payments, Row, str]] = []


def _task(number: int) -> dict[str, Any]:
    with threadpool_limits(1):
        return measured(*_tasks[number])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the handbook's transactions")
    parser.add_argument("--weeks", nargs="+", choices=list(WEEKS), default=list(WEEKS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/bench/handbook.json"))
    arguments = parser.parse_args()
    payments = Payments(arguments.data)
    rows = rows_of(payments, arguments.data)
    tasks = [(payments, row, "chapter 3") for row in rows if row.printed is not None]
    tasks += [(payments, r, w) for w in arguments.weeks for r in rows if r.printed is None]
    results: list[dict[str, Any]] = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    _tasks.extend(tasks)
    with get_context("fork").Pool(arguments.processes) as pool:  # rows are many, and not copied so
        for row in pool.imap_unordered(_task, range(len(tasks))):
            results.append(row)
            arguments.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    sys.exit(main())
