"""What the page makes of the platform's values: nothing is lost, and nothing of it is markup."""

from __future__ import annotations

import dataclasses
import html
import itertools
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from mlplatform.learning.registry.versions import Version, VersionFacts
from mlplatform.model.folders import model_folder
from mlplatform.model.policies.cut_offs import RowThresholds
from mlplatform.model.policies.decision_scale import EARLIER, DecisionScale, Quantity
from mlplatform.model.profile import column
from mlplatform.model.routes import Arm, Variant, VariantTest, no_routes
from mlplatform.observing.page import causes, incidents
from mlplatform.observing.page.decision_views import check_customer
from mlplatform.observing.page.queries import decisions, rollouts
from mlplatform.observing.page.queries import reason_words as words
from mlplatform.observing.page.queries.plots import WIDTH, PlottedInterval, plot
from mlplatform.observing.page.queries.sources import ModelRow
from mlplatform.observing.page.rendering import coded, counted, render, templates
from mlplatform.rollouts.drift import measures
from mlplatform.rollouts.drift import verdict as verdicts
from mlplatform.rollouts.drift.incidents import Change, Incident, IncidentFinding, State
from mlplatform.rollouts.drift.retrain import MAX_CLAIMS
from mlplatform.rollouts.journal.controls import Killed
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import (
    Opened,
    ProvenIdentity,
    RolledBack,
    ShadowStarted,
    Transition,
)
from mlplatform.runtime.errors import InputInvalid
from mlplatform.scoring.request.explain import Explanation, InputCause, Outcome, RuleCause
from rollout_world import fraud, gate_report

OWN_SCRIPT = '<script src="/live.js" defer></script>'
HOSTILE = "<script>alert('x')</script><img src=x onerror=y>\"'&{{ 7*7 }}"
FACTS: dict[str, Any] = {"rollout_id": "fraud-v2-1", "model": "fraud", "event_ms": 1, "wall_ms": 2}
ALONE: dict[str, Any] = {"review": "", "beside": None, "trace_url": lambda record: ""}
VALUES = {"share": 0.27, "low": 0.08, "high": 0.54, "limit": 0.01}


def decided(name: str, *records: decisions.RecordDetail) -> str:
    shown = decisions.decision(records)
    return render("decision.html", here="", name=name, shown=shown, reasons={}, why=None, **ALONE)


def recorded(found: dict[str, Any]) -> decisions.RecordDetail:
    return decisions.record(found, EARLIER)


def test_a_field_that_the_log_holds_as_a_pseudonym_says_so() -> None:
    asked = RECORD | {"payload": {"request": {"customer_id": -592645, "amount": 7.5}}}
    page = decided("d1", decisions.record(asked, EARLIER, {"customer_id"}))
    assert '<dt>customer_id (pseudonym)</dt><dd class="n">-592645</dd>' in page
    assert "<dt>amount</dt>" in page


def test_what_is_no_alert_is_good_and_the_strongest_alert_is_bad() -> None:
    tones = [decisions.tone(EARLIER, word) for word in (*EARLIER.names, "refuse", None)]
    assert tones == ["good", "", "bad", "", ""]
    assert decisions.tone(None, "decline") == "", "no folder says what it means"


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
            approval="none",
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
    assert gate.plot.description == (
        "27.00 points; interval 8.00 points to 54.00 points; at most 1.00 points allowed"
    )
    assert dict(found.counts)["requests"] == ("252",)
    assert dict(found.counts)["decisions unlike the champion's"] == ("not compared",)
    assert len(shown.validation) == 2


def test_what_people_write_is_text_on_every_page() -> None:
    shown = rollouts.rollout(journal(HOSTILE))
    found = shown.phases[-1].evidence
    assert found is not None
    change = Change(1, 1, "open", 0, HOSTILE, HOSTILE)
    finding = IncidentFinding("fraud", "drift", 1, 1, 1, {"reasons": [HOSTILE]})
    incident = Incident(HOSTILE, finding, "open", 0, None, 0, None, (change,))
    record = recorded(
        RECORD | {"payload": {"features": {HOSTILE: HOSTILE}, "request": {HOSTILE: HOSTILE}}}
    )
    pages = [
        render("rollout.html", here="rollouts", shown=shown, waiting=[], buttons=(), killed=None),
        render("evidence.html", here="rollouts", found=found),
        render("rollouts.html", here="", rollouts=[shown.state], older=None, tones={}),
        render("incident.html", here="", shown=incidents.incident(incident, 0)),
        render("incidents.html", here="", incidents=[incident], older=None),
        decided(HOSTILE, record),
        render("problem.html", here="", status=404, title="none", detail=HOSTILE, back="rollouts"),
    ]
    for page in pages:
        assert "<script" not in page.replace(OWN_SCRIPT, "")
        assert "<img" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 records"), (1, "1 record"), (1024, "1,024 records")]
)
def test_one_thing_is_not_written_as_several(count: int, text: str) -> None:
    assert counted(count, "record") == text


