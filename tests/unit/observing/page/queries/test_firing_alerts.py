"""What Alertmanager says is shown by its urgency, and believed in nothing but its form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from mlplatform.observing.page.queries import firing_alerts
from mlplatform.observing.page.queries.firing_alerts import AlertTable, FiringAlert
from mlplatform.observing.page.rendering import render
from mlplatform.runtime.errors import Unavailable

RUNBOOKS = "https://runbooks.bank.example/mlplatform"


def alert(name: str, severity: str = "page", **changed: Any) -> dict[str, Any]:
    """As Alertmanager's `/api/v2/alerts` gives them."""
    return {
        "annotations": {"summary": "much is wrong", "runbook_url": f"{RUNBOOKS}/{name}.md"},
        "endsAt": "2026-11-28T09:35:00.000Z",
        "fingerprint": "ab",
        "receivers": [{"name": "pager"}],
        "startsAt": "2026-11-28T09:30:00.000Z",
        "status": {"inhibitedBy": [], "silencedBy": [], "state": "active"},
        "updatedAt": "2026-11-28T09:30:00.000Z",
        "labels": {"alertname": name, "severity": severity, "service": "fraud"},
    } | changed


def parsed(*alerts: dict[str, Any], hidden: Sequence[str] = ()) -> AlertTable:
    return firing_alerts.parse(json.dumps(alerts).encode(), RUNBOOKS, hidden)


def page(alerts: AlertTable | str | None) -> str:
    return render(
        "system.html", here="system", concerns=(),
        alerts=alerts, disk="not asked", lags=None, queues=[],
        schedules=None, prefect="", status=None,
    )  # fmt: skip


def test_pages_come_before_tickets_and_each_has_its_runbook() -> None:
    found = parsed(
        alert("DriftFound", "ticket"), alert("GatewayGone"), alert("Watchdog", "none"),
        alert("BreakerOpen", "ticket", startsAt="2026-11-27T09:30:00+01:00"),
    )  # fmt: skip
    assert [one.name for one in found.alerts] == ["GatewayGone", "BreakerOpen", "DriftFound"]
    assert found.alerts[0] == FiringAlert(
        "GatewayGone", "page", "fraud", 1_795_858_200_000, "much is wrong",
        f"{RUNBOOKS}/GatewayGone.md",
    )  # fmt: skip
    assert found.watched
    text = page(found)
    assert f'<a href="{RUNBOOKS}/GatewayGone.md">docs/runbooks/GatewayGone.md</a>' in text
    assert "2026-11-27 08:30" in text


def test_no_address_of_somebody_else_becomes_a_link_and_no_text_becomes_markup() -> None:
    hostile = "<script>alert(1)</script>"
    bad = {"summary": hostile * 100, "runbook_url": "javascript:alert(1)"}
    labels = {"alertname": hostile, "severity": hostile, "model": hostile}
    found = parsed(
        alert("GatewayGone", annotations=bad), alert("x", labels=labels, startsAt=hostile),
        alert("../x"), alert("x", labels={}, annotations={}),
    )  # fmt: skip
    assert [one.runbook for one in found.alerts] == [""] * 4
    assert max(len(one.summary) for one in found.alerts) == firing_alerts.MOST_TEXT
    text = page(found)
    assert "<script>" not in text
    assert "javascript:" not in text


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'[{"labels": {}}]', b'[{"labels": {"a": 1}, "startsAt": ""}]', b"[" * 10**5],
)
def test_an_answer_of_another_form_is_no_empty_list(body: bytes) -> None:
    with pytest.raises(Unavailable, match="list of alerts can't be read"):
        firing_alerts.parse(body, RUNBOOKS, ())


def test_a_list_that_is_long_is_cut_and_says_so() -> None:
    found = parsed(*(alert(f"a{number}") for number in range(firing_alerts.MOST_ROWS + 7)))
    assert (len(found.alerts), found.left_out) == (firing_alerts.MOST_ROWS, 7)
    assert "7 more fire" in page(found)


def test_a_reader_sees_no_alert_of_a_model_that_they_do_not_see() -> None:
    labels = {"alertname": "DriftFound", "severity": "ticket", "service": "platform"}
    others = [alert(f"a{number}") for number in range(firing_alerts.MOST_ROWS + 7)]
    found = parsed(*others, alert("DriftFound", labels=labels), hidden=["fraud"])
    assert ([one.model for one in found.alerts], found.left_out) == (["platform"], 0)


def test_what_is_not_known_is_not_said_to_be_quiet() -> None:
    quiet = "No alert fires"
    assert quiet in page(parsed(alert("Watchdog", "none")))
    assert quiet not in page(parsed())
    assert "always fires, and it is missing" in page(parsed())
    assert "not set up here" in page(None)
    assert "cannot be reached, so it is not known what fires: no route" in page("no route")
