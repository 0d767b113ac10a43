"""Messages that wait for workers, by the worker's own metrics or by Prometheus."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from mlplatform.observing.page.queries import message_backlogs
from mlplatform.observing.page.queries.message_backlogs import (
    MessageBacklogs,
    parse_text,
    parse_vector,
)
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.listener import listen
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.prometheus import MetricRegistry

TOKEN = "a-token"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    made.worker_token.parent.mkdir(exist_ok=True, parents=True)
    made.worker_token.write_text(TOKEN)
    return made


def worker(home: Home, messages: int, **values: int) -> None:
    """A listener as a worker has it, and the file that says where it listens."""
    registry = MetricRegistry()
    registry.gauge(signals.WORKER_LAG).labels("fraud").set(messages)
    lag = registry.gauge(signals.STREAM_LAG)
    for view, waits in values.items():
        for partition in ("0", "1"):
            lag.labels("fraud", view, "topic", partition).set(waits)
    port = listen(registry, TOKEN)
    address = home.run / "workers" / "fraud.json"
    address.parent.mkdir(exist_ok=True, parents=True)
    address.write_text(json.dumps({"port": port, "pid": 1}))


def test_a_worker_of_this_machine_says_what_waits_for_it(home: Home) -> None:
    worker(home, 42, bureau=3)
    found = message_backlogs.of_worker(home, "fraud")
    assert dict(found) == {("fraud", ""): 42, ("fraud", "bureau"): 6}


def test_a_worker_that_does_not_run_is_named_with_the_way_to_look(home: Home) -> None:
    with pytest.raises(Unavailable, match="worker-fraud does not run: `mlplatform status`"):
        message_backlogs.of_worker(home, "fraud")


def test_a_worker_that_has_died_does_not_hold_the_page_up(home: Home) -> None:
    address = home.run / "workers" / "fraud.json"
    address.parent.mkdir(exist_ok=True, parents=True)
    address.write_text('{"port": 1, "pid": 1}')
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/metrics does not answer"):
        message_backlogs.of_worker(home, "fraud")


def test_workers_are_asked_at_the_same_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that hang would otherwise hold the page up one after the other."""
    every = threading.Barrier(3, timeout=20.0)

    def of_worker(_home: Home, model: str) -> MessageBacklogs:
        every.wait()  # raises BrokenBarrierError where one is asked after the other
        if model == "b":
            raise Unavailable("worker-b does not run")
        return {(model, ""): 5}

    monkeypatch.setattr(message_backlogs, "of_worker", of_worker)
    assert message_backlogs.of_workers(home, ["a", "b", "c"]) == {
        "a": {("a", ""): 5}, "b": "worker-b does not run", "c": {("c", ""): 5},
    }  # fmt: skip
    assert message_backlogs.of_workers(home, []) == {}


def test_a_token_that_is_no_header_is_not_sent(home: Home) -> None:
    worker(home, 1)
    home.worker_token.write_text("a\r\nHost: evil")
    with pytest.raises(Unavailable, match="holds no token"):
        message_backlogs.of_worker(home, "fraud")


def test_prometheus_sums_what_waits_in_every_pod() -> None:
    series = [
        {"metric": {"__name__": name, "model": "fraud", **more}, "value": [1.0, value]}
        for name, more, value in (
            (signals.WORKER_LAG.name, {"instance": "a"}, "5"),
            (signals.WORKER_LAG.name, {"instance": "b"}, "7"),
            (signals.STREAM_LAG.name, {"view": "bureau"}, "2"),
            (signals.STREAM_LAG.name, {"view": "bureau"}, "NaN"),
            ("up", {}, "1"),
        )
    ]
    body = json.dumps({"data": {"result": series}}).encode()
    assert dict(parse_vector(body)) == {("fraud", ""): 12, ("fraud", "bureau"): 2}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff", b'{"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}']
)
def test_another_form_of_an_answer_is_no_backlog(body: bytes) -> None:
    with pytest.raises(Unavailable, match="can't be read"):
        parse_vector(body)


@pytest.mark.parametrize("body", [b"\xff", b"mlplatform_worker_lag_messages{model= nothing"])
def test_metrics_of_another_form_are_no_backlog(body: bytes) -> None:
    with pytest.raises(Unavailable, match="can't be read"):
        parse_text(body)
