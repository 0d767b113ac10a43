"""A plan says how long a rollout takes and whether it can decide, as the judge then finds."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench import planner as bench
from tests.bench.rollout_worlds import World
from tests.support.class_model import class_definition, real_definition
from tests.support.traffic_profiles import profile_of

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.segments import RolloutSegment, SegmentLimits, SegmentPolicy
from mlplatform.rollouts.passes import plan_text
from mlplatform.rollouts.passes.planning import plan_rollout, recorded_plan, stages_of
from mlplatform.rollouts.verdicts import simulated_paths, traffic_profile
from mlplatform.rollouts.verdicts.facts import Flags, Integers
from mlplatform.rollouts.verdicts.planner import (
    SURE,
    Confirmation,
    Stage,
    plan_confirmation,
    plan_stage,
    progress,
)
from mlplatform.rollouts.verdicts.ramp import Plan, steps_text, with_percent, with_traffic
from mlplatform.rollouts.verdicts.simulated_labels import LabelPaths
from mlplatform.rollouts.verdicts.simulated_paths import Alerts, Sums
from mlplatform.rollouts.verdicts.statistics import Clusters, share_difference
from mlplatform.rollouts.verdicts.traffic_profile import (
    HiddenRequests,
    Slice,
    TrafficProfile,
)
from mlplatform.rollouts.verdicts.verdict import ALIKE, Errors, Prediction
from mlplatform.runtime.units import HOUR_MS
from rollout_world import fraud

PREDICTED = Prediction(1.0, 0.3, 0.013, True, 30_000, design_effect=1.0, flip_design_effect=1.0)
REPLAYED: dict[str, Any] = {"replayed": {"requests": 30_000}}


@functools.cache
def usual() -> TrafficProfile:
    """10 000 payments a day, as the bench has them."""
    found, _ = bench.profile_before(World(), 168.0, 7)
    return dataclasses.replace(found, positives=0.008)


@functools.cache
def with_a_weeks_shadow() -> ModelDefinition:
    """The shipped policy with a deadline of shadow that a fifth of the traffic does not meet."""
    policy = fraud().rollout
    shadow = msgspec.structs.replace(policy.shadow, deadline_h=168.0)
    return msgspec.structs.replace(fraud(), rollout=msgspec.structs.replace(policy, shadow=shadow))


@functools.cache
def plan_at(factor: float) -> Plan:
    return plan_rollout(with_a_weeks_shadow(), with_traffic(usual(), factor), PREDICTED, REPLAYED)


def alerts(profile: TrafficProfile) -> Alerts:
    return Alerts.predicted(0.013, profile.alerts, 0.3, PREDICTED)


def stages(definition: ModelDefinition | None = None) -> tuple[Stage, ...]:
    return tuple(stages_of(definition or with_a_weeks_shadow(), PREDICTED))


def a_slice(requests: int, *, start_h: float = 0.0, hours: float = 1.0, seed: int = 1) -> Slice:
    rng = np.random.default_rng(seed)
    at_ms: Integers = np.sort(rng.uniform(start_h, start_h + hours, requests) * HOUR_MS).astype(int)
    failed: Flags = rng.random(requests) < 0.02
    return Slice(
        event_ms=at_ms,
        recorded_ms=at_ms,
        unit=rng.integers(0, max(requests // 4, 1), requests),
        failed=failed,
        scored=~failed,
        alert=rng.random(requests) < 0.1,
        latency_us=rng.lognormal(np.log(4000), 0.3, requests).astype(np.int64),
        hours=hours,
        positives=requests // 100,
    )


# The profile


def test_a_profile_says_what_was_counted() -> None:
    found = profile_of([a_slice(4000)])
    assert found is not None
    assert found.requests_h == 4000
    assert found.failed == pytest.approx(0.02, abs=0.01)
    assert found.alerts == pytest.approx(0.1, abs=0.02)
    assert found.positives == 0.01
    assert found.quantile_us(0.5) == pytest.approx(4000, rel=0.05)
    assert found.slower(4000 * np.exp(0.3 * 2.326)) == pytest.approx(0.01, abs=0.006)
    assert found.repeat_h == pytest.approx(4.0, rel=0.1)  # of 1000 customers, all alike
    assert sum(n * rate for n, rate in found.customers) == pytest.approx(4000)
    assert found.failed_together < 0.3  # failures were drawn one by one


def test_slices_add_up_to_the_profile_of_all() -> None:
    whole = a_slice(2000)
    half = len(whole.unit) // 2
    names = ("event_ms", "recorded_ms", "unit", "failed", "scored", "alert", "latency_us")
    parts = [
        dataclasses.replace(
            whole, hours=0.5, positives=10, **{n: getattr(whole, n)[kept] for n in names}
        )
        for kept in (slice(None, half), slice(half, None))
    ]
    one, two = profile_of([whole]), profile_of(parts)
    assert one is not None
    assert two is not None
    assert np.array(two.customers) == pytest.approx(np.array(one.customers))
    for name in ("requests_h", "failed", "alerts", "positives", "repeat_h", "latency"):
        assert getattr(two, name) == pytest.approx(getattr(one, name)), name


def test_a_part_of_many_customers_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the customers that are kept, whatever their number."""
    whole = profile_of([a_slice(20_000)])
    monkeypatch.setattr(traffic_profile, "MOST_CUSTOMERS", 500)
    part = profile_of([a_slice(20_000)])
    assert whole is not None
    assert part is not None
    assert sum(n for n, _ in part.customers) == pytest.approx(5000, rel=0.15)
    assert part.customers_in(0.1) == pytest.approx(whole.customers_in(0.1), rel=0.15)
    assert part.repeat_h == pytest.approx(whole.repeat_h, rel=0.15)


