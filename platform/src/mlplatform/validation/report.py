"""A gate report for people and for the record: JSON and Markdown."""

from __future__ import annotations

from typing import Any

from mlplatform.canonical import finite_or_none
from mlplatform.validation.gates import GateReport, GateResult

MARKS = {"passed": "✅ passed", "failed": "❌ failed", "inconclusive": "❔ inconclusive"}


def to_dict(report: GateReport) -> dict[str, Any]:
    """The report as JSON can hold it."""
    return {
        "model": report.model,
        "bundle": report.bundle,
        "champion": report.champion,
        "passed": report.passed,
        "gates": [_gate(g) for g in report.gates],
    }


def to_markdown(report: GateReport) -> str:
    """The report as a table, what stopped it first."""
    against = f"against champion `{report.champion[:8]}`" if report.champion else "first version"
    outcome = "passed" if report.passed else "did not pass"
    order = {"failed": 0, "inconclusive": 1, "passed": 2}
    rows = [
        f"| {g.name} | {MARKS[g.verdict]} | {_figure(g.observed)} | {_figure(g.limit)} "
        f"| {g.reason.replace('|', '/')} |"
        for g in sorted(report.gates, key=lambda g: order[g.verdict])
    ]
    return "\n".join(
        [
            f"## {report.model}, bundle `{report.bundle[:8]}` {outcome}",
            "",
            f"Validated {against}.",
            "",
            "| gate | verdict | observed | limit | reason |",
            "| --- | --- | ---: | ---: | --- |",
            *rows,
            "",
        ]
    )


def _gate(gate: GateResult) -> dict[str, Any]:
    return {
        "name": gate.name,
        "verdict": gate.verdict,
        "observed": finite_or_none(gate.observed),
        "limit": finite_or_none(gate.limit),
        "reason": gate.reason,
    }


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
