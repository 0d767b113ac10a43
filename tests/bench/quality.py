"""What risk by labels as they are known is worth, and what the gates say of a worse model.

One training set of the shipped window and maturity on the handbook's simulated payments, and the
four weeks after it, which no choice was made on. Risk features are computed with the delay of a
label's maturity, and without one, by the labels that had arrived. Then the quality gate compares a
model of 8 trees with the shipped one on the held-out days, and the leakage gate is shown each
input, and one that is the label.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tests.bench.hidden import SEED, Bank, World, at_time

from mlplatform.learning.training.candidate import fit_rows
from mlplatform.learning.training.folder import load_training
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.validation.gates import QualityEvidence, judge_leakage, judge_quality
from mlplatform.learning.validation.leakage import leakage_evidence
from mlplatform.learning.validation.statistics import average_precision, average_precision_interval
from mlplatform.runtime.units import DAY_MS
from models.fraud.sources import read_transactions, sample_customers

TEST_DAYS: Final = 28


def delayed(bank: Bank, days: int) -> None:
    """Let the risk features of a bank end so many days earlier."""
    views = [
        msgspec.structs.replace(
            view,
            fields=tuple(
                msgspec.structs.replace(f, delay_days=f.delay_days + days)
                if f.aggregate == "label_share"
                else f
                for f in view.fields
            ),
        )
        for view in bank.folder.views
    ]
    bank.folder = dataclasses.replace(bank.folder, views=tuple(views))


def risk(table: pa.Table, from_ms: int, delay_days: int) -> tuple[float, TrainingSet]:
    """Average precision over the weeks after a fit, and its training set."""
    bank = Bank(table, World("all outcomes known", hides=False))
    delayed(bank, delay_days)
    for at_ms in range(from_ms - 25 * DAY_MS, from_ms + TEST_DAYS * DAY_MS, DAY_MS):
        bank.snapshot(at_ms)
    built = bank.training_set(from_ms)
    names = [i.name for i in bank.definition.inputs]
    model = fit_rows(load_training("fraud"), built.fitting, names, seed=SEED)
    found = []
    for week in range(TEST_DAYS // 7):
        begin = from_ms + week * 7 * DAY_MS
        x, y = bank.inputs(begin, begin + 7 * DAY_MS)
        found.append(average_precision(model.scores(x), y))
    return float(np.mean(found)), built


def smaller(built: TrainingSet, definition: Any) -> dict[str, Any]:
    """What the quality gate says of 8 trees against the shipped number, on the held-out days."""
    names = [i.name for i in definition.inputs]
    rows = built.fitting
    training: Any = load_training("fraud")
    champion = fit_rows(training, rows, names, seed=SEED)
    shipped = dict(training.SETTINGS)
    training.SETTINGS["max_iter"] = 8
    candidate = fit_rows(training, rows, names, seed=SEED)
    training.SETTINGS.update(shipped)
    days = built.holdout
    x, y, unit = days.matrix.columns(names), days.y, days.matrix.unit
    own, other = candidate.scores(x), champion.scores(x)
    difference = average_precision_interval(own, y, unit, seed=SEED, baseline=other)
    quality = QualityEvidence(
        candidate=average_precision_interval(own, y, unit, seed=SEED),
        champion=average_precision(other, y),
        difference=difference,
        positives=int(y.sum()),
        units=len(np.unique(unit)),
        unseen=difference,
    )
    gate = judge_quality(quality, definition.gates)
    return {"verdict": gate.verdict, "reason": gate.reason}


def leaked(built: TrainingSet, definition: Any) -> dict[str, Any]:
    """The inputs alone, best first, and what the gate says of one that is the label."""
    names = [i.name for i in definition.inputs]
    evidence = leakage_evidence(definition, names, built.fitting, built.holdout)
    x = built.rows.matrix.x.copy()
    x[:, names.index("night")] = built.rows.y
    rows = LabelledRows(dataclasses.replace(built.rows.matrix, x=x), built.rows.y)
    told = dataclasses.replace(built, rows=rows)
    with_label = leakage_evidence(definition, names, told.fitting, told.holdout)
    return {
        "alone": dict(sorted(evidence.alone.items(), key=lambda item: -item[1])[:5]),
        "verdict": judge_leakage(evidence, definition.gates).verdict,
        "with the label": judge_leakage(with_label, definition.gates).verdict,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the handbook's transactions")
    parser.add_argument("--customers", type=float, default=1.0, help="share of the customers")
    parser.add_argument("--out", type=Path, default=Path("build/bench/quality.json"))
    arguments = parser.parse_args()
    table = sample_customers(read_transactions(arguments.data), arguments.customers)
    last_ms = int(table["event_time"].cast(pa.int64()).to_numpy().max()) // 1000
    from_ms = (last_ms // DAY_MS + 1 - TEST_DAYS) * DAY_MS
    table = table.filter(pc.field("event_time") >= at_time(from_ms - 60 * DAY_MS))
    results: dict[str, Any] = {"customers": arguments.customers, "risk": {}}
    for days in (3, 0):
        found, built = risk(table, from_ms, days)
        results["risk"][f"delay of {days} days"] = found
        print(f"risk with a delay of {days} days: AP {found:.3f}", flush=True)
    definition = Bank(table.slice(0, 1), World("none")).definition
    results["8 trees"] = smaller(built, definition)
    print(results["8 trees"], flush=True)
    results["inputs"] = leaked(built, definition)
    print(results["inputs"], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    sys.exit(main())
