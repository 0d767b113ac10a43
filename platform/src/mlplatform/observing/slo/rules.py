"""Recording rules and burn-rate alerts of one objective, with the names that sloth uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.slo.indicators import Events, Times
from mlplatform.observing.slo.objectives import WINDOWS, Burn, Objective, Objectives, Severity

Rule = dict[str, Any]

OBJECTIVE: Final = "slo:objective:ratio"
BUDGET: Final = "slo:error_budget:ratio"
BURN_NOW: Final = "slo:current_burn_rate:ratio"
BURN_OF_PERIOD: Final = "slo:period_burn_rate:ratio"
LATENCY_GOAL: Final = "slo:latency:seconds"
DEADLINE: Final = "slo:deadline:seconds"
FAILURE_LIMIT: Final = "slo:failure_share_limit:ratio"

ALERTS: Final = {
    "availability": "AvailabilityBudgetBurns",
    "latency": "LatencyBudgetBurns",
    "deadline": "DeadlineBudgetBurns",
    "freshness": "FreshnessBudgetBurns",
    "log_completeness": "LogBudgetBurns",
    "drift_check": "DriftCheckBudgetBurns",
    "labels": "LabelBudgetBurns",
    "rollout": "RolloutBudgetBurns",
}
"""Name of an objective in slo.yaml → name of its alert."""

BAD: Final = {
    "availability": "scoring requests are answered 5xx",
    "latency": "decisions take longer than latency_slo_ms",
    "deadline": "decisions are durable only after their deadline",
    "freshness": "decisions are made without fresh features",
    "log_completeness": "records are neither in the decision log nor in a spill",
    "drift_check": "drift checks are late",
    "labels": "labels come after their maturity",
    "rollout": "passes over the rollouts do not come",
}


@dataclass(frozen=True, slots=True)
class Slo:
    """An objective of one service: a model, or the platform itself."""

    service: str
    name: str
    objective: Objective
    measured: Events | Times

    @property
    def labels(self) -> dict[str, str]:
        return {"service": self.service, "slo": self.name}

    @property
    def selector(self) -> str:
        return f'{{service="{self.service}",slo="{self.name}"}}'

    def ratio(self, window: str) -> str:
        """The name of the recorded error ratio over a window."""
        return f"slo:sli_error:ratio_rate{window}{self.selector}"


def recordings(slo: Slo, objectives: Objectives) -> list[Rule]:
    """Error ratios over every window, the objective, and the burn rate of its budget."""
    days = f"{objectives.window_days}d"
    long = f"slo:sli_error:ratio_rate{days}"
    budget = f"{BUDGET}{slo.selector}"
    five = slo.ratio("5m")
    measured = slo.measured
    first = [("slo:bad:bool", measured.bad)] if isinstance(measured, Times) else []
    made = [
        *first,
        *((f"slo:sli_error:ratio_rate{window}", _ratio(slo, window)) for window in WINDOWS),
        (long, f"sum_over_time({five}[{days}]) / count_over_time({five}[{days}])"),
        (OBJECTIVE, f"vector({slo.objective.objective:.10g})"),
        (BUDGET, f"vector({slo.objective.budget:.10g})"),
        (BURN_NOW, f"{five} / {budget}"),
        (BURN_OF_PERIOD, f"{long}{slo.selector} / {budget}"),
    ]
    return [{"record": name, "expr": expr, "labels": slo.labels} for name, expr in made]


def numbers(model: ModelDefinition) -> list[Rule]:
    """The limits of time and failures in a model.yaml, as series that a dashboard can draw."""
    made = [
        (LATENCY_GOAL, model.latency_slo_ms / 1000),
        (DEADLINE, model.deadline_ms / 1000),
        (FAILURE_LIMIT, model.rollout.failure_share_limit),
    ]
    of = {"service": model.name}
    return [{"record": name, "expr": f"vector({value:.10g})", "labels": of} for name, value in made]


def alerts(slo: Slo, objectives: Objectives) -> list[Rule]:
    """One alert for each severity that the objective asks for."""
    severities: tuple[Severity, ...] = ("page", "ticket") if slo.objective.page else ("ticket",)
    return [_alert(slo, objectives, severity) for severity in severities]


def _alert(slo: Slo, objectives: Objectives, severity: Severity) -> Rule:
    name = ALERTS[slo.name]
    burns: tuple[Burn, ...] = getattr(objectives.burns, severity)
    share = f"{slo.objective.objective:.10g}"
    pairs = [_burning(slo, burn, objectives.minimum_bad) for burn in burns]
    return {
        "alert": name,
        "expr": "\nor\n".join(pairs),
        "for": getattr(objectives.burn_for, severity),
        "labels": {**slo.labels, "severity": severity},
        "annotations": {
            "summary": f"{slo.service}: {BAD[slo.name]}",
            "description": f"{{{{ $value | humanizePercentage }}}} are bad; objective: {share}.",
            "runbook_url": f"{objectives.runbooks}/{name}.md",
        },
    }


def _burning(slo: Slo, burn: Burn, minimum_bad: int) -> str:
    limit = f"{burn.factor * slo.objective.budget:.10g}"
    both = f"{slo.ratio(burn.long)} > {limit} and {slo.ratio(burn.short)} > {limit}"
    if isinstance(slo.measured, Times):
        return f"({both})"
    bad = _over(slo.measured.bad, burn.long).replace("rate(", "increase(")
    return f"({both} and on () {bad} >= {minimum_bad})"


def _ratio(slo: Slo, window: str) -> str:
    match slo.measured:
        case Events(bad=bad, total=total):
            # no request has failed yet: a missing series counts as 0
            return f"({_over(bad, window)} or vector(0)) / {_over(total, window)}"
        case Times():
            return f"avg_over_time(slo:bad:bool{slo.selector}[{window}])"


def _over(expression: str, window: str) -> str:
    return expression.replace("{window}", window)
