"""What a model forgets, and what it teaches itself, when its own declines hide their outcomes.

Weekly retrains on the handbook's simulated payments, of which every outcome is known to the bench
alone: the thresholds of each week's model decline, and what it declines is not labelled. Features,
training sets, fits, calibration and thresholds are the platform's own. Each world says what the
bank learns of declined payments, and what model.yaml makes of them; average precision is over all
payments of a week, by their true outcomes, and the mean of the last four weeks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.learning.features.compile import snapshot_sql
from mlplatform.learning.features.online import EVENT_TIMESTAMP
from mlplatform.learning.training.calibration import KnownScores, fit_calibration, fit_thresholds
from mlplatform.learning.training.candidate import fit_rows
from mlplatform.learning.training.folder import load_folder, load_training
from mlplatform.learning.training_sets.dataset import TrainingSet, dataset, input_plan
from mlplatform.learning.validation.statistics import average_precision
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.runtime.units import DAY_MS
from models.fraud.sources import read_transactions, sample_customers

WEEKS: Final = 9
LAST: Final = 4
SEED: Final = 20180401


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What becomes known of declined payments, and what is made of the others.

    Args:
        hides: whether a decline hides anything.
        confirmed: share of declined payments whose outcome people find out within a day.
        explored: share of payments to be declined that chance lets through.
        told: whether the training set knows that they were declined; else they are genuine.
        trusted: declines count as fraud though nothing shows that they are.
    """

    name: str
    treatment: str = "pseudo_label"
    hides: bool = True
    confirmed: float = 0.0
    explored: float = 0.0
    told: bool = True
    trusted: bool = False


WORLDS: Final = (
    World("declines count as genuine", told=False),
    World("nothing known of declines: left out", "leave_out"),
    World("weights, a tenth let through", "weight", explored=0.1),
    World("pseudo labels, a tenth let through", explored=0.1),
    World("pseudo labels, half of the declines confirmed", confirmed=0.5),
    World("declines count as fraud, unguarded", trusted=True),
    World("all outcomes known", hides=False),
)


