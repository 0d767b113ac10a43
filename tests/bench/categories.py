"""How well `teams/payments-data/merchant-category` tells categories, beside simpler models.

Each run makes up a history, learns from its days to fit, and judges the labelled payments of the
held-out days that are for the gates. All models have the same rows. Linear models read the folder's
own inputs, its words alone, or a whole descriptor as one word; boosted trees read the place of a
whole descriptor, as the folder did before. All read amount and hour. Intervals are 90 % by
customer, over all runs together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from tests.support.plain_fit import plain_fit

from mlplatform.learning.onnx.sklearn import fitted
from mlplatform.learning.training import retrain
from mlplatform.learning.training_sets.dataset import LabelledRows, dataset
from mlplatform.learning.validation.measures import mean_measure
from mlplatform.model.definition import InputSpec
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.model.folds import history_days
from mlplatform.model.tensors.categories import FIRST
from mlplatform.runtime.units import DAY_MS

MODEL: Final = "merchant-category"
MODELS: Final = Path(__file__).parents[2] / "teams" / "payments-data"
START_MS: Final = 20_454 * DAY_MS
WHOLE: Final = InputSpec(name="whole", kind="category", of="descriptor")
KNOWN: Final = 10_000
"""Most whole descriptors that are known, more than there are …"""
KNOWN_BEFORE: Final = 400
"""… and of the boosted trees, as the folder had before."""
UNKNOWN: Final = 1.0
SETTINGS: Final = {
    "max_iter": 40,
    "learning_rate": 0.15,
    "max_leaf_nodes": 31,
    "early_stopping": False,
}
Probabilities = NDArray[np.float64]
ClassScores = Callable[[NDArray[np.float32]], Probabilities]


def network(x: NDArray[np.float32], y: NDArray[np.int8]) -> ClassScores:
    """The folder's own fit."""
    training, classes = load_module(MODEL, "training"), load_definition(MODEL).classes
    return plain_fit(training, x, y, seed=retrain.SEED, classes=classes).scores


def linear(x: NDArray[np.float32], y: NDArray[np.int8], texts: int) -> ClassScores:
    """The folder's linear model over the first of its texts, amount and hour."""
    inputs = load_module(MODEL, "training").inputs()
    model = load_module(MODEL, "linear").LinearModel(
        inputs.texts[:texts], inputs.places[:texts], len(load_definition(MODEL).classes)
    )
    made: ClassScores = model.fit(x, y).scores
    return made


def whole(x: NDArray[np.float32], y: NDArray[np.int8]) -> ClassScores:
    """The folder's linear model over a whole descriptor as one word, amount and hour."""
    model = load_module(MODEL, "linear").LinearModel(
        [slice(0, 1)], [KNOWN + FIRST], len(load_definition(MODEL).classes)
    )
    made: ClassScores = model.fit(x, y).scores
    return made


def trees(x: NDArray[np.float32], y: NDArray[np.int8]) -> ClassScores:
    """Boosted trees over the place of a whole descriptor, amount and hour."""

    def rows(of: NDArray[np.float32]) -> NDArray[np.float32]:
        place = np.where(of[:, :1] < KNOWN_BEFORE + FIRST, of[:, :1], UNKNOWN)
        return np.concatenate([place, of[:, -2:]], axis=1)

    model = HistGradientBoostingClassifier(
        random_state=retrain.SEED, min_samples_leaf=10, l2_regularization=5.0, **SETTINGS
    )
    of_rows = fitted(model, rows(x), y, classes=len(load_definition(MODEL).classes)).scores
    return lambda of: of_rows(rows(of))


