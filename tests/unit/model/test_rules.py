"""Rules decide when no model answers, and abstain rather than guess."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.rules import RuleOutcome, evaluate, parse_rules
from mlplatform.runtime.errors import ConfigInvalid

TABLE = """
- {code: DECLINE, text: t, decision: decline, when: [{input: risk, op: ">=", value: 0.5}]}
- {code: REVIEW, text: t, decision: review, when: [{input: amount, op: ">", value: 200}]}
- code: NEW
  text: t
  decision: review
  when: [{input: count, op: missing}, {input: amount, op: ">=", value: 100}]
- code: USUAL
  text: t
  decision: approve
  when: [{input: amount, op: "<=", value: 50}, {input: count, op: ">", value: 0}]
"""
INPUTS = ("amount", "risk", "count")
parsed = partial(parse_rules, decisions=EARLIER.names)
RULES = parsed(TABLE, source="rules.yaml", inputs=INPUTS)
VALUES = st.one_of(st.none(), st.just(math.nan), st.floats(-1, 500))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param(
            {"amount": 10, "risk": 0.0, "count": 3},
            RuleOutcome("approve", ("USUAL",)),
            id="the one rule that holds decides",
        ),
        pytest.param(
            {"amount": 300, "risk": 0.9, "count": 3},
            RuleOutcome("decline", ("DECLINE",)),
            id="the strongest decision wins",
        ),
        pytest.param(
            {"amount": 300, "risk": 0.0, "count": None},
            RuleOutcome("review", ("REVIEW", "NEW")),
            id="all rules of the winning decision are named",
        ),
        pytest.param(
            {"amount": 100, "risk": 0.0, "count": 3}, None, id="nothing holds: the table abstains"
        ),
        pytest.param(
            {"amount": 10, "risk": None, "count": 3},
            None,
            id="no approval while a stricter rule is open",
        ),
        pytest.param(
            {"amount": 300, "risk": math.nan, "count": 3},
            RuleOutcome("review", ("REVIEW",)),
            id="a review stands whatever else is missing",
        ),
        pytest.param({}, None, id="nothing known: the table abstains"),
    ],
)
def test_a_table_decides(inputs, expected):
    assert evaluate(RULES, inputs, EARLIER) == expected


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (">", [False, False, True]),
        (">=", [False, True, True]),
        ("<", [True, False, False]),
        ("<=", [True, True, False]),
        ("==", [False, True, False]),
    ],
)
def test_operators_mean_what_they_say(op, expected):
    text = f'[{{code: A, text: t, decision: review, when: [{{input: x, op: "{op}", value: 2}}]}}]'
    rules = parsed(text, source="r", inputs=["x"])
    assert [evaluate(rules, {"x": v}, EARLIER) is not None for v in (1, 2, 3)] == expected


@given(st.fixed_dictionaries({name: VALUES for name in INPUTS}), st.permutations(RULES))
def test_the_order_of_rules_changes_no_decision(inputs, order):
    one, other = evaluate(RULES, inputs, EARLIER), evaluate(order, inputs, EARLIER)
    assert (one and one.decision) == (other and other.decision)


@given(st.fixed_dictionaries({name: VALUES for name in INPUTS}), st.sampled_from(RULES))
def test_one_more_rule_never_makes_a_decision_milder(inputs, more):
    rest = [r for r in RULES if r is not more and r.decision != "approve"]
    before, after = evaluate(rest, inputs, EARLIER), evaluate([*rest, more], inputs, EARLIER)
    if before is not None:
        assert after is not None
        strength = EARLIER.names.index
        assert strength(after.decision) >= strength(before.decision)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[{code: A, text: t, decision: review, when: []}]", "0.when is"),
        (
            '[{code: A, text: t, decision: review, when: [{input: y, op: ">", value: 1}]}]',
            "y",
        ),
        ('[{code: A, text: t, decision: review, when: [{input: x, op: ">"}]}]', "value"),
        (
            "[{code: A, text: t, decision: review, when: [{input: x, op: missing, value: 1}]}]",
            "value",
        ),
        ('[{code: A, text: t, decision: stop, when: [{input: x, op: ">", value: 1}]}]', "stop"),
        ('[{code: A, text: t, decision: review, when: [{input: x, op: "~", value: 1}]}]', "~"),
        ("[{code: A, decision: review, when: [{input: x, op: missing}]}]", "text"),
        ("not a list", "list of rules"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_its_key(text, named):
    with pytest.raises(ConfigInvalid, match=named):
        parsed(text, source="rules.yaml", inputs=["x"])


def test_all_that_is_wrong_is_told_at_once_by_its_line():
    text = """
- {code: A, text: t, decision: stop, when: [{input: y, op: ">", value: 1}]}
- {code: A, text: t, decision: review, when: [{input: x, op: "~", value: 1}, {input: z, op: ">"}]}
- {code: B, decision: review, when: [], whem: 3}
"""
    with pytest.raises(DocumentInvalid) as refused:
        parsed(text, source="rules.yaml", inputs=["x"])
    assert [finding.key for finding in refused.value.findings] == [
        *("0.decision", "0.when.0.input"),
        *("1.when.0.op", "1.when.1.input", "1.when.1.value", "1.code"),
        *("2.whem", "2.text", "2.when"),
    ]
    assert "rules.yaml: 9 things are wrong:\n  line 2: 0.decision is 'stop'; wanted: one" in str(
        refused.value
    )


def test_a_rule_is_checked_as_far_as_the_model_is_known():
    text = '[{code: A, text: t, decision: stop, when: [{input: y, op: ">"}]}]'
    with pytest.raises(DocumentInvalid) as refused:
        parse_rules(text, source="rules.yaml", inputs=None, decisions=None)
    assert [finding.key for finding in refused.value.findings] == ["0.when.0.value"]


def test_a_code_used_twice_is_refused():
    rule = "{code: A, text: t, decision: review, when: [{input: x, op: missing}]}"
    with pytest.raises(ConfigInvalid, match="differ"):
        parsed(f"[{rule}, {rule}]", source="rules.yaml", inputs=["x"])


def test_the_fraud_table_decides_what_it_was_written_for():
    inputs = {i.name: 0.0 for i in load_definition("fraud").inputs}
    text = (model_folder("fraud") / "rules.yaml").read_text()
    rules = parsed(text, source="rules.yaml", inputs=inputs)
    usual = inputs | {"amount": 40.0, "amount_to_mean_30d": 1.0, "customer_count_30d": 20.0}
    risky = usual | {"terminal_risk_7d": 0.8, "terminal_count_7d": 5.0}
    unknown = dict.fromkeys(inputs) | {"amount": 40.0}
    decisions = [
        evaluate(rules, i, EARLIER) for i in (usual, risky, usual | {"amount": 500.0}, unknown)
    ]
    assert [d and d.decision for d in decisions] == ["approve", "decline", "review", None]
