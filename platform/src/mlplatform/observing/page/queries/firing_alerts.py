"""The alerts that fire now, by Alertmanager, each with its runbook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from mlplatform.observing.slo.objectives import HEARTBEAT
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.json_fetch import fetch
from mlplatform.runtime.units import MIB

PATH: Final = "/api/v2/alerts?active=true&silenced=false&inhibited=false&unprocessed=true"
TIMEOUT_S: Final = 2.0
MOST_BYTES: Final = 2 * MIB
MOST_ROWS: Final = 100
MOST_TEXT: Final = 300
WATCHDOG: Final = "Watchdog"
_ORDER: Final = {"page": 0, "ticket": 1}
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class FiringAlert:
    """One alert.

    Args:
        model: the model, or another thing that the alert concerns; empty if its labels name none.
        since_ms: since when it fires, epoch milliseconds; None if Alertmanager's time can't be
            read.
        runbook: address of the runbook; empty if the alert is not of this platform.
    """

    name: str
    severity: str
    model: str
    since_ms: int | None
    summary: str
    runbook: str


@dataclass(frozen=True, slots=True)
class AlertTable:
    """The firing alerts, most urgent first.

    Args:
        left_out: number of further alerts.
        watched: whether the alert that always fires is among them, which shows that alerts are
            evaluated.
    """

    alerts: tuple[FiringAlert, ...]
    left_out: int
    watched: bool


class _Alert(msgspec.Struct):
    """Source: Alertmanager's api/v2/openapi.yaml, gettableAlert."""

    labels: dict[str, str]
    startsAt: str  # noqa: N815 -- Alertmanager's name
    annotations: dict[str, str] = {}


def firing_alerts(url: str, runbooks: str, hidden: Sequence[str]) -> AlertTable:
    """The alerts that fire and are neither silenced nor inhibited.

    Args:
        url: address of Alertmanager.
        runbooks: address under which this platform's runbooks are published.
        hidden: names of models that the reader may not see.

    Raises:
        Unavailable: Alertmanager gives no valid list in time.
    """
    body = fetch(f"{url.rstrip('/')}{PATH}", timeout_s=TIMEOUT_S, most_bytes=MOST_BYTES)
    return parse(body, runbooks, hidden)


def parse(body: bytes, runbooks: str, hidden: Sequence[str]) -> AlertTable:
    """The alerts in Alertmanager's answer. Only its form is trusted.

    Raises:
        Unavailable: the answer has another form.
    """
    try:
        found = msgspec.json.decode(body, type=list[_Alert])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Unavailable(f"Alertmanager's list of alerts can't be read: {error}") from error
    shown = [_alert_of(alert, runbooks) for alert in found]
    watched = any(one.name == WATCHDOG for one in shown)
    visible = (one for one in shown if one.severity != HEARTBEAT and one.model not in hidden)
    urgent = sorted(visible, key=_urgency)
    return AlertTable(tuple(urgent[:MOST_ROWS]), max(0, len(urgent) - MOST_ROWS), watched)


def _alert_of(alert: _Alert, runbooks: str) -> FiringAlert:
    labels = alert.labels
    name = labels.get("alertname", "")
    return FiringAlert(
        name=name[:MOST_TEXT],
        severity=labels.get("severity", "")[:MOST_TEXT],
        model=(labels.get("model") or labels.get("service", ""))[:MOST_TEXT],
        since_ms=_milliseconds(alert.startsAt),
        summary=alert.annotations.get("summary", "")[:MOST_TEXT],
        runbook=_runbook(name, alert.annotations, runbooks),
    )


def _runbook(name: str, annotations: Mapping[str, str], runbooks: str) -> str:
    """The runbook's address, if this platform's rule has it; no other address becomes a link."""
    own = f"{runbooks}/{name}.md"
    return own if _NAME.fullmatch(name) and annotations.get("runbook_url") == own else ""


def _milliseconds(text: str) -> int | None:
    try:
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _urgency(one: FiringAlert) -> tuple[int, int, str, str]:
    return _ORDER.get(one.severity, 2), one.since_ms or 0, one.name, one.model
