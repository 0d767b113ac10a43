"""One model's answers: whether they come, in time and complete, and their content."""

from __future__ import annotations

from mlplatform.observing.dashboards import links, queries
from mlplatform.observing.dashboards.overview import burn_limits
from mlplatform.observing.dashboards.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    Words,
    at_least,
    requests,
)
from mlplatform.observing.dashboards.queries import MODEL, buckets, level, mean, quantile, rate
from mlplatform.observing.slo import rules
from mlplatform.observing.slo.objectives import Objectives
from mlplatform.runtime.telemetry import signals

_OWN = f'service="{MODEL}"'


def dashboard(objectives: Objectives) -> Dashboard:
    rows = (_objectives(objectives), _answers(), _time(), _gaps(), _predictors(), _traces())
    return Dashboard(
        "model", "mlplatform: model",
        "One model's objectives, answers, latency and predictors, with the traces and lines that "
        "belong to them.",
        rows, links=(links.MODEL_PAGE, links.DECISIONS, links.MLFLOW),
    )  # fmt: skip


def _objectives(objectives: Objectives) -> Row:
    left = f"1 - {queries.recorded_series(rules.BURN_OF_PERIOD, _OWN)}"
    return Row("Objectives", (
        Panel(
            "bars", "Objectives", "Shares that slo.yaml sets for the tier of the model.",
            (Query(queries.recorded_series(rules.OBJECTIVE, _OWN), "{{slo}}"),), "percentunit",
        ),
        Panel(
            "bars", "Error budget that is left", f"Of {objectives.window_days} days; under 0 the "
            "objective is missed.", (Query(left, "{{slo}}"),), "percentunit", at_least(0), most=1,
        ),
        Panel(
            "lines", "How fast budgets burn", "A lasting burn over a line is a ticket, or a "
            "page.", (Query(queries.recorded_series(rules.BURN_NOW, _OWN), "{{slo}}"),), "short",
            burn_limits(objectives),
        ),
    ))  # fmt: skip


def _answers() -> Row:
    requests = rate(signals.REQUESTS, "operation", "status")
    return Row("Answers", (
        Panel(
            "stacked", "Requests", "By operation and status.",
            (Query(requests, "{{operation}} {{status}}"),), "reqps",
        ),
        Panel(
            "stacked", "Decisions", "What was decided, of answers that count and of degraded ones.",
            (Query(rate(signals.DECISIONS, "decision"), "{{decision}}"),), "reqps",
        ),
        Panel(
            "stacked", "Who decided", "The step that gave the answer: anything but champion and "
            "challenger is a fallback.",
            (Query(rate(signals.DECISIONS, "answered_by"), "{{answered_by}}"),), "reqps",
        ),
    ))  # fmt: skip


def _time() -> Row:
    shares = ((0.5, "half"), (0.95, "95 of 100"), (0.99, "99 of 100"))
    taken = [Query(quantile(s, signals.LATENCY), f"{t} within", True) for s, t in shares]
    goals = (
        Query(queries.recorded_series(rules.LATENCY_GOAL, _OWN), "goal (latency_slo_ms)"),
        Query(queries.recorded_series(rules.DEADLINE, _OWN), "deadline (deadline_ms)"),
    )
    return Row("Time and scores", (
        Panel(
            "lines", "Latency", "From a request's first byte to its durable decision, with the "
            "goal and the deadline of model.yaml. Points are requests whose traces were kept.",
            (*taken, *goals), "s", width=12,
        ),
        Panel(
            "heat", "Latency of all", "How many answers took how long.",
            (Query(buckets(signals.LATENCY), "{{le}}"),), "s", width=12,
        ),
        Panel(
            "lines", "Answers after the deadline", "They were durable too late for their caller.",
            (Query(rate(signals.LATE), "late"),), "reqps",
        ),
        Panel(
            "heat", "Scores", "Calibrated, of answers that are not degraded: a shape that moves is "
            "looked at by the drift check.", (Query(buckets(signals.SCORE), "{{le}}"),),
            "percentunit",
        ),
        Panel(
            "lines", "Mean score", "By assigned arm.",
            (Query(mean(signals.SCORE, "arm"), "{{arm}}"),), "percentunit",
        ),
    ))  # fmt: skip


