"""A gate report for people and for the record: JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlplatform.runtime.canonical import finite_or_none
from mlplatform.runtime.text import markdown

if TYPE_CHECKING:
    from mlplatform.learning.validation.gate_result import GateResult
    from mlplatform.learning.validation.gates import GateReport, Replayed

MARKS = {"passed": "✔ passed", "failed": "✘ failed", "inconclusive": "? cannot be told"}
TITLES = {
    "rows": "payments to learn from",
    "positives": "frauds to learn from",
    "missing_values": "missing values",
    "label_maturity": "mature labels",
    "hidden_outcomes": "outcomes hidden by declines",
    "schema": "inputs",
    "quality": "ranking of frauds",
    "leakage": "inputs that know too much",
    "calibration": "calibration",
    "onnx_parity": "ONNX file",
    "golden": "golden examples",
    "latency": "latency",
    "small_model": "small model",
    "alert_share": "share of alerts",
    "decision_flips": "changed decisions",
    "skew": "features as they were served",
}


def to_dict(report: GateReport) -> dict[str, Any]:
    """The report as JSON can hold it."""
    return {
        "model": report.model,
        "bundle": report.bundle,
        "champion": report.champion,
        "passed": report.passed,
        "gates": [_gate(g) for g in report.gates],
        **({} if report.replayed is None else {"replayed": _replayed(report.replayed)}),
    }


def _replayed(counts: Replayed) -> dict[str, Any]:
    found = asdict(counts)
    segments = {name: _replayed(inside) for name, inside in counts.segments.items()}
    del found["segments"]
    return found | ({"segments": segments} if segments else {})


def to_markdown(report: Mapping[str, Any]) -> str:
    """A report of `to_dict` as a page."""
    outcome = "passed" if report["passed"] else "did not pass"
    return "\n".join(
        [
            f"## A candidate for {markdown(report['model'])} {outcome} validation",
            "",
            f"Bundle {markdown(report['bundle'][:16])}. {summary(report)}",
            "",
            *findings(report),
            "",
        ]
    )


def summary(report: Mapping[str, Any]) -> str:
    """How many gates passed, and against what, in two sentences."""
    gates, champion = report["gates"], report["champion"]
    passed = sum(g["verdict"] == "passed" for g in gates)
    against = (
        f"champion {markdown(champion[:16])}"
        if champion
        else "no champion: it is the first version"
    )
    return f"{passed} of {len(gates)} gates passed. Compared with {against}."


def findings(report: Mapping[str, Any]) -> list[str]:
    """The gates as lines of a Markdown list, what stopped the candidate first.

    A list, not a table: the form in Prefect's UI is too narrow for a column of sentences.
    """
    order = {"failed": 0, "inconclusive": 1, "passed": 2}
    return [
        f"- {MARKS[g['verdict']]}: **{TITLES.get(g['name']) or markdown(g['name'])}**. "
        f"{markdown(g['reason'])}"
        for g in sorted(report["gates"], key=lambda g: order[g["verdict"]])
    ]


def _gate(gate: GateResult) -> dict[str, Any]:
    return {
        "name": gate.name,
        "verdict": gate.verdict,
        "observed": finite_or_none(gate.observed),
        "limit": finite_or_none(gate.limit),
        "interval": list(gate.interval) if gate.interval else None,
        "reason": gate.reason,
    }
