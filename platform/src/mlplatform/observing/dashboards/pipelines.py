"""The processing behind the answers: decision log, topics, flows, and telemetry itself."""

from __future__ import annotations

from mlplatform.observing.dashboards import links, queries
from mlplatform.observing.dashboards.panels import Dashboard, Panel, Query, Row, at_most
from mlplatform.observing.dashboards.queries import WINDOW, level, quantile, rate
from mlplatform.observing.slo.objectives import Objectives, seconds
from mlplatform.runtime.telemetry import signals

_FLOWS = 'service_name=~"mlplatform-(flows|jobs)"'


def dashboard(objectives: Objectives) -> Dashboard:
    rows = (
        _log(objectives), _topics(objectives), _streams(objectives), _flows(objectives),
        _events(objectives), _telemetry(objectives),
    )  # fmt: skip
    return Dashboard(
        "pipelines", "mlplatform: pipelines",
        "Decision log, requests that are scored later, scheduled flows and heavy jobs, events to "
        "people, and the telemetry itself.",
        rows, of_model=False, links=(links.PREFECT, links.DEPLOYMENTS, links.EXPERIMENTS),
    )  # fmt: skip


def _log(objectives: Objectives) -> Row:
    limits = objectives.limits
    counts = {
        name: Query(rate(metric), name)
        for name, metric in signals.LOG_COUNTS.items()
        if metric.kind == "counter"
    }
    lost = ("refused", "unlogged", "conflicts")
    waiting, size = (signals.LOG_COUNTS[name] for name in ("waiting", "waiting_bytes"))
    behind = (
        f"scalar(max({signals.EVENT_TIME.name})) - {level(signals.WATERMARK, 'writer', how='min')}"
    )
    commits = tuple(
        Query(quantile(s, signals.COMMIT_RECORDS), f"{t} are under")
        for s, t in ((0.5, "half"), (0.99, "99 of 100"))
    )
    written = f"deriv({signals.WRITER_RECORDS.name}[{WINDOW}])"
    late, lacking = signals.WINDOWS_BEHIND.name, signals.WINDOWS_LACK.name
    return Row("Decision log", (
        Panel(
            "lines", "Records", "Accepted are those whose answer could be given; repeated ones had "
            "their answer before.", tuple(q for n, q in counts.items() if n not in lost), "cps",
        ),
        Panel(
            "lines", "Records that are lost or contradict", "Refused: the answer was not given. "
            "Unlogged: it was given without a record. Conflicts are voided.",
            tuple(counts[name] for name in lost), "cps",
        ),
        Panel(
            "lines", "Records of a commit", "Small ones are many commits for few answers.", commits,
        ),
        Panel(
            "lines", "Records that wait in spills", "Records that wait for "
            f"{limits.log_spilling} are a ticket.",
            (Query(level(waiting, "instance", how="sum"), "{{instance}}"),), width=6,
        ),
        Panel(
            "lines", "Size of spills", "A gateway whose spill is full refuses requests.",
            (Query(level(size, "instance", how="sum"), "{{instance}}"),), "bytes", width=6,
        ),
        Panel(
            "lines", "Writers behind", "How far each writer is behind in event time. A verdict "
            "reaches no further than the last of them.", (Query(behind, "{{writer}}"),), "s",
            at_most(seconds(limits.watermark_behind)), width=6,
        ),
        Panel(
            "lines", "Records by writer", "Of living gateways.",
            (Query(f"max by (writer) ({written})", "{{writer}}"),), "cps", width=6,
        ),
        Panel(
            "lines", "Real-time windows behind", "How long windows on a server have lacked a "
            "request, by writer.",
            (Query(f"max by (model, writer) ({late})", "{{model}}: {{writer}}"),), "s",
            at_most(seconds(limits.windows_behind)), width=12,
        ),
        Panel(
            "lines", "Records that windows lack", "Windows that lack more than 2,000 are stale.",
            (Query(f"max by (model, writer) ({lacking})", "{{model}}: {{writer}}"),), width=12,
        ),
        Panel(
            "lines", "Idempotency keys of several gateways", "What came of claims on their store. "
            "Alone: decided by a gateway's own keys; lost: another gateway had decided.",
            (Query(rate(signals.KEY_CLAIMS, "outcome"), "{{outcome}}"),), "cps", width=12,
        ),
        Panel(
            "lines", "Keys that wait for their store", "They are settled there once it answers.",
            (Query(level(signals.KEY_CLAIMS_WAITING, "instance", how="sum"), "{{instance}}"),),
            width=12,
        ),
    ))  # fmt: skip


def _topics(objectives: Objectives) -> Row:
    limits = objectives.limits
    took = tuple(
        Query(
            quantile(s, signals.WORKER_BATCH, "model", of_all=True), f"{{{{model}}}}: {t} are under"
        )
        for s, t in ((0.5, "half"), (0.99, "99 of 100"))
    )
    return Row("Requests that are scored later", (
        Panel(
            "lines", "Messages that wait", f"More than {limits.worker_lag} for "
            f"{limits.worker_lagging} are a ticket.",
            (
                Query(level(signals.WORKER_LAG, "model", how="sum", of_all=True),
                      "{{model}}: waiting"),
                Query(level(signals.WORKER_IN_WORK, "model", how="sum", of_all=True),
                      "{{model}}: in work"),
            ), limits=at_most(limits.worker_lag),
        ),
        Panel(
            "stacked", "Messages committed", "A dead letter could not be scored and was put aside.",
            (Query(rate(signals.WORKER_MESSAGES, "model", "outcome", of_all=True),
                   "{{model}}: {{outcome}}"),), "cps",
        ),
        Panel(
            "lines", "Time of a batch", "From its first message to its commit.", took, "s",
        ),
        Panel(
            "lines", "Batches that are read again", "The worker gave them up: the gateway was not "
            "there or another worker took over.",
            (Query(rate(signals.WORKER_GIVEN_UP, "model", "reason", of_all=True),
                   "{{model}}: {{reason}}"),), "cps", width=12,
        ),
        Panel(
            "lines", "Requests that were repeated", "By the worker, and why.",
            (Query(rate(signals.WORKER_RETRIES, "model", "reason", of_all=True),
                   "{{model}}: {{reason}}"),), "cps", width=12,
        ),
    ))  # fmt: skip