def test_hours_before_the_first_request_are_not_counted() -> None:
    nothing = a_slice(0, hours=100.0)
    found = profile_of([nothing, a_slice(1000, start_h=100.0)])
    assert found is not None
    assert found.requests_h == 1000
    assert profile_of([nothing]) is None


# The bounds


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 0.4), st.floats(0.001, 0.2))
def test_a_course_is_bounded_as_the_judge_bounds_the_same_counts(
    seed: int, share: float, error: float
) -> None:
    """Plan and verdict can't disagree: one rule for both."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 9, 200), rng.integers(1, 9, 200)
    view = Clusters(rng.binomial(n, share), n, rng.binomial(m, share), m)
    judged = share_difference([view.sums()], stop_error=error, pass_error=error)
    weight, p, q = n.sum() / m.sum(), judged.challenger, judged.champion
    residuals = (view.challenger_hits - p * n) - weight * (view.champion_hits - q * m)
    plain = n.sum() * p * (1 - p) + weight**2 * m.sum() * q * (1 - q)

    def alone(value: float) -> simulated_paths.Floats:
        return np.array([[float(value)]])

    sums = Sums(
        difference=alone(view.challenger_hits.sum() - weight * view.champion_hits.sum()),
        scale=alone(n.sum()),
        hits=alone(view.challenger_hits.sum() + weight * view.champion_hits.sum()),
        plain=alone(plain),
        views=((alone((residuals**2).sum() * 200 / 199), alone((n**2).sum() / n.sum())),),
        shift=alone(0.0),
    )
    assert float(sums.value[0, 0]) == pytest.approx(judged.value, abs=1e-9)
    width = float(sums.width(error)[0, 0])
    assert width == pytest.approx(judged.pass_high - judged.value, rel=1e-3)


# The plan


def test_the_shipped_policy_can_decide_at_ten_thousand_payments_a_day() -> None:
    plan = plan_at(1.0)
    assert plan.refusal == ""
    assert [step.name for step in plan.steps] == [
        *("shadow", "canary 5 %", "canary 25 %", "canary 50 %")
    ]
    assert plan.hours is not None
    assert 60 < plan.hours < 168
    assert all(step.passes > 0.9 for step in plan.steps)
    assert plan.confirmation is not None
    assert plan.confirmation.positives == pytest.approx(175, rel=0.1)
    shadow, first = plan.steps[:2]
    assert shadow.decides == "sample"  # 20 000 requests, for the labels
    assert first.decides == "failures"
    assert {gate.exposed_customers for gate in shadow.gates} == {0}
    assert all(gate.exposed_customers > 0 for gate in first.gates)


def test_each_gate_says_what_it_needs_until_it_is_shown() -> None:
    failures = next(g for g in plan_at(1.0).steps[1].gates if g.gate == "failures")
    assert failures.hours is not None
    assert failures.requests == pytest.approx(usual().requests_h * 0.05 * failures.hours, rel=0.01)
    assert failures.customers < failures.customer_days < failures.requests
    assert failures.loss == pytest.approx(0.01 * failures.exposed_requests, rel=0.01)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_more_traffic_and_wider_tolerances_take_no_longer(number: int) -> None:
    profile, stage = usual(), stages()[number]
    expected = alerts(profile)
    now = progress(profile, stage, expected, drawn=100)
    busier = progress(with_traffic(profile, 4.0), stage, expected, drawn=100)
    assert busier.hours < now.hours
    asked = stage.step.tolerance
    wide = msgspec.structs.replace(asked, failures=2 * asked.failures)
    step = dataclasses.replace(stage.step, tolerance=wide)
    assert progress(profile, dataclasses.replace(stage, step=step), expected).hours <= now.hours


def test_a_plan_that_cannot_decide_says_what_would_make_it_possible() -> None:
    plan = plan_at(0.2)
    assert [r.step.key for r in plan.refusals] == ["rollout.shadow", "rollout.canary.0"]
    shadow, canary = plan.refusals
    ways = {way[0].key: way[0].value for way in (*shadow.remedies, *canary.remedies)}
    assert {"rollout.shadow.deadline_h", "traffic", "rollout.canary.0.percent"} <= ways.keys()
    assert "rollout.shadow can't" not in plan.refusal
    assert f"rollout.shadow.deadline_h: {ways['rollout.shadow.deadline_h']:g} (now 168)" in (
        plan.refusal
    )


def test_what_a_refused_plan_proposes_lets_the_step_decide() -> None:
    profile = with_traffic(usual(), 0.2)
    shadow, canary = plan_at(0.2).refusals
    ways = {way[0].key: way[0].value for way in (*shadow.remedies, *canary.remedies)}
    expected = alerts(profile)
    longer = dataclasses.replace(stages()[0], deadline_h=ways["rollout.shadow.deadline_h"])
    larger = with_percent(stages()[1], ways["rollout.canary.0.percent"])
    for changed in (longer, larger):
        assert plan_stage(profile, changed, expected).passes >= SURE - 0.1
    busier = max(w[0].value for r in (shadow, canary) for w in r.remedies if w[0].key == "traffic")
    more = with_traffic(profile, busier / profile.requests_h)
    assert plan_rollout(fraud(), more, PREDICTED, REPLAYED).refusal == ""


def test_outages_that_may_hit_both_arms_make_a_doubt_and_no_refusal() -> None:
    """Where both arms fail together it cancels out: that the step can't decide is not sure."""
    clumped = dataclasses.replace(usual(), failed=0.03, failed_together=60.0)
    plan = plan_rollout(fraud(), clumped, PREDICTED, REPLAYED)
    assert plan.refusal == ""
    assert any("canary 50 % passes" in note for note in plan.notes)