def run(seed: int) -> dict[str, Any]:
    """Of one history, by model: its probabilities and seconds of a fit; and the rows judged."""
    declared = load_definition(MODEL)
    policy = msgspec.structs.replace(declared.training, vocabulary=KNOWN)
    inputs = (*declared.inputs, WHOLE)
    definition = msgspec.structs.replace(declared, training=policy, inputs=inputs)
    days = history_days(definition)
    table = load_module(MODEL, "generator").generate(
        seed=seed, start_ms=START_MS, days=days, maturity_days=definition.label.maturity_days
    )
    as_of_ms = START_MS + days * DAY_MS
    built = dataset(definition, (), table, as_of_ms=as_of_ms, labels_until_ms=None)
    gates = built.holdout.before(built.window.gates_from_ms)
    fitting = built.fitting.training_rows
    judged = built.holdout.rows(slice(gates, len(built.holdout))).training_rows
    names = [spec.name for spec in declared.inputs]
    with_whole = [WHOLE.name, "amount", "hour"]

    def told(fit: Callable[..., ClassScores], columns: list[str], *more: int) -> dict[str, Any]:
        began = time.process_time()
        model = fit(fitting.matrix.columns(columns), fitting.y, *more)
        seconds = time.process_time() - began
        return {"p": model(judged.matrix.columns(columns)), "fit_cpu_s": seconds}

    found = {
        "network (words, letters)": told(network, names),
        "linear (words, letters)": told(linear, names, 2),
        "linear (words)": told(linear, names, 1),
        "linear (whole descriptors)": told(whole, with_whole),
        "boosted trees (400 whole descriptors)": told(trees, with_whole),
    }
    return {"models": found, "judged": judged, "new": _is_new(judged), "fitted": len(fitting)}


def _is_new(judged: LabelledRows) -> NDArray[np.bool_]:
    """Rows with a descriptor that no payment to fit has."""
    new: NDArray[np.bool_] = judged.matrix.columns([WHOLE.name])[:, 0] == UNKNOWN
    return new


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy, log loss and accuracy on new descriptors, each with the first model's lead."""
    y = np.concatenate([r["judged"].y for r in runs]).astype(np.int64)
    unit = np.concatenate([r["judged"].matrix.unit * len(runs) + n for n, r in enumerate(runs)])
    new = np.concatenate([r["new"] for r in runs])
    first, *_ = names = list(runs[0]["models"])
    p = {name: np.concatenate([r["models"][name]["p"] for r in runs]) for name in names}
    rows = np.arange(len(y))
    figures = {
        "accuracy": {name: (of.argmax(1) == y).astype(float) for name, of in p.items()},
        "log_loss": {name: -np.log(np.maximum(of[rows, y], 1e-15)) for name, of in p.items()},
    }
    figures["accuracy_on_new"] = {n: v[new] for n, v in figures["accuracy"].items()}
    told: dict[str, Any] = {"rows": len(y), "new": float(new.mean())}
    told["fitted"] = [r["fitted"] for r in runs]
    for key, values in figures.items():
        units = unit[new] if key == "accuracy_on_new" else unit
        told[key] = {
            name: asdict(mean_measure(key, values[first], units, seed=1, champion=values[name]))
            for name in names
        }
    told["fit_cpu_s"] = {
        name: [round(r["models"][name]["fit_cpu_s"], 1) for r in runs] for name in names
    }
    return told


def print_table(told: dict[str, Any]) -> None:
    """The figures as a table of Markdown."""
    for name in told["accuracy"]:
        cells = [f"{told['accuracy'][name]['champion']['value']:.4f}"]
        for key in ("accuracy", "accuracy_on_new", "log_loss"):
            gap = told[key][name]["difference"]
            own = told[key][name]["champion"]["value"]
            cells.append(
                f"{own:.4f}; {gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"
            )
        print(f"| {name} | {' | '.join(cells[1:])} | {max(told['fit_cpu_s'][name])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="Histories, each of its own seed.")
    parser.add_argument("--out", type=Path, default=Path("build/bench/categories.json"))
    options = parser.parse_args()
    os.environ["MLPLATFORM_MODELS"] = str(MODELS)
    told = summary([run(seed) for seed in range(1, options.runs + 1)])
    print_table(told)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