def _gaps() -> Row:
    return Row("What answers lacked", (
        Panel(
            "stacked", "Degraded decisions", "Made without all that should be there, and why. "
            "killed: a person has switched the model off.",
            (Query(rate(signals.DEGRADED, "reason"), "{{reason}}"),), "reqps",
        ),
        Panel(
            "stacked", "Steps that failed", "Predictors that gave no score in their part of the "
            "deadline; the next step answered.",
            (Query(rate(signals.STEP_FAILURES, "step", "reason"), "{{step}}: {{reason}}"),),
            "reqps",
        ),
        Panel(
            "stacked", "Alerts without reasons", "Those whose reasons were left out of the "
            "answer; `mlplatform log explain` gives them.",
            (Query(rate(signals.REASONS_OMITTED, "reason"), "{{reason}}"),), "reqps",
        ),
    ))  # fmt: skip


def _predictors() -> Row:
    name = "{{service}}"
    breaker: Words = {"0": ("closed", "green"), "1": ("half open", "yellow"), "2": ("open", "red")}
    ready: Words = {"0": ("not ready", "red"), "1": ("ready", "green")}
    failed = rate(signals.PREDICTOR_ERRORS, "service", "protocol", "status")
    warm_up = level(signals.PREDICTOR_WARM_UP, "service", "rows", "mode", "accelerator")
    return Row("Predictors, by bundle version", (
        Panel(
            "states", "Ready", "Whether it takes requests.",
            (Query(level(signals.PREDICTOR_READY, "service", how="min"), name),),
            limits=at_least(1), width=12, words=ready,
        ),
        Panel(
            "states", "Breakers", "The worst state that a gateway reports.",
            (Query(level(signals.BREAKER, "service"), name),), width=12, words=breaker,
        ),
        Panel(
            "lines", "Inference requests", "Answered or refused.",
            (Query(rate(signals.PREDICTOR_REQUESTS, "service", "protocol"),
                   "{{service}} {{protocol}}"),), "reqps",
        ),
        Panel(
            "lines", "Inference requests without scores", "By HTTP status.",
            (Query(failed, "{{service}} {{protocol}} {{status}}"),), "reqps",
        ),
        Panel(
            "lines", "Time in the predictor, 99 of 100", "Of answered requests, waiting included.",
            (Query(quantile(0.99, signals.PREDICTOR_LATENCY, "service"), name),), "s",
        ),
        Panel(
            "lines", "Requests that wait for the model", "A longer queue needs more predictors.",
            (Query(level(signals.PREDICTOR_DEPTH, "service"), name),),
        ),
        Panel(
            "lines", "Rows of a batch", "Mean of what was scored in one call of the model.",
            (Query(mean(signals.PREDICTOR_BATCH, "service"), name),),
        ),
        Panel(
            "bars", "Calls at warm-up", "How long the model took for a batch of each size, and "
            "where it runs.", (Query(warm_up, "{{service}} {{rows}} {{mode}} {{accelerator}}"),),
            "s",
        ),
    ))  # fmt: skip


def _traces() -> Row:
    named = f'span.{signals.MODEL_NAME.name} = "{MODEL}"'
    kept = f"span.{signals.KEPT_FOR.name}"
    asked_for = requests(f'{named} && {kept} =~ "error|slow|degraded"')
    lines = f'{{service_name=~"mlplatform-.+", retention="90d"}} | model = "{MODEL}"'
    return Row("Traces and lines of log", (
        Panel(
            "traces", "Failed, slow and degraded requests", "The latest; a trace leads to its "
            "lines, a decision's id to its record on the platform's page.", (asked_for,),
            store="tempo", width=12,
        ),
        Panel(
            "logs", "Warnings and errors about this model", "A line that belongs to a trace leads "
            "there.", (Query(lines),), store="loki", width=12,
        ),
    ))  # fmt: skip
