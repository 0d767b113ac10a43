"""How well `teams/credit/credit-default` tells defaults, and what thresholds by cost are worth.

Source: Yeh and Lien (2009), the default of credit card clients; UCI Machine Learning Repository,
30,000 clients of whom 22 % default. Sex, age and marriage are no inputs.

First the folder's own fit (XGBoost): five parts of the clients, each judged by a model that was
fitted to three others, calibrated and given thresholds on a fourth. The settings of that model are
chosen on the four others alone: each is a validation fold once, of fits to the remaining three. All
measures, and the table of protected groups, are of the 30,000 together. Then thresholds by cost
beside those by shares, with the fit of the template `sklearn`: each run fits 60 % of the clients
drawn at random, calibrates and chooses thresholds on 20 %, and judges on 20 %.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tests.support.costs import mean_cost
from tests.support.model_folders import SKLEARN
from tests.support.plain_fit import plain_dataset, plain_fit

from mlplatform.learning.fairness.outcomes import GroupRows, fairness_of, judge_fairness
from mlplatform.learning.training import retrain
from mlplatform.learning.training.calibration import KnownScores, fit_calibration, fit_thresholds
from mlplatform.learning.training_sets.dataset import LabelledRows, dataset
from mlplatform.learning.validation.measures import binary_measures
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import (
    DecisionScale,
    LabelCosts,
    ThresholdPolicy,
)

FOLDER: Final = "credit-default"
MODELS: Final = Path(__file__).parents[2] / "teams" / "credit"
NOW_MS: Final = 1_767_225_600_000
PARTS: Final = 5
CHOICES: Final = {
    "max_depth": (3, 4, 5),
    "min_child_weight": (10, 40),
    "reg_lambda": (1.0, 20.0),
}
GRID: Final = tuple(
    dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())
)
"""What is changed in the folder's settings to choose among them."""
LABEL: Final = "default.payment.next.month"
NO_INPUTS: Final = ("ID", "SEX", "AGE", "MARRIAGE", LABEL)
COSTS: Final = {
    "grant": LabelCosts(negative=-1000.0, positive=3000.0),
    "refer": LabelCosts(negative=-700.0, positive=1200.0),
    "refuse": LabelCosts(negative=0.0, positive=0.0),
}
"""In dollars, of a client and a year: what is earned, and what a default loses. Who is referred
costs some time and partly goes elsewhere; people find most of those who will default."""
EQUAL: Final = {"refer": 300 / 2100, "refuse": 700 / 1900}
"""Probabilities at which two outcomes cost the same."""
SCALE: Final = DecisionScale(("grant", "refer", "refuse"), ("refer", "refuse"))
POLICIES: Final = {
    "costs": ThresholdPolicy(costs=COSTS, currency="USD"),
    "scores at equal costs": ThresholdPolicy(scores=EQUAL),
    "shares 5 %, 20 %": ThresholdPolicy(shares={"refer": 0.05, "refuse": 0.20}),
    "shares 20 %, 5 %": ThresholdPolicy(shares={"refer": 0.20, "refuse": 0.05}),
    "all are granted": ThresholdPolicy(scores={"refer": 2.0, "refuse": 2.0}),
}


@dataclass(frozen=True)
class Clients:
    """UCI's clients in the order of the history, in five parts."""

    rows: LabelledRows
    parts: list[NDArray[np.int64]]

    def others(self, *left_out: int) -> NDArray[np.int64]:
        """The clients of the parts that are not left out."""
        kept = [part for place, part in enumerate(self.parts) if place not in left_out]
        return np.concatenate(kept)


def clients(path: Path) -> Clients:
    """All clients of a file, with nobody refused."""
    os.environ["MLPLATFORM_MODELS"] = f"examples:{MODELS}"
    definition = load_definition(FOLDER)
    found = load_module(FOLDER, "sources").examine_transactions(path, now_ms=NOW_MS)
    if found.refusals:
        raise found.refusals[0]
    rows = dataset(definition, (), found.table, as_of_ms=NOW_MS, labels_until_ms=None).rows
    return Clients(rows, np.array_split(np.arange(len(rows)), PARTS))


def validation_auc(of: Clients, changed: dict[str, Any]) -> NDArray[np.float64]:
    """AUC [judged, validation part] of fits to the three parts that are neither; NaN for itself."""
    x, y, found = of.rows.matrix.x, of.rows.y, np.full((PARTS, PARTS), np.nan)
    fit_with = load_module(FOLDER, "training").fit_with
    for pair in itertools.combinations(range(PARTS), 2):
        kept = of.others(*pair)
        model = fit_with(changed, plain_dataset(x[kept], y[kept]), seed=retrain.SEED)
        for judged, validated in (pair, pair[::-1]):
            held = of.parts[validated]
            found[judged, validated] = roc_auc_score(y[held], model.scores(x[held]))
    return found


def chosen_settings(of: Clients) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """For each part the changes whose mean AUC on the four others' validation folds is highest,
    and what each of `GRID` reached."""
    means = np.array([np.nanmean(validation_auc(of, changed), axis=1) for changed in GRID])
    told = [{**one, "auc": auc.tolist()} for one, auc in zip(GRID, means, strict=True)]
    return [GRID[place] for place in means.argmax(axis=0)], told


