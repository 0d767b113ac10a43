"""Gates say yes, no or cannot tell, with a reason; what cannot be told never passes."""

import json
import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import enough_positives
from mlplatform.learning.validation.gates import (
    DataEvidence,
    Evidence,
    LeakageEvidence,
    ModelEvidence,
    QualityEvidence,
    ReplayEvidence,
    SchemaEvidence,
    SmallModelEvidence,
    judge,
    judge_calibration,
    judge_golden,
)
from mlplatform.learning.validation.report import gate_rows, to_dict, to_markdown
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.bundle import AlertBand
from mlplatform.model.definition import InputSpec
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS

NAN = math.nan
DEFINITION = load_definition("fraud")
GATES, TRAINING = DEFINITION.gates, DEFINITION.training
INPUTS = DEFINITION.inputs
BAND = AlertBand(low=0.005, high=0.03, share=0.012, how="by hand")

GOOD = Evidence(
    model="fraud",
    bundle="a" * 64,
    champion="b" * 64,
    data=DataEvidence(
        rows=100_000,
        positives=800,
        missing_shares={"amount": 0.0, "customer_mean_1d": 0.2},
        window_to_ms=50 * DAY_MS,
        matured_until_ms=50 * DAY_MS,
        labels_until_ms=52 * DAY_MS,
    ),
    schema=SchemaEvidence(candidate=INPUTS, champion=INPUTS, declared=INPUTS),
    quality=QualityEvidence(
        candidate=Interval(0.6, 0.5, 0.7),
        champion=0.59,
        difference=Interval(0.01, -0.02, 0.04),
        positives=150,
        units=2_000,
    ),
    running=ModelEvidence(
        calibration_error=Interval(0.001, 0.0, 0.003),
        positives=80,
        parity_difference=1e-7,
        parity_against="the fitted model",
        golden_difference=0.0,
        golden_tolerance=1e-5,
        latency_p99_ms=0.1,
        latency_calls=1000,
    ),
    replay=ReplayEvidence(
        rows=20_000, source="held-out days", band=BAND, alert_share=0.012, flip_share=0.01
    ),
    small_model=SmallModelEvidence(average_precision=0.3, positive_share=0.008, positives=80),
    leakage=LeakageEvidence(
        alone={"amount": 0.3, "terminal_risk_7d": 0.4}, identifiers=(), growing=(), positives=150
    ),
)


def test_a_candidate_that_reads_a_protected_field_fails_even_if_the_champion_does() -> None:
    schema = replace(GOOD.schema, protected=("amount",))
    report = judge(replace(GOOD, schema=schema), GATES, TRAINING)
    (found,) = [g for g in report.gates if g.verdict != "passed"]
    assert (found.name, found.verdict) == ("schema", "failed")
    of_amount = sorted(i.name for i in DEFINITION.inputs if i.of == "amount")
    assert found.reason.startswith(f"{', '.join(of_amount)} read what model.yaml calls")


def verdicts(evidence):
    return {g.name: g.verdict for g in judge(evidence, GATES, TRAINING).gates}


def stopped_by(**parts):
    evidence = replace(GOOD, **{k: replace(getattr(GOOD, k), **v) for k, v in parts.items()})
    report = judge(evidence, GATES, TRAINING)
    assert report.passed == all(g.verdict == "passed" for g in report.gates)
    return {g.name: g.verdict for g in report.gates if g.verdict != "passed"}


