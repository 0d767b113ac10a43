"""One model's labels and outcomes: whether labels come, and how right its decisions were."""

from __future__ import annotations

from mlplatform.observing.dashboards import links
from mlplatform.observing.dashboards.panels import Dashboard, Panel, Query, Row, at_most
from mlplatform.observing.dashboards.queries import increase, level, rate
from mlplatform.observing.slo.objectives import Objectives, seconds
from mlplatform.runtime.telemetry import signals


def dashboard(objectives: Objectives) -> Dashboard:
    rows = (_labels(objectives), _outcomes())
    return Dashboard(
        "labels", "mlplatform: labels and outcomes",
        "Whether labels come and when, and how right a model was where they are mature. The last "
        "drift check's days are what is counted.",
        rows, links=(links.MODEL_PAGE, links.ROLLOUTS, links.MLFLOW), window="now-30d",
    )  # fmt: skip


def _labels(objectives: Objectives) -> Row:
    limits = objectives.limits
    newest = f"max({signals.EVENT_TIME.name}) - {level(signals.LABEL_NEWEST)}"
    share = f"{level(signals.LABELS_KNOWN)} / {level(signals.LABELS_MATURED)}"
    return Row("Labels", (
        Panel(
            "stat", "Since the newest label", "Event time. Labels come daily; after "
            f"{limits.labels_missing} without a label an alert fires.", (Query(newest, "label"),),
            "s", at_most(seconds(limits.labels_missing)), width=6, empty="no label yet",
        ),
        Panel(
            "stat", "Mature decisions", "Of the days counted, those whose label can be trusted.",
            (Query(level(signals.LABELS_MATURED), "mature"),), width=6, empty="no check yet",
        ),
        Panel(
            "stat", "Of them positive", "Share that turned out to be what the model looks for.",
            (Query(share, "share"),), "percentunit", width=6, empty="none mature yet",
        ),
        Panel(
            "stat", "Late labels", "Share of the positive labels that came after the maturity "
            "that model.yaml declares: too many, and training learns from wrong labels.",
            (Query(level(signals.LABELS_LATE), "late"),), "percentunit",
            at_most(limits.late_label_share), width=6, empty="none mature yet",
        ),
        Panel(
            "lines", "Mature and positive decisions", "Of the days counted.",
            (
                Query(level(signals.LABELS_MATURED), "mature"),
                Query(level(signals.LABELS_KNOWN), "of them positive"),
            ), width=12,
        ),
        Panel(
            "lines", "Late labels over time", "The line is the share over which time counts "
            "against the objective.", (Query(level(signals.LABELS_LATE), "late"),), "percentunit",
            at_most(limits.late_label_share), width=12,
        ),
    ))  # fmt: skip


def _outcomes() -> Row:
    alerted = rate(signals.DECISIONS, where='is_alert="true"')
    alerts = f"{alerted} / {rate(signals.DECISIONS)}"
    return Row("Outcomes", (
        Panel(
            "stat", "Precision", "Share of alerts that were right, on matured labels.",
            (Query(level(signals.PRECISION), "precision"),), "percentunit", width=6,
            empty="none mature yet",
        ),
        Panel(
            "stat", "Recall", "Share of positives that raised an alert, on matured labels.",
            (Query(level(signals.RECALL), "recall"),), "percentunit", width=6,
            empty="none mature yet",
        ),
        Panel(
            "stat", "Decisions in this time", "By what was decided.",
            (Query(increase(signals.DECISIONS, "decision"), "{{decision}}"),), width=12,
        ),
        Panel(
            "lines", "Precision and recall over time", "Both fall only days after the model began "
            "to be wrong. Drift and the share of alerts show it sooner.",
            (
                Query(level(signals.PRECISION), "precision"),
                Query(level(signals.RECALL), "recall"),
            ), "percentunit", width=12, most=1,
        ),
        Panel(
            "lines", "Alerts", "Share of decisions that are alerts: what people have to look at.",
            (Query(alerts, "share"),), "percentunit", width=12,
        ),
    ))  # fmt: skip
