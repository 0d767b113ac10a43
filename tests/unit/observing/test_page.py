"""What the page makes of the platform's values: nothing is lost, and nothing of it is markup."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.learning.registry.versions import Version, VersionFacts
from mlplatform.model.routes import Arm, no_routes
from mlplatform.observing.page import decisions, incidents, rollouts
from mlplatform.observing.page.plots import WIDTH, Interval, plot
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.sources import ModelShown
from mlplatform.rollouts.drift.incidents import Change, Finding, Incident
from mlplatform.rollouts.journal.transitions import Opened, RolledBack, ShadowStarted, Transition
from rollout_world import fraud, gate_report

HOSTILE = "<script>alert('x')</script><img src=x onerror=y>\"'&{{ 7*7 }}"
FACTS: dict[str, Any] = {"rollout_id": "fraud-v2-1", "model": "fraud", "event_ms": 1, "wall_ms": 2}
VALUES = {"share": 0.27, "low": 0.08, "high": 0.54, "limit": 0.01}


def journal(text: str) -> list[Transition]:
    gate = {"verdict": "UNHEALTHY", "reason": text, "values": VALUES}
    evidence = {
        "verdict": "UNHEALTHY",
        "author": text,
        "version": 2,
        "records": 5,
        "until_event_ms": 0,
        "gates": {"failures": gate, text: gate},
        "arms": {"challenger": {"requests": 252, "units": 200, "flips": 0, "pairs": 0}},
    }
    return [
        Opened(
            **FACTS,
            actor=text,
            reason=text,
            challenger=Arm(2, "b" * 64, "fraud-v2-b"),
            author=text,
            alert_low=0.0,
            alert_high=0.05,
            bootstrap=False,
            validation=gate_report("b" * 64),
        ),
        ShadowStarted(**FACTS, actor="pass", reason="ready", displaced=None),
        RolledBack(**FACTS, actor="pass", reason=text, evidence=evidence),
    ]


def test_a_rollout_shows_every_phase_with_its_evidence() -> None:
    shown = rollouts.rollout(journal("too many failures"))
    assert [line.phase for line in shown.phases] == ["deploying", "shadow", "rolled_back"]
    assert shown.tone == "bad"
    found = shown.phases[-1].evidence
    assert found is not None
    assert found.digest == journal("too many failures")[-1].evidence_digest
    gate = found.gates[0]
    assert gate.plot is not None
    assert gate.plot.said == "27.00 %; interval 8.00 % to 54.00 %; at most 1.00 % allowed"
    assert dict(found.counts)["requests"] == ("252",)
    assert dict(found.counts)["decisions unlike the champion's"] == ("not compared",)
    assert len(shown.validation) == 2


def test_what_people_write_is_text_on_every_page() -> None:
    shown = rollouts.rollout(journal(HOSTILE))
    found = shown.phases[-1].evidence
    assert found is not None
    change = Change(1, 1, "open", 0, HOSTILE, HOSTILE)
    finding = Finding("fraud", "drift", 1, 1, 1, {"reasons": [HOSTILE]})
    incident = Incident(HOSTILE, finding, "open", 0, None, 0, None, (change,))
    record = decisions.record(
        RECORD | {"payload": {"features": {HOSTILE: HOSTILE}, "request": {HOSTILE: HOSTILE}}}
    )
    pages = [
        render("rollout.html", here="rollouts", shown=shown),
        render("evidence.html", here="rollouts", found=found),
        render("rollouts.html", here="", rollouts=[shown.state], older=None, tones={}),
        render("incident.html", here="", shown=incidents.incident(incident)),
        render("incidents.html", here="", incidents=[incident], older=None),
        render("decision.html", here="", name=HOSTILE, records=[record]),
        render("problem.html", here="", status=404, title="none", detail=HOSTILE),
    ]
    for page in pages:
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script&gt;" in page


def test_a_decision_is_shown_with_what_was_asked_and_a_score_that_can_be_compared() -> None:
    asked = {"amount": 380.58, "terminal_id": 448}
    row = RECORD | {"score": 9.295e-05, "payload": {"request": asked, "reasons": ["AMOUNT"]}}
    shown = render("decision.html", here="", name="d1", records=[decisions.record(row)])
    assert '<dt>amount</dt><dd class="n">380.58</dd>' in shown
    assert "score 0.0001" in shown
    assert "mlplatform log explain d1" in shown
    rows_of_a_raw_call = RECORD | {"payload": {"request": [[1.0, 2.0]]}}
    assert decisions.record(rows_of_a_raw_call).request == ()


def test_a_decision_names_the_views_that_were_stale() -> None:
    gaps = {"stale": ["customer_stats", "terminal_stats"]}
    row = RECORD | {"payload": {"feature_gaps": gaps}}
    shown = render("decision.html", here="", name="d1", records=[decisions.record(row)])
    assert "<dt>features stale</dt><dd>customer_stats, terminal_stats</dd>" in shown


@given(
    st.tuples(*[st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)] * 6),
    st.booleans(),
)
def test_every_mark_of_a_plot_lies_in_it(values: tuple[float | None, ...], share: bool) -> None:
    value, low, high, least, most, limit = values
    drawn = plot(Interval(value, low, high, (least, most), limit), share=share)
    if drawn is not None:
        marks = [drawn.value, drawn.low, drawn.high, *drawn.edges]
        assert all(0 <= x <= WIDTH for x in marks if x is not None)


def test_a_plot_without_a_limit_or_a_value_is_none() -> None:
    assert plot(Interval(0.5, 0.4, 0.6), share=True) is None
    assert plot(Interval(float("nan"), None, None, (None, 0.1)), share=True) is None


def test_an_incident_shows_the_feature_that_moved_furthest_first() -> None:
    moved = {"psi": 0.4, "psi_limit": 0.2, "distance": 1.0, "distance_limit": 0.15}
    shifts = {
        "calm": moved | {"distance": 0.01, "missing_share": 0.0, "drifted": False},
        "amount": moved | {"missing_share": 0.1, "drifted": True},
    }
    alerts = {"share": 0.09, "low": 0.08, "high": 0.1, "band": [0.0, 0.03], "outside": True}
    window = {
        "start_ms": 0,
        "end_ms": 1,
        "rows": 5,
        "health": "UNHEALTHY",
        "reasons": ["amount moved"],
        "shifts": shifts,
        "alert_share": alerts,
    }
    finding = Finding("fraud", "drift", 1, 1, 1, {"reasons": ["moved"], "windows": [window]})
    change = Change(1, 1, "open", 0, None, "drift")
    shown = incidents.incident(Incident("i", finding, "open", 0, None, 0, None, (change,)))
    assert [f.name for f in shown.features] == ["amount", "calm"]
    assert shown.windows[0].health == "drifted"
    assert shown.windows[0].alerts is not None
    assert "allowed 0.00 % to 3.00 %" in shown.windows[0].alerts.said
    assert incidents.incident(replace(shown.incident)).reasons == ("moved",)


def test_an_incident_shows_what_matured_labels_say_of_each_metric() -> None:
    metric = {"since_ms": 0, "before": 0.5, "low": 0.4, "high": None, "hits": 20, "base": 100.0}
    metrics = {
        "recall": metric | {"now": 0.2, "worse": True},
        "calibration": metric
        | {"now": 1.1, "before": 1.0, "low": -0.2, "high": 2.2, "worse": False},
    }
    finding = Finding("fraud", "performance", 1, 0, 1, {"performance": {"metrics": metrics}})
    change = Change(1, 1, "open", 0, None, "performance")
    shown = incidents.incident(Incident("i", finding, "open", 0, None, 0, None, (change,)))
    assert [(m.name, m.worse, m.is_share) for m in shown.metrics] == [
        ("recall", True, True),
        ("calibration", False, False),
    ]
    page = render("incident.html", here="", shown=shown)
    assert "Matured labels" in page
    assert "20.00 %" in page
    assert "1.00 times" in page


RECORD: dict[str, Any] = {
    "writer": "gateway-0", "seq": 1, "kind": "decision", "decision_id": "d1", "model": "fraud",
    "event_ms": 1, "recorded_ms": 1, "generation": 1, "rollout_id": None, "arm": "champion",
    "answered_by": "champion", "unit": 7, "bucket": 1, "version": 1, "bundle": "b", "score": 0.1,
    "decision": "approve", "degraded": False, "degraded_reason": None, "latency_us": 9,
    "label": None, "payload": {},
}  # fmt: skip


def test_a_decision_names_the_trace_it_was_made_in() -> None:
    assert decisions.record(RECORD).trace_id == "d1"
    assert decisions.record(RECORD | {"payload": {"trace_id": "t"}}).trace_id == "t"
    assert decisions.record(RECORD | {"kind": "label", "decision": None}).trace_id is None


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50)), max_size=60),
    st.integers(1, 9),
)
def test_older_links_lead_to_every_decision_once(
    recorded: list[tuple[str, int]], limit: int
) -> None:
    ends = {"a": 0, "b": 0}
    rows = []
    for writer, at in sorted(recorded, key=lambda r: r[1]):
        ends[writer] += 1
        rows.append({"writer": writer, "seq": ends[writer], "recorded_ms": at})
    seen: list[tuple[str, int]] = []
    until: dict[str, int] | None = dict(ends)
    for _ in range(len(rows) + 2):
        if until is None:
            break
        after = {writer: max(0, seq - 5 * limit) for writer, seq in until.items()}
        part = decisions.listed(rows, until=until, after=after, limit=limit)
        seen += [(r["writer"], r["seq"]) for r in part.rows]
        until = None if part.older is None else decisions.read_cursor(part.older)
    assert sorted(seen) == sorted((r["writer"], r["seq"]) for r in rows)
    assert len(seen) == len(rows)


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:-1", "a:1,", "a b:1", "a:1;b:2", "a:²"])
def test_a_link_that_this_page_did_not_write_is_told_apart(text: str) -> None:
    assert decisions.read_cursor(text) is None


def test_a_model_shows_what_the_registry_holds_of_its_versions() -> None:
    facts = VersionFacts(
        bundle="b" * 64,
        data_from_ms=0,
        data_to_ms=1,
        data_digest="d",
        code_version=HOSTILE,
        metrics={},
        report={},
        author=HOSTILE,
        validated=True,
        alert_low=0.0,
        alert_high=0.03,
        seed=1,
    )
    text = render(
        "model.html",
        here="",
        model=ModelShown(fraud(), no_routes("fraud")),
        traffic=None,
        versions=[Version("fraud", 7, "b" * 64, "run", 0, facts)],
        rollouts=[],
        tones={},
    )
    assert "v7" in text
    assert "0.00 % to 3.00 %" in text
    assert "<script" not in text


def test_the_process_carries_nothing_heavy() -> None:
    code = "import sys, mlplatform.observing.page.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"matplotlib", "pandas", "mlflow", "prefect", "evidently", "sklearn", "onnxruntime"}
    assert heavy.isdisjoint(done.stdout.split())