def _streams(objectives: Objectives) -> Row:
    limits = objectives.limits
    behind, lacking = signals.STREAM_BEHIND.name, signals.STREAM_LAG.name
    of = "{{model}}, {{view}}: {{topic}} {{partition}}"
    every = "model, view, topic, partition"
    return Row("Features from topics", (
        Panel(
            "lines", "Feature topics behind", "How long the oldest value has waited that requests "
            f"do not read yet. More than the line for {limits.stream_lagging} is a ticket.",
            (Query(f"max by ({every}) ({behind})", of),), "s",
            at_most(seconds(limits.stream_behind)), width=12,
        ),
        Panel(
            "lines", "Values that wait in feature topics", "By partition.",
            (Query(f"max by ({every}) ({lacking})", of),), width=12,
        ),
        Panel(
            "lines", "Messages that topics dropped unread", "Messages of features and requests "
            "that were lost by retention or by hand, at most. A loss is a ticket for "
            f"{limits.dropped_alert}.",
            (Query(rate(signals.TOPIC_DROPPED, "model", "topic", of_all=True),
                   "{{model}}: {{topic}}"),), "cps", width=24,
        ),
    ))  # fmt: skip


def _flows(objectives: Objectives) -> Row:
    limits = objectives.limits
    passes = Query(queries.since(signals.ROLLOUT_PASS, "model", of_all=True), "{{model}}")
    checks = Query(queries.since(signals.DRIFT_CHECK, "model", of_all=True), "{{model}}")
    runs = rate(signals.SPAN_CALLS, "span_name", "status_code", where=_FLOWS)
    bucket = queries.series(signals.SPAN_DURATION, _FLOWS, suffix="_bucket")
    slow = f"histogram_quantile(0.95, sum by (le, span_name) (rate({bucket}[{WINDOW}])))"
    unread = rate(signals.STATE_UNREAD, "of")
    return Row("Flows and jobs", (
        Panel(
            "lines", "Since the last pass over rollouts", "One comes every minute.", (passes,), "s",
            at_most(seconds(limits.rollout_pass_late)),
        ),
        Panel(
            "lines", "Since the last drift check", "One comes every day.", (checks,), "s",
            at_most(seconds(limits.drift_check_late)),
        ),
        Panel(
            "lines", "State that can't be read", "What the exporter can't read is missing from the "
            f"dashboards. State that can't be read for {limits.unreadable} is a ticket.",
            (Query(unread, "{{of}}"),), "cps",
        ),
        Panel(
            "lines", "Runs, tasks and items of jobs", "From their spans, by how they ended.",
            (Query(runs, "{{span_name}} {{status_code}}"),), "cps", width=12,
        ),
        Panel(
            "lines", "How long they take, 95 of 100", "From their spans.",
            (Query(slow, "{{span_name}}"),), "ms", width=12,
        ),
        Panel(
            "traces", "Runs that failed", "With their tasks.",
            (Query('{ resource.service.name = "mlplatform-flows" && status = error }'),),
            store="tempo", width=12,
        ),
        Panel(
            "logs", "Lines of flows and jobs", "Warnings and worse.",
            (Query('{service_name=~"mlplatform-(flows|jobs)", retention="90d"}'),), store="loki",
            width=12,
        ),
    ))  # fmt: skip


def _events(objectives: Objectives) -> Row:
    late = objectives.limits.events_late
    attempts = (
        Query(rate(signals.EVENTS_DELIVERED, "receiver"), "{{receiver}}: taken"),
        Query(rate(signals.EVENTS_FAILED, "receiver"), "{{receiver}}: failed"),
    )
    return Row("Receivers of rollout and incident events", (
        Panel(
            "lines", "Events that wait", "Of each receiver, webhooks and Slack.",
            (Query(level(signals.EVENTS_WAITING, "receiver"), "{{receiver}}"),),
        ),
        Panel(
            "lines", "Age of the oldest that waits", f"An event that waits longer than {late} is a "
            "ticket.",
            (Query(level(signals.EVENTS_LATE, "receiver"), "{{receiver}}"),), "s",
            at_most(seconds(late)),
        ),
        Panel("lines", "Attempts", "An event is sent again until it is taken.", attempts, "cps"),
    ))  # fmt: skip


def _telemetry(objectives: Objectives) -> Row:
    spans = rate(signals.SPAN_CALLS, "service_name")
    return Row("Telemetry", (
        Panel(
            "stacked", "Traces of requests", "Asked for by gateways: sent, dropped as too many "
            "waited, or not taken.",
            (Query(rate(signals.TRACES, "outcome"), "{{outcome}}"),), "cps",
        ),
        Panel(
            "stacked", "Traces of batches", "Of the workers.",
            (Query(rate(signals.WORKER_TRACES, "outcome"), "{{outcome}}"),), "cps",
        ),
        Panel(
            "stacked", "Spans at the collector", "Before any is sampled away, by process.",
            (Query(spans, "{{service_name}}"),), "cps",
        ),
    ))  # fmt: skip