def test_a_promoted_version_is_not_among_the_rollouts_under_way() -> None:
    under_way = rollouts.rollout(journal("why")[:2]).state
    promoted = replace(under_way, phase="promoted", rollout_id="fraud-v9-1")
    text = render(
        "overview.html", here="", status=None, links={}, refused={}, waiting=[], reviews=[],
        models=[], traffic={}, budgets={}, rollouts=[promoted, under_way], incidents=[], tones={},
    )  # fmt: skip
    moving, _, watched = text.partition("<h2>Promoted versions that are not confirmed yet</h2>")
    assert ("fraud-v2-1" in moving, "fraud-v9-1" in moving) == (True, False)
    assert "fraud-v9-1" in watched


def test_a_decision_is_shown_with_what_was_asked_and_a_score_that_can_be_compared() -> None:
    asked = {"amount": 380.58, "terminal_id": 448}
    row = RECORD | {"score": 9.295e-05, "payload": {"request": asked, "reasons": ["AMOUNT"]}}
    shown = decided("d1", recorded(row))
    assert '<dt>amount</dt><dd class="n">380.58</dd>' in shown
    assert "score 0.0001" in shown
    assert "mlplatform log explain d1" in shown
    rows_of_a_raw_call = RECORD | {"payload": {"request": [[1.0, 2.0]]}}
    assert recorded(rows_of_a_raw_call).request == ()


EUR = DecisionScale(("none",), (), number=Quantity("EUR", 20.0))
SIZES = DecisionScale(("small", "large"), (), by_class=True)


@pytest.mark.parametrize(
    ("scale", "score", "word", "text"),
    [
        (EARLIER, 9.295e-05, "score", "0.0001"),
        (SIZES, 0.75, "probability", "0.7500"),
        (EUR, 1612.5, "number", "1,612.50 EUR"),
        (EUR, -0.0123456, "number", "-0.01235 EUR"),
        (EUR, None, "number", "\N{EN DASH}"),
        (None, 612.5, "score", "612.5000"),
    ],
)
def test_what_a_model_gives_has_the_word_and_the_unit_of_its_kind(
    scale: DecisionScale | None, score: float | None, word: str, text: str
) -> None:
    assert decisions.score_text(scale, score) == decisions.ScoreText(word, text)


def test_a_list_of_decisions_names_what_its_models_give() -> None:
    assert decisions.score_heading([]) == "Score"
    assert decisions.score_heading([EUR, EUR]) == "Number"
    assert decisions.score_heading([EARLIER, None]) == "Score"
    assert decisions.score_heading([EUR, SIZES, EARLIER]) == "Score, probability or number"
    assert decisions.score_heading([EUR, EARLIER]) == "Score or number"


@pytest.mark.parametrize(
    ("scale", "word", "text", "other"),
    [(EUR, "number", "612.50 EUR", "score"), (SIZES, "probability", "0.6000", "score")],
    ids=["numbers", "classes"],
)
def test_a_decision_of_numbers_or_classes_speaks_of_no_score(
    scale: DecisionScale, word: str, text: str, other: str
) -> None:
    row = RECORD | {"decision": scale.names[0], "score": 612.5 if scale is EUR else 0.6}
    shown = decisions.decision([decisions.record(row, scale)])
    explained = Explanation(
        kind="decision", decision_id="d1", model="m", event_ms=1, answered_by="champion",
        version=1, bundle="b", degraded_reason=None, logged=None, again=None, method="tree_shap",
    )  # fmt: skip
    why = causes.explanation_details([explained], word)
    page = render("decision.html", here="", name="d1", shown=shown, reasons={}, why=why, **ALONE)
    lead = re.sub(r"<[^>]+>", "", page.partition('<p class="lead">')[2].partition("</p>")[0])
    assert f"by a {word} of {text} of version 1" in lead
    assert f'<th scope="col">{word.capitalize()}</th>' in page
    assert f"</b>, {word} {text}" in page
    assert f"No input raised the {word}." in page
    before_record = page.partition("Everything in this")[0]
    assert other not in re.sub(
        r"<style.*?</style>|<script.*?</script>", "", before_record, flags=re.S
    )


