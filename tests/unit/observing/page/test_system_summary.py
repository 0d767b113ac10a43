"""What needs a look comes first on the view of the system; what is not known is no good news."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.observing.page.queries.firing_alerts import AlertTable, FiringAlert
from mlplatform.observing.page.queries.log_lag import LogLag, WriterLag
from mlplatform.observing.page.queries.schedules import RunSummary, ScheduleRow, ScheduleTable
from mlplatform.observing.page.queries.system_state import HomeDisk, QueueRow
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.system_summary import Concern, concerns
from mlplatform.operations.supervisor.status import PlatformStatus, ProcessStatus
from mlplatform.runtime.storage.disk import DiskSpace


def alert(severity: str) -> FiringAlert:
    return FiringAlert("LogSpilling", severity, "fraud", None, "it spills", "")


def disk(warning: str = "") -> HomeDisk:
    return HomeDisk("/home", DiskSpace(31, 1000), warning)


def writer(name: str, state: Any, tone: str) -> WriterLag:
    return WriterLag(name, state, 1, 1, 1, 0, 0, 1, tone)


def queue(title: str, waits: str | None, tone: str) -> QueueRow:
    return QueueRow(title, "fraud", "", waits, "", "", tone)


def flow(name: str, last: str, coming: str) -> ScheduleRow:
    runs = (RunSummary("r", "run", 1, "state", tone, "") for tone in (last, coming))
    return ScheduleRow(name, "fraud", "d", "every 60 s", *runs)


def process(name: str, state: str) -> ProcessStatus:
    return ProcessStatus(name, 1, state, "", 0, 1.0, 1.0, None)


WELL: dict[str, Any] = {
    "alerts": AlertTable((), 0, watched=True),
    "disk": disk(),
    "lags": LogLag((writer("gateway-0", "live", ""),), 0, 0, 60.0),
    "queues": [queue("decisions to review", "3", "")],
    "schedules": ScheduleTable((flow("drift", "", ""),), 1),
    "status": PlatformStatus("ready", (process("gateway-0", "ready"),), ""),
}


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("alerts", "it is away", ["It is not known which alerts fire: Alertmanager cannot be"]),
        ("alerts", AlertTable((), 0, watched=False), ["Alerts may fire unseen"]),
        (
            "alerts",
            AlertTable((alert("page"), alert("ticket")), 2, watched=True),
            ["4 alerts fire, 1 of them urgent enough to wake a person."],
        ),
        (
            "alerts",
            AlertTable((alert("ticket"),), 0, watched=True),
            ["1 alert fires. It is not urgent enough to wake a person."],
        ),
        ("disk", "no such folder", ["The disk of the home folder cannot be read."]),
        ("disk", disk("it is full"), ["fills up: 3.10 % is free."]),
        (
            "lags",
            LogLag((writer("a", "spilled", "bad"), writer("b", "live", "bad")), 0, 9, 60.0),
            [
                "Records wait beside the decision log, written by a.",
                "Writers more than 60 s behind the event clock: b.",
            ],
        ),
        ("lags", "it is locked", ["The decision log cannot be read."]),
        (
            "queues",
            [queue("late", "9", "bad"), *(queue(f"q{n}", None, "") for n in range(5))],
            [
                "Receivers that stopped, or wait for longer than an alert allows: fraud: late.",
                "No data on these queues: fraud: q0, fraud: q1, fraud: q2 and 2 more.",
            ],
        ),
        (
            "schedules",
            ScheduleTable((flow("drift", "bad", ""), flow("rollout", "", "bad")), 1),
            ["The last run failed: drift fraud.", "The next run is late: rollout fraud."],
        ),
        ("schedules", "it is away", ["It is not known whether the schedules run"]),
        (
            "status",
            PlatformStatus("ready", (process("worker-fraud", "gone"),), ""),
            ["Not running, or not ready: worker-fraud."],
        ),
    ],
)
def test_each_thing_that_needs_a_look_is_one_sentence(
    part: str, value: object, told: list[str]
) -> None:
    found = concerns(**{**WELL, part: value})
    assert len(found) == len(told)
    for one, text in zip(found, told, strict=True):
        assert text in one.text
    assert {one.part for one in found} == {{"lags": "log", "status": "processes"}.get(part, part)}


def test_nothing_needs_a_look_where_everything_is_well_or_not_set_up() -> None:
    assert concerns(**WELL) == ()
    nothing = {**WELL, "alerts": None, "lags": None, "schedules": None, "status": None}
    assert concerns(**nothing) == ()


def test_the_view_says_what_it_is_not_told_of_and_leads_to_the_parts() -> None:
    shown = {**WELL, "here": "system", "prefect": "", "disk": "away", "lags": None}
    well = render("system.html", concerns=(), **shown)
    assert "Nothing here needs a look.</p>" in well
    partly = render("system.html", concerns=(), **{**shown, "alerts": None, "schedules": None})
    assert (
        "This page does not know alerts and schedules: no setting names where they are.</p>"
        in partly
    )
    concerned = render("system.html", concerns=(Concern("disk", "It <fills> up."),), **shown)
    assert "1 thing needs a look" in concerned
    assert '<a href="#disk">It &lt;fills&gt; up.</a>' in concerned
    for part in ("alerts", "disk", "log", "queues", "schedules", "processes"):
        assert f'id="{part}"' in concerned
