"""Prometheus and Alertmanager as processes, with our configuration, at a quicker pace."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from tests.observability.binaries import needed

from mlplatform.observing.slo import render_files
from mlplatform.observing.slo.objectives import seconds
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import wait_for

ROOT: Final = Path(__file__).parents[2]
CONFIGS: Final = ROOT / "observability"
ALERTS: Final = sorted((ROOT / render_files.FOLDER).glob("*.yaml"))
FASTER: Final = 60
"""How much shorter `for` is than in the rules; windows and limits are those of the rules."""


class Webhook:
    """What Alertmanager told: of the pager's webhook and of Slack's."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.told.append((self.path, json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def pages(self, alert: str, status: str) -> list[dict[str, Any]]:
        """Alerts of that name and status that the pager was told."""
        return [
            one
            for path, body in list(self.told)
            if path == "/alerts"
            for one in body["alerts"]
            if one["labels"]["alertname"] == alert and one["status"] == status
        ]

    @property
    def beats(self) -> int:
        """How often the heartbeat came."""
        return sum(path == "/heartbeat" for path, _ in list(self.told))

    def slacked(self, alert: str, status: str = "FIRING") -> list[dict[str, Any]]:
        """Messages to Slack with that title."""
        return [
            body
            for path, body in list(self.told)
            if path == "/slack" and f"{status}: {alert}" in json.dumps(body)
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stack:
    """Prometheus that scrapes a home folder's processes, and Alertmanager that tells a webhook."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        self.webhook = Webhook()
        self._processes: list[subprocess.Popen[bytes]] = []
        ports = free_port(), free_port()
        self.url, self.alertmanager = (f"http://127.0.0.1:{port}" for port in ports)
        (folder / "home").symlink_to(home)
        self._write_rules()
        self._write_prometheus(ports[1])
        self._write_alertmanager()
        self._start(
            "alertmanager", self.alertmanager,
            "--config.file=alertmanager.yaml", "--storage.path=alertmanager",
            f"--web.listen-address=127.0.0.1:{ports[1]}", "--cluster.listen-address=",
        )  # fmt: skip
        self._start(
            "prometheus", self.url,
            "--config.file=prometheus.yaml", "--storage.tsdb.path=series",
            f"--web.listen-address=127.0.0.1:{ports[0]}", "--rules.alert.resend-delay=1s",
            "--enable-feature=exemplar-storage", "--web.enable-remote-write-receiver",
        )  # fmt: skip

    def start_collector(self, logs: Path) -> str:
        """The collector, which reads these log files; returns where it takes spans."""
        text, spans, health = collector()
        (self._folder / "collector.yaml").write_text(text)
        self._start(
            "otelcol", health, "--config=collector.yaml", ready="",
            PROMETHEUS=self.url, LOG_FOLDER=str(logs), STATE_FOLDER=str(self._folder / "state"),
        )  # fmt: skip
        return spans

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Its instant vector."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=20)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        data = answer.json()["data"]
        found: list[dict[str, Any]] = data["result"]
        return found if data["resultType"] == "vector" else [{"value": found}]

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=20).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    @contextmanager
    def without_prometheus(self) -> Iterator[None]:
        """It stands still meanwhile, and tells Alertmanager nothing."""
        prometheus = self._processes[1]
        prometheus.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            prometheus.send_signal(signal.SIGCONT)

    def down(self) -> list[str]:
        """Targets that can't be scraped, and why."""
        found = httpx.get(f"{self.url}/api/v1/targets", timeout=20).json()["data"]
        return [
            f"{t['labels']['job']}: {t['lastError']}"
            for t in found["activeTargets"]
            if t["health"] == "down"
        ]

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(20)
        self.webhook.close()

    def _start(
        self, program: str, url: str, *arguments: str, ready: str = "/-/ready", **variables: str
    ) -> None:
        process = started(self._folder, program, *arguments, **variables)
        self._processes.append(process)
        wait_for(lambda: status_of(f"{url}{ready}") == 200, 60)

    def _write_rules(self) -> None:
        folder = self._folder / "alerts"
        folder.mkdir()
        for file in ALERTS:
            content = yaml.safe_load(file.read_text())
            for group in content["groups"]:
                group["interval"] = "1s"
                for rule in group["rules"]:
                    if "for" in rule:
                        rule["for"] = f"{max(seconds(rule['for']) // FASTER, 1)}s"
            (folder / file.name).write_text(yaml.safe_dump(content))

    def _write_prometheus(self, alertmanager: int) -> None:
        text = (CONFIGS / "prometheus" / "one-machine.yaml").read_text()
        text = re.sub(r"(scrape_interval|scrape_timeout|evaluation_interval): \w+", r"\1: 1s", text)
        text = text.replace("127.0.0.1:9093", f"127.0.0.1:{alertmanager}")
        text = text.replace("refresh_interval: 10s", "refresh_interval: 1s")
        (self._folder / "prometheus.yaml").write_text(text)

    def _write_alertmanager(self) -> None:
        for name, content in (("slack", f"{self.webhook.url}/slack"), ("token", "a pager's token")):
            (self._folder / name).write_text(content)
        content = yaml.safe_load((CONFIGS / "alertmanager" / "alertmanager.yaml").read_text())
        content["global"]["slack_api_url_file"] = str(self._folder / "slack")
        for route in (content["route"], *content["route"]["routes"]):
            route |= {"group_wait": "0s", "group_interval": "1s"}
            if route["receiver"] == "heartbeat":
                route["repeat_interval"] = "1s"
        for hook in (h for r in content["receivers"] for h in r.get("webhook_configs", ())):
            hook["url"] = f"{self.webhook.url}/{hook['url'].rsplit('/', 1)[1]}"
            hook["http_config"]["authorization"]["credentials_file"] = str(self._folder / "token")
        (self._folder / "alertmanager.yaml").write_text(yaml.safe_dump(content))


def collector() -> tuple[str, str, str]:
    """Our collector's configuration, quicker and on free ports: its text, where it takes spans,
    and where it says that it is ready."""
    http_port, health = free_port(), free_port()
    text = (CONFIGS / "collector" / "collector.yaml").read_text()
    for fixed, port in ((4317, free_port()), (4318, http_port), (13133, health)):
        text = re.sub(rf":{fixed}\b", f":{port}", text)
    text = text.replace("metrics_flush_interval: 15s", "metrics_flush_interval: 1s")
    # its own metrics would take a fixed port, which another collector of this machine may have
    text = text.replace("\nservice:\n", "\nservice:\n  telemetry: {metrics: {level: none}}\n")
    return text, f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{health}"


def started(
    folder: Path, program: str, *arguments: str, **variables: str
) -> subprocess.Popen[bytes]:
    """A server that works in a folder, with its log there."""
    with (folder / f"{program}.log").open("wb") as log:
        command = [str(needed(program)), *arguments]
        return subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | variables
        )


def eventually(condition: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
    """The first true value of a condition, looked at a few times a second."""
    try:
        return wait_for(condition, within_s)
    except AssertionError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None