@pytest.mark.parametrize("method", causes.METHODS)
def test_what_bars_are_is_said_in_the_word_of_the_kind(method: str) -> None:
    found = Explanation(
        kind="decision", decision_id="d1", model="m", event_ms=1, answered_by="champion",
        version=1, bundle="b", degraded_reason=None, logged=None, again=None, method=method,
        causes=(InputCause("AMOUNT", "amount", "amount", 380.0, 12.0, 2.0, 0.1, "none"),),
    )  # fmt: skip
    (of_numbers,) = causes.explanation_details([found], "number")
    assert "number" in of_numbers.method
    assert "score" not in of_numbers.method
    (of_scores,) = causes.explanation_details([found])
    assert "score" in of_scores.method


def test_a_decision_shows_where_the_next_outcome_begins() -> None:
    begins = {"review": 0.52, "decline": 0.9}
    scale = EARLIER
    row = RECORD | {"decision": "review", "score": 0.83}
    texts = {}
    for segment in (None, "night"):
        held_to = RowThresholds(begins, segment)
        shown = decisions.decision([decisions.record(row, scale, held_to=held_to)])
        texts[segment] = render(
            "decision.html", here="", name="d1", shown=shown, reasons={}, why=None, **ALONE
        )
    said = "review from 0.5200, decline from 0.9000"
    assert f"Thresholds of this request: {said}.</p>" in texts[None]
    assert f"Thresholds of this request: {said} in segment night.</p>" in texts["night"]
    assert f"score 0.8300 ({said})" in texts[None]
    assert f'<span class="soft">{said}</span>' not in texts[None], "it is said once above"
    unknown = decisions.decision([decisions.record(row, scale)])
    page = render("decision.html", here="", name="d1", shown=unknown, reasons={}, why=None, **ALONE)
    assert "Thresholds" not in page


def test_an_explanation_tells_whose_thresholds_decided() -> None:
    found = Explanation(
        kind="decision", decision_id="d1", model="m", event_ms=1, answered_by="small_model",
        version=1, bundle="b", degraded_reason=None, logged=None, again=None, note="why",
        segment="large",
    )  # fmt: skip
    (why,) = causes.explanation_details([found])
    assert why.note == "why; decided by the thresholds of segment large"
    (plain,) = causes.explanation_details([structs.replace(found, segment=None)])
    assert plain.note == "why"


def test_a_decision_shows_the_copys_answer_what_came_later_and_how_old_its_features_were() -> None:
    hour_ms = 3_600_000
    times = {"customer_stats": 2 * hour_ms, "terminal_stats": 4 * hour_ms, "other": None}
    own = RECORD | {"event_ms": 5 * hour_ms, "answered_by": "rules", "degraded_reason": "deadline",
                    "payload": {"feature_times": times}}  # fmt: skip
    copy = RECORD | {"kind": "shadow", "version": 2, "decision": "decline", "score": 0.9}
    label = RECORD | {"kind": "label", "event_ms": 9 * hour_ms, "label": 1, "decision": None}
    void = label | {"kind": "void", "event_ms": 8 * hour_ms, "payload": {"reason": "sent twice"}}
    records = [recorded(r) for r in (label, copy, own, void)]
    shown = decisions.decision(records)
    assert [(a.of, a.version, a.decision) for a in shown.answers] == [
        ("champion, answered by rules", 1, "approve"),
        ("challenger, a copy in shadow", 2, "decline"),
    ]
    assert [told.text for told in shown.history] == [
        "taken back: sent twice", "label 1: what the model looks for",
    ]  # fmt: skip
    assert decisions.decision(records, "fraud").history[1].text == "label 1: fraud"
    assert [(a.view, a.hours, a.width) for a in shown.ages] == [
        ("customer_stats", 3.0, 100.0), ("terminal_stats", 1.0, pytest.approx(33.3)),
    ]  # fmt: skip
    page = decided("d1", *records)
    assert ">3 h<" in page
    assert 'href="/decisions/d1?why=yes"' in page


