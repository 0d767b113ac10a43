"""A segment is judged by its own payments, never healthy by few of them, within one error share."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.decisions.records.logged_segments import LoggedSegments
from mlplatform.decisions.records.port import Entry, Watermark
from mlplatform.decisions.records.record import Record
from mlplatform.learning.training import evaluate
from mlplatform.learning.training_sets.dataset import Matrix
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.replay import Recent
from mlplatform.learning.validation.report import to_dict
from mlplatform.learning.validation.report_entries import replayed_of
from mlplatform.model.definition import InputSpec
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.model.inputs import InputPlan, segment_sources
from mlplatform.model.policies.rollout import Tolerance
from mlplatform.model.policies.segments import (
    RolloutSegment,
    SegmentLimits,
    SegmentPolicy,
    SegmentSource,
)
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.passes.count_cache import count
from mlplatform.rollouts.passes.error_parts import PARTS, gate_errors, phase_error
from mlplatform.rollouts.passes.observe import predicted_segments, prediction_of, step_limits
from mlplatform.rollouts.verdicts.facts import Subject
from mlplatform.rollouts.verdicts.judgement import GateLimits, Judgement, Sources
from mlplatform.rollouts.verdicts.verdict import ALIKE, Prediction
from mlplatform.runtime.errors import Corrupt
from rollout_world import arm, canary_rows, counted, fraud, judged, shadow_rows

LARGE = RolloutSegment(name="large", input="amount", at_least=500.0)
RARE = RolloutSegment(name="rare", input="amount", at_least=5000.0)
STOP = SegmentLimits(alerts=0.5, disagreement=0.3)
SHOWN = SegmentLimits(alerts=1.0, disagreement=0.5)
AS_THE_CHAMPION = Prediction(alert_ratio=1.0, disagreement=0.0)
COMPLETE = Sources(
    (Watermark("gateway-1", 10**6, 10**9, 0, True),), (GatewayLease("gateway-1", 1),)
)


def limits(
    *groups: RolloutSegment, percent: float | None = None, predicted: Prediction = AS_THE_CHAMPION
) -> GateLimits:
    policy = msgspec.structs.replace(
        fraud().rollout, segments=SegmentPolicy(stop=STOP, tolerance=SHOWN, groups=groups)
    )
    asked: Any = policy.shadow if percent is None else policy.canary[0]
    fields: dict[str, Any] = {"tolerance": Tolerance(failures=0.5), "minimum_units": 50}
    fields |= {"minimum_requests": 100} if percent is None else {"percent": percent}
    return step_limits(policy, msgspec.structs.replace(asked, **fields), predicted)


def verdict(
    rows: list[dict[str, Any]], *groups: RolloutSegment, percent: float | None = None
) -> Judgement:
    policy = SegmentPolicy(stop=STOP, tolerance=SHOWN, groups=groups)
    role: Any = "shadow" if percent is None else "canary"
    held_to = limits(*groups, percent=percent)
    return judged(rows, role, held_to, COMPLETE, segments=segment_sources(policy, fraud().inputs))


def is_large(row: dict[str, Any]) -> bool:
    """A tenth of the customers, in both arms."""
    return bool(row["unit"] // 2 % 10 == 0)


def with_amounts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        amount = 900 if is_large(row) else 20
        row["payload"] = f'{{"request": {{"amount": {amount}}}}}' if "kind" not in row else None
    return rows


def upside_down(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The challenger's alerts on large payments, all moved to others of them."""
    copies = [r for r in rows if r.get("kind") == "shadow" and is_large(r)]
    own = [row["decision"] for row in copies]
    for row, decision in zip(copies, [*own[1:], own[0]], strict=True):
        row["decision"] = decision
    return rows


def gate(judgement: Judgement, name: str) -> dict[str, Any]:
    found: dict[str, Any] = judgement.evidence["gates"][name]
    return found


def test_a_segment_that_is_ranked_upside_down_stops_the_challenger() -> None:
    """All payments together tell nothing: nine tenths of them are decided alike."""
    rows = with_amounts(shadow_rows(600, 5, generation=1, version=2, alert_share=0.1))
    assert verdict(rows, LARGE).verdict == "HEALTHY"
    found = verdict(upside_down(rows), LARGE)
    assert gate(found, "alerts")["verdict"] != "UNHEALTHY"
    assert gate(found, "disagreement")["verdict"] == "HEALTHY"
    assert gate(found, "alerts of large")["verdict"] != "UNHEALTHY"
    assert gate(found, "disagreement of large")["verdict"] == "UNHEALTHY"
    assert found.verdict == "UNHEALTHY"