class Bank:
    """One world, day by day: what is known, what is served, what is decided."""

    def __init__(self, table: pa.Table, world: World) -> None:
        self.world, self.folder = world, load_folder("fraud")
        training = msgspec.structs.replace(
            self.folder.definition.training,
            hidden_outcomes=world.treatment,
            pseudo_label_precision=0.0 if world.trusted else 0.8,
        )
        self.definition: ModelDefinition = msgspec.structs.replace(
            self.folder.definition, training=training
        )
        self.db = duckdb.connect(config={"threads": 1})
        self.db.register("history", table)
        self.db.execute(
            "CREATE TABLE requests AS SELECT * EXCLUDE (label, label_time), false AS _stopped,"
            " CAST(NULL AS VARCHAR) AS decision, false AS by_model,"
            " CAST(NULL AS DOUBLE) AS propensity, false AS explored FROM history;"
            "CREATE TABLE labels AS SELECT request_id, label, label_time FROM history"
        )
        self.truth = dict(
            zip(*(table[n].to_pylist() for n in ("request_id", "label")), strict=True)
        )
        self.days: list[int] = []

    def snapshot(self, at_ms: int) -> None:
        at = f"epoch_ms({at_ms})"
        self.db.execute(
            "CREATE OR REPLACE TEMP VIEW known_labels AS SELECT request_id, label FROM labels"
            f" WHERE label_time <= {at}"
        )
        for view in self.folder.views:
            sql = snapshot_sql(view, at_ms=at_ms, available_ms=at_ms)
            head = f"INSERT INTO {view.name}" if self.days else f"CREATE TABLE {view.name} AS"
            self.db.execute(f"{head} {sql}")
        self.days.append(at_ms)

    def joined(self, from_ms: int, to_ms: int) -> pa.Table:
        """Requests with what was known of them, and the snapshots of their own days."""
        names = ", ".join(f"{v.name}.{f}" for v in self.folder.views for f in v.feature_names)
        joins = " ".join(
            f"LEFT JOIN {v.name} ON r.{v.join_key} = {v.name}.{v.join_key}"
            f" AND date_trunc('day', r.event_time) = {v.name}.{EVENT_TIMESTAMP}"
            for v in self.folder.views
        )
        found: pa.Table = self.db.sql(
            f"SELECT r.*, labels.label, labels.label_time, {names} FROM requests r"
            f" LEFT JOIN labels USING (request_id) {joins}"
            f" WHERE r.event_time >= epoch_ms({from_ms}) AND r.event_time < epoch_ms({to_ms})"
            " ORDER BY r.event_time, r.request_id"
        ).to_arrow_table()
        return found

    def training_set(self, as_of_ms: int) -> TrainingSet:
        table = self.joined(as_of_ms - 40 * DAY_MS, as_of_ms)
        if not self.world.told:
            table = table.drop_columns(["decision"])
        built = dataset(
            self.definition, self.folder.views, table, as_of_ms=as_of_ms, labels_until_ms=None
        )
        if not self.world.trusted or built.rows.hidden is None:
            return built
        rows = built.rows
        hidden: Any = rows.hidden
        y, weight = np.where(hidden, 1, rows.y).astype(np.int8), np.ones(len(rows))
        return dataclasses.replace(built, rows=dataclasses.replace(rows, y=y, weight=weight))

    def inputs(self, from_ms: int, to_ms: int) -> tuple[Any, Any]:
        """Requests as the model's inputs, and what became of them."""
        table = self.joined(from_ms, to_ms)
        x = input_plan(self.definition, self.folder.views).matrix(table)
        return x, np.array([self.truth[i] for i in table["request_id"].to_pylist()])

    def week(self, from_ms: int, chance: np.random.Generator) -> dict[str, Any]:
        """Retrain, then decide about seven days; what it came to."""
        built = self.training_set(from_ms)
        names = [i.name for i in self.definition.inputs]
        model = fit_rows(load_training("fraud"), built.fitting.training_rows, names, seed=SEED)
        days = built.calibrating
        raw = model.scores(days.matrix.columns(names))
        kept = np.ones(len(raw), bool) if days.weight is None else days.weight > 0
        calibration = fit_calibration(raw[kept], days.training_rows.y, days.training_rows.weight)
        calibrated = calibration.probabilities(raw)
        by = self.definition.decision
        known = KnownScores(calibrated[kept], days.training_rows.y, days.training_rows.weight)
        thresholds = fit_thresholds(by.thresholds, by.outcomes, calibrated, known)
        cut_offs = CutOffs(by.scale, thresholds)
        scores, truth, declined = [], [], 0
        for at_ms in range(from_ms, from_ms + 7 * DAY_MS, DAY_MS):
            if at_ms not in self.days:
                self.snapshot(at_ms)
            found, y, hits = self._day(at_ms, model, calibration, cut_offs, names, chance)
            scores.append(found)
            truth.append(y)
            declined += hits
        score, y = np.concatenate(scores), np.concatenate(truth)
        return {
            "average_precision": average_precision(score, y),
            "declined_share": declined / len(y),
            "score_over_true_rate": float(score.mean() / y.mean()),
            "hidden": built.hidden.hidden,
            "as_fraud": built.hidden.as_positive,
            "known": built.hidden.known,
            "precision": built.hidden.precision,
        }

    def _day(
        self, at_ms: int, model: Any, calibration: Any, cut_offs: CutOffs, names: list[str],
        chance: np.random.Generator,
    ) -> tuple[Any, Any, int]:  # fmt: skip
        table = self.joined(at_ms, at_ms + DAY_MS)
        plan = input_plan(self.definition, self.folder.views)
        assert list(plan.names) == names
        x = plan.matrix(table)
        score = calibration.probabilities(model.scores(x))
        ids = np.array(table["request_id"].to_pylist())
        y = np.array([self.truth[i] for i in ids])
        declined = cut_offs.places(score, x) == 2
        if self.world.hides:
            self._decide(ids[declined], chance)
        return score, y, int(declined.sum())

    def _decide(self, ids: Any, chance: np.random.Generator) -> None:
        lot = chance.random(len(ids))
        explored = lot < self.world.explored
        confirmed = ~explored & (lot < self.world.explored + self.world.confirmed)
        decided = pa.table({"id": ids, "explored": explored, "unknown": ~explored & ~confirmed})
        self.db.register("decided", decided)
        share = self.world.explored or "NULL"
        self.db.execute(
            "UPDATE requests SET decision = CASE WHEN d.explored THEN 'review' ELSE 'decline' END,"
            f" declined = NOT d.explored AND {self.world.told}, by_model = true,"
            f" propensity = {share}, explored = d.explored"
            " FROM decided d WHERE request_id = d.id;"
            "DELETE FROM labels WHERE request_id IN (SELECT id FROM decided WHERE unknown)"
        )


def played(table: pa.Table, world: World, begin_ms: int) -> dict[str, Any]:
    bank, chance = Bank(table, world), np.random.default_rng(SEED)
    for at_ms in range(begin_ms - 25 * DAY_MS, begin_ms, DAY_MS):
        bank.snapshot(at_ms)
    weeks = [bank.week(begin_ms + w * 7 * DAY_MS, chance) for w in range(WEEKS)]
    last = weeks[-LAST:]
    means = {
        name: float(np.mean([w[name] for w in last]))
        for name in ("average_precision", "declined_share", "score_over_true_rate")
    }
    return {**dataclasses.asdict(world), **means, "weeks": weeks}


def at_time(at_ms: int) -> Any:
    return pa.scalar(at_ms * 1000, pa.timestamp("us"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the handbook's transactions")
    parser.add_argument("--customers", type=float, default=0.5, help="share of the customers")
    parser.add_argument("--world", default="", help="only worlds whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("build/bench/hidden.json"))
    arguments = parser.parse_args()
    table = sample_customers(read_transactions(arguments.data), arguments.customers)
    last_ms = int(table["event_time"].cast(pa.int64()).to_numpy().max()) // 1000
    begin_ms = (last_ms // DAY_MS + 1) * DAY_MS - WEEKS * 7 * DAY_MS
    table = table.filter(pc.field("event_time") >= at_time(begin_ms - 60 * DAY_MS))
    results = []
    for world in (w for w in WORLDS if arguments.world in w.name):
        begun = time.monotonic()
        results.append(played(table, world, begin_ms))
        found = results[-1]
        print(
            f"{world.name:<48} AP {found['average_precision']:.3f}"
            f"  declined {100 * found['declined_share']:.2f} %"
            f"  score/rate {found['score_over_true_rate']:.2f}"
            f"  {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        shown = {"customers": arguments.customers, "rows": table.num_rows, "worlds": results}
        arguments.out.write_text(json.dumps(shown, indent=2))


if __name__ == "__main__":
    sys.exit(main())