def test_what_drove_a_decision_is_drawn_by_its_size() -> None:
    found = Explanation(
        kind="decision", decision_id="d1", model="fraud", event_ms=1, answered_by="champion",
        version=1, bundle="b", degraded_reason=None, logged=Outcome("decline", 0.9),
        again=Outcome("decline", 0.9), method="tree_shap", base=-4.0, rest=-0.2,
        causes=(
            InputCause("AMOUNT", HOSTILE, "amount", 380.0, 12.0, 2.0, 0.1, "approve"),
            InputCause("COUNT", "many payments", "count", None, 1.0, 0.5, 0.7, "review"),
            InputCause("CHANNEL", "the channel", "channel", "phone", "web", 0.2, 0.8, "decline"),
            RuleCause("RULE", "a rule", {"amount": 1.0}),
        ),
    )  # fmt: skip
    (why,) = causes.explanation_details([found])
    assert [(b.width, b.contribution, b.value) for b in why.bars] == [
        (100.0, "+2.000", "380"), (25.0, "+0.500", "missing"), (10.0, "+0.200", "phone"),
        (0.0, "a rule", ""),
    ]  # fmt: skip
    shown = decisions.decision([recorded(RECORD)])
    page = render("decision.html", here="", name="d1", shown=shown, reasons={}, why=[why], **ALONE)
    assert "computed again: the same" in page
    assert "<script" not in page
    told = (
        "The margin of an average request is -4.000. These inputs add +2.700 and all others -0.200,"
        " so the margin of this request is -1.500."
    )
    assert told in page
    (without,) = causes.explanation_details([structs.replace(found, base=None)])
    assert without.sum == ""


def test_a_decision_shows_a_vector_by_its_length_and_norm() -> None:
    payload = {"request": {"amount": 4.0, "face": [3.0, 4.0], "note": ["odd", 1]}}
    shown = dict(recorded(RECORD | {"payload": payload}).request)
    assert shown == {"amount": 4.0, "face": "2 numbers, norm 5", "note": ["odd", 1]}


def test_a_decision_names_the_views_that_were_stale() -> None:
    gaps = {"stale": ["customer_stats", "terminal_stats"]}
    row = RECORD | {"payload": {"feature_gaps": gaps}}
    shown = decided("d1", recorded(row))
    assert "<dt>features stale</dt><dd>customer_stats, terminal_stats</dd>" in shown


@given(
    st.tuples(*[st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)] * 6),
    st.booleans(),
)
def test_every_mark_of_a_plot_lies_in_it(values: tuple[float | None, ...], share: bool) -> None:
    value, low, high, least, most, limit = values
    drawn = plot(PlottedInterval(value, low, high, (least, most), limit), share=share)
    if drawn is not None:
        marks = [drawn.value, drawn.low, drawn.high, *drawn.edges]
        assert all(0 <= x <= WIDTH for x in marks if x is not None)


def test_a_limit_has_its_own_number_below_its_line() -> None:
    drawn = plot(PlottedInterval(0.1, 0.05, 0.15, (None, 0.3)), share=True)
    assert drawn is not None
    (limit,) = [label for label in drawn.labels if label.text == "30.00 %"]
    assert drawn.edges == (limit.at,)
    assert [label.text for label in drawn.labels] == ["30.00 %", "0.00 %"], "none beside it"


def test_numbers_below_a_plot_do_not_overlap() -> None:
    drawn = plot(PlottedInterval(0.2, 0.1, 0.3, (0.19, 0.2)), share=True)
    assert drawn is not None
    spans = sorted(label.span for label in drawn.labels)
    assert len(spans) > 1
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= WIDTH


def test_a_difference_of_shares_is_plotted_in_points() -> None:
    values = {"share": 0.0, "low": -0.0048, "high": 0.0048, "limit": 0.02, "stop": 0.03}
    gate = {"verdict": "HEALTHY", "reason": "why", "values": values}
    evidence: Any = {"verdict": "HEALTHY", "gates": {"failures": gate, "alerts": gate}}
    told = {row.title: row.plot.description for row in rollouts._gates(evidence) if row.plot}
    assert sorted(told.values()) == [
        "0.00 %; interval -0.48 % to 0.48 %; allowed -2.00 % to 2.00 %",
        "0.00 points; interval -0.48 points to 0.48 points; at most 2.00 points allowed",
    ]


def test_a_plot_without_a_limit_or_a_value_is_none() -> None:
    assert plot(PlottedInterval(0.5, 0.4, 0.6), share=True) is None
    assert plot(PlottedInterval(float("nan"), None, None, (None, 0.1)), share=True) is None


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
    finding = IncidentFinding(
        "fraud", "drift", 1, 1, 1, {"reasons": ["moved"], "windows": [window]}
    )
    change = Change(1, 1, "open", 0, None, "drift")
    shown = incidents.incident(Incident("i", finding, "open", 0, None, 0, None, (change,)), 0)
    assert [f.name for f in shown.features] == ["amount", "calm"]
    assert shown.windows[0].health == "drifted"
    assert shown.windows[0].alerts is not None
    assert "allowed 0.00 % to 3.00 %" in shown.windows[0].alerts.description
    assert incidents.incident(replace(shown.incident), 0).reasons == ("moved",)
    far = "by 1.00 standard deviations (0.15 allowed)"
    assert shown.cause == f"Inputs that moved furthest: amount, {far}"
    window["shifts"] = {**shifts, "score": shifts["amount"] | {"distance": 1.15}}
    shown = incidents.incident(Incident("i", finding, "open", 0, None, 0, None, (change,)), 0)
    assert [f.name for f in shown.features] == ["score", "amount", "calm"]
    assert shown.cause == (
        f"Inputs that moved furthest: amount, {far}. The score moved with them: score, by 1.15"
        " standard deviations (0.15 allowed)"
    )


