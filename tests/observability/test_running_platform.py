"""Over running processes: every query has an answer, and every absence alert reaches a person.

`make test-observability` runs it; elsewhere it is skipped, as it needs a minute and real servers.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.observability import queries
from tests.observability.stack import CONFIGS, ROOT, Stack, eventually

from mlplatform.observing.slo.objectives import FILE
from mlplatform.observing.slo.objectives import load as load_objectives
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import Home, Settings, load
from mlplatform.runtime.telemetry import signals
from support.page_process import PageProcess
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import MODEL, ScoringWorld, payment

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("MLPLATFORM_TEST_OBSERVABILITY") != "required",
        reason="needs Prometheus and Alertmanager beside the platform: make test-observability",
    ),
    pytest.mark.timeout(600),
]

FIRST_WITH_THE_FIRST = "a labelled counter begins with its first event, and there was none"
NO_RECEIVER = "no receiver of events is set up here"
NO_SERVED_WINDOWS = "the real-time windows of this gateway lie in its home, not on a server"
NO_CLAIMS = "the keys of one gateway lie in its log, and no store is asked"
NO_STREAM = "no view of the model that is served here has a topic"
NO_DATA = {
    "mlplatform_gateway_admission_store_failures_total": FIRST_WITH_THE_FIRST,
    "mlplatform_gateway_issuer_key_fetches_total": "no issuer of tokens is set up here",
    "mlplatform_gateway_shadow_dropped_total": FIRST_WITH_THE_FIRST,
    "mlplatform_gateway_key_claims_total": NO_CLAIMS,
    "mlplatform_gateway_late_total": FIRST_WITH_THE_FIRST,
    "mlplatform_gateway_degraded_total": FIRST_WITH_THE_FIRST,
    "mlplatform_labels_late_share": "no label has matured in a minute",
    "mlplatform_refusals": "people are refused by approvals, flows and the page: none is here",
    "mlplatform_events_lag_seconds": NO_RECEIVER,
    "mlplatform_windows_behind_seconds": NO_SERVED_WINDOWS,
    "mlplatform_feature_stream_behind_seconds": NO_STREAM,
}
"""Series of rules that this run does not have, each for its reason."""
NO_PANEL_DATA = {
    "no GPU is here, nor NVIDIA's exporter; test_gpus.py has what that one writes": (
        "gpu: GPU hours taken", "gpu: GPU hours used", "gpu: Share used",
        "gpu: GPU seconds for 1000 requests", "gpu: Energy", "gpu: GPUs taken", "gpu: Busy",
        "gpu: Utilisation, GPU by GPU", "gpu: Memory in use", "gpu: Power",
    ),
    "no label has matured in a minute": (
        "labels: Of them positive", "labels: Late labels", "labels: Late labels over time",
        "labels: Precision", "labels: Recall", "labels: Precision and recall over time",
    ),
    "a window of drift is a day, so none is full": (
        "drift: Stability index over its limit", "drift: Distance over its limit",
        "drift: Inputs that are missing", "drift: Stability index", "drift: Distance",
    ),
    "nothing has drifted": (
        "drift: Incident", "drift: Open for", "overview: Drift incidents",
    ),
    "no features were materialised: every decision is made without": ("drift: Age",),
    NO_RECEIVER: (
        "pipelines: Age of the oldest that waits", "pipelines: Attempts",
        "pipelines: Events that wait",
    ),
    NO_CLAIMS: ("pipelines: Idempotency keys of several gateways",),
    NO_STREAM: (
        "pipelines: Feature topics behind", "pipelines: Values that wait in feature topics",
    ),
    NO_SERVED_WINDOWS: (
        "pipelines: Real-time windows behind", "pipelines: Records that windows lack",
    ),
    "no request was left to be scored later": (
        "pipelines: Time of a batch", "pipelines: Batches that are read again",
        "pipelines: Requests that were repeated", "pipelines: Traces of batches",
    ),
    "no flow runs here: the test calls what flows call": (
        "pipelines: Runs, tasks and items of jobs", "pipelines: How long they take, 95 of 100",
    ),
}  # fmt: skip
"""Reason → panels that this run leaves empty, all their queries or the named one."""
MAYBE_NO_PANEL_DATA = {
    FIRST_WITH_THE_FIRST: (
        "drift: Decisions without fresh features", "model: Alerts without reasons",
        "model: Degraded decisions", "model: Steps that failed", "overview: Degraded decisions",
        "rollout: Steps that failed",
        "model: Inference requests without scores", "overview: Connections that were ended",
        "overview: Requests let in and refused (B)", "overview: Stores of keys and limits (A)",
        "rollout: Shadow copies that were dropped", "rollout: Why copies were dropped",
    ),
    "no issuer of tokens is set up here": (
        "overview: Refused tokens", "overview: Stores of keys and limits (B)",
    ),
}  # fmt: skip
"""The same, of panels that show what should not happen, and may."""


class World(ScoringWorld):
    """The processes of one machine, where Prometheus finds them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.exporter: subprocess.Popen[bytes] | None = None
        for name in ("exporter", "worker"):
            (self.home.run / f"{name}.token").write_text("a token of this run")
        for folder in ("gateways", "predictors", "workers"):
            (self.home.run / folder).mkdir()

    def _fact(self, rollout_id: str) -> dict[str, Any]:
        """Of now, so that a pass finds no deadline of it over."""
        now_ms = int(time.time() * 1000)
        return super()._fact(rollout_id) | {"event_ms": now_ms, "wall_ms": now_ms}

    def start_all(self) -> None:
        self.start_gateway("--address-file", str(self.home.run / "gateways" / "gateway-0.json"))
        self.start_exporter()
        self._worker = self._start(
            "worker", "--model", MODEL,
            "--address-file", str(self.home.run / "workers" / f"{MODEL}.json"),
            "--token-file", str(self.home.worker_token),
        )  # fmt: skip

    def start_exporter(self) -> None:
        self.exporter = self._start(
            "exporter",
            "--address-file", str(self.home.run / "exporter.json"),
            "--token-file", str(self.home.exporter_token),
        )  # fmt: skip

    def show_predictors(self) -> None:
        """As the supervisor does."""
        for service in self.predictors:
            told = (self.home.run / f"{service}.address.json").read_bytes()
            (self.home.run / "predictors" / f"{service}.json").write_bytes(told)

    def kill_exporter(self) -> None:
        assert self.exporter is not None
        self.exporter.kill()
        self.exporter.wait()

    def close(self) -> None:
        if self.exporter is not None:
            self.kill_exporter()
        super().close()


