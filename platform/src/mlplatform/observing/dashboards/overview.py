"""All models and processes: whether something is wrong, and where to look next."""

from __future__ import annotations

from mlplatform.observing.dashboards import links, queries
from mlplatform.observing.dashboards.panels import (
    NO_LIMITS,
    Dashboard,
    Link,
    Panel,
    PanelLimits,
    Query,
    Row,
    Words,
    at_least,
    at_most,
)
from mlplatform.observing.dashboards.queries import level, quantile, rate
from mlplatform.observing.slo import rules
from mlplatform.observing.slo.objectives import Objectives, seconds
from mlplatform.runtime.telemetry import signals

_CHOSEN = "${__field.labels.model}"
_TO_MODEL = (Link("This model", links.dashboard("model", _CHOSEN)),)
FIRING = queries.series(signals.ALERTS, 'alertstate="firing",severity="%s"')


def dashboard(objectives: Objectives) -> Dashboard:
    rows = (
        _now(objectives), _traffic(objectives), _change(objectives), _admission(objectives),
        _processes(objectives), _lines(),
    )  # fmt: skip
    return Dashboard(
        "overview", "mlplatform: overview",
        "Every model and process at a glance; each model links to its own dashboard.",
        rows, of_model=False, links=(links.PAGE, links.DECISIONS, links.EXPERIMENTS, links.PREFECT),
    )  # fmt: skip


def burn_limits(objectives: Objectives) -> PanelLimits:
    """Limits of burn rates: yellow from the slowest that makes a ticket, red from the slowest that
    pages."""
    slowest = [min(b.factor for b in of) for of in (objectives.burns.ticket, objectives.burns.page)]
    return at_most(*slowest)


def _now(objectives: Objectives) -> Row:
    firing = tuple(
        Query(f"count({FIRING % severity}) or vector(0)", f"{severity}s")
        for severity in ("page", "ticket")
    )
    decided = rate(signals.DECISIONS, "model", of_all=True)
    champion = level(signals.ROUTES_SHARE, "model", where='arm="champion"', of_all=True)
    return Row("Now", (
        Panel(
            "stat", "Alert rules that fire", "Pages wake somebody; tickets wait for the day. "
            "Each alert rule names its runbook.", firing, limits=at_most(1), width=6,
        ),
        Panel(
            "stat", "Decisions a second", "Of each model, of all sources.",
            (Query(decided, "{{model}}"),), "reqps", width=6, links=_TO_MODEL,
        ),
        Panel(
            "stat", "Champion's share", "Of the assignment units: less than 100 % during a canary, "
            "none where a model has no champion.", (Query(champion, "{{model}}"),),
            "percentunit", at_least(0.000001), width=6, links=_TO_MODEL,
        ),
        Panel(
            "stat", "Latency, 99 of 100", "From a request's first byte to its durable decision.",
            (Query(quantile(0.99, signals.LATENCY, "model", of_all=True), "{{model}}"),), "s",
            width=6, links=_TO_MODEL,
        ),
        Panel(
            "bars", "Error budget that is left", f"Of {objectives.window_days} days, by objective "
            "of slo.yaml; under 0 it is missed.",
            (Query(f"1 - {queries.recorded_series(rules.BURN_OF_PERIOD)}", "{{service}} {{slo}}"),),
            "percentunit", at_least(0), width=12, most=1,
        ),
        Panel(
            "lines", "How fast budgets burn", "1 uses a budget up exactly at the end of its "
            f"{objectives.window_days} days. A lasting burn over a line is a ticket, or a page.",
            (Query(queries.recorded_series(rules.BURN_NOW), "{{service}} {{slo}}"),), "short",
            burn_limits(objectives), width=12,
        ),
    ))  # fmt: skip


def _traffic(objectives: Objectives) -> Row:
    refused = 'outcome=~"shed|client-rate|model-rate"'
    degraded, decided = (
        rate(metric, "model", of_all=True) for metric in (signals.DEGRADED, signals.DECISIONS)
    )
    tier = objectives.tiers[1]
    return Row("Traffic", (
        Panel(
            "stacked", "Requests by status", "HTTP requests and gRPC calls of every operation.",
            (Query(rate(signals.REQUESTS, "status", of_all=True), "{{status}}"),), "reqps",
        ),
        Panel(
            "lines", "Latency, 99 of 100", "Of each model. Points are requests whose traces were "
            "kept.",
            (Query(quantile(0.99, signals.LATENCY, "model", of_all=True), "{{model}}", True),), "s",
        ),
        Panel(
            "lines", "Degraded decisions", "Share made without all that should be there. The line "
            "is what freshness allows the strictest tier.",
            (Query(f"{degraded} / {decided}", "{{model}}"),), "percentunit",
            at_most(tier.freshness.budget),
        ),
        Panel(
            "lines", "Requests let in and refused", "Refused for rates or room: a share over "
            f"{objectives.limits.refused_share:.0%} becomes a ticket.",
            (
                Query(rate(signals.ADMISSION, "outcome", "priority"), "{{outcome}} {{priority}}"),
                Query(rate(signals.ADMISSION, where=refused), "refused for rates or room"),
            ), "reqps", width=12,
        ),
        Panel(
            "lines", "Predictors that wait or refuse", "Requests in the queues of predictors, by "
            "bundle version, and gateways' breakers: 0 closed, 1 half open, 2 open.",
            (
                Query(level(signals.PREDICTOR_DEPTH, "service", of_all=True), "queue {{service}}"),
                Query(level(signals.BREAKER, "service", of_all=True), "breaker {{service}}"),
            ), width=12,
        ),
    ))  # fmt: skip