@pytest.mark.parametrize(
    ("factor", "spread", "told"),
    [(1.5, 1.0, "up by "), (0.6, 1.0, "down by "), (1.0, 2.5, "both up and down, by ")],
)
def test_an_incidents_cause_says_which_way_an_input_moved(
    factor: float, spread: float, told: str
) -> None:
    drawn = np.random.default_rng(3).normal(40.0, 10.0, 20_000)
    then = column(drawn, "amount")
    now = 40.0 * factor + (drawn - 40.0) * spread
    moved = measures.shift(
        "amount", then, now, np.arange(20_000), fraud().drift,
        profile_rows=20_000, error_share=0.01,
    )  # fmt: skip
    assert moved.drifted
    judged = verdicts.WindowVerdict(
        0, 1, 20_000, verdicts.Health.UNHEALTHY, ("amount moved",), shifts=(moved,)
    )
    finding = IncidentFinding("fraud", "drift", 1, 1, 1, {"windows": [verdicts.plain(judged)]})
    shown = incidents.incident(Incident("i", finding, "open", 0, None, 0, None, ()), 0)
    assert shown.cause.startswith(f"Inputs that moved furthest: amount, {told}")


def test_an_incident_of_a_model_without_alerts_shows_none_and_names_what_it_gives() -> None:
    shift = {"psi": 0.4, "psi_limit": 0.2, "distance": 1.0, "distance_limit": 0.15,
             "missing_share": 0.0, "drifted": True}  # fmt: skip
    window = {"start_ms": 0, "end_ms": 1, "rows": 5, "health": "UNHEALTHY", "reasons": ["moved"],
              "shifts": {"score": shift}, "alert_share": None}  # fmt: skip
    finding = IncidentFinding("m", "drift", 1, 1, 1, {"reasons": ["moved"], "windows": [window]})
    change = Change(1, 1, "open", 0, None, "drift")
    found = Incident("i", finding, "open", 0, None, 0, None, (change,))
    shown = incidents.incident(found, 0, score_word="number")
    assert [f.name for f in shown.features] == ["number"]
    assert shown.cause.startswith("Moved: number, by")
    page = render("incident.html", here="", shown=shown)
    assert "Share of alerts" not in page
    assert '<th scope="row">number</th>' in page
    both = replace(shown.windows[0], alerts=shown.features[0].psi_plot)
    again = render("incident.html", here="", shown=replace(shown, windows=(both, *shown.windows)))
    assert "Share of alerts" in again, "one window has it"


UNTIL_MS = 1_000


def incident_of(kind: str, state: State, evidence: dict[str, Any], answer: int | None) -> Incident:
    change = Change(1, 1, state, 0, None, kind)
    finding = IncidentFinding("fraud", kind, 1, 1, 1, evidence)
    return Incident("i", finding, state, 1, None, UNTIL_MS, answer, (change,))


WORSE = {"recall": {"since_ms": 0, "now": 0.2, "before": 0.5, "worse": True},
         "precision": {"since_ms": 0, "now": 0.6, "before": 0.6, "worse": False}}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "state", "answer", "cause", "advice", "has_command"),
    [
        ("drift", "open", None, "", "A retrain starts by itself", True),
        ("drift", "claimed", None, "", "A retrain is under way", False),
        ("drift", "answered", 4, "", "The rollout of version 4 decides", False),
        ("drift", "answered", None, "", "The retrain made no version", True),
        ("drift", "closed", None, "", "Nothing is left to do", False),
        ("performance", "open", None,
         "recall is 20.0 %; it was 50.0 % in the champion's first days", "A retrain starts", True),
        ("data fault", "open", None, "amount is missing", "Mend the source of the data", False),
    ],
)  # fmt: skip
def test_an_incident_names_its_cause_and_what_to_do(
    kind: str, state: State, answer: int | None, cause: str, advice: str, has_command: bool
) -> None:
    evidence = {"reasons": ["amount is missing"], "performance": {"metrics": WORSE}}
    found = incidents.incident(incident_of(kind, state, evidence, answer), UNTIL_MS - 1)
    assert found.cause == cause
    assert found.advice.startswith(advice)
    assert ("mlplatform retrain fraud" in found.command) == has_command
    page = render("incident.html", here="", shown=found)
    assert cause in html.unescape(page)
    assert ("By command" in page) == has_command


