"""Where traces and log lines go: Jaeger and VictoriaLogs behind our collector, for Tempo and Loki.

Their ways of asking are their own, so that TraceQL and LogQL are held to their parsers elsewhere.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import httpx
from tests.observability.stack import collector, started

from support.ports import free_port
from support.probe import status_of
from support.scoring_world import wait_for

JAEGER: Final = Path(__file__).parent / "jaeger.yaml"
LOKI: Final = "${env:LOKI:-http://127.0.0.1:3100}/otlp"
"""Where the collector's configuration sends log lines; VictoriaLogs takes them elsewhere."""


class Stores:
    """Jaeger, VictoriaLogs, and our collector that fills them.

    Args:
        folder: of their own.
        logs: where the log files are that the collector reads.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        otlp = self._start_jaeger()
        self._start_victoria()
        self.spans = self._start_collector(otlp, logs)

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Its spans, as Jaeger has them; empty while there are none."""
        answer = httpx.get(f"{self._jaeger}/api/traces/{trace_id}", timeout=20)
        if answer.status_code == 404:
            return []
        return _spans(answer.raise_for_status().json())

    def tagged(self, service: str, **tags: str) -> list[dict[str, Any]]:
        """Spans of every trace, up to a thousand, with a span of a service that has the tags."""
        asked = {"service": service, "tags": json.dumps(tags), "lookback": "1h", "limit": "1000"}
        answer = httpx.get(f"{self._jaeger}/api/traces", params=asked, timeout=20)
        return _spans(answer.raise_for_status().json())

    def lines(self, query: str) -> list[dict[str, Any]]:
        """Log lines by a query in LogsQL."""
        url = f"{self._victoria}/select/logsql/query"
        answer = httpx.get(url, params={"query": query}, timeout=20).raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines()]

    def close(self) -> None:
        """At once: told to end, the collector would first get rid of what it still holds."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _start_jaeger(self) -> int:
        ports = {name: free_port() for name in ("HEALTH", "QUERY", "QUERY_GRPC", "OTLP")}
        variables = {f"JAEGER_{name}": str(port) for name, port in ports.items()}
        self._processes.append(started(self._folder, "jaeger", f"--config={JAEGER}", **variables))
        self._jaeger = f"http://127.0.0.1:{ports['QUERY']}"
        wait_for(lambda: status_of(f"{self._jaeger}/api/services") == 200, 60)
        return ports["OTLP"]

    def _start_victoria(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        flags = ("-storageDataPath=lines", f"-httpListenAddr={address}", "-loggerLevel=WARN")
        self._processes.append(started(self._folder, "victoria-logs", *flags))
        self._victoria = f"http://{address}"
        wait_for(lambda: status_of(f"{self._victoria}/health") == 200, 60)

    def _start_collector(self, otlp: int, logs: Path) -> str:
        """By its own configuration, but for where log lines go; returns where it takes spans."""
        text, spans, health = collector()
        assert LOKI in text
        text = text.replace(LOKI, f"{self._victoria}/insert/opentelemetry")
        (self._folder / "collector.yaml").write_text(text)
        variables = {
            "TEMPO": f"127.0.0.1:{otlp}",
            "PROMETHEUS": self._victoria,  # which refuses them: metrics are no matter here
            "LOG_FOLDER": str(logs),
            "STATE_FOLDER": str(self._folder / "state"),
        }
        self._processes.append(
            started(self._folder, "otelcol", "--config=collector.yaml", **variables)
        )
        wait_for(lambda: status_of(health) == 200, 60)
        return spans


def _spans(answer: Any) -> list[dict[str, Any]]:
    """Every span with its attributes and its process's name."""
    return [
        {
            "trace_id": span["traceID"].zfill(32),  # zeros in front are left out
            "span_id": span["spanID"],
            "name": span["operationName"],
            "service": trace["processes"][span["processID"]]["serviceName"],
            "attributes": {tag["key"]: tag["value"] for tag in span["tags"]},
        }
        for trace in answer["data"]
        for span in trace["spans"]
    ]
