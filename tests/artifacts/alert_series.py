"""For every alert, series that make it fire: silent one step before, and again at the end."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mlplatform.observing.slo.objectives import HEARTBEAT

GATEWAY = "mlplatform_gateway"
FRAUD = 'model="fraud"'
SCORED = f'{GATEWAY}_requests_total{{{FRAUD},operation="score"'
DECIDED = f"{GATEWAY}_decisions_total{{{FRAUD}}}"
TOOK = f"{GATEWAY}_latency_seconds"
SINCE_START = "0+600x20 12000x600"
"""Ten a second for twenty minutes, and none after."""
ALWAYS = "0+600x620"


@dataclass(frozen=True)
class Case:
    """Series by minute, and what follows.

    Args:
        fires: minute → labels of each alert that fires then, without its name.
        silent: minutes in which it does not.
    """

    alert: str
    series: dict[str, str]
    fires: dict[int, list[dict[str, str]]]
    silent: tuple[int, ...]
    values: dict[str, str] = field(default_factory=lambda: {"$value": "100%"})


def states() -> list[Case]:
    """Alerts on states."""
    ticket, page = {"severity": "ticket"}, {"severity": "page"}
    fraud = {"model": "fraud"}
    champion = f'mlplatform_routes_share{{{FRAUD},arm="champion"}}'
    phase = f'mlplatform_rollout_phase{{{FRAUD},phase="%s"}}'
    admitted = f'{GATEWAY}_admission_total{{outcome="%s",priority="standard"}}'
    keys = f'{GATEWAY}_issuer_key_fetches_total{{outcome="%s"}}'
    predictor = {"job": "mlplatform-predictor", "instance": "p"}
    return [
        Case("Watchdog", {}, {0: [{"severity": HEARTBEAT}], 60: [{"severity": HEARTBEAT}]}, ()),
        Case(
            "NothingScored",
            {champion: "_x10 1x50", DECIDED: "_x20 0+60x40"},
            {11: [page | fraud], 20: [page | fraud]},
            (10, 21),
        ),
        Case(
            "GatewayGone",
            {'up{job="mlplatform-gateway",instance="a"}': "1x9 0x19 1x10"},
            {11: [page]},
            (10, 30),
        ),
        Case(
            "ExporterGone",
            {'up{job="mlplatform-exporter",instance="a"}': "1x9 0x19 1x10"},
            {15: [page]},
            (14, 30),
        ),
        Case(
            "ProcessGone",
            {'up{job="mlplatform-predictor",instance="p"}': "1x9 0x19 1x10"},
            {15: [ticket | predictor]},
            (14, 30),
        ),
        Case(
            "DriftCheckMissing",
            {champion: "1x90", f"mlplatform_drift_check_time_seconds{{{FRAUD}}}": "_x69 1e9x20"},
            {60: [ticket | fraud]},
            (59, 70),
        ),
        Case(
            "DriftCheckMissing",
            {f"mlplatform_drift_check_time_seconds{{{FRAUD}}}": "-93000x80 5000x20"},
            {71: [ticket | fraud]},  # over 26 h old from minute 11 on
            (70, 81),
        ),
        Case(
            "DriftUndecided",
            {f"mlplatform_drift_undecided_since_seconds{{{FRAUD}}}": "-1209000x80 _x20"},
            {71: [ticket | fraud]},  # more than 14 days ago from minute 11 on
            (70, 90),
        ),
        Case(
            "LabelsMissing",
            {
                "mlplatform_event_time_seconds": "181000x100",
                f"mlplatform_label_newest_time_seconds{{{FRAUD}}}": "1000x9 999x70 181000x20",
            },
            {70: [ticket | fraud]},  # more than 50 h old from minute 10 on
            (69, 81),
        ),
        Case(
            "LabelsMissing",
            {champion: "1x90", f"mlplatform_drift_check_time_seconds{{{FRAUD}}}": "_x10 1e9x80"},
            {70: [ticket | fraud]},
            (69,),
        ),
        Case(
            "StateUnreadable",
            {'mlplatform_exporter_read_failures_total{of="log"}': "0x9 0+1x25 25x40"},
            {26: [ticket | {"of": "log"}]},
            (25, 60),
        ),
        Case(
            "DiskNearlyFull",
            {
                "mlplatform_home_free_bytes": "9x9 4x20 9x20",
                "mlplatform_home_size_bytes": "100x60",
            },
            {12: [page]},
            (10, 31),
            values={"$value": "4%"},
        ),
        Case(
            "RefusalsKept",
            {
                'mlplatform_refusals{door="approval"}': "0x9 1x10 0x40",
                'mlplatform_refusals{door="page"}': "20x29 21x10 0x20",
            },
            {
                11: [ticket | {"door": "approval"}],
                31: [ticket | {"door": "page"}],
            },
            (9, 25, 45),
        ),
        Case(
            "ClockOff",
            {'mlplatform_clock_offset_seconds{instance="a"}': "0.004x9 -0.006x10 0x10"},
            {15: [page | {"instance": "a"}]},
            (14, 21),
        ),
        Case(
            "ClockUnkept",
            {'mlplatform_clock_synchronised{instance="a"}': "1x9 0x80 1x10"},
            {70: [ticket | {"instance": "a"}]},
            (69, 91),
        ),
        Case(
            "BreakerOpen",
            {f'{GATEWAY}_breaker_state{{{FRAUD},service="s"}}': "1x9 2x10 0x10"},
            {12: [page | fraud | {"service": "s"}]},
            (11, 21),
        ),
        Case(
            "VolumeStopped",
            {f'{GATEWAY}_volume_stopped{{{FRAUD},service="s"}}': "0x9 1x10 0x10"},
            {10: [page | fraud | {"service": "s"}]},
            (9, 21),
        ),
        Case(
            "FolderUnread",
            {f"{GATEWAY}_folder_unread{{{FRAUD}}}": "0x9 1x10 0x10"},
            {15: [ticket | fraud]},
            (14, 21),
        ),
        Case(
            "ModelKilled",
            {f"mlplatform_model_killed{{{FRAUD}}}": "0x9 1x10 0x10"},
            {10: [page | fraud]},
            (9, 21),
        ),
        Case(
            "EmergencyUnconfirmed",
            {f"mlplatform_emergency_unconfirmed{{{FRAUD}}}": "0x9 1x10 0x10"},
            {10: [page | fraud]},
            (9, 21),
        ),
        Case("LogSpilling", {"mlplatform_log_waiting": "0x9 5x20 0x5"}, {20: [ticket]}, (19, 31)),
        Case(
            "LogBehind",
            {
                "mlplatform_event_time_seconds": "0+60x60",
                'mlplatform_log_watermark_seconds{writer="gateway-0"}': "0+60x9 540x19 1800+60x30",
            },
            {22: [ticket | {"writer": "gateway-0"}]},
            (21, 30),
        ),
        Case(
            "WindowsBehind",
            {f'mlplatform_windows_behind_seconds{{{FRAUD},writer="gateway-0"}}': "0x9 16x10 15x20"},
            {12: [ticket | fraud | {"writer": "gateway-0"}]},
            (11, 21),
        ),
        Case(
            "RoutesDiverge",
            {
                f"mlplatform_routes_generation{{{FRAUD}}}": "2x9 3x20",
                f'{GATEWAY}_routes_generation{{{FRAUD},instance="a"}}': "2x9 3x20",
                f'{GATEWAY}_routes_generation{{{FRAUD},instance="b"}}': "2x14 3x20",
            },
            {11: [page | fraud]},
            (10, 15),
        ),
        Case(
            "ApprovalWaits",
            {phase % "awaiting_approval": "0x9 1x300 0x5"},
            {250: [ticket | fraud]},
            (249, 312),
        ),
        Case(
            "DriftFound",
            {f'mlplatform_drift_incident{{{FRAUD},kind="drift",state="open"}}': "0x9 1x20 0x5"},
            {15: [ticket | fraud | {"kind": "drift", "state": "open"}]},
            (14, 31),
        ),
        Case(
            "WorkerLags",
            {f"mlplatform_worker_lag_messages{{{FRAUD}}}": "10000x9 10001x20 0x5"},
            {20: [ticket | fraud]},
            (19, 31),
        ),
        Case(
            "FeatureStreamBehind",
            {
                f'mlplatform_feature_stream_behind_seconds{{{FRAUD},view="v",topic="t",'
                'partition="3"}': "0x9 61x10 60x20"
            },
            {15: [ticket | fraud | {"view": "v", "topic": "t"}]},
            (14, 21),
        ),
        Case(
            "TopicMessagesDropped",
            {f'mlplatform_topic_dropped_timestamp_seconds{{{FRAUD},topic="t"}}': ("0x9 600x1460")},
            {11: [ticket | fraud | {"topic": "t"}], 1449: [ticket | fraud | {"topic": "t"}]},
            (9, 1451),
        ),
        Case(
            "EventsLate",
            {'mlplatform_events_lag_seconds{receiver="desk"}': "600x9 601x20 0x5"},
            {11: [ticket | {"receiver": "desk"}]},
            (10, 31),
        ),
        Case(
            "DeadLetters",
            {
                f'mlplatform_worker_messages_total{{{FRAUD},outcome="dead_letter"}}': (
                    "0x9 0+1x3 3x40"
                )
            },
            {12: [ticket | fraud]},
            (11, 35),
        ),
        Case(
            "LimitsHit",
            {admitted % "admitted": "0+100x60", admitted % "shed": "0x9 0+10x20 200x30"},
            {21: [ticket]},
            (20, 45),
        ),
        Case(
            "ShadowDropped",
            {
                DECIDED: "0+100x60",
                f'{GATEWAY}_shadow_dropped_total{{{FRAUD},why="full"}}': "0x9 0+100x20 2000x30",
            },
            {21: [ticket | fraud]},
            (20, 45),
        ),
        Case(
            "AdmissionStoreFails",
            {f'{GATEWAY}_admission_store_failures_total{{of="keys"}}': "0x9 0+1x20 20x30"},
            {21: [ticket | {"of": "keys"}]},
            (20, 45),
        ),
        Case(
            "KeyClaimsFail",
            {f'{GATEWAY}_key_claims_total{{outcome="alone"}}': "0x9 0+1x20 20x30"},
            {21: [ticket | {"outcome": "alone"}]},
            (20, 45),
        ),
        Case(
            "IssuerKeysStale",
            {keys % "failed": "0x9 0+1x50", keys % "fetched": "0x29 0+1x30"},
            {21: [ticket]},
            (20, 31),
        ),
        *(
            Case(
                "RolloutOverdue",
                {
                    f"mlplatform_rollout_phase_since_seconds{{{FRAUD}}}": f"{since_s:g}x60",
                    phase % named: "1x40 0x20",
                },
                {27: [page | fraud]},
                (26, 42),
            )
            for named, since_s in (
                ("deploying", 0),
                ("shadow", 600 - 864_000),
                ("canary", 600 - 864_000),
                ("awaiting_approval", 600 - 168 * 3600),
            )
        ),
        Case(
            "FeaturesStale",
            {
                f"{GATEWAY}_features_stale_share{{{FRAUD}}}": "0.05x9 0.06x9 0x30",
                f'{GATEWAY}_view_age_share{{{FRAUD},view="customer_stats"}}': "0.5x29 0.6x9 1.1x10",
            },
            {11: [page | fraud], 32: [ticket | fraud], 41: [page | fraud]},
            (9, 20, 28),
        ),
    ]


def burns() -> list[Case]:
    """Alerts on error budgets: everything is bad for twenty minutes, then nothing."""
    late_bucket = f'{TOOK}_bucket{{{FRAUD},le="0.01"}}'
    features = f'{GATEWAY}_degraded_total{{{FRAUD},reason="features"}}'
    return [
        _burn("AvailabilityBudgetBurns", "availability", {
            f'{SCORED},status="503"}}': SINCE_START,
            f'{SCORED},status="200"}}': "0x20 0+600x600",
        }),
        _burn("LatencyBudgetBurns", "latency", {
            f"{TOOK}_count{{{FRAUD}}}": ALWAYS, late_bucket: "0x20 600+600x600",
        }),
        _burn("DeadlineBudgetBurns", "deadline", {
            f"{GATEWAY}_late_total{{{FRAUD}}}": SINCE_START, DECIDED: ALWAYS,
        }),
        _burn("FreshnessBudgetBurns", "freshness", {features: SINCE_START, DECIDED: ALWAYS}),
        _burn("LogBudgetBurns", "log_completeness", {
            "mlplatform_log_refused_total": SINCE_START,
            "mlplatform_log_unlogged_total": "0x620",
            "mlplatform_log_accepted_total": "0x20 0+600x600",
        }, service="platform"),
        _burn("DriftCheckBudgetBurns", "drift_check", {
            f"mlplatform_drift_check_time_seconds{{{FRAUD}}}": "-100000x20 1e9x600",
        }, is_time=True, pages=False),
        _burn("LabelBudgetBurns", "labels", {
            f"mlplatform_labels_late_share{{{FRAUD}}}": "0.06x20 0.05x600",
        }, is_time=True, pages=False),
        _burn("RolloutBudgetBurns", "rollout", {
            f"mlplatform_rollout_pass_time_seconds{{{FRAUD}}}": "-400x20 1e9x600",
        }, is_time=True),
    ]  # fmt: skip


def calm() -> list[Case]:
    """What is within a budget, or too little to tell, wakes nobody."""
    few = {f'{SCORED},status="503"}}': "0 1x300", f'{SCORED},status="200"}}': "0+1x300"}
    within = {f'{SCORED},status="503"}}': "0+1x300", f'{SCORED},status="200"}}': "0+20000x300"}
    over = {f'{SCORED},status="503"}}': "0+9x300", f'{SCORED},status="200"}}': "0+10000x300"}
    quiet = (30, 120, 299)
    unused = {  # a live gateway without requests
        "mlplatform_event_time_seconds": "315+60x300",
        'mlplatform_log_watermark_seconds{writer="gateway-0"}': "0+60x300",
    }
    return [
        Case("LogBehind", unused, {}, quiet),
        Case("AvailabilityBudgetBurns", few, {}, quiet),
        Case("AvailabilityBudgetBurns", within, {}, quiet),
        # nine times the budget is no page of the 5m/1h pair, but is one of the 30m/6h pair
        Case(
            "AvailabilityBudgetBurns", over,
            {20: [_promised("page", "availability"), _promised("ticket", "availability")]},
            (), {"$value": "0.08992%"},
        ),
    ]  # fmt: skip


def _burn(
    alert: str,
    slo: str,
    series: dict[str, str],
    *,
    service: str = "fraud",
    is_time: bool = False,
    pages: bool = True,
) -> Case:
    """A rate needs two samples, a state one: it burns from minute 1, or from minute 0."""
    first = 0 if is_time else 1
    page = [_promised("page", slo, service)] if pages else []
    ticket = [_promised("ticket", slo, service)]
    fires = {first + 15: [*page, *ticket]}
    silent = [first + 1, 500]
    if pages:
        fires |= {first + 2: page, first + 14: page}
    else:
        silent.append(first + 14)
    return Case(alert, series, fires, tuple(silent))


def _promised(severity: str, slo: str, service: str = "fraud") -> dict[str, str]:
    return {"severity": severity, "slo": slo, "service": service}


def promtool_test(cases: list[Case], rules: dict[str, dict[str, Any]], files: list[str]) -> Any:
    """The cases as a test file of promtool.

    Args:
        rules: alert and severity, joined by a slash → its rule.
        files: the rule files.
    """
    tests = []
    for case in cases:
        moments = {**{minute: [] for minute in case.silent}, **case.fires}
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in case.series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": f"{minute}m",
                        "alertname": case.alert,
                        "exp_alerts": [_expected(case, rules, labels) for labels in fired],
                    }
                    for minute, fired in moments.items()
                ],
            }
        )
    return {"rule_files": files, "evaluation_interval": "1m", "tests": tests}


def _expected(case: Case, rules: dict[str, dict[str, Any]], labels: dict[str, str]) -> Any:
    written = rules[f"{case.alert}/{labels['severity']}"]["annotations"]
    said = {name: _filled(text, labels, case.values) for name, text in written.items()}
    return {"exp_labels": labels, "exp_annotations": said}


def _filled(text: str, labels: dict[str, str], values: dict[str, str]) -> str:
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
    return text.replace("{{ $value | humanizePercentage }}", values["$value"])