@pytest.mark.parametrize(
    ("kind", "state", "trains", "is_linked"),
    [
        ("drift", "open", True, True),
        ("drift", "open", False, True),
        ("performance", "open", True, True),
        ("drift", "claimed", True, False),
        ("data fault", "open", True, False),
        ("drift", "closed", True, False),
    ],
)
def test_advice_to_roll_back_leads_to_the_models_page_where_the_button_is(
    kind: str, state: State, trains: bool, is_linked: bool
) -> None:
    open_now = incident_of(kind, state, {}, None)
    found = incidents.incident(open_now, UNTIL_MS - 1, trains=trains)
    assert ("roll the champion back" in found.advice) == is_linked
    page = render("incident.html", here="", shown=found)
    link = 'rolls back on <a href="/models/fraud">the page of fraud</a>'
    assert (link in page) == is_linked


@pytest.mark.parametrize(
    ("claim", "now_ms", "advice", "has_command"),
    [
        (MAX_CLAIMS, UNTIL_MS - 1, "A retrain is under way", False),
        (MAX_CLAIMS - 1, UNTIL_MS, "The last retrain did not finish: the next drift check", False),
        (MAX_CLAIMS, UNTIL_MS, "3 retrains were started, none finished", True),
    ],
)
def test_an_incident_says_where_no_retrain_goes_on_any_more(
    claim: int, now_ms: int, advice: str, has_command: bool
) -> None:
    claimed = replace(incident_of("drift", "claimed", {}, None), claim=claim)
    found = incidents.incident(claimed, now_ms)
    assert found.advice.startswith(advice)
    assert ("mlplatform retrain fraud" in found.command) == has_command


@pytest.mark.parametrize(
    ("phase", "advice", "command"),
    [
        ("shadow", "The rollout fraud-v2-1 of version 2 decides", "mlplatform rollouts show fraud"),
        ("rolled_back", "The rollout fraud-v2-1 of version 2 was taken back: too many",
         "mlplatform retrain fraud"),
        ("promoted", "The rollout fraud-v2-1 of version 2 has promoted the version",
 "mlplatform rollouts"),
        (None, "Version 2 has no rollout yet: the next drift check opens one", ""),
    ],
)  # fmt: skip
def test_an_incident_that_is_answered_leads_to_the_rollout(
    phase: Any, advice: str, command: str
) -> None:
    state = fold(journal("too many failures")[:2])
    rollout = [replace(state, phase=phase, reason="too many failures")] if phase else []
    answered = incident_of("drift", "answered", {}, 2)
    found = incidents.incident(answered, UNTIL_MS, rollouts=rollout)
    assert found.advice.startswith(advice)
    assert found.command.startswith(command)
    assert bool(found.command) == bool(command)
    page = render("incident.html", here="", shown=found)
    assert ('<a href="/rollouts/fraud-v2-1">fraud-v2-1</a>' in page) == bool(phase)


def test_a_second_claim_says_what_became_of_the_retrain_before() -> None:
    note = "drift-watch has asked for a retrain"
    claims = [Change(n, n, "claimed", n, "drift-watch", note) for n in (1, 2)]
    found = replace(incident_of("drift", "claimed", {}, None), changes=tuple(claims))
    first, second = (note for _, note in incidents.incident(found, 0).notes)
    assert first == note
    assert second.startswith(f"{note}; the retrain before it ended without an answer")
    page = render("incident.html", here="", shown=incidents.incident(found, 0))
    assert html.escape(second) in page


def test_the_plot_of_calibration_has_the_unit_of_its_sentence() -> None:
    gate = {
        "name": "calibration", "verdict": "passed", "observed": 0.00408, "limit": 0.01,
        "interval": (0.00204, 0.00552), "reason": "0.41 percentage points apart on average",
    }  # fmt: skip
    (row,) = rollouts.validation_gates({"gates": [gate]})
    assert row.plot is not None
    told = (
        "0.41 points; interval 0.20 points to 0.55 points; judged is the lower end, the dot, at"
        " 0.20 points; at most 1.00 points allowed"
    )
    assert row.plot.description == told


def test_the_dot_of_calibration_marks_the_end_that_is_judged() -> None:
    """An estimate beyond the limit passes if the low end of its interval does not lie there."""
    gate = {
        "name": "calibration", "verdict": "passed", "observed": 0.012, "limit": 0.01,
        "interval": (0.004, 0.013), "reason": "1.2 percentage points apart on average",
    }  # fmt: skip
    (row,) = rollouts.validation_gates({"gates": [gate]})
    assert row.plot is not None
    assert row.plot.judged == row.plot.low
    assert row.plot.well is not None
    assert row.plot.judged < sum(row.plot.well) < (row.plot.value or 0)
    drawn = templates().get_template("parts.html").module.plot(row.plot)
    assert f'<circle cx="{row.plot.low}"' in drawn
    (other,) = rollouts.validation_gates({"gates": [{**gate, "name": "ranking"}]})
    assert other.plot is not None
    assert other.plot.judged == other.plot.value


