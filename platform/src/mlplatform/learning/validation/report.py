"""A gate report for people and for the record: JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mlplatform.learning.validation.fold_gate import QUALITY
from mlplatform.learning.validation.gate_report import GateReport, ReplayCounts
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.report_entries import (
    NOTHING_YET,
    FairnessEntry,
    FoldEntry,
    GateEntry,
    GroupMeasuresEntry,
    IntervalEntry,
    MeasureEntry,
    ReplayEntry,
    SearchEntry,
    ValidationReport,
)
from mlplatform.runtime.canonical import finite_or_none
from mlplatform.runtime.text import markdown
from mlplatform.runtime.times import day_text

MARKS = {"passed": "✔ passed", "failed": "✘ failed", "inconclusive": "? inconclusive"}
UNCHECKED = f"\N{EN DASH} {NOTHING_YET.lower()}"
WITHOUT_NUMBER = frozenset({"volume_limit"})
"""Gates that pass without an observed number, after a check."""
TITLES = {
    "rows": "requests to learn from",
    "positives": "positives to learn from",
    "missing_values": "missing values",
    "label_maturity": "mature labels",
    "hidden_outcomes": "outcomes hidden by decisions",
    "schema": "inputs",
    "quality": "ranking of positives",
    "leakage": "inputs that know too much",
    "calibration": "calibration",
    "onnx_parity": "ONNX file",
    "golden": "golden examples",
    "latency": "latency",
    "small_model": "small model",
    "alert_share": "share of alerts",
    "decision_flips": "changed decisions",
    "volume_limit": "limit on the volume of decisions",
    "skew": "features as they were served",
    "fairness": "protected attributes",
    "folds": "folds in time",
    "stability": "inputs over time",
    "own_gates": "gates.py of the model's folder",
    "classes": "requests of each class to learn from",
    "accuracy": "right classes",
    "macro_f1": "right classes, class by class",
    "log_loss": "probabilities of the right classes",
    "labelled": "requests with a number to learn from",
    "mae": "absolute errors",
    "rmse": "large errors",
    "bias": "errors to one side",
    "quantile_loss": "errors by a quantile of the labels",
    "order": "order of items",
    "first_items": "changed first items",
}
MEASURES = {
    "average_precision": "average precision",
    "auc": "AUC",
    "gini": "Gini",
    "ks": "KS",
    "brier": "Brier score",
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "top_3_accuracy": "right class among the top 3",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "bias": "bias",
    "quantile_loss": "quantile loss",
    "ndcg": "NDCG",
    "mrr": "mean reciprocal rank",
    "hit_rate": "requests with a good item in the answer",
}
COMPARED = {
    "accuracy_difference": "accuracy beside that of",
    "mae_ratio": "mean absolute error as a ratio to that of",
    "bias_difference": "bias beside that of",
}
"""Key of a limit on groups → the comparison with a reference group, in words."""
SIGNS = {"bias": "+", "accuracy_difference": "+", "bias_difference": "+"}
"""Measures and comparisons whose numbers have a sign."""
GATE_COLUMNS = ("gate", "verdict", "observed", "limit", "reason")


def to_dict(report: GateReport) -> ValidationReport:
    """The report as JSON can hold it."""
    made: ValidationReport = {
        "model": report.model,
        "bundle": report.bundle,
        "champion": report.champion,
        "passed": report.passed,
        "gates": [_gate(g) for g in report.gates],
    }
    if report.champion_version is not None:
        made["champion_version"] = report.champion_version
    if report.replayed is not None:
        made["replayed"] = _replayed(report.replayed)
    if report.measures:
        made["measures"] = [_finite(asdict(m)) for m in report.measures]
    if report.baseline:
        made["baseline"] = [_finite(asdict(m)) for m in report.baseline]
    if report.folds:
        made["folds"] = [_finite(asdict(f)) for f in report.folds]
    if report.search is not None:
        made["search"] = _finite(report.search.summary())
    if report.fairness is not None:
        made["fairness"] = _finite(asdict(report.fairness))
    if report.group_measures is not None:
        made["group_measures"] = _finite(asdict(report.group_measures))
    if report.stability is not None:
        made["stability"] = _finite(asdict(report.stability))
    if report.same_rows:
        made["same_rows"] = True
    return made


def _finite(value: Any) -> Any:
    """Plain values without NaN, which JSON cannot hold."""
    match value:
        case dict():
            return {key: _finite(held) for key, held in value.items()}
        case list() | tuple():
            return [_finite(held) for held in value]
        case float():
            return finite_or_none(value)
        case _:
            return value


def _replayed(counts: ReplayCounts) -> ReplayEntry:
    made: ReplayEntry = {
        "requests": counts.requests,
        "alerts": counts.alerts,
        "champion_alerts": counts.champion_alerts,
        "both_alerts": counts.both_alerts,
    }
    if counts.flips is not None:
        made["flips"] = counts.flips
    if counts.differing is not None:
        made["differing"] = counts.differing
    if counts.design_effect is not None:
        made["design_effect"] = counts.design_effect
    if counts.flip_design_effect is not None:
        made["flip_design_effect"] = counts.flip_design_effect
    if counts.segments:
        made["segments"] = {name: _replayed(inside) for name, inside in counts.segments.items()}
    return made


def to_markdown(report: ValidationReport) -> str:
    """A report, as `to_dict` returns it, as a page of Markdown."""
    outcome = "passed" if report["passed"] else "did not pass"
    return "\n".join(
        [
            f"## A candidate for {markdown(report['model'])} {outcome} validation",
            "",
            f"Bundle {markdown(report['bundle'][:16])}. {summary(report)}",
            "",
            *findings(report),
            "",
            *_measures(report.get("measures", ())),
            *_baseline(report.get("baseline", ())),
            *_folds(report.get("folds", ())),
            *_search(report.get("search")),
            *_fairness(report.get("fairness")),
            *_group_measures(report.get("group_measures")),
        ]
    )


def summary(report: ValidationReport) -> str:
    """The number of gates that passed, and the champion compared with, in two sentences; in a third
    one, that both were fitted to the same rows."""
    gates, champion = report["gates"], report["champion"]
    unchecked = sum(not was_checked(gate) for gate in gates)
    passed = sum(g["verdict"] == "passed" for g in gates) - unchecked
    nothing = f", and {unchecked} had nothing to check yet" if unchecked else ""
    against = "no champion: it is the first version"
    if champion:
        version = report.get("champion_version")
        against = f"champion {markdown(champion[:16])}"
        against = against if version is None else f"version {version}, the {against}"
    same = " The rows and the seed are those of this champion." if report.get("same_rows") else ""
    return f"{passed} of {len(gates)} gates passed{nothing}. Compared with {against}.{same}"


def was_checked(gate: Mapping[str, Any]) -> bool:
    """Whether a gate had something to check: of a first version, some pass with nothing."""
    is_number = gate.get("observed") is not None
    return gate["verdict"] != "passed" or is_number or gate["name"] in WITHOUT_NUMBER


def mark(gate: Mapping[str, Any]) -> str:
    """A gate's verdict for people; one that had nothing to check has no tick."""
    verdict = gate["verdict"]
    return MARKS.get(verdict, verdict) if was_checked(gate) else UNCHECKED