def _change(objectives: Objectives) -> Row:
    limits = objectives.limits
    phase = level(signals.ROLLOUT_PHASE, "model", "phase", of_all=True)
    incident = level(signals.INCIDENT, "model", "kind", "state", of_all=True)
    return Row("What changes", (
        Panel(
            "stat", "Newest rollout", "The phase that each model's newest rollout is in.",
            (Query(f"{phase} == 1", "{{model}}: {{phase}}"),), limits=PanelLimits("blue"),
            width=6, named=True, empty="none yet",
            links=(Link("Its rollout", links.dashboard("rollout", _CHOSEN)),),
        ),
        Panel(
            "stat", "Drift incidents", "Models whose inputs, scores or performance have moved, or "
            "whose data is broken.", (Query(f"{incident} == 1", "{{model}}, {{kind}}: {{state}}"),),
            limits=PanelLimits("red"), width=6, named=True, empty="none",
            links=(Link("Its drift", links.dashboard("drift", _CHOSEN)),),
        ),
        Panel(
            "stat", "Since the last drift check", "Checks are daily; one that is missing is no "
            "sign of health.",
            (Query(queries.since(signals.DRIFT_CHECK, "model", of_all=True), "{{model}}"),), "s",
            at_most(seconds(limits.drift_check_late)), width=6, empty="none yet",
        ),
        Panel(
            "stat", "Since the last pass over rollouts", "A pass comes every minute; without it "
            "nothing ramps, and nothing is taken back.",
            (Query(queries.since(signals.ROLLOUT_PASS, "model", of_all=True), "{{model}}"),), "s",
            at_most(seconds(limits.rollout_pass_late)), width=6, empty="none yet",
        ),
    ))  # fmt: skip


def _admission(objectives: Objectives) -> Row:
    lasting = objectives.limits.store_failing
    return Row("Who is not let in", (
        Panel(
            "lines", "Connections that were ended", "By the limit of the gateway that ended them.",
            (Query(rate(signals.CONNECTIONS_REFUSED, "reason"), "{{reason}}"),), "cps",
        ),
        Panel(
            "lines", "Refused tokens", "Tokens of the issuer that were not accepted, and why.",
            (Query(rate(signals.TOKENS_REFUSED, "reason"), "{{reason}}"),), "cps",
        ),
        Panel(
            "lines", "Stores of keys and limits", "Times the shared store was late or failed, and "
            f"fetches of the issuer's keys. Failures for {lasting} become a ticket.",
            (
                Query(rate(signals.STORE_FAILURES, "of"), "store of {{of}} failed"),
                Query(rate(signals.KEY_FETCHES, "outcome"), "issuer's keys {{outcome}}"),
            ), "cps",
        ),
    ))  # fmt: skip


def _processes(objectives: Objectives) -> Row:
    limits = objectives.limits
    by = ("job", "instance")
    name = "{{job}} {{instance}}"
    at = f"by ({', '.join(by)})"
    jobs = 'job=~"mlplatform-.+"'
    files = [queries.series(m, jobs) for m in (signals.OPEN_FILES, signals.MOST_FILES)]
    cpu = queries.series(signals.CPU, jobs, suffix="_total")
    up: Words = {"0": ("gone", "red"), "1": ("there", "green")}
    kept: Words = {"0": ("nothing keeps it", "red"), "1": ("kept", "green")}
    return Row("Processes", (
        Panel(
            "states", "Processes that can be scraped", f"One that is gone for {limits.process_gone}"
            " fires an alert.", (Query(level(signals.UP, *by, where=jobs), name),),
            limits=at_least(1), width=12, words=up,
        ),
        Panel(
            "lines", "Running for", "How long each process has been running: a drop is a restart.",
            (Query(f"time() - max {at} ({queries.series(signals.STARTED, jobs)})", name),), "s",
            width=12,
        ),
        Panel(
            "lines", "Memory", "That a process holds.",
            (Query(level(signals.RESIDENT_MEMORY, *by, where=jobs), name),), "bytes",
        ),
        Panel(
            "lines", "Processors in use", "1 is one core.",
            (Query(f"sum {at} (rate({cpu}[{queries.WINDOW}]))", name),),
        ),
        Panel(
            "lines", "Open files and sockets", "Share of what the process may open.",
            (Query(f"max {at} ({files[0]} / {files[1]})", name),), "percentunit",
        ),
        Panel(
            "lines", "Clocks", "How far a machine's clock is from its time source, as its kernel "
            "says. Features and decisions of several machines are compared by their times.",
            (Query(f"max by (instance) (abs({signals.CLOCK_OFFSET.name}))", "{{instance}}"),), "s",
            at_most(limits.clock_offset_ms / 1000), width=12,
        ),
        Panel(
            "states", "Clocks that something keeps on time", "A clock that nothing keeps for "
            f"{limits.clock_unkept} is a ticket.",
            (Query(level(signals.CLOCK_SYNCHRONISED, "instance"), "{{instance}}"),),
            limits=at_least(1), width=12, words=kept,
        ),
    ))  # fmt: skip


def _lines() -> Row:
    warnings = '{service_name=~"mlplatform-.+", retention="90d"}'
    return Row("Lines of log", (
        Panel(
            "logs", "Warnings and errors", "Of every process. A line that belongs to a trace leads "
            "there.", (Query(warnings),), store="loki", width=24, limits=NO_LIMITS,
        ),
    ))  # fmt: skip
