"""Outcomes are data: any words in any number, from whichever score on model.yaml says."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import model_folder, parse
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import EARLIER, DecisionPolicy, DecisionScale
from mlplatform.model.rules import evaluate, parse_rules

FRAUD: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
COSTS = {
    "grant": {"negative": -120, "positive": 900},
    "refer": {"negative": -70, "positive": 300},
    "refuse": {"negative": 0, "positive": 0},
}
CREDIT: dict[str, Any] = {
    "outcomes": ["grant", "refer", "refuse"],
    "alerts": ["refer", "refuse"],
    "hides_outcome": ["refuse"],
    "safe": "refer",
    "thresholds": {"shares": {"refer": 0.05, "refuse": 0.2}},
}
BY_COST = {"thresholds": {"costs": COSTS, "currency": "EUR"}, "capacity": 0.3}


def parsed(section: dict[str, Any], **others: Any) -> DecisionPolicy:
    document = copy.deepcopy(FRAUD) | {"decision": section} | others
    return parse(yaml.safe_dump(document), "model.yaml").decision


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_a_score_gets_the_last_outcome_that_begins_at_or_below_it(
    begins: list[float], scores: list[float]
) -> None:
    names = tuple(f"outcome-{number}" for number in range(len(begins) + 1))
    scale = DecisionScale(names, names[-1:])
    cut_offs = CutOffs(scale, dict(zip(names[1:], begins, strict=True)))
    places = [sum(score >= begin for begin in begins) for score in [*scores, *begins]]
    assert [cut_offs.outcome(score, ()) for score in [*scores, *begins]] == [
        names[p] for p in places
    ]
    x = np.zeros((len(places), 0), np.float32)
    assert cut_offs.places(np.array([*scores, *begins]), x).tolist() == places


def test_more_may_be_refused_than_referred() -> None:
    """A fifth is refused and a twentieth referred."""
    policy = parsed(CREDIT)
    assert policy.alert_share == 0.25
    assert policy.scale == DecisionScale(("grant", "refer", "refuse"), ("refer", "refuse"))
    whole = {"shares": {"refer": 0.2, "refuse": 0.8}}
    assert parsed(CREDIT | {"thresholds": whole}).alert_share == 1.0


def test_two_outcomes_are_enough_and_many_are_taken() -> None:
    two = {"outcomes": ["pass", "check"], "alerts": ["check"], "hides_outcome": [], "safe": "check"}
    assert parsed(two | {"thresholds": {"shares": {"check": 0.1}}}).scale.first_alert == 1
    names = [f"tier-{number}" for number in range(8)]
    scores = {name: number / 10 for number, name in enumerate(names) if number}
    eight = {"outcomes": names, "alerts": names[6:], "hides_outcome": names[7:], "safe": "tier-6"}
    policy = parsed(eight | {"thresholds": {"scores": scores}, "capacity": 0.2})
    assert (policy.scale.first_alert, policy.alert_share) == (6, 0.2)


def test_the_form_of_earlier_releases_is_read_as_it_was_meant() -> None:
    now = FRAUD["decision"]
    earlier = {
        "review_share": 0.010,
        "decline_share": 0.003,
        "limit": {
            "decline_share": 0.05,
            **{key: value for key, value in now["limit"].items() if key != "shares"},
        },
    }
    assert parsed(earlier) == parsed(now)
    assert parsed(earlier | {"hides_outcome": []}).hides_outcome == ()
    with pytest.raises(DocumentInvalid, match=r"decision.review_share is an unknown key"):
        parsed({"review_share": 0.01})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outcomes": ["grant"]}, "decision.outcomes is"),
        ({"outcomes": ["grant", "grant", "refuse"]}, "decision.outcomes is"),
        ({"outcomes": ["grant", "Refer me", "refuse"]}, "decision.outcomes.1 is 'Refer me'"),
        ({"alerts": []}, "decision.alerts is"),
        ({"alerts": ["refer"]}, "the last of grant, refer, refuse"),
        ({"alerts": ["grant", "refer", "refuse"]}, "and not the first"),
        ({"hides_outcome": ["decline"]}, "decision.hides_outcome is"),
        ({"safe": "review"}, "decision.safe is 'review'"),
        ({"capacity": 0.2}, "decision.capacity is 0.2"),
        ({"thresholds": {}}, r"decision.thresholds is \[\]; wanted: one of shares, scores, costs"),
        ({"thresholds": {"shares": {"refuse": 0.2}}}, "each of refer, refuse"),
        ({"thresholds": {"shares": {"refer": 0.3, "refuse": 0.8}}}, "1.1 in all"),
        (
            {"thresholds": {"scores": {"refer": 0.6, "refuse": 0.5}}, "capacity": 0.1},
            "scores that do not fall",
        ),
        ({"thresholds": {"scores": {"refer": 0.4, "refuse": 0.5}}}, "decision.capacity is missing"),
        (BY_COST | {"thresholds": {"costs": COSTS}}, "decision.thresholds.currency is missing"),
        (
            BY_COST | {"thresholds": {"costs": {"grant": COSTS["grant"]}, "currency": "EUR"}},
            "each of grant, refer, refuse",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused_by_its_key(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DocumentInvalid, match=told):
        parsed(CREDIT | changes)


@pytest.mark.parametrize(
    ("refer", "told"),
    [
        ((-130, 300), "costs.refer is .*; wanted: more than grant where the label is negative"),
        ((-70, 950), "costs.refer is .*; wanted: more than grant .* and less where it is positive"),
        ((-10, 800), "some probability makes refer the cheapest"),
    ],
)
def test_an_outcome_that_is_never_the_cheapest_is_refused(
    refer: tuple[float, float], told: str
) -> None:
    costs = COSTS | {"refer": {"negative": refer[0], "positive": refer[1]}}
    section = CREDIT | BY_COST | {"thresholds": {"costs": costs, "currency": "EUR"}}
    with pytest.raises(DocumentInvalid, match=told):
        parsed(section)


def test_a_request_is_let_through_by_an_outcome_of_the_model() -> None:
    explores = {
        "share": 0.1, "decision": "refer", "amount": "amount", "maximum_amount": 10,
        "maximum_sum": 100,
    }  # fmt: skip
    parsed(CREDIT, exploration=explores)
    with pytest.raises(DocumentInvalid, match=r"exploration.decision is 'review'; .* grant, refer"):
        parsed(CREDIT, exploration=explores | {"decision": "review"})


def test_rules_decide_by_the_models_own_order() -> None:
    scale = DecisionScale(("prime", "standard", "refer", "refuse"), ("refer", "refuse"))
    text = """
    - {code: A, text: t, decision: prime, when: [{input: x, op: "<", value: 1}]}
    - {code: B, text: t, decision: standard, when: [{input: y, op: ">", value: 1}]}
    - {code: C, text: t, decision: refer, when: [{input: x, op: ">", value: 5}]}
    """
    rules = parse_rules(text, source="r", inputs=["x", "y"], decisions=scale.names)

    def decided(**inputs: float) -> str | None:
        outcome = evaluate(rules, inputs, scale)
        return outcome and outcome.decision

    assert decided(x=0.0, y=0.0) == "prime"
    assert decided(x=0.0, y=2.0) == "standard"
    assert decided(x=0.0) is None, "standard was left open, and prime is milder"
    assert decided(x=6.0) == "refer", "an alert stands whatever else is missing"


def test_outcomes_of_another_scale_are_found_by_name() -> None:
    scale = DecisionScale(("approve", "step-up", "review", "decline"), ("review", "decline"))
    places = np.array([0, 1, 2, 3])
    assert EARLIER.places_of(scale, places).tolist() == [0, -1, 1, 2]
    assert scale.places_of(EARLIER, np.array([2, 1, 0])).tolist() == [3, 2, 0]
    assert scale.alerting(places).tolist() == [False, False, True, True]