def findings(report: ValidationReport) -> list[str]:
    """The gates as lines of a Markdown list, with those that stopped the candidate first.

    A list, not a table: the form in Prefect's UI is too narrow for a column of sentences.
    """
    return [
        f"- {mark(g)}: **{TITLES.get(g['name']) or markdown(g['name'])}**. {markdown(g['reason'])}"
        for g in _stopping_first(report)
    ]


def gate_rows(report: ValidationReport) -> list[tuple[str, ...]]:
    """A row of plain text for each gate, with those that stopped the candidate first."""
    return [
        (
            TITLES.get(g["name"], g["name"]),
            g["verdict"],
            *("" if value is None else _figure(value) for value in (g["observed"], g["limit"])),
            g["reason"],
        )
        for g in _stopping_first(report)
    ]


def _figure(value: float) -> str:
    """A number of four digits or, from 1,000 on, a whole one, never with a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _stopping_first(report: ValidationReport) -> list[GateEntry]:
    order = {"failed": 0, "inconclusive": 1, "passed": 2}
    return sorted(report["gates"], key=lambda g: order[g["verdict"]])


def _measures(measures: Sequence[MeasureEntry]) -> list[str]:
    """The measures as a list, for the reason of `findings`."""
    if not measures:
        return []
    lines = ["### Measures on the days for the gates", ""]
    for found in measures:
        name = MEASURES.get(found["name"]) or markdown(found["name"])
        line = f"- {name}: {_number(found['candidate'])}"
        if found["champion"] is not None:
            line += f"; the champion's {_number(found['champion'])}"
            line += f"; difference {_number(found['difference'], '+')}"
        lines.append(line)
    return [*lines, ""]


def _baseline(measures: Sequence[MeasureEntry]) -> list[str]:
    """The measures beside the folder's simpler model."""
    if not measures:
        return []
    lines = ["### Beside the baseline of the model's folder, fitted to the same requests", ""]
    for found in measures:
        name = MEASURES.get(found["name"]) or markdown(found["name"])
        lines.append(
            f"- {name}: {_number(found['candidate'])}; the baseline's "
            f"{_number(found['champion'])}; difference {_number(found['difference'], '+')}"
        )
    return [*lines, ""]


