"""The page's list of alerts is that of a real Alertmanager."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from tests.observability.stack import eventually, started

from mlplatform.observing.slo import objectives
from mlplatform.runtime.configuration.settings import Home
from support.page_process import PageProcess
from support.ports import free_port
from support.probe import status_of

CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


def test_the_page_shows_what_alertmanager_says_fires(tmp_path: Path) -> None:
    runbooks = objectives.load(objectives.SHIPPED).runbooks
    (tmp_path / "alertmanager.yaml").write_text(CONFIG)
    address = f"127.0.0.1:{free_port()}"
    manager = started(
        tmp_path, "alertmanager", "--config.file=alertmanager.yaml", "--storage.path=state",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    )  # fmt: skip
    home = Home(tmp_path / "home")
    home.create()
    page = PageProcess(home, MLPLATFORM_ALERTMANAGER_URL=f"http://{address}")
    try:
        eventually(lambda: status_of(f"http://{address}/-/ready") == 200, "Alertmanager is ready")
        since = datetime.now(UTC) - timedelta(minutes=5)
        names = {"GatewayGone": "page", "DriftFound": "ticket", "Watchdog": "none"}
        alerts = [
            {
                "labels": {"alertname": name, "severity": severity, "service": "fraud"},
                "annotations": {"summary": "<b>bad</b>", "runbook_url": f"{runbooks}/{name}.md"},
                "startsAt": since.isoformat(),
            }
            for name, severity in names.items()
        ]
        httpx.post(f"http://{address}/api/v2/alerts", json=alerts).raise_for_status()
        text = eventually(
            lambda: shown if "GatewayGone" in (shown := page.get("/system").text) else None,
            "the page shows the alert",
        )
        assert text.index("GatewayGone</th>") < text.index("DriftFound</th>")
        assert f'href="{runbooks}/GatewayGone.md"' in text
        assert since.strftime("%Y-%m-%d %H:%M") in text
        assert "<b>bad" not in text
        assert "Watchdog" not in text
    finally:
        manager.terminate()
        manager.wait(20)
    try:
        assert "cannot be reached, so it is not known what fires" in page.get("/system").text
    finally:
        page.close()