@pytest.mark.parametrize(
    ("text", "model", "is_refused"),
    [("abc", None, True), ("-5", None, True), ("abc", "fraud", True), ("12", None, False),
     ("9" * 25, None, True), ("abc", "another", False)],
)  # fmt: skip
def test_a_customer_that_no_model_can_have_is_refused(
    text: str, model: str | None, is_refused: bool
) -> None:
    if is_refused:
        with pytest.raises(InputInvalid, match=f"Customer id is '{text}'; wanted: a whole number"):
            check_customer(text, [fraud()], model)
    else:
        check_customer(text, [fraud()], model)
    words = replace_key(fraud(), "string")
    check_customer(text, [fraud(), words], None)


def replace_key(definition: Any, kind: Any) -> Any:
    key = definition.assignment_unit
    typed = structs.replace(definition.request[key], type=kind)
    return structs.replace(definition, name="words", request={**definition.request, key: typed})


def test_many_reasons_are_a_short_line_with_the_rest_folded_away() -> None:
    long = [f"input_{n} moved: its PSI is 0.400 (limit 0.2), its distance 1.0" for n in range(20)]
    short = incidents.summary(long)
    assert short.startswith("input_0 moved; input_1 moved; ")
    assert len(short) <= incidents.MOST_SUMMARY
    assert incidents.summary(["nothing moved"]) == "nothing moved"


def test_an_incident_of_a_ready_file_names_no_retrain() -> None:
    found = incidents.incident(incident_of("drift", "open", {}, None), UNTIL_MS, trains=False)
    assert found.advice.startswith("Nothing retrains a ready ONNX file")
    assert found.command == "mlplatform validate fraud --actor YOU"


def test_a_decision_says_first_what_was_decided_when_and_why() -> None:
    row = RECORD | {"event_ms": 1_000, "payload": {"reasons": ["AMOUNT", "GONE"]}}
    shown = decisions.decision([recorded(row)])
    known = {"AMOUNT": "Amount of the payment"}
    page = render(
        "decision.html", here="", name="d1", shown=shown, reasons=known, why=None, **ALONE
    )
    lead = re.sub(r"<[^>]+>", "", page.partition('<p class="lead">')[2].partition("</p>")[0])
    assert lead == (
        "fraud decided approve at 1970-01-01 00:00:01 UTC (event time), by a score of 0.1000 of"
        " version 1. Why: Amount of the payment; GONE."
    )


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("not started: `mlplatform up`", "not started: <code>mlplatform up</code>"),
        ("`<b>` & `c`", "<code>&lt;b&gt;</code> &amp; <code>c</code>"),
        ("a lone ` stays <i>", "a lone ` stays &lt;i&gt;"),
    ],
)
def test_commands_in_a_sentence_look_like_commands(sentence: str, shown: str) -> None:
    assert coded(sentence) == shown


def test_an_incident_shows_what_matured_labels_say_of_each_metric() -> None:
    metric = {"since_ms": 0, "before": 0.5, "low": 0.4, "high": None, "hits": 20, "base": 100.0}
    metrics = {
        "recall": metric | {"now": 0.2, "worse": True},
        "calibration": metric
        | {"now": 1.1, "before": 1.0, "low": -0.2, "high": 2.2, "worse": False},
        "error": metric | {"now": 31.5, "before": 12.25, "low": None, "high": 40.0, "worse": False},
    }
    finding = IncidentFinding(
        "fraud", "performance", 1, 0, 1, {"performance": {"metrics": metrics}}
    )
    change = Change(1, 1, "open", 0, None, "performance")
    shown = incidents.incident(Incident("i", finding, "open", 0, None, 0, None, (change,)), 0)
    assert [(m.name, m.worse, m.before) for m in shown.metrics] == [
        ("recall", True, "50.0 %"),
        ("calibration", False, "1.00 times"),
        ("error", False, "12.25"),
    ]
    page = render("incident.html", here="", shown=shown)
    assert "Matured labels" in page
    assert "20.00 %" in page
    assert "1.00 times" in page
    assert "12.25 times" not in page