@pytest.mark.parametrize("required", [True, False])
def test_a_segment_with_little_data_is_never_healthy_and_waited_for_only_where_required(
    required: bool,
) -> None:
    rows = with_amounts(shadow_rows(600, 5, generation=1, version=2, alert_share=0.1))
    found = verdict(rows, LARGE, msgspec.structs.replace(RARE, required=required))
    rare = gate(found, "disagreement of rare")
    assert rare["verdict"] == "INCONCLUSIVE"
    assert rare.get("holds", True) == required
    assert found.verdict == ("INCONCLUSIVE" if required else "HEALTHY")
    assert rare["reason"] in found.reasons, "whoever approves reads what was not shown"


def test_a_segment_is_compared_between_the_arms_of_canary_and_holds_nothing_there() -> None:
    rows = with_amounts(canary_rows(6000, 50, generation=1, version=2, alert_share=0.4))
    alike = verdict(rows, LARGE, RARE, percent=50.0)
    assert gate(alike, "alerts of large")["verdict"] == "HEALTHY"
    assert gate(alike, "alerts of rare")["verdict"] == "INCONCLUSIVE"
    assert "disagreement of large" not in alike.evidence["gates"], "there are no pairs"
    assert alike.verdict == "HEALTHY"
    for row in rows:
        if is_large(row) and row["arm"] == "challenger":
            row["decision"] = "approve"
    never = verdict(rows, LARGE, percent=50.0)
    assert gate(never, "alerts")["verdict"] == "HEALTHY"
    assert gate(never, "alerts of large")["verdict"] == "UNHEALTHY"


@given(st.integers(1, 16))
def test_all_segments_together_take_their_part_of_the_error(number: int) -> None:
    groups = tuple(msgspec.structs.replace(LARGE, name=f"s{n}") for n in range(number))
    step = limits(*groups).step
    assert step is not None
    policy = fraud().rollout
    of_segments = sum(2 * segment.errors.stop for segment in step.segments)
    assert of_segments == pytest.approx(6 / 4 * step.errors.of("alerts").stop)
    of_gates = sum(step.errors.of(gate).stop for gate in PARTS["shadow"])
    assert of_gates + of_segments == pytest.approx(phase_error(policy, "shadow"))
    without = gate_errors(policy, "shadow")
    assert step.errors.stop < without.stop, "without segments none is set aside"


def test_a_segments_own_replay_says_what_is_expected_where_it_holds_enough() -> None:
    routes = Routes("fraud", 3, arm(1), None, None, None, "steady", 0.0)
    counts = {"requests": 900, "alerts": 60, "champion_alerts": 30, "both_alerts": 20}
    few = {"requests": 90, "alerts": 6, "champion_alerts": 3, "both_alerts": 2}
    whole = {"requests": 30_000, "alerts": 400, "champion_alerts": 400, "both_alerts": 300}
    report = {
        "champion": arm(1).bundle,
        "replayed": whole | {"segments": {"large": counts, "rare": few}},
    }
    found = predicted_segments(report, routes)
    assert found == {"large": Prediction(2.0, 50 / 70, 60 / 900, requests=900)}
    told_apart = report | {"replayed": whole | {"segments": {"large": counts | {"differing": 60}}}}
    found = predicted_segments(told_apart, routes)
    assert found == {"large": Prediction(2.0, 60 / 70, 60 / 900, requests=900, alone=50 / 70)}
    assert predicted_segments(report | {"champion": "another"}, routes) == {}
    assert predicted_segments({}, routes) == {}


def test_a_report_of_an_earlier_release_predicts_what_it_predicted_then() -> None:
    """Registries and journals hold reports whose replay counts `payments`."""
    routes = Routes("fraud", 3, arm(1), None, None, None, "steady", 0.0)
    counts = {"payments": 900, "alerts": 60, "champion_alerts": 30, "both_alerts": 20}
    whole = {"payments": 30_000, "alerts": 400, "champion_alerts": 400, "both_alerts": 300}
    report = {
        "champion": arm(1).bundle,
        "replayed": whole | {"segments": {"large": counts}},
    }
    found = predicted_segments(report, routes)
    assert found == {"large": Prediction(2.0, 50 / 70, 60 / 900, requests=900)}
    assert prediction_of(report, routes).requests == 30_000
    assert replayed_of({}) is None


