"""What running processes emit is what the list of signals says, to the label."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlplatform.learning.features.policy import Cause
from mlplatform.model.oip import FailureReason
from mlplatform.operations.actions.last_results import ArmCounts
from mlplatform.rollouts.drift import incidents
from mlplatform.rollouts.drift.incidents import State as IncidentState
from mlplatform.rollouts.journal.state import Phase as RolloutPhase
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.runtime.telemetry.signals import METRICS, PROCESS_METRICS, Metric, Process
from mlplatform.scoring.admission.priorities import PRIORITIES
from mlplatform.scoring.admission.tokens import REFUSALS
from mlplatform.scoring.arms.fallback import ModelStep
from mlplatform.scoring.request.answers import AnsweredBy
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

_ADDED_BY_FORMAT = {"le"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    """Answers of every kind that can be had quickly: scored, refused, degraded."""
    made = ScoringWorld(tmp_path_factory.mktemp("world"))
    try:
        arm = made.deploy(1)
        made.promote(arm)
        made.start_gateway()
        with made.client() as client:
            for amount in (40.0, 600.0, 950.0):
                assert client.post("/score", json=payment(amount)).status_code == 200
            assert client.post("/score", json={}).status_code == 422
            assert client.get("/nothing").status_code == 404
            with made.frozen_predictor(arm):
                client.post("/score", json=payment())
        httpx.post(f"{made.url}/api/v1/models/{MODEL}/score", json=payment())
        yield made
    finally:
        made.close()


def compare(process: Process, text: str) -> None:
    """Fails for a metric, type, meaning, label or value that is not listed, and for one missing."""
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(found) == {m.name for m in (*METRICS[process], *PROCESS_METRICS)}
    for metric in METRICS[process]:
        family = found[metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        for sample in family.samples:
            compare_labels(metric, sample.labels)


def compare_labels(metric: Metric, labels: dict[str, str]) -> None:
    assert set(labels) - _ADDED_BY_FORMAT == set(metric.label_names), metric.name
    for label in metric.labels:
        if label.values:
            assert labels[label.name] in label.values, f"{metric.name} {label.name}"


def test_a_gateway_emits_what_is_listed(world: ScoringWorld) -> None:
    text = httpx.get(f"{world.url}/metrics", headers=world.headers).text
    compare("gateway", text)
    assert 'mlplatform_gateway_degraded_total{model="fraud",reason="' in text
    assert re.search(r'_score_count\{arm="champion",model="fraud"} [1-9]', text)
    scored = 'mlplatform_gateway_requests_total{model="fraud",operation="score",status="200"}'
    assert scored in text
    unknown = 'mlplatform_gateway_requests_total{model="",operation="unknown",status="404"}'
    assert unknown in text


def test_a_predictor_emits_what_is_listed(world: ScoringWorld) -> None:
    service = next(iter(world.predictors))
    address = json.loads((world.home.run / f"{service}.address.json").read_bytes())
    headers = {"Authorization": f"Bearer {world.home.predictor_token.read_text()}"}
    url = f"http://127.0.0.1:{address['port']}"
    assert httpx.post(f"{url}/v2/models/{service}/infer", headers=headers).status_code == 400
    compare("predictor", httpx.get(f"{url}/metrics", headers=headers).text)


def test_a_worker_emits_what_is_listed(world: ScoringWorld, tmp_path: Path) -> None:
    address, token = tmp_path / "address.json", tmp_path / "token"
    token.write_text("secret")
    files = ("--address-file", str(address), "--token-file", str(token))
    process: subprocess.Popen[bytes] = world._start("worker", "--model", MODEL, *files)
    try:
        port = wait_for(lambda: json.loads(address.read_bytes())["port"] if address.exists() else 0)
        headers = {"Authorization": "Bearer secret"}
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers).text
        compare("worker", text)
        # before there is one, so that the first increases it, and its alert fires
        assert 'mlplatform_worker_messages_total{model="fraud",outcome="dead_letter"} 0.0' in text
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_an_exporter_emits_what_is_listed(world: ScoringWorld, tmp_path: Path) -> None:
    address, token = tmp_path / "address.json", tmp_path / "token"
    token.write_text("secret")
    files = ("--address-file", str(address), "--token-file", str(token))
    process: subprocess.Popen[bytes] = world._start("exporter", *files)
    try:
        port = wait_for(lambda: json.loads(address.read_bytes())["port"] if address.exists() else 0)
        url = f"http://127.0.0.1:{port}/metrics"
        assert httpx.get(url).status_code == 401
        text = httpx.get(url, headers={"Authorization": "Bearer secret"}).text
        compare("exporter", text)
        assert 'mlplatform_routes_share{arm="champion",model="fraud"} 1.0' in text
        assert 'mlplatform_log_watermark_seconds{writer="gateway-0"}' in text
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("listed", "possible"),
    [
        (signals.FAILURES, get_args(FailureReason)),
        (signals.STEP.values, get_args(ModelStep)),
        (signals.DECISIONS.labels[1].values, get_args(AnsweredBy)),
        (signals.PRIORITY.values, (*PRIORITIES, "")),
        (signals.TOKENS_REFUSED.labels[0].values, REFUSALS),
        (signals.FEATURES_MISSING.labels[2].values, get_args(Cause)),
        (signals.PHASES, get_args(RolloutPhase)),
        (signals.ROLLOUT_COUNTS.labels[2].values, ArmCounts.__struct_fields__),
        (signals.INCIDENT.labels[1].values, set(incidents.KINDS)),
        (signals.INCIDENT.labels[2].values, set(get_args(IncidentState)) - {"closed"}),
    ],
)
def test_listed_values_are_those_that_the_code_has(listed: Any, possible: Any) -> None:
    assert set(listed) == set(possible)


def test_every_metric_is_listed_once_and_says_what_bounds_each_label() -> None:
    listed = [metric for metrics in METRICS.values() for metric in metrics]
    assert len({metric.name for metric in listed}) == len(listed)
    for metric in listed:
        assert all(bool(label.values) != bool(label.bound) for label in metric.labels), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert metric.name.endswith("_seconds") == (metric.unit == "seconds"), metric.name


def test_a_metric_is_made_as_the_kind_that_it_is() -> None:
    with pytest.raises(TypeError, match="is a gauge, not a counter"):
        MetricRegistry().counter(signals.BREAKER)