RECORD: dict[str, Any] = {
    "writer": "gateway-0", "seq": 1, "kind": "decision", "decision_id": "d1", "model": "fraud",
    "event_ms": 1, "recorded_ms": 1, "generation": 1, "rollout_id": None, "arm": "champion",
    "answered_by": "champion", "unit": 7, "bucket": 1, "version": 1, "bundle": "b", "score": 0.1,
    "decision": "approve", "degraded": False, "degraded_reason": None, "latency_us": 9,
    "label": None, "payload": {},
}  # fmt: skip


def test_a_decision_names_the_trace_it_was_made_in() -> None:
    assert recorded(RECORD).trace_id == "d1"
    assert recorded(RECORD | {"payload": {"trace_id": "t"}}).trace_id == "t"
    assert recorded(RECORD | {"kind": "label", "decision": None}).trace_id is None


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
        buttons=(),
        budgets="away",
        here="",
        model=ModelRow(fraud(), no_routes("fraud")),
        traffic=None,
        versions=[Version("fraud", 7, "b" * 64, "run", 0, facts)],
        rollouts=[],
        tones={},
    )
    assert "v7" in text
    assert "0.00 % to 3.00 %" in text
    assert "<script" not in text.replace(OWN_SCRIPT, "")


def test_the_page_of_a_model_says_which_variants_answer() -> None:
    variants = tuple(
        Variant(Arm(version, "b" * 64, "fraud-v5"), share, ())
        for version, share in ((5, 20.0), (6, 10.0))
    )
    for answering, said in ((True, "fraud-variants-1: v5"), (False, "whose services start: v5")):
        test = VariantTest("fraud-variants-1", variants, answering)
        text = render(
            "model.html",
            buttons=(),
            budgets="away",
            here="",
            model=ModelRow(fraud(), dataclasses.replace(no_routes("fraud"), test=test)),
            traffic=None,
            versions=[],
            rollouts=[],
            tones={},
        )
        assert said in text
        assert "for 20 %, v6 <code>bbbbbbbb</code> for 10 % of the customers" in text
        assert "mlplatform variants show fraud" in text


def test_a_model_that_is_switched_off_says_by_whom_when_and_why() -> None:
    proof = ProvenIdentity(issuer="https://bank.example", subject="1")
    at_ms = 1_796_115_240_000
    killed = Killed(
        model="fraud", event_ms=0, wall_ms=at_ms, actor="ana", reason=HOSTILE, identity=proof
    )
    routes = replace(no_routes("fraud"), killed=True)
    shown = {"buttons": (), "budgets": "away", "here": "", "traffic": None, "versions": [],
             "rollouts": [], "tones": {}}  # fmt: skip
    text = render("model.html", model=ModelRow(fraud(), routes, killed), **shown)
    told = html.unescape(re.sub(r"<[^>]+>", "", text))
    assert "switched off by ana (proven by https://bank.example) on 2026-12-01 08:54 UTC" in told
    assert HOSTILE in told
    assert "<script" not in text.replace(OWN_SCRIPT, "")
    assert "mlplatform rollouts lift fraud" in told
    unknown = render("model.html", model=ModelRow(fraud(), routes), **shown)
    assert "fraud is switched off." in unknown


def test_the_process_carries_nothing_heavy() -> None:
    code = "import sys, mlplatform.observing.page.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"matplotlib", "pandas", "mlflow", "prefect", "evidently", "sklearn", "onnxruntime"}
    assert heavy.isdisjoint(done.stdout.split())


def test_words_of_reasons_are_those_of_the_files_as_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("reasons.yaml", "rules.yaml"):
        shutil.copy(model_folder("fraud") / name, tmp_path)
    monkeypatch.setattr(words, "model_folder", lambda name: tmp_path)
    found = words.reason_words(fraud())
    assert found["AMOUNT"] == "Amount of the payment"
    assert found["RULE_HIGH_AMOUNT"] == "The amount is very high"
    reasons = tmp_path / "reasons.yaml"
    reasons.write_text(reasons.read_text().replace("Amount of the payment", "Sum of the payment"))
    assert words.reason_words(fraud())["AMOUNT"] == "Sum of the payment"
    reasons.write_text("none")
    assert words.reason_words(fraud()).keys() == {c for c in found if c.startswith("RULE_")}


@pytest.mark.parametrize(
    ("reason", "told"),
    [("killed", "switched off"), ("invalid_output", "invalid output"), ("features", "features")],
)
def test_a_degraded_answer_says_the_buttons_word(reason: str, told: str) -> None:
    found = recorded({**RECORD, "degraded": True, "degraded_reason": reason})
    text = decided("d1", found)
    assert f'<dt>degraded</dt><dd class="bad">{told}' in text
    assert "<td>killed" not in text