def test_a_tolerance_is_proposed_where_it_alone_is_too_narrow() -> None:
    policy = fraud().rollout
    first = msgspec.structs.replace(
        policy.canary[0], deadline_h=10.0, minimum_units=10, percent=5.0
    )
    canary = (first, *policy.canary[1:])
    definition = msgspec.structs.replace(
        fraud(), rollout=msgspec.structs.replace(policy, canary=canary)
    )
    plan = plan_rollout(definition, usual(), PREDICTED, REPLAYED)
    (refused,) = plan.refusals
    keys = [way[0].key for way in refused.remedies]
    assert "rollout.canary.0.tolerance.failures" in keys
    (wider,) = (w[0] for w in refused.remedies if w[0].key.endswith("tolerance.failures"))
    assert wider.now == 0.05
    assert 0.05 < wider.value < 0.5


def test_busy_traffic_gets_steps_that_expose_fewer_customers_and_show_more() -> None:
    plan = plan_at(8640.0)
    assert plan.refusal == ""
    today = fraud().rollout.canary
    shares = [stage.step.percent for stage in plan.proposed]
    assert shares[-1] == 50
    for stage, step in zip(plan.proposed[:-1], today[:-1], strict=True):
        assert stage.step.percent is not None
        assert stage.step.percent < step.percent
    for stage, step in zip(plan.proposed, today, strict=True):
        assert stage.step.tolerance.failures < step.tolerance.failures
        assert stage.step.tolerance.latency_p99 == fraud().rollout.stop.latency_p99