def _folds(folds: Sequence[FoldEntry]) -> list[str]:
    """The first measure of each fold; the others are in the run's metrics."""
    if not folds:
        return []
    measured = (m["name"] for fold in folds for m in fold["measures"])
    name = next((name for name in measured if name in QUALITY), QUALITY[0])
    lines = [f"### Folds in time: {MEASURES[name]}", ""]
    for fold in folds:
        days = f"{day_text(fold['from_ms'])} to {day_text(fold['to_ms'] - 1)}"
        found = next((m for m in fold["measures"] if m["name"] == name), None)
        line = f"- {fold['number']}, {days}: "
        if fold["problem"] or found is None:
            lines.append(line + markdown(fold["problem"] or "not measured"))
            continue
        rows = f"{fold['rows']:,} requests"
        of = f"{fold['positives']:,} positives of {rows}" if name == QUALITY[0] else rows
        line += f"{_number(found['candidate'])} on {of}, fitted to {fold['fitted']:,}"
        if found["champion"] is not None:
            line += f"; difference to the champion {_number(found['difference'], '+')}"
            line += "" if fold["is_unseen"] else " (it was fitted to some of these days)"
        lines.append(line)
    return [*lines, ""]


def _search(search: SearchEntry | None) -> list[str]:
    if search is None:
        return []
    name = MEASURES.get(search["measure"]) or "the model's own measure"
    lines = ["### Search of hyper-parameters", ""]
    counts = ", ".join(f"{search[state]} {state}" for state in ("complete", "pruned", "failed"))
    lines.append(
        f"- {search['done']} of {search['wanted']} trials in {search['seconds']:,.0f} s ({counts})"
        + (f"; the budget of {search['budget_s']:,} s ended it" if _is_bound(search) else "")
    )
    chosen = ", ".join(f"{markdown(n)} {markdown(str(v))}" for n, v in search["parameters"].items())
    lines.append(f"- chosen: {chosen}, with {name} of {search['value']:.4g} on days to fit")
    lines += [f"- a trial failed: {markdown(reason)}" for reason in search["reasons"]]
    return [*lines, ""]


def _is_bound(search: SearchEntry) -> bool:
    return search["done"] < search["wanted"]


def _fairness(fairness: FairnessEntry | None) -> list[str]:
    if fairness is None:
        return []
    adverse = ", ".join(map(markdown, fairness["adverse"]))
    lines = [f"### Protected attributes: shares of {adverse}", ""]
    for attribute in fairness["attributes"]:
        for group in attribute["groups"]:
            ratio = group["adverse_share_ratio"]
            compared = f"ratio to {markdown(attribute['reference'])} {_number(ratio, end='.2f')}"
            lines.append(
                f"- {markdown(attribute['attribute'])} {markdown(group['group'])}: "
                f"{_number(group['adverse_share'])} of {group['rows']:,} requests; "
                + ("the reference" if ratio is None else compared)
            )
    return [*lines, ""]


def _group_measures(found: GroupMeasuresEntry | None) -> list[str]:
    if found is None:
        return []
    unit = f", in {markdown(found['unit'])}" if found["unit"] else ""
    lines = [f"### Protected attributes: errors by group{unit}", ""]
    for attribute in found["attributes"]:
        for group in attribute["groups"]:
            parts = [
                f"{MEASURES[one['name']]} {_number(one['candidate'], SIGNS.get(one['name'], ''))}"
                + (
                    f", difference to the champion {_number(one['difference'], '+')}"
                    if one["difference"] is not None
                    else ""
                )
                for one in group["measures"]
            ]
            reference = markdown(attribute["reference"])
            parts += [
                f"{COMPARED[key]} {reference} {_number(one, SIGNS.get(key, ''))}"
                for key, one in group["compared"].items()
            ] or ["the reference"]
            lines.append(
                f"- {markdown(attribute['attribute'])} {markdown(group['group'])}, "
                f"{group['rows']:,} requests of {group['units']:,} customers: {'; '.join(parts)}"
            )
    return [*lines, ""]


def _number(found: IntervalEntry | None, sign: str = "", end: str = ".3f") -> str:
    form = f"{{:{sign}{end}}}"
    if found is not None and found["low"] is not None and found["high"] is None:
        return f"{form.format(found['low'])} or more"
    if found is None or found["value"] is None:
        return "not known"
    value = form.format(found["value"])
    if found["low"] is None or found["high"] is None:
        return f"{value} (too few for an interval)"
    return f"{value} ({form.format(found['low'])} to {form.format(found['high'])})"


def _gate(gate: GateResult) -> GateEntry:
    return {
        "name": gate.name,
        "verdict": gate.verdict,
        "observed": finite_or_none(gate.observed),
        "limit": finite_or_none(gate.limit),
        "interval": list(gate.interval) if gate.interval else None,
        "reason": gate.reason,
    }
