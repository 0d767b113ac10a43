"""What an approver reads: gates and figures in sentences, and nothing that only a program knows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.learning.validation import report
from mlplatform.learning.validation.report_entries import NOTHING_YET
from mlplatform.model.policies.rollout import Tolerance
from mlplatform.rollouts.passes.summary import TITLES, mark, question, to_markdown
from mlplatform.rollouts.verdicts.comparison import GATES
from mlplatform.rollouts.verdicts.judgement import GateLimits, Sources, StepPolicy
from mlplatform.rollouts.verdicts.verdict import ALIKE, Errors
from rollout_world import fraud, gate_report, judged, shadow_rows

FIRST: dict[str, Any] = {
    "model": "fraud",
    "rollout_id": "fraud-v1-1",
    "version": 1,
    "bundle": "b" * 64,
    "author": "ann",
    "alert_band": [0.001, 0.0354],
    "validation": gate_report("b" * 64),
    "bootstrap": True,
}
LIMITS = GateLimits(
    error_share=0.01,
    failure_share=0.01,
    guardrail_failures=10,
    step=StepPolicy(
        stop=fraud().rollout.stop,
        tolerance=Tolerance(failures=0.1),
        errors=Errors(stop=0.001, missed=0.05),
        predicted=ALIKE,
        percent=None,
        units=300,
        requests=600,
        pods=1,
    ),
)


def challenger() -> dict[str, Any]:
    rows = shadow_rows(400, 4, generation=1, version=2)
    seen = judged(rows, "shadow", LIMITS, Sources((), ()))
    shared = FIRST | {"version": 2, "rollout_id": "fraud-v2-1"}
    del shared["bootstrap"]
    return shared | seen.evidence


def test_a_gate_with_nothing_to_check_is_told_alike_before_and_in_traffic() -> None:
    shown = mark("HEALTHY", reason=f"{NOTHING_YET}: no arm has had a request.")
    before = report.mark({"name": "decision_flips", "verdict": "passed", "observed": None})
    assert shown == before == f"\N{EN DASH} {NOTHING_YET.lower()}"


def test_a_first_version_is_approved_by_its_gate_report() -> None:
    page = question("fraud-v1-1", FIRST)
    assert page.startswith("## May version 1 of fraud answer customers?")
    for gate in FIRST["validation"]["gates"]:
        assert gate["reason"] in page
    assert "2 of 2 gates passed. Compared with no champion" in page


def test_a_gate_with_nothing_to_check_is_not_among_those_that_passed() -> None:
    empty = {"name": "decision_flips", "verdict": "passed", "observed": None, "reason": "a first"}
    shown = {**gate_report("b" * 64), "champion": ""}
    told = report.summary({**shown, "gates": [*shown["gates"], empty]})
    assert told.startswith("2 of 3 gates passed, and 1 had nothing to check yet. Compared with no")


@pytest.mark.parametrize(
    ("known", "words"),
    [({"champion_version": 1}, "version 1, the champion cccccc"), ({}, "champion cccccc")],
    ids=["with its version", "of an earlier release"],
)
def test_the_champion_compared_with_is_named(known: dict[str, Any], words: str) -> None:
    report = {**gate_report("b" * 64, "c" * 64), **known}
    page = question("fraud-v2-1", FIRST | {"version": 2, "validation": report})
    assert f"Compared with {words}" in page


def test_a_first_version_says_its_alerts_and_what_approval_does() -> None:
    page = question("fraud-v1-1", FIRST)
    assert "0.10 % to 3.54 % of requests" in page
    assert "becomes champion" in page
    assert "In traffic" not in page


def test_no_share_of_alerts_is_promised_of_a_model_that_raises_none() -> None:
    assert "alert" not in to_markdown("fraud-v1-1", {**FIRST, "alert_band": [0.0, 0.0]})  # type: ignore[typeddict-item]


def test_arms_that_disagree_on_classes_or_numbers_are_not_said_to_alert() -> None:
    """All tasks share the gate; its sentence says what the arms disagree on."""
    (kind,) = [gate for gate in GATES if gate.name == "disagreement"]
    assert kind.picture is not None
    assert "alert" not in kind.title + kind.picture.axis


def test_a_challenger_is_approved_by_its_gates_and_its_traffic() -> None:
    page = question("fraud-v2-1", challenger())
    assert "Before traffic: validation" in page
    assert "failed to answer 0 of 1,600 requests (0.00 %) in time" in page
    assert "1970-01-01 00:00 UTC" in page
    assert "| customers | 400 | 400 |" in page
    assert "| requests | 1,600 | 1,600 |" in page
    assert "| decisions unlike the champion's | 0 | not compared |" in page


def test_a_missing_gate_report_is_said_aloud() -> None:
    assert "No gate report was recorded" in to_markdown("fraud-v1-1", FIRST | {"validation": {}})


def test_no_page_shows_a_name_of_the_code_or_more_digits_than_a_person_reads() -> None:
    for evidence in (FIRST, challenger()):
        page = re.sub(r"`[^`]*`", "", question("fraud-v1-1", evidence))
        assert not re.search(r"[a-z]_[a-z]", page), page
        assert not re.search(r"\.\d{5,}", page), page


def test_no_sentence_stands_in_a_table() -> None:
    page = question("fraud-v2-1", challenger())
    cells = [c for line in page.splitlines() if line.startswith("|") for c in line.split("|")]
    assert max(map(len, cells)) < 40, "the form is too narrow for more"


def test_an_arm_without_answers_has_no_share_of_alerts() -> None:
    silent = challenger()
    silent["arms"]["challenger"] |= {"answers": 0, "alerts": 0, "pairs": 0}
    assert "| share of alerts | no answers | 0.88 % |" in to_markdown("fraud-v2-1", silent)


def test_every_gate_has_a_title() -> None:
    assert set(challenger()["gates"]) <= set(TITLES)
    guarded = judged([], "champion", replace(LIMITS, step=None), Sources((), ()))
    assert set(guarded.evidence["gates"]) <= set(TITLES)
    assert {g["name"] for g in FIRST["validation"]["gates"]} <= set(report.TITLES)