def test_a_plan_says_what_it_takes_to_ask_for_the_slowest_answers() -> None:
    (quiet,) = (note for note in plan_at(1.0).notes if "latency_p99" in note)
    assert "A tolerance of 1.15 times the champion's would take" in quiet
    assert "more than" in quiet or "answers) in canary 25 %" in quiet


def test_proposed_steps_can_be_pasted_into_model_yaml() -> None:
    pasted = yaml.safe_load(steps_text(plan_at(8640.0).proposed))
    policy = msgspec.to_builtins(fraud().rollout) | pasted["rollout"]
    parsed = msgspec.convert(policy, type(fraud().rollout))
    assert [step.minimum_units for step in parsed.canary] == [50, 200, 400]


def test_a_step_is_planned_to_last_its_time_and_one_within_a_day_gets_a_note() -> None:
    told = "canary 25 % and canary 50 % may end before all hours of a day were seen"
    plan = plan_at(1.0)
    assert [note for note in plan.notes if note.startswith(told)]
    longer = plan_rollout(lasting(24.0), usual(), PREDICTED, REPLAYED)
    assert [step.hours >= 24 for step in longer.steps if step.hours] == [True] * 4
    assert longer.steps[2].decides == "sample"
    assert not longer.refusal
    assert not [note for note in longer.notes if "all hours of a day" in note]
    busy = plan_rollout(lasting(2.0), with_traffic(usual(), 8640.0), PREDICTED, REPLAYED)
    assert "minimum_h: 2, " in steps_text(busy.proposed)


def lasting(hours: float) -> ModelDefinition:
    definition = with_a_weeks_shadow()
    canary = [msgspec.structs.replace(s, minimum_h=hours) for s in definition.rollout.canary]
    rollout = msgspec.structs.replace(definition.rollout, canary=tuple(canary))
    return msgspec.structs.replace(definition, rollout=rollout)


def test_a_version_that_was_not_replayed_is_planned_with_a_note() -> None:
    plan = plan_rollout(fraud(), usual(), ALIKE, {})
    assert plan.refusal == ""
    assert any("never replayed" in note for note in plan.notes)


@pytest.mark.parametrize("definition", [class_definition(), real_definition()])
def test_a_model_of_another_task_is_planned_without_gates_on_alerts(
    definition: ModelDefinition,
) -> None:
    """What it has not shown in time is refused at the start, as of a model of two outcomes."""
    plan = plan_rollout(definition, usual(), ALIKE, {})
    assert {gate.gate for step in plan.steps for gate in step.gates} == {
        "failures", "latency_p50", "latency_p99",
    }  # fmt: skip
    assert plan.confirmation is None
    assert plan.refusal == ""
    assert any(f"the plan of a model of task {definition.task} " in note for note in plan.notes)
    assert not any("alert" in note or "positive" in note for note in plan.notes)
    few = plan_rollout(definition, with_traffic(usual(), 0.05), ALIKE, {})
    assert few.refusals[0].step.key == "rollout.shadow"


def test_the_conclusions_end_with_a_verdict() -> None:
    assert list(plan_text.conclusions(plan_at(1.0)))[-1].endswith("within its deadlines")
    assert any(line.startswith("refused: ") for line in plan_text.conclusions(plan_at(0.2)))
    told = plan_text.as_values(plan_at(0.2))
    assert told["refusals"][0]["possible_with"][0][0]["key"] == "rollout.shadow.deadline_h"


def test_a_plans_page_ends_with_its_verdict_or_a_proposal() -> None:
    good, bad = plan_at(1.0), plan_at(0.2)
    page = plan_text.page("version 3 of fraud", good)
    assert page.startswith("## The plan of version 3 of fraud\n")
    assert page.rstrip().endswith(plan_text.DECIDES)
    assert plan_text.outcome(good) == plan_text.DECIDES
    assert plan_text.DECIDES not in plan_text.page("fraud", bad)
    assert plan_text.outcome(bad) == f"refused: {bad.refusals[0]}"
    assert plan_text.outcome("no traffic yet") == "no traffic yet"
    assert "no traffic yet" in plan_text.page("fraud", "no traffic yet")


