"""The figures of a retrain that people see in MLflow: parameters, figures of both models, and
curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.registry.mlmodel import columns
from mlplatform.learning.registry.run_record import RunDataset, RunRecord, Scalar
from mlplatform.learning.training import curves, drawings
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet, rows_digest
from mlplatform.learning.training_sets.stability import Stability
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.learning.validation.search_report import SearchReport
from mlplatform.learning.validation.statistics import Ranking
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.canonical import finite_or_none
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.text import markdown
from mlplatform.runtime.times import day_text

TENTHS: Final = 10
IMPORTANCES_S: Final = 1.0
CANDIDATE, CHAMPION = "candidate", "champion"
IMPORTANCES: Final = "importances.json"
STABILITY: Final = "stability.json"


@dataclass(frozen=True, slots=True)
class _Arm:
    """Raw scores of the held-out days, calibrated scores of the gates' days, their labels and which
    of them get an alert."""

    bundle: Bundle
    raw: NDArray[np.float64]
    y: NDArray[np.int8]
    scores: NDArray[np.float64]
    y_judged: NDArray[np.int8]
    alerts: NDArray[np.bool_]


def run_record(
    definition: ModelDefinition,
    candidate: Candidate,
    dataset: TrainingSet,
    report: GateReport,
    *,
    champion: Runnable | None,
    seed: int,
) -> RunRecord:
    """The record of the run that made a candidate; its model, and the champion's, are scored.

    Ranking is of all held-out days, calibration and alerts of the days that calibration has not
    seen: those of the gates. A figure that is not finite is left out.
    """
    days = dataset.holdout.share(candidate.customers).known
    first = days.before(dataset.window.gates_from_ms)
    arms = {}
    if definition.task == "binary":  # for other tasks the report has all figures
        arms[CANDIDATE] = _arm(Runnable(candidate.bundle, candidate.model), days, first)
    if arms and champion is not None:
        with suppress(InputInvalid):  # an input of the champion is no longer computed
            arms[CHAMPION] = _arm(champion, days, first)
    figures = to_dict(report)
    x = days.matrix.of(candidate.bundle)
    lost = (
        curves.permutation_importances(
            candidate.model,
            x,
            days.y,
            names=candidate.bundle.input_names,
            seed=seed,
            budget_s=IMPORTANCES_S,
        )
        if arms
        else {}
    )
    measured = {
        f"{name}/{key}": v for name, arm in arms.items() for key, v in _figures(arm).items()
    }
    apart = ("gates", "folds", "measures", "baseline", "stability")
    measured |= _measures("measures", report.measures)
    for beside in report.baseline:
        parts = {beside.name: beside.champion, f"difference/{beside.name}": beside.difference}
        measured |= {f"baseline/{name}": found.value for name, found in parts.items() if found}
    measured |= dict(_numbers({k: v for k, v in figures.items() if k not in apart}))
    return RunRecord(
        parameters=_parameters(definition, candidate, dataset),
        metrics={name: value for name, value in measured.items() if math.isfinite(value)},
        steps=[_measures("folds", fold.measures) for fold in report.folds],
        tags=_tags(candidate, report),
        datasets=_datasets(candidate.bundle, dataset),
        artifacts={
            **_curves(arms),
            **_importances(lost),
            **_stability(report.stability),
            **_search(candidate.search),
            **_progress(candidate.progress),
            **_tables(definition, candidate, days),
        },
        description=_description(definition, figures),
    )


def _tables(
    definition: ModelDefinition, candidate: Candidate, days: LabelledRows
) -> dict[str, bytes]:
    """Tables of decisions beside labels, of the held-out days; none for two outcomes, for which
    curves show it."""
    if definition.task == "binary" or not len(days):
        return {}
    scores = candidate.bundle.calibrate_many(Runnable(candidate.bundle, candidate.model).raw(days))
    if definition.classes:
        return {"curves/confusion.json": _confusion(definition.classes, candidate, days, scores)}
    return {"curves/residuals.json": _residuals(scores, days.y)}


def _confusion(
    classes: Sequence[str], candidate: Candidate, days: LabelledRows, scores: NDArray[np.float64]
) -> bytes:
    """A table of how often each class was decided as each."""
    x = days.matrix.of(candidate.bundle)
    count, decided = len(classes), candidate.bundle.decide_many(scores, x)
    cells = np.bincount(count * days.y.astype(np.int64) + decided, minlength=count * count)
    rows = [
        [name, *map(int, row)]
        for name, row in zip(classes, cells.reshape(count, count), strict=True)
    ]
    return _table(["class", *classes], rows)


def _residuals(numbers: NDArray[np.float64], y: NDArray[np.float64]) -> bytes:
    """Figures by tenths of the requests, from the lowest number to the highest: means of numbers
    and of labels, and the mean absolute error."""
    rows = [
        [float(numbers[part].mean()), float(y[part].mean()),
         float(np.abs(numbers[part] - y[part]).mean()), len(part)]
        for part in np.array_split(np.argsort(numbers, kind="stable"), TENTHS)
        if len(part)
    ]  # fmt: skip
    return _table(["mean_number", "mean_label", "mean_absolute_error", "rows"], rows)


def _measures(group: str, measures: Sequence[Measure]) -> dict[str, float]:
    """Measures with the ends of their intervals, named so that MLflow's charts have a section for
    the candidate's, one for the champion's and one for their differences."""
    found: dict[str, float] = {}
    for measure in measures:
        parts = {"": measure.candidate, "champion/": measure.champion}
        parts["difference/"] = measure.difference
        for part, interval in parts.items():
            for end in ("value", "low", "high") if interval else ():
                name = f"{group}/{part}{measure.name}{'' if end == 'value' else f'_{end}'}"
                found[name] = getattr(interval, end)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _arm(runnable: Runnable, days: LabelledRows, first: int) -> _Arm:
    raw = runnable.raw(days)
    bundle = runnable.bundle
    scores = bundle.calibrate_many(raw[first:])
    alerts = bundle.cut_offs.alerting(scores, days.matrix.of(bundle)[first:])
    return _Arm(bundle, raw, days.y, scores, days.y[first:], alerts)


def _figures(arm: _Arm) -> dict[str, float]:
    if not np.isfinite(arm.raw).all():
        return {}
    y, scores, alerts = arm.y_judged, arm.scores, arm.alerts
    average_precision, auc, _ = Ranking(arm.raw, arm.y).measures()
    found = {"average_precision": average_precision, "roc_auc": auc}
    if not len(y):
        return found
    found |= {
        "brier": float(np.mean((scores - y) ** 2)),
        "calibration_error": curves.calibration_bins(scores, y).error,
        "alert_share": float(alerts.mean()),
    }
    if alerts.any():
        found["alert_precision"] = float(y[alerts].mean())
    if y.any():
        found["alert_recall"] = float(alerts[y == 1].mean())
    return found


def _parameters(
    definition: ModelDefinition, candidate: Candidate, dataset: TrainingSet
) -> dict[str, Scalar]:
    bundle = candidate.bundle
    declared = {"gates": definition.gates, "training": definition.training}
    extent = _extent(dataset, task=definition.task)
    return {
        "seed": bundle.seed,
        "inputs": len(bundle.inputs),
        **{f"fit.{name}": value for name, value in candidate.parameters.items()},
        **{f"threshold.{name}": value for name, value in bundle.thresholds.items()},
        **{
            f"threshold.{segment.name}.{name}": value
            for segment in bundle.segment_thresholds
            for name, value in segment.thresholds.items()
        },
        **{f"data.{name}": value for name, value in extent.items()},
        **dict(_leaves(msgspec.to_builtins(declared))),
    }


def _extent(dataset: TrainingSet, *, task: str) -> dict[str, Scalar]:
    window = dataset.window
    counted = (
        (
            "positives",
            int(dataset.fitting.training_rows.y.sum()),
            int(dataset.holdout.known.y.sum()),
        )
        if task == "binary"
        else ("labelled", len(dataset.fitting.training_rows), len(dataset.holdout.known))
    )
    return {
        "from": day_text(window.from_ms),
        "holdout_from": day_text(window.holdout_from_ms),
        "gates_from": day_text(window.gates_from_ms),
        "to": day_text(window.to_ms),
        "fit_rows": len(dataset.fitting),
        f"fit_{counted[0]}": counted[1],
        "holdout_rows": len(dataset.holdout),
        f"holdout_{counted[0]}": counted[2],
        **({} if dataset.units_share >= 1 else {"customers_share": dataset.units_share}),
    }


def _tags(candidate: Candidate, report: GateReport) -> dict[str, str]:
    stopped = [gate.name for gate in report.gates if gate.verdict != "passed"]
    return {
        "champion_bundle": report.champion or "none: the first version",
        "gates_not_passed": ", ".join(stopped) or "none",
        "origin": candidate.bundle.origin,
        "attribution": candidate.bundle.attribution.method,
    }


def _datasets(bundle: Bundle, dataset: TrainingSet) -> tuple[RunDataset, ...]:
    types, held = columns(bundle), dataset.holdout
    extent = _extent(dataset, task=bundle.scale.task)
    of_holdout = rows_digest(held.matrix, held.y, held)
    return (
        RunDataset(f"{dataset.model} window", dataset.digest, "training", types, extent),
        RunDataset(f"{dataset.model} held-out days", of_holdout, "validation", types, extent),
    )


def _curves(arms: Mapping[str, _Arm]) -> dict[str, bytes]:
    finite = {name: arm for name, arm in arms.items() if bool(np.isfinite(arm.raw).all())}
    ranked = {n: curves.precision_recall(arm.raw, arm.y) for n, arm in finite.items()}
    judged = {n: arm for n, arm in finite.items() if len(arm.y_judged)}
    bins = {n: curves.calibration_bins(arm.scores, arm.y_judged) for n, arm in judged.items()}
    found = {}
    if ranked:
        found["curves/precision_recall.png"] = drawings.precision_recall_picture(ranked)
        points = [[n, *point] for n, curve in ranked.items() for point in curve.tolist()]
        found["curves/precision_recall.json"] = _table(["model", "recall", "precision"], points)
    if bins:
        found["curves/calibration.png"] = drawings.calibration_picture(bins)
        parts = [
            [n, *part]
            for n, b in bins.items()
            for part in zip(b.predicted.tolist(), b.actual.tolist(), b.rows.tolist(), strict=True)
        ]
        found["curves/calibration.json"] = _table(
            ["model", "mean_score", "positive_share", "rows"], parts
        )
    if (own := judged.get(CANDIDATE)) is not None:
        counts = curves.score_histogram(own.scores, own.y_judged)
        found["curves/scores.png"] = drawings.histogram_picture(counts, own.bundle.thresholds)
    return found


def _importances(lost: Mapping[str, float]) -> dict[str, bytes]:
    if not lost:
        return {}
    ordered = sorted(lost, key=lambda name: -lost[name])
    losses = [lost[name] for name in ordered]
    return {
        IMPORTANCES: _table(
            ["input", "average_precision_lost"],
            [list(p) for p in zip(ordered, losses, strict=True)],
        ),
        "importances.png": drawings.importances_picture(ordered, losses),
    }


def _stability(found: Stability | None) -> dict[str, bytes]:
    """A table of the population stability index of each input by the first day of a stretch."""
    if found is None or not found.indices:
        return {}
    days = [day_text(at_ms) for at_ms in found.from_ms[1:]]
    rows = [[name, *map(finite_or_none, found.indices[name])] for name in found.largest]
    return {STABILITY: _table(["input", *days], rows)}


def _progress(lines: Sequence[str]) -> dict[str, bytes]:
    """The lines that the fit logged; no file if it logged nothing."""
    return {"fit/progress.txt": "\n".join([*lines, ""]).encode()} if lines else {}


def _search(search: SearchReport | None) -> dict[str, bytes]:
    """Tables of a search: all of its trials, and the importance of each parameter."""
    if search is None:
        return {}
    names = list(search.best.parameters)
    rows = [
        [
            t.number,
            t.state,
            t.value,
            round(t.seconds, 3),
            *(t.parameters[n] for n in names),
            t.reason,
        ]
        for t in search.trials
    ]
    titles = ["trial", "state", search.measure, "seconds", *names, "reason"]
    found = {"search/trials.json": _table(titles, rows)}
    if search.importances:
        shares = list(search.importances.items())
        found["search/importances.json"] = _table(["parameter", "share"], [[*p] for p in shares])
        found["search/importances.png"] = drawings.parameters_picture(search.importances)
    return found


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A table in the form that MLflow shows."""
    return json.dumps({"columns": list(names), "data": rows}, allow_nan=False).encode()


def _description(definition: ModelDefinition, figures: ValidationReport) -> str:
    return "\n".join(
        [
            f"{markdown(definition.purpose)} Owner: {markdown(definition.owner)}.",
            "",
            to_markdown(figures),
            "Figures named `candidate/` and `champion/` are of the same rows: ranking on all",
            "held-out days, the rest on the days of the gates. `measures/` and `folds/` have",
            "intervals (`_low`, `_high`), `gates/` what each gate observed.",
        ]
    )


def _numbers(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a report by its keys, and in a list by `name`."""
    for name, value in _leaves(found, "/"):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)


def _leaves(found: Any, joint: str = ".", path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(found, Mapping):
        parts = list(found.items())
    elif isinstance(found, (list, tuple)):
        named = [p.get("name") if isinstance(p, Mapping) else None for p in found]
        parts = [(n or str(i), p) for i, (n, p) in enumerate(zip(named, found, strict=True))]
    else:
        yield path, found
        return
    for key, value in parts:
        yield from _leaves(value, joint, f"{path}{joint}{key}" if path else str(key))
