"""Alerts on states: on missing signals, and on faults that no error budget shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.slo.objectives import HEARTBEAT, Objectives, seconds
from mlplatform.observing.slo.rules import Rule
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.refusals import REPORTED_AT_ONCE
from mlplatform.runtime.telemetry.signals import Metric
from mlplatform.runtime.units import HOUR_S

JOBS: Final = {
    "gateway": "mlplatform-gateway",
    "predictor": "mlplatform-predictor",
    "worker": "mlplatform-worker",
    "exporter": "mlplatform-exporter",
}
"""Process → `job` of its series, as in `observability/prometheus/`."""

HAS_CHAMPION: Final = f'max by (model) ({signals.ROUTES_SHARE.name}{{arm="champion"}}) > 0'


def of_installation(objectives: Objectives) -> list[Rule]:
    """Alerts over all models and processes."""
    limits = objectives.limits
    rule = _Maker(objectives)
    return [
        *_silences(rule, objectives),
        rule(
            "ClockOff", "page",
            f"abs({signals.CLOCK_OFFSET.name}) > {limits.clock_offset_ms / 1000:g}",
            "5m", f"a clock is more than {limits.clock_offset_ms:g} ms off",
        ),
        rule(
            "ClockUnkept", "ticket", f"{signals.CLOCK_SYNCHRONISED.name} == 0",
            limits.clock_unkept, "nothing keeps a machine's clock on time",
        ),
        rule(
            "BreakerOpen", "page", f"max by (model, service) ({signals.BREAKER.name}) == 2",
            limits.breaker_open, "no request is sent to {{ $labels.service }}",
        ),
        rule(
            "VolumeStopped", "page",
            f"max by (model, service) ({signals.VOLUME_STOPPED.name}) == 1",
            "0s", "a gateway no longer asks {{ $labels.service }}: its bundle raised alerts on "
            "far more customers than planned",
        ),
        rule(
            "FolderUnread", "ticket", f"max by (model) ({signals.FOLDER_UNREAD.name}) == 1",
            "5m", "the folder of {{ $labels.model }} can't be read or used, or is gone: gateways "
            "serve what they read before, and one that starts anew does not serve the model",
        ),
        rule(
            "ModelKilled", "page", f"max by (model) ({signals.MODEL_KILLED.name}) == 1",
            "0s", "{{ $labels.model }} is switched off by a person: its fallback decides",
        ),
        rule(
            "EmergencyUnconfirmed", "page",
            f"max by (model) ({signals.EMERGENCY_UNCONFIRMED.name}) == 1",
            "0s", "one person promoted a version of {{ $labels.model }} at once: a second confirms "
            "it within a day, or it is undone",
        ),
        rule(
            "LogSpilling", "ticket", f"sum({signals.LOG_COUNTS['waiting'].name}) > 0",
            limits.log_spilling,
            "records wait in a spill, because the decision log does not take them",
        ),
        rule(
            "LogBehind", "ticket",
            f"{signals.EVENT_TIME.name} - ignoring (writer) group_right () "
            f"{signals.WATERMARK.name} > {seconds(limits.watermark_behind)}",
            "5m", "{{ $labels.writer }} is behind: no verdict reaches past its watermark",
        ),
        rule(
            "RoutesDiverge", "page",
            f"max by (model) ({signals.ROUTES_GENERATION.name}) != on (model) "
            f"min by (model) ({signals.GENERATION.name})",
            limits.routes_diverge, "a gateway applies other routes of {{ $labels.model }}",
        ),
        rule(
            "ApprovalWaits", "ticket",
            f'max by (model) ({signals.ROLLOUT_PHASE.name}{{phase="awaiting_approval"}}) == 1',
            limits.approval_waits, "a rollout of {{ $labels.model }} waits for a person",
        ),
        rule(
            "DriftFound", "ticket",
            f"max by (model, kind, state) ({signals.INCIDENT.name}) == 1",
            limits.incident_open, "{{ $labels.model }}: {{ $labels.kind }}; its incident is "
            "{{ $labels.state }}",
        ),
        *_work(rule, objectives),
    ]  # fmt: skip


def of_model(model: ModelDefinition, objectives: Objectives) -> list[Rule]:
    """Alerts whose limits are in a model.yaml."""
    rule = _Maker(objectives)
    return [_overdue(rule, model, objectives), *_stale(rule, model)]


def _overdue(rule: _Maker, model: ModelDefinition, objectives: Objectives) -> Rule:
    policy, own = model.rollout, f'model="{model.name}"'
    slack_s = seconds(objectives.limits.rollout_overdue)
    steps_s = policy.step_wall_deadline_s
    deadlines_s = {
        "deploying": policy.deploy_wall_deadline_s,
        "shadow": steps_s,
        "canary": steps_s,
        "awaiting_approval": policy.approval_deadline_h * HOUR_S,
    }
    since = f"time() - max by (model) ({signals.ROLLOUT_SINCE.name}{{{own}}})"
    phases = [
        f"({since} > {deadline_s + slack_s:g} and on (model) "
        f'max by (model) ({signals.ROLLOUT_PHASE.name}{{{own},phase="{phase}"}}) == 1)'
        for phase, deadline_s in deadlines_s.items()
    ]
    summary = f"a rollout of {model.name} is past its deadline, and nobody took it back"
    return rule("RolloutOverdue", "page", "\nor\n".join(phases), "1m", summary)


def _stale(rule: _Maker, model: ModelDefinition) -> list[Rule]:
    """Alerts that fire at once, because a share is of a minute, and an age of days."""
    own, policy = f'model="{model.name}"', model.features
    share = f"max by (model) ({signals.FEATURES_STALE_SHARE.name}{{{own}}})"
    age = f"max by (model) ({signals.VIEW_AGE.name}{{{own}}})"
    return [
        rule(
            "FeaturesStale", "page", f"{share} > {policy.stale_share_limit:g}\nor\n{age} > 1",
            "0s", f"{model.name} decides without fresh features",
        ),
        rule(
            "FeaturesStale", "ticket", f"{age} > {policy.late_share:g} <= 1",
            "1m", f"a snapshot of {model.name}'s features did not come: soon they are stale",
        ),
    ]  # fmt: skip


def _silences(rule: _Maker, objectives: Objectives) -> list[Rule]:
    limits = objectives.limits
    scored = f"sum by (model) (increase({signals.DECISIONS.name}_total[{limits.nothing_scored}]))"
    late_s = seconds(limits.drift_check_late)
    undecided_s = seconds(limits.drift_undecided)
    checked = f"max by (model) ({signals.DRIFT_CHECK.name})"
    labelled = f"max by (model) ({signals.LABEL_NEWEST.name})"
    missing_s = seconds(limits.labels_missing)
    others = "|".join(JOBS[name] for name in ("gateway", "predictor", "worker"))
    unread = f"increase({signals.STATE_UNREAD.name}_total[{limits.unreadable}])"
    free = f"{signals.HOME_FREE.name} / {signals.HOME_SIZE.name}"
    refused = signals.REFUSALS.name
    forged = f'sum by (door) ({refused}{{door=~"{"|".join(REPORTED_AT_ONCE)}"}}) > 0'
    return [
        rule(
            "Watchdog", HEARTBEAT, "vector(1)",
            "0s", "a sign of life: if this alert stops arriving, no other alert arrives either",
        ),
        rule(
            "NothingScored", "page", f"{HAS_CHAMPION} unless on (model) {scored} > 0",
            "1m", "{{ $labels.model }} has a champion and decides nothing",
        ),
        rule(
            "GatewayGone", "page", f'absent(up{{job="{JOBS["gateway"]}"}} == 1)',
            "1m", "no gateway can be scraped",
        ),
        rule(
            "ExporterGone", "page", f'absent(up{{job="{JOBS["exporter"]}"}} == 1)',
            limits.process_gone, "no exporter: alerts on rollouts, drift, labels can't fire",
        ),
        rule(
            "ProcessGone", "ticket", f'up{{job=~"{others}"}} == 0',
            limits.process_gone, "{{ $labels.job }} at {{ $labels.instance }} can't be scraped",
        ),
        rule(
            "DriftCheckMissing", "ticket",
            f"time() - {checked} > {late_s}\nor\n({HAS_CHAMPION} unless on (model) {checked})",
            "1h", "no drift check of {{ $labels.model }} came to a verdict when it should",
        ),
        rule(
            "DriftUndecided", "ticket",
            f"time() - max by (model) ({signals.DRIFT_UNDECIDED.name}) > {undecided_s}",
            "1h", "drift checks of {{ $labels.model }} run, and can't say whether it drifted",
        ),
        rule(
            "LabelsMissing", "ticket",
            f"{labelled} < on () group_left () (max({signals.EVENT_TIME.name}) - {missing_s})\n"
            f"or\n({HAS_CHAMPION} and on (model) {checked} unless on (model) {labelled})",
            "1h", "no labels of {{ $labels.model }} come any more: nobody knows how right it is",
        ),
        rule(
            "StateUnreadable", "ticket", f"sum by (of) ({unread}) > 0",
            limits.unreadable, "the exporter can't read {{ $labels.of }}",
        ),
        rule(
            "DiskNearlyFull", "page", f"{free} < {limits.home_free_share:g}",
            limits.home_filling, "the disk of the home has {{ $value | humanizePercentage }} left: "
            "once it is full, decisions are refused",
        ),
        rule(
            "RefusalsKept", "ticket",
            f"{forged} or sum by (door) ({refused}) > {limits.refusals_of_a_day}",
            "0m", "surface {{ $labels.door }} refused requests that a person should look at: "
            "`mlplatform refusals` says who asked, for what, and why not",
        ),
    ]  # fmt: skip


def _work(rule: _Maker, objectives: Objectives) -> list[Rule]:
    limits = objectives.limits
    refused = _rate(signals.ADMISSION, 'outcome=~"shed|client-rate|model-rate"')
    dropped = f"sum by (model) (rate({signals.SHADOW_DROPPED.name}_total[5m]))"
    decided = f"sum by (model) (rate({signals.DECISIONS.name}_total[5m]))"
    of_store = f"sum by (of) (increase({signals.STORE_FAILURES.name}_total[5m]))"
    fetches = f'sum(increase({signals.KEY_FETCHES.name}_total{{outcome="%s"}}[1h]))'
    dead = f'{signals.WORKER_MESSAGES.name}_total{{outcome="dead_letter"}}'
    return [
        rule(
            "WorkerLags", "ticket",
            f"sum by (model) ({signals.WORKER_LAG.name}) > {limits.worker_lag}",
            limits.worker_lagging, "messages of {{ $labels.model }} wait, and do not become fewer",
        ),
        rule(
            "DeadLetters", "ticket", f"sum by (model) (increase({dead}[15m])) > 0",
            "1m", "messages of {{ $labels.model }} could not be scored and were put aside",
        ),
        rule(
            "FeatureStreamBehind", "ticket",
            f"max by (model, view, topic) ({signals.STREAM_BEHIND.name}) "
            f"> {seconds(limits.stream_behind)}",
            limits.stream_lagging, "requests of {{ $labels.model }} read old values of "
            "{{ $labels.view }}: messages of {{ $labels.topic }} wait",
        ),
        rule(
            "TopicMessagesDropped", "ticket",
            f"time() - (max by (model, topic) ({signals.TOPIC_DROPPED_FOUND.name}) > 0) "
            f"< {seconds(limits.dropped_alert)}",
            "0s", "{{ $labels.topic }} dropped messages before {{ $labels.model }} read them: they "
            "are lost",
        ),
        rule(
            "WindowsBehind", "ticket",
            f"max by (model, writer) ({signals.WINDOWS_BEHIND.name}) "
            f"> {seconds(limits.windows_behind)}",
            "2m", "real-time windows of {{ $labels.model }} lack requests that "
            "{{ $labels.writer }} answered",
        ),
        rule(
            "LimitsHit", "ticket",
            f"{refused} / {_rate(signals.ADMISSION)} > {limits.refused_share:g}",
            limits.refusing, "requests are refused for rates or room",
        ),
        rule(
            "ShadowDropped", "ticket",
            f"{dropped} / {decided} > {limits.shadow_dropped_share:g}",
            limits.refusing, "copies for the shadow of {{ $labels.model }} are dropped",
        ),
        rule(
            "EventsLate", "ticket",
            f"max by (receiver) ({signals.EVENTS_LATE.name}) > {seconds(limits.events_late)}",
            "1m", "{{ $labels.receiver }} gets no events of rollouts and incidents: a person who "
            "must act may not know",
        ),
        rule(
            "AdmissionStoreFails", "ticket", f"{of_store} > 0",
            limits.store_failing, "gateways do not reach the store of {{ $labels.of }}",
        ),
        rule(
            "KeyClaimsFail", "ticket", f"{_failing_claims()} > 0",
            limits.store_failing, "gateways decide or refuse requests without knowing what other "
            "gateways answered under their idempotency keys ({{ $labels.outcome }})",
        ),
        rule(
            "IssuerKeysStale", "ticket",
            f"{fetches % 'failed'} > 0 unless on () {fetches % 'fetched'} > 0",
            limits.store_failing, "the issuer's keys can't be fetched: new ones are unknown",
        ),
    ]  # fmt: skip


def _failing_claims() -> str:
    failed = 'outcome=~"alone|refused|unsettled|lost|dropped"'
    return f"sum by (outcome) (increase({signals.KEY_CLAIMS.name}_total{{{failed}}}[5m]))"


def _rate(metric: Metric, labels: str = "") -> str:
    chosen = f"{{{labels}}}" if labels else ""
    return f"sum(rate({metric.name}_total{chosen}[5m]))"


class _Maker:
    """Makes alerts that link to their runbooks."""

    def __init__(self, objectives: Objectives) -> None:
        self._runbooks = objectives.runbooks

    def __call__(self, name: str, severity: str, expr: str, lasts: str, summary: str) -> Rule:
        return {
            "alert": name,
            "expr": expr,
            "for": lasts,
            "labels": {"severity": severity},
            "annotations": {"summary": summary, "runbook_url": f"{self._runbooks}/{name}.md"},
        }


def names(rules: Sequence[Rule]) -> list[str]:
    """The names of the alerts among rules, in order and without repeats."""
    return list(dict.fromkeys(rule["alert"] for rule in rules if "alert" in rule))
