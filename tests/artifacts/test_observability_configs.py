"""What observability/ holds for Prometheus, Alertmanager, collector, Loki and Tempo is valid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tests.observability.binaries import needed

from mlplatform.observing.slo.alerts import JOBS
from mlplatform.runtime.telemetry import signals
from mlplatform.scoring.request.spans import SamplingReason as OfGateway
from mlplatform.scoring.worker.spans import SamplingReason as OfWorker

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "observability"
TOKENS = ("secrets/api.key", "run/predictor.token", "run/worker.token", "run/exporter.token")


def run(command: list[str], folder: Path | None = None, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read(*path: str) -> Any:
    return yaml.safe_load(CONFIGS.joinpath(*path).read_text())


@pytest.mark.parametrize("name", ["one-machine", "cluster"])
def test_prometheus_takes_its_configuration(name: str, tmp_path: Path) -> None:
    for token in TOKENS:
        (tmp_path / "home" / token).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / token).write_text("secret")
    (tmp_path / "home" / "run" / "targets.json").write_text("[]")
    shutil.copytree(CONFIGS / "alerts", tmp_path / "alerts")
    text = (CONFIGS / "prometheus" / f"{name}.yaml").read_text()
    if name == "cluster":
        # Debian builds it without Kubernetes: the rest is checked, with another discovery
        content = yaml.safe_load(text)
        for job in (*content["scrape_configs"], *content["alerting"]["alertmanagers"]):
            assert all(
                found["role"] in ("pod", "endpoints") for found in job["kubernetes_sd_configs"]
            )
            del job["kubernetes_sd_configs"]
            job["file_sd_configs"] = [{"files": ["home/run/targets.json"]}]
            if "authorization" in job:
                job["authorization"]["credentials_file"] = "home/secrets/api.key"
        text = yaml.safe_dump(content)
    (tmp_path / "prometheus.yaml").write_text(text)
    run([str(needed("promtool")), "check", "config", "prometheus.yaml"], tmp_path)


def test_alertmanager_takes_its_configuration() -> None:
    file = str(CONFIGS / "alertmanager" / "alertmanager.yaml")
    run([str(needed("amtool")), "check-config", file])


@pytest.mark.parametrize(
    ("alert", "severity", "receiver"),
    [
        ("NothingScored", "page", "pager"),
        ("NothingScored", "ticket", "tickets"),
        ("Watchdog", "none", "heartbeat"),
        ("KubeNodeNotReady", "warning", "tickets"),
        ("InfoInhibitor", "none", "nobody"),
        ("CPUThrottlingHigh", "info", "nobody"),
    ],
)
def test_alerts_are_told_to_who_is_meant(alert: str, severity: str, receiver: str) -> None:
    """Also those that the chart of Prometheus' stack brings."""
    file = str(CONFIGS / "alertmanager" / "alertmanager.yaml")
    labels = [f"severity={severity}", f"alertname={alert}", "model=fraud"]
    wanted = f"--verify.receivers={receiver}"
    run(
        [
            str(needed("amtool")),
            "config",
            "routes",
            "test",
            f"--config.file={file}",
            wanted,
            *labels,
        ]
    )


def test_no_secret_stands_in_the_configuration_of_alertmanager() -> None:
    text = (CONFIGS / "alertmanager" / "alertmanager.yaml").read_text()
    assert "slack_api_url_file" in text
    assert "hooks.slack.com" not in text
    assert "credentials:" not in text


def test_the_collector_takes_its_configuration(tmp_path: Path) -> None:
    file = str(CONFIGS / "collector" / "collector.yaml")
    run([str(needed("otelcol")), "validate", "--config", file], STATE_FOLDER=str(tmp_path))


def test_every_process_is_scraped_under_the_job_that_alerts_name() -> None:
    for name in ("one-machine", "cluster"):
        jobs = {job["job_name"] for job in read("prometheus", f"{name}.yaml")["scrape_configs"]}
        assert set(JOBS.values()) <= jobs


def test_lines_are_kept_as_long_as_the_collector_labels_them() -> None:
    """Three tiers: debug 7 days, info 30, warnings and worse 90."""
    limits = read("loki", "loki.yaml")["limits_config"]
    kept = {limits["retention_period"], *(s["period"] for s in limits["retention_stream"])}
    assert kept == {"7d", "30d", "90d"}
    operators = read("collector", "collector.yaml")["receivers"]["file_log"]["operators"]
    assert {o["value"] for o in operators if o.get("field") == 'resource["retention"]'} == kept
    labels = limits["otlp_config"]["resource_attributes"]["attributes_config"][0]
    assert labels["action"] == "index_label"
    assert "retention" in labels["attributes"]
    assert read("tempo", "tempo.yaml")["compactor"]["compaction"]["block_retention"] == "720h"


def test_all_spans_reach_the_metrics_before_any_is_sampled_away() -> None:
    pipelines = read("collector", "collector.yaml")["service"]["pipelines"]
    assert "span_metrics" in pipelines["traces/in"]["exporters"]
    assert "tail_sampling" not in pipelines["traces/in"]["processors"]
    assert "tail_sampling" in pipelines["traces/kept"]["processors"]


def test_no_trace_that_a_gateway_or_a_worker_chose_is_sampled_away() -> None:
    """Points of latency lead to them, and answers tell callers that they are kept."""
    policies = read("collector", "collector.yaml")["processors"]["tail_sampling"]["policies"]
    (chosen,) = (p["string_attribute"] for p in policies if p["type"] == "string_attribute")
    assert chosen["key"] == signals.KEPT_FOR.name
    assert chosen["enabled_regex_matching"]
    (pattern,) = chosen["values"]
    assert all(re.fullmatch(pattern, why) for why in (*get_args(OfGateway), *get_args(OfWorker)))