def test_the_tables_have_a_row_for_each_step_and_gate() -> None:
    plan = plan_at(1.0)
    assert [len(row) for row in plan_text.step_rows(plan)] == [len(plan_text.STEP_COLUMNS)] * 4
    rows = plan_text.harm_rows(plan)
    assert {len(row) for row in rows} == {len(plan_text.HARM_COLUMNS)}
    needs = plan_text.need_rows(plan)
    assert {len(row) for row in needs} == {len(plan_text.NEED_COLUMNS)}
    assert {row[:2] for row in needs} <= {row[:2] for row in rows}
    assert [row[1] for row in rows[:3]] == ["failures", "alerts", "disagreement"]


def test_what_the_journal_keeps_of_a_plan_tells_the_next_step() -> None:
    kept = recorded_plan(plan_at(1.0))
    assert msgspec.json.decode(msgspec.json.encode(kept), type=type(kept)) == kept
    assert "5 % of the customers" in plan_text.next_step(kept, 0.0)
    assert "25 % of the customers" in plan_text.next_step(kept, 5.0)
    assert plan_text.next_step(kept, 50.0) == "no step of the plan follows"
    assert recorded_plan(plan_at(1.0), "in a hurry").despite == ""
    assert recorded_plan(plan_at(0.2), "in a hurry").despite == "in a hurry"


def test_hours_and_power_are_what_the_judge_then_finds() -> None:
    """The bench does this for every step and world; here is the cheapest."""
    policy, scene = fraud().rollout, bench.SCENES["A/A, outages of 60 s"]
    slow = {"latency_p50": scene.bad["latency_p50"]}
    found = bench.compared(dataclasses.replace(scene, bad=slow), policy.canary[1], policy, 8)
    assert found["hours"]["planned"] == pytest.approx(found["hours"]["found"], rel=0.7)
    assert found["passes"]["planned"] == pytest.approx(found["passes"]["found"], abs=0.15)
    assert found["stops"]["latency_p50"] == {"planned": 1.0, "found": 1.0}


@pytest.mark.parametrize("required", [True, False])
def test_a_segment_too_small_to_be_shown_is_told_and_refused_where_it_is_required(
    required: bool,
) -> None:
    groups = (
        RolloutSegment(name="large", input="amount", at_least=100.0),
        RolloutSegment(name="rare", input="amount", at_least=900.0, required=required),
        RolloutSegment(name="unseen", input="amount", at_least=9000.0, required=False),
    )
    policy = SegmentPolicy(
        stop=SegmentLimits(alerts=0.5, disagreement=0.3),
        tolerance=SegmentLimits(alerts=1.0, disagreement=0.5),
        groups=groups,
    )
    segmented = msgspec.structs.replace(fraud().rollout, segments=policy)
    definition = msgspec.structs.replace(fraud(), rollout=segmented)
    replayed = {"requests": 3_000, "alerts": 40, "champion_alerts": 40, "both_alerts": 32}
    few = replayed | {"requests": 300, "alerts": 24, "champion_alerts": 4, "both_alerts": 4}
    report = {"replayed": {"requests": 30_000, "segments": {"large": replayed, "rare": few}}}
    of_segments = {
        "large": Prediction(1.0, 1 / 3, 40 / 3_000, requests=3_000),
        "rare": Prediction(6.0, 20 / 24, 24 / 300, requests=300),
    }
    thin = dataclasses.replace(usual(), alerts=0.013)
    plan = plan_rollout(definition, thin, PREDICTED, report, of_segments)
    told = {note.split(":")[0]: note for note in plan.notes if note.startswith("segment ")}
    assert list(told) == ["segment large", "segment rare", "segment unseen"]
    passing = "Of the challengers as good as the champion, 100 % pass them"
    assert passing in told["segment large"]
    assert told["segment unseen"].endswith("too few alerts for a plan. No step waits for it")
    assert "in time" in told["segment rare"]
    assert ": its gates take 17.2 days. Of the challengers" in told["segment rare"]
    assert "champion, 23 % pass them in time" in told["segment rare"]
    refused = [r for r in map(str, plan.refusals) if "rare" in r]
    assert len(refused) == required
    if required:
        assert "rollout.segments.groups.1.required: false (now true)" in refused[0]
        assert "Shadow waits for it until its deadline" in told["segment rare"]


# Outcomes that declines hide