def test_good_evidence_passes_every_gate():
    report = judge(GOOD, GATES, TRAINING)
    assert report.passed
    assert report.reasons == ()
    assert all(g.reason for g in report.gates)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param({"data": {"rows": 4999}}, {"rows": "failed"}, id="too few rows"),
        pytest.param(
            {"small_model": {"average_precision": None}},
            {"small_model": "failed"},
            id="no small model",
        ),
        pytest.param(
            {"small_model": {"average_precision": 0.0239}},
            {"small_model": "failed"},
            id="a small model that is hardly better than guessing",
        ),
        pytest.param(
            {"small_model": {"average_precision": NAN}},
            {"small_model": "inconclusive"},
            id="a small model without an average precision",
        ),
        pytest.param(
            {"small_model": {"positives": 9}},
            {"small_model": "inconclusive"},
            id="too few frauds to judge the small model by",
        ),
        pytest.param({"data": {"positives": 49}}, {"positives": "failed"}, id="too few frauds"),
        pytest.param(
            {"data": {"missing_shares": {"amount": 0.9}}},
            {"missing_values": "failed"},
            id="an input is nearly always missing",
        ),
        pytest.param(
            {"data": {"missing_shares": {}}}, {}, id="requests may leave each input's field out"
        ),
        pytest.param(
            {"data": {"missing_shares": {"amount": NAN}}},
            {"missing_values": "inconclusive"},
            id="no rows to count missing values in",
        ),
        pytest.param(
            {"data": {"matured_until_ms": 50 * DAY_MS - 1}},
            {"label_maturity": "failed"},
            id="labels that have not matured",
        ),
        pytest.param(
            {"data": {"labels_until_ms": 49 * DAY_MS}},
            {"label_maturity": "failed"},
            id="labels that stopped coming",
        ),
        pytest.param(
            {"data": {"labels_until_ms": None}},
            {"label_maturity": "inconclusive"},
            id="no label ever",
        ),
        pytest.param(
            {"schema": {"candidate": INPUTS[1:], "declared": INPUTS}},
            {"schema": "failed"},
            id="an input less than the champion, undeclared",
        ),
        pytest.param(
            {"schema": {"candidate": INPUTS[::-1]}}, {"schema": "failed"}, id="another order"
        ),
        pytest.param(
            {"schema": {"candidate": INPUTS[1:], "declared": INPUTS[1:]}},
            {},
            id="an input less, as declared",
        ),
        pytest.param(
            {
                "schema": {
                    "candidate": (InputSpec(name="amount", kind="hour_of_day"), *INPUTS[1:]),
                }
            },
            {"schema": "failed"},
            id="an input of the same name computed otherwise",
        ),
        pytest.param(
            {"quality": {"difference": Interval(-0.2, -0.3, -0.11)}},
            {"quality": "failed"},
            id="surely worse",
        ),
        pytest.param(
            {"quality": {"difference": Interval(0.0, -0.2, 0.2)}},
            {"quality": "inconclusive"},
            id="too uncertain",
        ),
        pytest.param(
            {"quality": {"difference": Interval(NAN, NAN, NAN)}},
            {"quality": "inconclusive"},
            id="no difference measured",
        ),
        pytest.param(
            {"quality": {"positives": 9}}, {"quality": "inconclusive"}, id="too few frauds to judge"
        ),
        pytest.param(
            {"running": {"calibration_error": Interval(0.02, 0.011, 0.03)}},
            {"calibration": "failed"},
            id="miscalibrated",
        ),
        pytest.param(
            {"running": {"calibration_error": Interval(0.011, 0.009, 0.013)}},
            {},
            id="perhaps miscalibrated, and perhaps chance",
        ),
        pytest.param(
            {"running": {"calibration_error": Interval(NAN, NAN, NAN)}},
            {"calibration": "inconclusive"},
            id="no calibration measured",
        ),
        pytest.param(
            {"running": {"parity_difference": 0.01}}, {"onnx_parity": "failed"}, id="ONNX differs"
        ),
        pytest.param(
            {"running": {"golden_difference": 0.01}}, {"golden": "failed"}, id="golden rows differ"
        ),
        pytest.param({"running": {"latency_p99_ms": 11.0}}, {"latency": "failed"}, id="too slow"),
        pytest.param(
            {"running": {"latency_calls": 50}}, {"latency": "inconclusive"}, id="hardly timed"
        ),
        pytest.param(
            {"running": {"latency_calls": 50, "latency_p99_ms": 99.0}},
            {"latency": "failed"},
            id="so slow that time ran out",
        ),
        pytest.param(
            {"replay": {"alert_share": 0.2}}, {"alert_share": "failed"}, id="too many alerts"
        ),
        pytest.param(
            {"replay": {"alert_share": 0.0}}, {"alert_share": "failed"}, id="no alerts at all"
        ),
        pytest.param(
            {"replay": {"alert_share": 0.04}},
            {"alert_share": "failed"},
            id="more alerts than the bundle's own band",
        ),
        pytest.param(
            {"replay": {"flip_share": GATES.decision_flip_share + 0.01}},
            {"decision_flips": "failed"},
            id="decides otherwise",
        ),
        pytest.param(
            {"replay": {"rows": 999}},
            {"alert_share": "inconclusive", "decision_flips": "inconclusive"},
            id="too little to replay",
        ),
    ],
)
def test_each_gate_stops_what_it_is_for(parts, expected):
    assert stopped_by(**parts) == expected