class Load:
    """A payment every 20 ms, every tenth of them declined, until told to stop."""

    def __init__(self, world: World) -> None:
        self._over = threading.Event()
        self.statuses: set[int] = set()
        self._thread = threading.Thread(target=self._send, args=(world,))
        self._thread.start()

    def _send(self, world: World) -> None:
        amounts = itertools.cycle([*[40.0] * 9, 950.0])
        with world.client() as client:
            while not self._over.wait(0.02):
                sent = payment(next(amounts))
                self.statuses.add(client.post("/score", json=sent).status_code)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    try:
        made.start_all()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def stack(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stack"), world.home.root)
    try:
        yield made
    finally:
        made.close()


def told(stack: Stack, alert: str, status: str = "firing") -> None:
    eventually(lambda: stack.webhook.pages(alert, status), f"{alert} {status}, told to the pager")


def test_a_burn_of_the_5m_1h_pair_reaches_the_pager(world: World, stack: Stack) -> None:
    """Before there is a champion every request is answered 503."""
    eventually(lambda: not stack.down() and stack.query("up"), "all targets up")
    eventually(lambda: stack.query("mlplatform_gateway_admission_total") or _refused(world), "load")
    end_s = time.monotonic() + 60
    while not stack.webhook.pages("AvailabilityBudgetBurns", "firing"):
        assert time.monotonic() < end_s, stack.firing()
        assert _refused(world)
        time.sleep(0.2)
    pair = load_objectives(ROOT / FILE).burns.page[0]
    limit = pair.factor * load_objectives(ROOT / FILE).tiers[1].availability.budget
    chosen = f'{{service="{MODEL}",slo="availability"}} > {limit:.10g}'
    for window in (pair.long, pair.short):
        assert stack.query(f"slo:sli_error:ratio_rate{window}{chosen}")
    page = stack.webhook.pages("AvailabilityBudgetBurns", "firing")[0]
    assert page["annotations"]["runbook_url"].endswith("/AvailabilityBudgetBurns.md")


def test_the_page_shows_what_prometheus_says_is_spent_of_availability(
    stack: Stack, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    page = PageProcess(home, MLPLATFORM_PROMETHEUS_URL=stack.url)
    try:
        text = page.get("/").text
    finally:
        page.close()
    assert "were answered 5xx, by the gateways&#39; metrics in Prometheus" in text
    assert re.search(
        r"availability<br>.{0,200}<b class=\"bad\">spent [0-9.]+ times over", text, re.S
    )


def test_silence_under_a_champion_reaches_the_pager(world: World, stack: Stack) -> None:
    world.promote(world.deploy(1))
    world.show_predictors()
    told(stack, "NothingScored")


def test_a_missing_drift_check_becomes_a_ticket(stack: Stack) -> None:
    eventually(lambda: stack.webhook.slacked("DriftCheckMissing"), "told to Slack", 150)


def test_labels_that_do_not_come_become_a_ticket(world: World, stack: Stack) -> None:
    """A drift check, which looks for labels, has run and found none."""
    _look_for_drift(world)
    eventually(lambda: stack.webhook.slacked("LabelsMissing"), "told to Slack", 150)


def test_under_load_every_rule_has_data_or_says_why_not(world: World, stack: Stack) -> None:
    load = Load(world)
    try:
        _pass(world)
        _label_one(world)
        _look_for_drift(world)
        eventually(lambda: not stack.down(), "all targets up")
        told(stack, "NothingScored", "resolved")
        eventually(lambda: stack.webhook.slacked("LabelsMissing", "RESOLVED"), "told to Slack")
        rules = queries.rules()
        names = {n for rule in rules for n in queries.series(rule["expr"])}
        assert not _unsaid(stack, names, within_s=60), "asked for, not there, and no reason why"
        assert not sorted(NO_DATA.keys() - names), "a reason for what nobody asks"
        for rule in rules:
            assert stack.query(rule["expr"]) is not None
    finally:
        load.stop()
    assert 200 in load.statuses


def test_every_series_has_bounded_labels(stack: Stack) -> None:
    emitted = queries.emitted()
    for name, metric in emitted.items():
        for found in stack.query(name):
            for label in metric.labels:
                if label.values:
                    assert found["metric"].get(label.name, "") in label.values, name
    assert len(stack.query('{__name__=~"mlplatform_.+"}')) < 3000


def test_spans_become_metrics_in_prometheus(world: World, stack: Stack) -> None:
    """Through the collector, by its own configuration: a second gateway sends them there."""
    endpoint = stack.start_collector(world.home.logs)
    traced = {"MLPLATFORM_OTLP_ENDPOINT": endpoint, "MLPLATFORM_TRACE_SHARE": "1"}
    port = free_port()
    second = world._start(
        "gateway",
        "--name=gateway-1",
        MLPLATFORM_GATEWAY_PORT=str(port),
        **traced,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: status_of(f"{url}/readyz") == 200, "the second gateway is ready")
        for _ in range(20):
            path = f"{url}/api/v1/models/{MODEL}/score"
            assert httpx.post(path, json=payment(), headers=world.headers).status_code == 200
        counted = 'sum(traces_span_metrics_calls_total{service_name="mlplatform-gateway"})'
        eventually(lambda: _at_least(stack, counted, 20), "spans counted in Prometheus")
    finally:
        second.terminate()
        second.wait(30)


def test_under_load_every_panel_has_data_or_says_why_not(world: World, stack: Stack) -> None:
    """Each query of a dashboard, with the values that a person would have chosen."""
    shown = queries.panels() | {p: q for p, q in queries.marks().items() if "Rollouts" in p}
    asked = {place: queries.plain(query) for place, query in shown.items()}
    never, may = (
        {place for names in of.values() for place in asked if {place, place[:-4]} & set(names)}
        for of in (NO_PANEL_DATA, MAYBE_NO_PANEL_DATA)
    )
    world.shadow(world.deploy(2, offset=0.001))
    world.show_predictors()
    load = Load(world)
    try:
        eventually(lambda: world.records("shadow"), "copies of a shadow")
        _pass(world)
        empty = _empty(stack, asked, never | may, within_s=60)
        eventually(lambda: _leading_to_traces(stack), "points that lead to traces", 30)
    finally:
        load.stop()
    unsaid = sorted(empty - never - may)
    assert not unsaid, "panels without data, and no reason why:\n" + "\n".join(unsaid)
    assert not sorted(never - empty), "a reason why there is no data, and there is"
    print(f"{len(asked) - len(empty)} of {len(asked)} queries of panels have data")


@pytest.mark.parametrize("reasons", [NO_PANEL_DATA, MAYBE_NO_PANEL_DATA])
def test_a_reason_is_of_a_panel_that_there_is(reasons: dict[str, tuple[str, ...]]) -> None:
    there = queries.panels()
    known = there.keys() | {place[:-4] for place in there}
    assert not sorted({name for names in reasons.values() for name in names} - known)


def test_a_heartbeat_comes_as_long_as_alerts_are_told_and_ends_with_them(stack: Stack) -> None:
    """Nobody else would tell that Prometheus is gone."""

    def is_heard() -> bool:
        before = stack.webhook.beats
        time.sleep(5)
        return stack.webhook.beats > before

    eventually(is_heard, "a heartbeat")
    with stack.without_prometheus():
        eventually(lambda: not is_heard(), "no heartbeat")
    eventually(is_heard, "a heartbeat again")


def test_an_exporter_that_is_gone_reaches_the_pager(world: World, stack: Stack) -> None:
    world.kill_exporter()
    told(stack, "ExporterGone")
    world.start_exporter()
    told(stack, "ExporterGone", "resolved")


def test_a_process_that_is_gone_becomes_a_ticket(world: World, stack: Stack) -> None:
    world.kill_worker()
    eventually(lambda: stack.webhook.slacked("ProcessGone"), "told to Slack")


def test_gateways_that_are_gone_reach_the_pager(world: World, stack: Stack) -> None:
    world.kill_gateway()
    told(stack, "GatewayGone")


def settings_of(world: World) -> Settings:
    return load({"MLPLATFORM_HOME": str(world.home.root)})


def _refused(world: World) -> bool:
    with world.client() as client:
        return all(client.post("/score", json=payment()).status_code == 503 for _ in range(5))


def _pass(world: World) -> None:
    """Over the rollouts, as the flow does; the world itself may still hold their fence."""
    from mlplatform.operations.actions import rollouts

    fence = world.rollouts.acquire(MODEL, "test", 1.0)
    assert fence is not None
    world.rollouts.release(fence)
    assert rollouts.rollout_pass(Platform(settings_of(world)), MODEL)["ran"]


def _look_for_drift(world: World) -> None:
    """And for labels, as the daily flow does."""
    from mlplatform.operations.actions import drift

    drift.watch(Platform(settings_of(world)), MODEL, holder="test")


def _label_one(world: World) -> None:
    key = {"Idempotency-Key": "labelled"}
    label = {"idempotency_key": "labelled", "label": 0}
    with world.client() as client:
        assert client.post("/score", json=payment(), headers=key).status_code == 200
        assert client.post("/labels", json={"labels": [label]}).status_code == 200


def _at_least(stack: Stack, query: str, least: float) -> bool:
    found = stack.query(query)
    return bool(found) and float(found[0]["value"][1]) >= least


def _empty(stack: Stack, asked: dict[str, str], excused: set[str], within_s: float) -> set[str]:
    """Places of queries without a number, once all that nothing excuses have one, or then."""
    end_s = time.monotonic() + within_s
    while True:
        empty = {place for place, query in asked.items() if not _shows(stack, query)}
        if not empty - excused or time.monotonic() > end_s:
            return empty
        time.sleep(2)


def _shows(stack: Stack, query: str) -> bool:
    """Whether a panel has something to draw: idle histograms have series that are no numbers."""
    return any(not math.isnan(float(found["value"][1])) for found in stack.query(query))


def _leading_to_traces(stack: Stack) -> list[str]:
    """Traces of points on latency panels, by the label that Grafana is told to follow."""
    content = yaml.safe_load((CONFIGS / "grafana" / "datasources.yaml").read_text())
    followed = content["datasources"][0]["jsonData"]["exemplarTraceIdDestinations"][0]["name"]
    now_s = time.time()
    asked = {"query": f"{signals.LATENCY.name}_bucket", "start": now_s - 300, "end": now_s}
    found = httpx.get(f"{stack.url}/api/v1/query_exemplars", params=asked, timeout=20).json()
    return [one["labels"][followed] for series in found["data"] for one in series["exemplars"]]


def _unsaid(stack: Stack, names: set[str], within_s: float) -> list[str]:
    """Series that are still missing then, without a reason."""
    end_s = time.monotonic() + within_s
    while True:
        unsaid = sorted(n for n in names - NO_DATA.keys() if not stack.query(n))
        if not unsaid or time.monotonic() > end_s:
            return unsaid
        time.sleep(1)