def held(
    declines: HiddenRequests | None, *, hours: float = 60.0, tolerance: float = 0.2
) -> Confirmation | None:
    shadow = plan_at(1).steps[0]
    profile = dataclasses.replace(usual(), hidden=declines)
    return plan_confirmation(
        profile, dataclasses.replace(shadow, hours=hours), limit=0.05, tolerance=tolerance,
        errors=Errors(0.0003, 0.05), alone=0.3,
    )  # fmt: skip


def test_declines_that_hide_outcomes_make_a_confirmation_less_sure() -> None:
    chances = [
        found.passes
        for share in (0.0001, 0.003, 0.02)
        if (found := held(HiddenRequests(share, 0.8), hours=120.0, tolerance=0.1)) is not None
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.5 > chances[-1]


def test_with_few_declines_the_judge_s_own_bounds_say_what_the_formula_says() -> None:
    """Both are of frauds that come one by one, so the two ways to plan agree."""
    for hours in (48.0, 72.0, 120.0):
        plain, drawn = held(None, hours=hours), held(HiddenRequests(1e-6, 0.8), hours=hours)
        assert plain is not None
        assert drawn is not None
        assert drawn.passes == pytest.approx(plain.passes, abs=0.12)
        assert drawn.positives == plain.positives


def test_where_declines_hide_too_much_no_sample_would_do_but_a_slice() -> None:
    """The champion alone ranks 15 % of the declines high: if all are fraud, 5.5 % of the frauds."""
    found = held(HiddenRequests(0.02, 0.8), hours=400.0, tolerance=0.05)
    assert found is not None
    assert found.passes <= 0.02
    assert found.requests is None
    assert found.hidden == pytest.approx(400 * usual().requests_h * 0.02, rel=0.01)
    assert found.let_through == 0
    assert found.exploration is not None
    explored = HiddenRequests(0.02, 0.8, drawn=1.0, chance=found.exploration)
    with_slice = held(explored, hours=400.0, tolerance=0.05)
    assert with_slice is not None
    assert with_slice.passes >= 0.7
    assert with_slice.let_through > 0


@pytest.mark.parametrize(
    ("declines", "confirmed"),
    [
        (HiddenRequests(0.003, 0.8), 0.38),
        (HiddenRequests(0.02, 0.8), 0.08),
        (HiddenRequests(0.02, 0.8, drawn=1.0, chance=0.05), 0.2),
        (HiddenRequests(0.02, 0.8, drawn=1.0, chance=0.2), 0.98),
    ],
    ids=["few declines", "many", "many, 5 % let through", "many, 20 % let through"],
)
def test_the_figures_of_the_document(declines: HiddenRequests, confirmed: float) -> None:
    errors = Errors(0.0003, 0.05)
    found = LabelPaths(0.008, declines, 0.05, 0.1, 0.1, errors, 0.3, 65)
    assert found.passes(50_000, 50) == confirmed


def test_payments_that_no_draw_could_let_through_stay_hidden() -> None:
    every = held(HiddenRequests(0.02, 0.8, drawn=1.0, chance=0.5), tolerance=0.1)
    few = held(HiddenRequests(0.02, 0.8, drawn=0.1, chance=0.5), tolerance=0.1)
    assert every is not None
    assert few is not None
    assert few.passes < every.passes


def test_the_plan_says_what_declines_hide_and_what_would_show_it() -> None:
    profile = dataclasses.replace(usual(), hidden=HiddenRequests(0.02, 0.8))
    plan = plan_rollout(fraud(), profile, PREDICTED, REPLAYED)
    told = "\n".join(plan_text.conclusions(plan))
    assert "requests in shadow, and 0 of them are let through" in told
    assert "rollout.shadow.minimum_requests: " in told
    assert "exploration.share: " in told


def test_a_profile_counts_what_declines_hide() -> None:
    seen = dataclasses.replace(a_slice(4000), hiding=np.full(80, 0.6))
    found = profile_of([seen, dataclasses.replace(a_slice(4000), hiding=np.zeros(0))])
    assert found is not None
    assert found.hidden is not None
    assert found.hidden.share == pytest.approx(80 / 8000, rel=0.05)
    assert found.hidden.positive == pytest.approx(0.6)
    plain = profile_of([a_slice(4000)])
    assert plain is not None
    assert plain.hidden is None
