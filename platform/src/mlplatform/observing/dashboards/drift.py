"""One model's features and drift: whether inputs are present, fresh, and as the model learned
them."""

from __future__ import annotations

from mlplatform.observing.dashboards import links, queries
from mlplatform.observing.dashboards.panels import Dashboard, Panel, Query, Row, at_most
from mlplatform.observing.dashboards.queries import level, quantile, rate
from mlplatform.observing.slo.objectives import Objectives, seconds
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.signals import Metric

_INPUT = "input"


def dashboard(objectives: Objectives) -> Dashboard:
    rows = (_now(objectives), _measures(), _features(objectives))
    return Dashboard(
        "drift", "mlplatform: features and drift",
        "Live inputs compared with those of training: drift of inputs and scores, age and absence "
        "of features.",
        rows, links=(links.INCIDENTS, links.MODEL_PAGE, links.PREFECT), window="now-7d",
    )  # fmt: skip


def _now(objectives: Objectives) -> Row:
    limits = objectives.limits
    verdict = Query(f"{level(signals.DRIFT_VERDICT, 'verdict')} == 1", "{{verdict}}")
    return Row("Now", (
        Panel(
            "stat", "Last verdict", "Over the last windows together; undecided is no sign of "
            "health.", (verdict,), width=6, named=True, empty="no check yet",
        ),
        Panel(
            "stat", "Since the last check", "Checks are daily.",
            (Query(queries.since(signals.DRIFT_CHECK), "check"),), "s",
            at_most(seconds(limits.drift_check_late)), width=6, empty="no check yet",
        ),
        Panel(
            "stat", "Incident", "Open until a retrained model is confirmed or somebody closes it.",
            (Query(f"{level(signals.INCIDENT, 'kind', 'state')} == 1", "{{kind}}: {{state}}"),),
            width=6, named=True,
            empty="none", links=(links.INCIDENTS,),
        ),
        Panel(
            "stat", "Open for", f"An incident that is open for {limits.incident_open} is a ticket.",
            (Query(queries.since(signals.INCIDENT_SINCE, "kind"), "{{kind}}"),), "s", width=6,
            empty="none",
        ),
    ))  # fmt: skip


def _measures() -> Row:
    return Row("Drift, by input", (
        _against(
            "Stability index over its limit", "Population stability index of the newest window, "
            "divided by its limit in a window of that size.", signals.DRIFT_PSI,
            signals.DRIFT_PSI_LIMIT,
        ),
        _against(
            "Distance over its limit", "Wasserstein distance of the newest window, divided by "
            "its limit.", signals.DRIFT_DISTANCE, signals.DRIFT_DISTANCE_LIMIT,
        ),
        Panel(
            "lines", "Inputs that are missing", "Share of the newest window that lacks the input.",
            (Query(level(signals.DRIFT_MISSING, _INPUT), "{{input}}"),), "percentunit",
        ),
        Panel(
            "lines", "Stability index", "Population stability index of the newest window.",
            (Query(level(signals.DRIFT_PSI, _INPUT), "{{input}}"),), width=12,
        ),
        Panel(
            "lines", "Distance", "Wasserstein distance, in standard deviations of the training "
            "window.",
            (Query(level(signals.DRIFT_DISTANCE, _INPUT), "{{input}}"),), width=12,
        ),
    ))  # fmt: skip


def _against(title: str, what: str, measured: Metric, limit: Metric) -> Panel:
    ratio = f"{level(measured, _INPUT)} / {level(limit, _INPUT)}"
    description = f"{what} A window over 1 has drifted."
    return Panel("lines", title, description, (Query(ratio, "{{input}}"),), limits=at_most(1))


def _features(objectives: Objectives) -> Row:
    missing = rate(signals.FEATURES_MISSING, "feature", "cause")
    unfresh = rate(signals.DEGRADED, where='reason="features"')
    share = f"{unfresh} / {rate(signals.DECISIONS)}"
    budget = objectives.tiers[1].freshness.budget
    ages = tuple(
        Query(quantile(s, signals.FEATURE_AGE, "view"), f"{{{{view}}}}: {t} are under")
        for s, t in ((0.5, "half"), (0.99, "99 of 100"))
    )
    return Row("Features as served", (
        Panel(
            "lines", "Age", "Event time between a decision and the features that it used, by "
            "view.", ages, "s",
        ),
        Panel(
            "stacked", "Features that were not there", "Decisions without a feature, and why.",
            (Query(missing, "{{feature}}: {{cause}}"),), "reqps",
        ),
        Panel(
            "lines", "Decisions without fresh features", "Share of all decisions. The "
            "line is the most that the strictest tier allows.", (Query(share, "share"),),
            "percentunit", at_most(budget),
        ),
    ))  # fmt: skip