def test_where_no_pair_was_replayed_a_segment_is_not_held_to_its_disagreement() -> None:
    step = limits(LARGE, predicted=ALIKE).step
    assert step is not None
    assert step.segments[0].predicted == dataclasses.replace(ALIKE, alert_share=None)


AMOUNT, FEATURE = (st.one_of(st.none(), st.floats(0, 1e6), st.integers(0, 1000)) for _ in range(2))


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 10**12), AMOUNT, FEATURE), min_size=1, max_size=20),
    st.floats(0, 1000),
    st.sampled_from(["amount", "hour", "weekend", "night", "amount_to_mean_30d",
                     "customer_count_7d"]),
)  # fmt: skip
def test_a_segment_by_an_input_has_the_decisions_whose_input_lies_in_it(
    drawn: list[tuple[int, float | None, float | None]], at_least: float, name: str
) -> None:
    """As training and drift compute the input; but a missing value lies nowhere."""
    definition = fraud()
    plan = InputPlan(definition, load_views(model_folder("fraud")), defaults={})
    payloads = [
        {"request": {"amount": amount},
         "features": {"customer_count_7d": feature, "customer_mean_30d": feature}}
        for _, amount, feature in drawn
    ]  # fmt: skip
    rows = pa.table(
        {
            "event_ms": [event_ms for event_ms, _, _ in drawn],
            "payload": [msgspec.json.encode(p).decode() for p in payloads],
        }
    )
    matrix = LoggedInputs(plan).read(rows).matrix[:, plan.names.index(name)]
    policy = SegmentPolicy(
        stop=STOP, tolerance=SHOWN,
        groups=(RolloutSegment(name="some", input=name, at_least=at_least),),
    )  # fmt: skip
    inside = LoggedSegments(segment_sources(policy, definition.inputs)).bits(rows) == 1
    near = np.isclose(matrix, at_least, rtol=1e-6)  # the matrix holds 32 bits
    assert ((matrix >= at_least) == inside)[~near].all()


def test_categories_and_truth_values_are_read_from_request_fields() -> None:
    payloads = ['{"request": {"channel": "web", "card_present": true}}',
                '{"request": {"channel": "shop", "card_present": false}}', None, "{}"]  # fmt: skip
    rows = pa.table({"event_ms": [0, 0, 0, 0], "payload": pa.array(payloads, pa.string())})
    web = SegmentSource("web", "field", "channel", values=("web", "app"))
    card = SegmentSource("card", "field", "card_present", values=(True,))
    assert LoggedSegments((web, card)).bits(rows).tolist() == [3, 0, 0, 0]
    broken = pa.table({"event_ms": [0], "payload": ['{"request": {"channel": []}}']})
    with pytest.raises(Corrupt):
        LoggedSegments((web,)).bits(broken)


def test_a_window_is_read_where_records_hold_features() -> None:
    payloads = [f'{{"features": {{"payments_1h": {n}}}}}' for n in (3, 1, "null")]
    rows = pa.table({"event_ms": [0, 0, 0], "payload": payloads})
    busy = RolloutSegment(name="busy", input="payments_1h", at_least=2.0)
    policy = SegmentPolicy(stop=STOP, tolerance=SHOWN, groups=(busy,))
    of_customer = InputSpec(name="payments_1h", kind="window", of="customer")
    assert LoggedSegments(segment_sources(policy, (of_customer,))).bits(rows).tolist() == [1, 0, 0]


def test_without_segments_nothing_more_is_counted() -> None:
    """Evidence of earlier releases holds the digest of what was counted then."""
    rows = shadow_rows(20, 2, generation=1, version=2)
    plain = counted(rows, "shadow").plain()
    assert "segments" not in plain
    assert "segments" not in plain["totals"]