def test_an_error_above_its_interval_says_why():
    running = replace(GOOD.running, calibration_error=Interval(0.0359, 0.0, 0.028))
    told = judge_calibration(running, GATES)
    assert told.verdict == "passed"
    assert "lie 3.59 percentage points apart" in told.reason
    assert "; without what chance adds, the distance is 0.00 to 2.80 points" in told.reason


def test_examples_without_any_difference_are_told_as_such():
    assert judge_golden(GOOD.running).reason == (
        "the bundle's own examples differ from their recorded scores by 0 (at most 1e-05 allowed)"
    )


def first_version(low):
    quality = replace(
        GOOD.quality, candidate=Interval(0.5, low, 0.6), champion=None, difference=None
    )
    schema = replace(GOOD.schema, champion=None)
    replay = replace(GOOD.replay, flip_share=None)
    return replace(GOOD, champion=None, quality=quality, schema=schema, replay=replay)


def test_a_first_version_is_held_to_the_absolute_minimum():
    assert judge(first_version(0.4), GATES, TRAINING).passed
    assert verdicts(first_version(0.05))["quality"] == "inconclusive"


NUMBERS = [
    ("running", "parity_difference"),
    ("running", "golden_difference"),
    ("running", "latency_p99_ms"),
    ("replay", "alert_share"),
    ("replay", "flip_share"),
]


@pytest.mark.parametrize(("part", "field"), NUMBERS)
def test_a_missing_number_is_inconclusive_and_never_passes(part, field):
    found = stopped_by(**{part: {field: NAN}})
    assert list(found.values()) == ["inconclusive"]


@given(st.sets(st.sampled_from(NUMBERS), min_size=1))
def test_no_combination_of_missing_numbers_passes(fields):
    parts = {}
    for part, field in fields:
        parts.setdefault(part, {})[field] = NAN
    assert len(stopped_by(**parts)) == len(fields)


def test_a_report_without_gates_has_not_passed():
    assert not GateReport("fraud", "a", None, ()).passed


def test_a_report_survives_json():
    bad = judge(replace(GOOD, running=replace(GOOD.running, latency_p99_ms=NAN)), GATES, TRAINING)
    for report in (judge(GOOD, GATES, TRAINING), bad):
        plain = json.loads(json.dumps(to_dict(report), allow_nan=False))
        assert plain.pop("passed") is report.passed
        assert msgspec.convert(plain, GateReport) == report


def test_the_days_of_a_training_set_are_in_the_reason_with_the_key_that_sets_them():
    """Where a history is longer, its other days are not among the rows."""
    data = replace(GOOD.data, window_to_ms=20_000 * DAY_MS)
    (rows,) = [
        g for g in judge(replace(GOOD, data=data), GATES, TRAINING).gates if g.name == "rows"
    ]
    days = "in the window of 2024-09-13 to 2024-10-03 (training.window_days)"
    assert rows.reason == f"100,000 requests {days} (at least 5,000 wanted)"


def test_markdown_shows_first_what_stopped_the_candidate():
    slow = replace(GOOD, running=replace(GOOD.running, latency_p99_ms=11.0))
    lines = to_markdown(to_dict(judge(slow, GATES, TRAINING))).splitlines()
    assert "did not pass" in lines[0]
    first = next(line for line in lines if line.startswith("- "))
    assert first.startswith("- ✘ failed: **latency**. one request on one thread takes 11 ms")


@pytest.mark.parametrize(("number", "shown"), [(84491.0, "84,491"), (0.00204, "0.00204")])
def test_a_number_in_a_table_has_no_power_of_ten(number: float, shown: str) -> None:
    gate = {"name": "rows", "verdict": "passed", "observed": number, "limit": None, "reason": "x"}
    ((_, _, observed, limit, _),) = gate_rows({"gates": [gate]})  # type: ignore[typeddict-item]
    assert (observed, limit) == (shown, "")


@pytest.mark.parametrize(
    ("interval", "limit", "enough"),
    [
        (Interval(0.003, -0.190, 0.209), -0.1, 130),
        (Interval(0.0, -0.159, 0.159), -0.1, 89),
        (Interval(-0.2, -0.4, 0.0), -0.1, None),
        (Interval(0.6, 0.5, 0.7), 0.1, 35),
        (Interval(0.1, math.nan, 0.2), 0.0, None),
    ],
)
def test_a_refusal_says_how_many_positives_would_show_it(
    interval: Interval, limit: float, enough: int | None
) -> None:
    """A version as good as its champion is refused for ever where nobody says what is lacking."""
    assert enough_positives(35, interval, limit) == enough