def judged_by_the_folder(path: Path) -> dict[str, Any]:
    """The measures and the protected groups of all clients, as a gate report holds them."""
    of = clients(path)
    definition = load_definition(FOLDER)
    rows, (settings, tried) = of.rows, chosen_settings(of)
    fit_with = load_module(FOLDER, "training").fit_with
    scores, adverse = np.empty(len(rows)), np.empty(len(rows), bool)
    by, x, y = definition.decision, rows.matrix.x, rows.y
    scale = by.scale
    for number, judged in enumerate(of.parts):
        place = (number + 1) % PARTS
        chosen, fitted = of.parts[place], of.others(number, place)
        model = fit_with(settings[number], plain_dataset(x[fitted], y[fitted]), seed=retrain.SEED)
        calibration = fit_calibration(model.scores(x[chosen]), y[chosen])
        held = calibration.probabilities(model.scores(x[chosen]))
        begins = fit_thresholds(by.thresholds, by.outcomes, held, KnownScores(held, y[chosen]))
        scores[judged] = calibration.probabilities(model.scores(x[judged]))
        places = CutOffs(scale, begins).places(scores[judged], x[judged])
        adverse[judged] = places == len(scale.names) - 1
    unit = rows.matrix.unit
    fairness = fairness_of(
        GroupRows(scores, y, adverse, np.ones(len(rows), bool), unit),
        rows.groups,
        {name: definition.request[name].values or () for name in definition.protected},
        adverse=scale.names[-1:],
        policy=definition.gates.fairness,
    )
    gate = judge_fairness(fairness, definition.gates.fairness)
    return {
        "settings": settings,
        "tried": tried,
        "measures": [asdict(m) for m in binary_measures(scores, y, unit, seed=retrain.SEED)],
        "fairness": asdict(fairness),
        "gate": None if gate is None else asdict(gate),
    }


def print_judged(told: dict[str, Any]) -> None:
    """The measures and groups as tables of Markdown."""

    def ends(found: dict[str, float] | None, form: str = "{:.3f}") -> str:
        if found is None:
            return "reference"
        return "{} ({} to {})".format(*(form.format(found[k]) for k in ("value", "low", "high")))

    for one in told["tried"]:
        cells = " | ".join(f"{auc:.4f}" for auc in one["auc"])
        print(f"| {', '.join(str(one[name]) for name in CHOICES)} | {cells} |")
    for number, one in enumerate(told["settings"]):
        print(f"part {number}: {one}")
    for measure in told["measures"]:
        print(f"| {measure['name']} | {ends(measure['candidate'], '{:.4f}')} |")
    for attribute in told["fairness"]["attributes"]:
        for group in attribute["groups"]:
            told_of = ("adverse_share", "true_positive_rate", "false_positive_rate", "observed")
            cells = [ends(group[key]) for key in (*told_of, "adverse_share_ratio")]
            cells += [f"{group['mean_score']:.3f}", f"{group['favourable_ratio']:.2f}"]
            print(f"| {group['group']} | {group['rows']} | {' | '.join(cells)} |")
    print(told["gate"])


def template() -> Any:
    """The template's training.py, as a folder gets it."""
    module = types.ModuleType("training")
    exec(compile(SKLEARN.read_text(), "training.py", "exec"), module.__dict__)
    return module


def run(x: NDArray[np.float32], y: NDArray[np.int8], seed: int) -> dict[str, Any]:
    """One random split of the clients: AUC, and by policy its thresholds, shares and mean cost."""
    order = np.random.default_rng(seed).permutation(len(y))
    fit, chosen, judged = np.split(order, [int(0.6 * len(y)), int(0.8 * len(y))])
    model = plain_fit(template(), x[fit], y[fit], seed=seed)
    calibration = fit_calibration(model.scores(x[chosen]), y[chosen])
    held = calibration.probabilities(model.scores(x[chosen]))
    scores = calibration.probabilities(model.scores(x[judged]))
    found: dict[str, Any] = {"auc": float(roc_auc_score(y[judged], scores)), "policies": {}}
    for name, thresholds in POLICIES.items():
        decision = msgspec.structs.replace(
            load_definition("fraud").decision, outcomes=SCALE.names, thresholds=thresholds
        )
        begins = fit_thresholds(thresholds, decision.outcomes, held, KnownScores(held, y[chosen]))
        places = CutOffs(SCALE, begins).places(scores, x[judged])
        found["policies"][name] = {
            "thresholds": list(begins.values()),
            "shares": [float((places == place).mean()) for place in range(3)],
            "cost": mean_cost(places, y[judged], list(COSTS.values())),
        }
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the runs, and of each policy's cost against that by costs its standard error."""

    def of(name: str, key: str) -> NDArray[np.float64]:
        return np.array([run["policies"][name][key] for run in runs])

    auc = np.array([run["auc"] for run in runs])
    told: dict[str, Any] = {"auc": [float(auc.mean()), float(auc.std())], "policies": {}}
    for name in POLICIES:
        more = of(name, "cost") - of("costs", "cost")
        told["policies"][name] = {
            key: np.round(of(name, key).mean(axis=0), 3).tolist()
            for key in ("thresholds", "shares", "cost")
        } | {"more": [float(more.mean()), float(more.std() / np.sqrt(len(runs)))]}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet file of the clients, UCI's columns")
    parser.add_argument("--runs", type=int, default=10, help="of the comparison of thresholds")
    parser.add_argument("--out", type=Path, default=Path("build/bench/credit.json"))
    arguments = parser.parse_args()
    table = pq.read_table(arguments.data)
    names = [name for name in table.column_names if name not in NO_INPUTS]
    x = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float32)
    y = table[LABEL].to_numpy().astype(np.int8)
    judged = judged_by_the_folder(arguments.data)
    print_judged(judged)
    runs = [run(x, y, seed) for seed in range(arguments.runs)]
    told = {"folder": judged} | summary(runs) | {"runs": runs}
    print(f"AUC {told['auc'][0]:.4f}, between splits {told['auc'][1]:.4f}")
    for name, policy in told["policies"].items():
        print(f"{name}: {policy}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    sys.exit(main())