@pytest.mark.parametrize("by_decision", [False, True])
def test_segments_are_read_from_a_real_log(tmp_path: Path, by_decision: bool) -> None:
    shared = {"model": "fraud", "event_ms": 5, "recorded_ms": 5, "generation": 1, "score": 0.4}
    records = []
    for number, (amount, own) in enumerate(
        [(900.0, "review"), (900.0, "approve"), (9.0, "review"), (900.0, "decline")]
    ):
        one = shared | {"decision_id": f"d{number}", "unit": number, "latency_us": 100}
        payload = {"request": {"amount": amount}, "features": {}, "feature_times": {}}
        records += [
            Record(kind="decision", arm="champion", answered_by="champion", version=1,
                   decision="review", payload=payload, **one),
            Record(kind="shadow", arm="challenger", answered_by="challenger", version=2,
                   decision=own, payload={"raw": 0.1}, **one),
        ]  # fmt: skip
    policy = SegmentPolicy(stop=STOP, tolerance=SHOWN, groups=(LARGE, RARE))
    subject = Subject(
        1, "shadow", 2, segments=segment_sources(policy, fraud().inputs), by_decision=by_decision
    )
    with contextlib.closing(SqliteDecisionLog(tmp_path / "decisions")) as log:
        log.append("gateway-1", [Entry(record) for record in records])
        found = count(tmp_path / "counted", log, "fraud", subject).seen
    alerts, apart = found.segment("large")
    assert (alerts.challenger_hits, alerts.champion_hits, alerts.champion_trials) == (2, 3, 3)
    assert (apart.challenger_hits, apart.challenger_trials) == (1 + by_decision, 3)
    assert found.segment("rare")[0].clusters == 0


def test_a_validation_report_holds_what_replay_saw_of_each_segment() -> None:
    policy = SegmentPolicy(
        stop=STOP, tolerance=SHOWN,
        groups=(LARGE, RolloutSegment(name="web", field="channel", values=("web",))),
    )  # fmt: skip
    definition = msgspec.structs.replace(
        fraud(), rollout=msgspec.structs.replace(fraud().rollout, segments=policy)
    )
    nothing = np.zeros(3, dtype=np.int64)
    rows = Matrix(("amount",), np.array([[900.0], [20.0], [np.nan]], np.float32), nothing, nothing)
    inside = evaluate._segments(definition, Recent(rows, "a log"), {})
    assert {name: flags.tolist() for name, flags in inside.items()} == {
        "large": [True, False, False]
    }
    own, other = np.array([True, True, False]), np.array([True, False, False])
    changed = np.array([True, True, False])  # the first is an alert of both, but not the same one
    counts = evaluate._counts(own, other, changed, np.arange(3), inside, by_pair=False)
    report = to_dict(GateReport("fraud", "b", "c", (), counts))
    large = {"requests": 1, "alerts": 1, "champion_alerts": 1, "both_alerts": 1, "differing": 1}
    whole = {"requests": 3, "alerts": 2, "champion_alerts": 1, "both_alerts": 1, "differing": 2}
    effects = {"design_effect": 1.5, "flip_design_effect": 1.0}
    assert report["replayed"] == whole | effects | {"segments": {"large": large}}
    assert evaluate._segments(fraud(), Recent(rows, "a log"), {}) == {}


@pytest.mark.parametrize(
    ("name", "bounds", "defaults", "told"),
    [
        ("customer_count_7d", {"below": 1.0}, {}, True),
        ("customer_count_7d", {"below": 1.0}, {"customer_count_7d": 0.0}, False),
        ("customer_count_7d", {"at_least": 1.0}, {"customer_count_7d": 0.0}, True),
        ("amount_to_mean_30d", {"at_least": 1.0}, {"customer_mean_30d": 9.0}, False),
    ],
)
def test_replay_says_nothing_of_a_segment_that_a_default_lies_in(
    name: str, bounds: dict[str, float], defaults: dict[str, float], told: bool
) -> None:
    """A rollout counts a missing value nowhere; a row of replay holds the default in its place."""
    some = RolloutSegment(name="some", input=name, **bounds)
    policy = SegmentPolicy(stop=STOP, tolerance=SHOWN, groups=(some,))
    definition = msgspec.structs.replace(
        fraud(), rollout=msgspec.structs.replace(fraud().rollout, segments=policy)
    )
    nothing = np.zeros(1, dtype=np.int64)
    rows = Matrix((name,), np.zeros((1, 1), np.float32), nothing, nothing)
    assert ("some" in evaluate._segments(definition, Recent(rows, "a log"), defaults)) == told
