"""`mlplatform trace`: spans and lines of one id, however many files they lie in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.span_files import FileSender
from mlplatform.runtime.telemetry.spans import Link, ProcessIdentity, Span, Trace

DECISION = "0198c2f0a4b7d1e2f3a4b5c6d7e8f901"
WORKERS = "b" * 32
ROOT, CALL = "1" * 16, "2" * 16


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A gateway's trace of a decision, a worker's that is linked with it, and a line."""
    made = Home(tmp_path)
    made.create()
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    wiring.settings.cache_clear()
    about = {signals.DECISION_ID: DECISION}
    inner = Span(signals.PREDICT_SPAN, "predict champion", CALL, ROOT, 1.1, 1.4, is_error=True)
    root = Span(signals.REQUEST_SPAN, "score fraud", ROOT, None, 1.0, 2.0, about)
    gateway = FileSender(made.traces, ProcessIdentity("gateway", "gateway-0"))
    gateway.send([Trace("9" * 32, (root,)), Trace(DECISION, (root, inner))])
    links = (Link(DECISION, ROOT),)
    batch = Span(
        signals.DRAIN_SPAN, "process fraud.requests", "3" * 16, None, 3.0, 4.0, {}, False, links
    )
    FileSender(made.traces, ProcessIdentity("worker", "worker-0")).send([Trace(WORKERS, (batch,))])
    lines = [
        {"time": "2026-11-25T10:00:01.000Z", "process": "gateway", "level": "error",
         "message": "it was not recorded", "decision_id": DECISION},
        {"time": "2026-11-25T10:00:00.000Z", "process": "worker", "level": "warning",
         "message": "poison", "trace_id": WORKERS},
        {"time": "2026-11-25T10:00:00.000Z", "process": "worker", "level": "info",
         "message": f"tells of {DECISION} in passing"},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines) + "no JSON " + DECISION + "\n"
    (made.logs / "gateway-0.log.1").write_text(text)
    yield made
    wiring.settings.cache_clear()


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["trace", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_spans_and_lines_of_a_decision_and_of_what_is_linked(home: Home) -> None:
    found = json.loads(run(DECISION, "--json"))
    assert {span["name"] for span in found["spans"]} == {
        "score fraud", "predict champion", "process fraud.requests",
    }  # fmt: skip
    assert set(found["traces"]) == {"9" * 32, DECISION, WORKERS}
    assert [line["message"] for line in found["lines"]] == ["poison", "it was not recorded"]


def test_a_person_sees_what_lies_below_what(home: Home) -> None:
    text = run(DECISION)
    lines = [line.strip() for line in text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith(f"trace {DECISION}"))
    own, inner = (line for line in lines[at:] if line.startswith(("score", "predict")))
    assert "1000.00" in own
    assert inner.startswith("predict champion")
    assert "it was not recorded" in text
    assert "ERROR" in text


def test_an_example_of_a_decisions_id_is_one_that_trace_takes(home: Home) -> None:
    for name in ("show", "explain", "void", "erase"):
        (example,) = re.findall(r"0198\w+", CliRunner().invoke(app, ["log", name, "--help"]).output)
        found = CliRunner().invoke(app, ["trace", example])
        assert "no span, line or record of this home has the id" in str(found.exception), name


def test_an_id_that_nothing_names_and_what_is_no_id(home: Home) -> None:
    none = CliRunner().invoke(app, ["trace", "c" * 32])
    assert none.exit_code != 0
    assert "no span, line or record of this home has the id" in str(none.exception)
    assert "it is not an id" in str(CliRunner().invoke(app, ["trace", "fraud"]).exception)
