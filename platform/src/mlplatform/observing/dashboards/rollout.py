"""One model's newest rollout: champion against challenger, as the last pass judged them."""

from __future__ import annotations

from mlplatform.observing.dashboards import links, queries
from mlplatform.observing.dashboards.panels import (
    Dashboard,
    Panel,
    PanelLimits,
    Query,
    Row,
    at_most,
    requests,
)
from mlplatform.observing.dashboards.queries import MODEL, level, mean, quantile, rate
from mlplatform.observing.slo import rules
from mlplatform.observing.slo.objectives import Objectives, seconds
from mlplatform.runtime.telemetry import signals


def dashboard(objectives: Objectives) -> Dashboard:
    rows = (_where(objectives), _step(), _arms(objectives), _applied(objectives), _traces())
    return Dashboard(
        "rollout", "mlplatform: rollout",
        "The newest rollout of a model: its phase, shares, and challenger beside champion. Marks "
        "show where phases and steps began. What decided a step is in its evidence, not here: "
        "nothing about a rollout is decided from metrics.",
        rows, links=(links.ROLLOUTS, links.MODEL_PAGE, links.MLFLOW, links.PREFECT),
        window="now-24h",
    )  # fmt: skip


def _where(objectives: Objectives) -> Row:
    limits = objectives.limits
    phase = level(signals.ROLLOUT_PHASE, "phase")
    shares = level(signals.ROUTES_SHARE, "arm")
    return Row("Where it is", (
        Panel(
            "stat", "Phase", "Of the newest rollout.", (Query(f"{phase} == 1", "{{phase}}"),),
            limits=PanelLimits("blue"), width=6, named=True, empty="no rollout yet",
            links=(links.ROLLOUTS,),
        ),
        Panel(
            "stat", "In this phase or step for", f"An alert fires {limits.rollout_overdue} after "
            "the deadline.", (Query(queries.since(signals.ROLLOUT_SINCE), "since"),), "s",
            width=6, empty="no rollout yet",
        ),
        Panel(
            "stat", "Since the last pass", "Passes come every minute; without them nothing ramps, "
            "and nothing is taken back.", (Query(queries.since(signals.ROLLOUT_PASS), "pass"),),
            "s",
            at_most(seconds(limits.rollout_pass_late)), width=6, empty="none yet",
        ),
        Panel(
            "stat", "Shares now", "Of the assignment units.", (Query(shares, "{{arm}}"),),
            "percentunit", width=6,
        ),
        Panel(
            "states", "Phases", "What the newest rollout went through.",
            (Query(f"{phase} == 1", "{{phase}}"),),
            width=12, limits=PanelLimits("blue"),
        ),
        Panel(
            "stacked", "Shares", "Of the assignment units that each arm answers; a canary only "
            "adds customers.", (Query(shares, "{{arm}}"),), "percentunit", width=12,
        ),
    ))  # fmt: skip


def _counts(of: str) -> str:
    return level(signals.ROLLOUT_COUNTS, "arm", where=f'of="{of}"')


def _step() -> Row:
    limit = Query(
        queries.recorded_series(rules.FAILURE_LIMIT, f'service="{MODEL}"'), "limit (model.yaml)"
    )
    failed = Query(f"{_counts('failures')} / {_counts('requests')}", "{{arm}}")
    alerts = Query(f"{_counts('alerts')} / {_counts('answers')}", "{{arm}}")
    flips = Query(f"{_counts('flips')} / {_counts('pairs')}", "{{arm}}")
    return Row("What the present step is judged by, at the last pass", (
        Panel(
            "bars", "Customers and requests", "Of each arm: a step ends only with enough of both.",
            (Query(_counts("units"), "{{arm}}: units"), Query(_counts("requests"),
             "{{arm}}: requests")), width=6,
        ),
        Panel(
            "lines", "Failures", "Share of the requests assigned to an arm that it failed to "
            "answer, whichever part answered.", (failed, limit), "percentunit", width=6,
        ),
        Panel(
            "lines", "Alerts", "Share of an arm's answers that are alerts. The band that "
            "validation predicted is in the evidence.", (alerts,), "percentunit", width=6,
        ),
        Panel(
            "lines", "Differences of the shadow", "Share of the pairs whose decision differs "
            "from the champion's.", (flips,), "percentunit", width=6,
        ),
    ))  # fmt: skip


def _arms(objectives: Objectives) -> Row:
    share = objectives.limits.shadow_dropped_share
    dropped = f"{rate(signals.SHADOW_DROPPED)} / {rate(signals.DECISIONS)}"
    copies = Query(rate(signals.SHADOW_DROPPED, "why"), "{{why}}")
    return Row("Champion and challenger", (
        Panel(
            "lines", "Mean score", "Calibrated, of answers that are not degraded.",
            (Query(mean(signals.SCORE, "arm"), "{{arm}}"),), "percentunit", width=6,
        ),
        Panel(
            "lines", "Scores, 95 of 100 are under", "By arm; the buckets are those of alerts.",
            (Query(quantile(0.95, signals.SCORE, "arm"), "{{arm}}"),), "percentunit", width=6,
        ),
        Panel(
            "lines", "Time in the predictor, 99 of 100", "By bundle version.",
            (Query(quantile(0.99, signals.PREDICTOR_LATENCY, "service"), "{{service}}"),), "s",
            width=6,
        ),
        Panel(
            "lines", "Steps that failed", "Predictors that gave no score, by assigned step.",
            (Query(rate(signals.STEP_FAILURES, "step", "reason"), "{{step}}: {{reason}}"),),
            "reqps", width=6,
        ),
        Panel(
            "lines", "Shadow copies that were dropped", "Share of the decisions whose copy was not "
            f"sent or not recorded; more than {share:.0%} is a ticket.",
            (Query(dropped, "dropped"),), "percentunit", at_most(share), width=12,
        ),
        Panel(
            "stacked", "Why copies were dropped", "Queue full, over its rate, stopped, or not "
            "recorded.", (copies,), "cps", width=12,
        ),
    ))  # fmt: skip


def _applied(objectives: Objectives) -> Row:
    lasting = objectives.limits.routes_diverge
    return Row("Routes", (
        Panel(
            "lines", "Generations of routes", "What gateways are to apply, and what each of them "
            f"does. A difference for {lasting} wakes somebody: a window counts only records of the "
            "present generation.",
            (
                Query(level(signals.ROUTES_GENERATION), "wanted"),
                Query(level(signals.GENERATION, "instance"), "{{instance}}"),
            ), width=24,
        ),
    ))  # fmt: skip


def _traces() -> Row:
    own = f'span.{signals.MODEL_NAME.name} = "{MODEL}"'
    challenger = requests(f'{own} && span.{signals.ROUTE_ARM.name} = "challenger"')
    lines = '{service_name="mlplatform-flows"} |= "rollout"'
    return Row("Traces and lines of log", (
        Panel(
            "traces", "Requests of the challenger", "All are kept, until a gateway has more than "
            "it may send.", (challenger,), store="tempo", width=12,
        ),
        Panel(
            "logs", "What passes said", "Lines of flow runs about rollouts.", (Query(lines),),
            store="loki", width=12,
        ),
    ))  # fmt: skip
