"""Recording rules and burn-rate alerts of one promise, named as sloth names them."""

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
"""Name of a promise in slo.yaml → its alert."""

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
    """A promise to one service: a model, or the platform itself."""

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
        """The recorded error ratio."""
        return f"slo:sli_error:ratio_rate{window}{self.selector}"


def recordings(promise: Slo, objectives: Objectives) -> list[Rule]:
    """Error ratios over every window, the objective, and how fast its budget burns."""
    days = f"{objectives.window_days}d"
    long = f"slo:sli_error:ratio_rate{days}"
    budget = f"{BUDGET}{promise.selector}"
    five = promise.ratio("5m")
    measured = promise.measured
    first = [("slo:bad:bool", measured.bad)] if isinstance(measured, Times) else []
    made = [
        *first,
        *((f"slo:sli_error:ratio_rate{window}", _ratio(promise, window)) for window in WINDOWS),
        (long, f"sum_over_time({five}[{days}]) / count_over_time({five}[{days}])"),
        (OBJECTIVE, f"vector({promise.objective.objective:.10g})"),
        (BUDGET, f"vector({promise.objective.budget:.10g})"),
        (BURN_NOW, f"{five} / {budget}"),
        (BURN_OF_PERIOD, f"{long}{promise.selector} / {budget}"),
    ]
    return [{"record": name, "expr": expr, "labels": promise.labels} for name, expr in made]


def numbers(model: ModelDefinition) -> list[Rule]:
    """What a model.yaml says of time and failures, as series that a dashboard can draw."""
    made = [
        (LATENCY_GOAL, model.latency_slo_ms / 1000),
        (DEADLINE, model.deadline_ms / 1000),
        (FAILURE_LIMIT, model.rollout.failure_share_limit),
    ]
    of = {"service": model.name}
    return [{"record": name, "expr": f"vector({value:.10g})", "labels": of} for name, value in made]


def alerts(promise: Slo, objectives: Objectives) -> list[Rule]:
    """One alert for each severity that the objective asks for."""
    severities: tuple[Severity, ...] = ("page", "ticket") if promise.objective.page else ("ticket",)
    return [_alert(promise, objectives, severity) for severity in severities]


def _alert(promise: Slo, objectives: Objectives, severity: Severity) -> Rule:
    name = ALERTS[promise.name]
    burns: tuple[Burn, ...] = getattr(objectives.burns, severity)
    share = f"{promise.objective.objective:.10g}"
    pairs = [_burning(promise, burn, objectives.minimum_bad) for burn in burns]
    return {
        "alert": name,
        "expr": "\nor\n".join(pairs),
        "for": getattr(objectives.burn_for, severity),
        "labels": {**promise.labels, "severity": severity},
        "annotations": {
            "summary": f"{promise.service}: {BAD[promise.name]}",
            "description": f"{{{{ $value | humanizePercentage }}}} are bad; {share} are promised.",
            "runbook_url": f"{objectives.runbooks}/{name}.md",
        },
    }


def _burning(promise: Slo, burn: Burn, minimum_bad: int) -> str:
    limit = f"{burn.factor * promise.objective.budget:.10g}"
    both = f"{promise.ratio(burn.long)} > {limit} and {promise.ratio(burn.short)} > {limit}"
    if isinstance(promise.measured, Times):
        return f"({both})"
    bad = _over(promise.measured.bad, burn.long).replace("rate(", "increase(")
    return f"({both} and on () {bad} >= {minimum_bad})"


def _ratio(promise: Slo, window: str) -> str:
    match promise.measured:
        case Events(bad=bad, total=total):
            # nobody has failed yet: no series, which is none bad
            return f"({_over(bad, window)} or vector(0)) / {_over(total, window)}"
        case Times():
            return f"avg_over_time(slo:bad:bool{promise.selector}[{window}])"


def _over(expression: str, window: str) -> str:
    return expression.replace("{window}", window)
