"""An A/B/n test: who may be a variant, when it answers, and what takes it out."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rollouts.passes.test_rollout_passes import (
    World,
    bootstrap,
    confirmation,
    regret,
    to_canary,
    to_promoted,
    validated,
)

from mlplatform.model.policies.rollout import FreezePolicy, FreezeWindow
from mlplatform.model.routes import BUCKETS, Variant, VariantTest
from mlplatform.rollouts.journal.controls import (
    VariantRemoved,
    VariantsAnswering,
    VariantsEnded,
    VariantsRaised,
    VariantsStarted,
    VariantTestState,
    check_may_move,
    controlled_routes,
    decode_control,
    encode_control,
    fold_controls,
)
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.variants import MOST_VARIANTS, allotted
from mlplatform.rollouts.passes.commands import open_rollout
from mlplatform.rollouts.passes.controls import clear_stops, kill, lift, write_control
from mlplatform.rollouts.passes.execute import run_pass
from mlplatform.rollouts.variants import commands
from mlplatform.rollouts.variants.execute import VariantReport, run_test
from mlplatform.runtime.errors import Busy, Refused
from mlplatform.runtime.units import DAY_MS
from rollout_world import arm

WHO: dict[str, Any] = {"actor": "eve", "reason": "version 1 may find more"}
FROZEN_MS = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp() * 1000)
Ranges = tuple[tuple[int, int], ...]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 2 is champion, and version 1 was before it."""
    made = World(tmp_path)
    bootstrap(made)
    to_promoted(made)
    confirmation(made)
    return made


def started(world: World, days: float = 14.0, **shares: float) -> VariantTestState:
    wanted = {int(name[1:]): share for name, share in shares.items()} or {1: 20.0}
    state = commands.start(world.rollouts, "fraud", wanted, days=days, clock=world.clock, **WHO)
    assert state.test is not None
    return state.test


def settle(world: World) -> VariantReport:
    """A whole pass, as the platform runs it."""
    report = run_test(world.definition, world.ports(), holder="reconcile")
    world.settle()
    return report


def answering(world: World, **shares: float) -> VariantTest:
    """A test whose variants answer."""
    started(world, **shares)
    settle(world)
    settle(world)
    test = world.rollouts.routes("fraud").test
    assert test is not None
    assert test.answering
    return test


def state_of(world: World) -> VariantTestState:
    test = fold_controls(world.rollouts.controls("fraud")).test
    assert test is not None
    return test


def variant_rows(world: World, units: int, *, failing: bool) -> list[dict[str, Any]]:
    """A request of each customer: buckets as they come, a fifth of them the variant's."""
    routes = world.rollouts.routes("fraud")
    rows = []
    for unit in range(units):
        bucket = unit * BUCKETS // units
        mine = routes.test is not None and any(v.has(bucket) for v in routes.test.variants)
        row: dict[str, Any] = {
            "decision_id": f"t{unit}", "unit": unit, "generation": routes.generation,
            "event_ms": 1000 + unit, "recorded_ms": 5_000_000 + unit * 1000, "bucket": bucket,
            "arm": "variant" if mine else "champion", "version": 1 if mine else 2,
        }  # fmt: skip
        if mine and failing:
            row |= {"answered_by": "champion", "version": 2, "degraded": True,
                    "degraded_reason": "deadline"}  # fmt: skip
        rows.append(row)
    return rows


SHARES = st.dictionaries(
    st.integers(1, 50), st.integers(1, 2400).map(lambda n: n / 100), min_size=1, max_size=4
)


def buckets(ranges: Ranges) -> set[int]:
    return {bucket for first, end in ranges for bucket in range(first, end)}


@given(SHARES, st.data())
def test_larger_shares_only_add_buckets_of_the_champion(
    shares: dict[int, float], data: st.DataObject
) -> None:
    before = allotted(shares)
    assert {v: len(buckets(r)) for v, r in before.items()} == {
        v: round(share * 100) for v, share in shares.items()
    }
    more = {v: share + data.draw(st.sampled_from([0.0, 0.01, 0.9])) for v, share in shares.items()}
    after = allotted(more, before)
    assert all(buckets(after[v]) >= buckets(before[v]) for v in shares)
    every = [bucket for ranges in after.values() for bucket in buckets(ranges)]
    assert len(every) == len(set(every))
    assert set(every) <= set(range(BUCKETS))


def test_the_buckets_of_a_test_are_these() -> None:
    """They are in journals: another rule would move customers of a running test."""
    assert allotted({5: 20.0, 6: 10.0}) == {5: ((0, 2000),), 6: ((2000, 3000),)}
    later = allotted({5: 30.0, 6: 10.5}, {5: ((0, 2000),), 6: ((2000, 3000),)})
    assert later == {5: ((0, 2000), (3000, 4000)), 6: ((2000, 3000), (4000, 4050))}


@pytest.mark.parametrize(
    ("shares", "before", "why"),
    [
        ({5: 60.0, 6: 40.0}, None, "100 % together; wanted: less than 100 %"),
        ({5: 0.001}, None, r"0.001 % of the customers; wanted: 0.01 % or more"),
        ({5: 10.0}, {5: ((0, 2000),)}, "10 % of the customers; wanted: 20 % or more"),
    ],
)
def test_a_share_that_can_not_be_had_is_refused(
    shares: dict[int, float], before: dict[int, Ranges] | None, why: str
) -> None:
    with pytest.raises(Refused, match=why):
        allotted(shares, before)


def test_a_test_goes_its_way_and_ends_at_its_deadline(world: World) -> None:
    test = started(world)
    assert test.started.test_id == "fraud-variants-1"
    routes = world.rollouts.routes("fraud")
    assert routes.test is not None
    assert not routes.test.answering
    assert routes.arms == (arm(2),), "no customer meets a service that starts"
    report = settle(world)
    assert report.waits == (f"fraud-variants-1: not ready yet: {arm(1).service}: not deployed",)
    assert world.plane.names() == sorted([arm(1).service, arm(2).service])
    assert settle(world).steps == (
        "fraud-variants-1: let the variants answer: the services of all variants are ready",
    )
    routes = world.rollouts.routes("fraud")
    assert dict(routes.roles)["variant"] == arm(1)
    assert routes.champion == arm(2)
    began = state_of(world).answering
    assert began is not None
    assert (began.generation, began.actor) == (routes.generation, "reconcile")
    world.clock.event += 14 * DAY_MS - 1
    assert settle(world).steps == ()
    world.clock.event += 1
    assert settle(world).steps == (
        "fraud-variants-1: end the test: it has run for 14 days, as it was started for",
    )
    assert world.rollouts.routes("fraud").test is None
    world.generation()
    world.settle()
    assert world.plane.names() == [arm(2).service]
    assert world.rollouts.verify() == ()
    assert [type(fact).__name__ for fact in world.rollouts.controls("fraud")] == [
        "VariantsStarted", "VariantsAnswering", "VariantsEnded",
    ]  # fmt: skip


def test_services_outlive_a_test_until_no_gateway_asks_them(world: World) -> None:
    answering(world)
    world.generation()
    commands.end(world.rollouts, "fraud", clock=world.clock, **WHO)
    world.settle()
    assert arm(1).service in world.plane.names()
    world.generation()
    world.settle()
    assert world.plane.names() == [arm(2).service]


def test_a_variant_that_fails_is_taken_out_and_the_test_is_over(world: World) -> None:
    answering(world)
    generation = world.generation()
    world.log.rows[generation] = variant_rows(world, 1500, failing=True)
    (step,) = settle(world).steps
    assert step.startswith(
        "fraud-variants-1: take out version 1: The version fails to answer at least"
    )
    routes = world.rollouts.routes("fraud")
    assert (routes.test, routes.champion) == (None, arm(2))
    test = state_of(world)
    (removal,) = test.removals
    assert (test.is_running, test.end) == (False, removal)
    assert removal.actor == "reconcile"
    assert removal.evidence["gates"]["guardrail"]["verdict"] == "UNHEALTHY"
    assert removal.evidence["arms"]["challenger"]["failures"] == 300
    with pytest.raises(Refused, match="taken out of an earlier test for harm"):
        started(world)


def test_one_that_answers_stays_and_the_champions_failures_are_not_its_own(world: World) -> None:
    answering(world)
    generation = world.generation()
    rows = variant_rows(world, 1500, failing=False)
    for row in rows:
        if row["arm"] == "champion":
            row |= {"answered_by": "rules", "degraded": True, "degraded_reason": "deadline"}
    world.log.rows[generation] = rows
    assert settle(world).steps == ()
    assert state_of(world).is_running


def test_of_two_variants_the_one_that_fails_goes_and_the_other_stays(world: World) -> None:
    """Failures are known by the bucket, as the record names the version that answered."""
    to_promoted(world, 3)
    world.live_on()
    world.settle()
    test = answering(world, v1=20.0, v2=20.0)
    generation = world.generation()
    rows = variant_rows(world, 1500, failing=False)
    for row in rows:
        if test.variants[1].has(row["bucket"]):
            row |= {"answered_by": "champion", "version": 3, "degraded": True,
                    "degraded_reason": "unavailable"}  # fmt: skip
    world.log.rows[generation] = rows
    (step,) = settle(world).steps
    assert "take out version 2" in step
    after = world.rollouts.routes("fraud").test
    assert after is not None
    assert [v.arm for v in after.variants] == [arm(1)]
    assert after.variants[0].buckets == test.variants[0].buckets
    assert state_of(world).is_running


def test_a_variant_that_a_gateway_stopped_for_its_decisions_is_taken_out(world: World) -> None:
    answering(world)
    generation = world.rollouts.routes("fraud").generation
    why = {arm(1).service: "declined 25 of 25 customers"}
    world.rollouts.lease("gateway-1", {"fraud": generation}, 60, why)
    assert settle(world).steps == (
        "fraud-variants-1: take out version 1: stopped by gateways: gateway-1: it declined 25 of"
        " 25 customers",
    )


def test_a_stop_that_people_cleared_takes_nobody_out(world: World) -> None:
    answering(world)
    generation = world.rollouts.routes("fraud").generation
    why = {arm(1).service: "declined 25 of 25 customers"}
    world.rollouts.lease("gateway-1", {"fraud": generation}, 60, why)
    clear_stops(world.rollouts, "fraud", clock=world.clock, **WHO)
    assert settle(world).steps == ()


def test_services_that_do_not_come_up_end_the_test(world: World) -> None:
    world.plane.broken = {arm(1).service}
    started(world)
    settle(world)
    world.clock.wall += round(world.definition.rollout.deploy_wall_deadline_s * 1000)
    (step,) = settle(world).steps
    assert step == (
        f"fraud-variants-1: end the test: not ready in time: {arm(1).service}: self-test failed"
    )
    assert world.rollouts.routes("fraud").test is None


def test_in_a_freeze_no_customer_meets_a_variant_and_harm_still_ends_it(world: World) -> None:
    window = FreezeWindow("2026-11-02", "2026-11-03", reason="the days of sales")
    rollout = msgspec.structs.replace(world.definition.rollout, freeze=FreezePolicy((window,)))
    world.definition = msgspec.structs.replace(world.definition, rollout=rollout)
    world.clock.wall = FROZEN_MS
    started(world)
    settle(world)
    world.clock.wall += round(timedelta(hours=30).total_seconds() * 1000)
    assert settle(world).waits == (
        "fraud-variants-1: frozen until 2026-11-04 00:00 UTC: the days of sales",
    )
    world.clock.wall = FROZEN_MS + 2 * DAY_MS
    assert "let the variants answer" in settle(world).steps[0]


def test_the_kill_switch_ends_the_test(world: World) -> None:
    answering(world)
    kill(world.rollouts, "fraud", clock=world.clock, **WHO)
    assert world.rollouts.routes("fraud").test is None
    assert not state_of(world).is_running
    assert settle(world) == VariantReport()
    with pytest.raises(Refused, match="fraud is switched off: `rollouts lift`"):
        started(world)
    lift(world.rollouts, "fraud", clock=world.clock, **WHO)
    assert world.rollouts.routes("fraud").test is None
    assert started(world).started.test_id == "fraud-variants-2"


def test_no_rollout_is_opened_beside_a_test_and_no_test_beside_a_rollout(world: World) -> None:
    started(world)
    with pytest.raises(
        Busy, match="fraud-variants-1 runs, and no rollout is opened beside it: `mlplatform"
    ):
        world.open(3)
    with pytest.raises(Refused, match="fraud-variants-1 runs already: `mlplatform variants end"):
        started(world)
    commands.end(world.rollouts, "fraud", clock=world.clock, **WHO)
    with pytest.raises(Refused, match="no test of fraud runs: `mlplatform variants start fraud`"):
        commands.end(world.rollouts, "fraud", clock=world.clock, **WHO)
    world.open(3)
    with pytest.raises(Refused, match="fraud-v3-1 is deploying, and no test runs beside it"):
        started(world)


def test_a_rollout_that_a_test_keeps_from_opening_is_not_planned(world: World) -> None:
    """A plan reads days of the log."""
    started(world)
    with pytest.raises(Busy, match="runs, and no rollout is opened"):
        open_rollout(
            world.rollouts, "fraud", validated(3), approval="none", actor="dan", reason="better",
            clock=world.clock, plan=lambda _: pytest.fail("nothing is planned"),
        )  # fmt: skip


def test_a_provisional_champion_is_tested_against_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_promoted(world)
    with pytest.raises(Refused, match="fraud-v2-1 is promoted, and no test runs beside it"):
        started(world)


def test_an_emergency_promotion_ends_the_test_first(world: World) -> None:
    answering(world)
    rollout_id = open_rollout(
        world.rollouts, "fraud", validated(3), approval="none", actor="dan", reason="an attack",
        clock=world.clock, emergency=True,
    )  # fmt: skip
    assert settle(world).steps == (
        f"fraud-variants-1: end the test: the emergency promotion {rollout_id} is under way",
    )
    world.settle()
    routes = world.rollouts.routes("fraud")
    assert (routes.champion, routes.previous, routes.test) == (arm(3), arm(2), None)
    assert world.rollouts.verify() == ()


def test_only_versions_that_were_champion_and_not_taken_back_are_variants(world: World) -> None:
    for version, why in [
        (2, "is its champion"),
        (
            9,
            "has never been champion; wanted: a version that has been champion and was not taken "
            "back: 1, 2",
        ),
    ]:
        with pytest.raises(Refused, match=why):
            started(world, **{f"v{version}": 10.0})
    rollout_id = to_canary(world, 3)
    world.back()
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"
    with pytest.raises(Refused, match="version 3 of fraud was last rolled_back: alarm"):
        started(world, v3=10.0)
    with pytest.raises(Refused, match=f"has 1 to {MOST_VARIANTS} variants"):
        commands.start(world.rollouts, "fraud", {}, days=1, clock=world.clock, **WHO)
    with pytest.raises(Refused, match="can't run 91 days"):
        started(world, days=91)


def test_a_champion_that_was_taken_back_is_no_variant(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_promoted(world)
    regret(world)
    with pytest.raises(Refused, match="version 2 of fraud was last rolled_back"):
        started(world, v2=10.0)


def test_who_made_a_version_starts_no_test_with_it(world: World) -> None:
    """Its rollout needed an approval, and ann is its author."""
    for name in ("ann", " ANN", "\uff41nn"):
        with pytest.raises(Refused, match="made version 1, whose rollout needed an approval"):
            commands.start(
                world.rollouts, "fraud", {1: 10.0}, days=1, clock=world.clock, actor=name,
                reason="mine",
            )  # fmt: skip
    assert world.rollouts.controls("fraud") == ()


def test_a_larger_share_adds_customers_and_a_smaller_one_is_refused(world: World) -> None:
    before = answering(world)
    raised = commands.raise_shares(
        world.rollouts, "fraud", {1: 35.0}, clock=world.clock, **WHO
    ).test
    assert raised is not None
    after = world.rollouts.routes("fraud").test
    assert after is not None
    assert after.answering
    assert after.variants == raised.variants
    assert (before.variants[0].buckets, after.variants[0].buckets) == (((0, 2000),), ((0, 3500),))
    with pytest.raises(Refused, match="10 % of the customers; wanted: 35 % or more"):
        commands.raise_shares(world.rollouts, "fraud", {1: 10.0}, clock=world.clock, **WHO)
    with pytest.raises(Refused, match="version 7 is not a variant of test fraud-variants-1"):
        commands.raise_shares(world.rollouts, "fraud", {7: 10.0}, clock=world.clock, **WHO)


def test_the_journal_itself_refuses_other_routes_and_moves_beside_a_test(world: World) -> None:
    test = started(world)
    present = world.rollouts.routes("fraud")
    common = {"model": "fraud", "event_ms": 1, "wall_ms": 1, "test_id": "fraud-variants-1", **WHO}
    fence = world.rollouts.acquire("fraud", "pass", 20)
    assert fence is not None
    begins = VariantsAnswering(**common, generation=present.generation + 1)
    for wrong in (
        dataclasses.replace(present, generation=present.generation + 1),
        dataclasses.replace(controlled_routes(begins, present), champion=arm(1)),
    ):
        with pytest.raises(Refused, match="other routes follow from VariantsAnswering of fraud"):
            world.rollouts.control(begins, fence, wrong)
    moved = (dataclasses.replace(test.variants[0], buckets=((5, 2005),)),)
    with pytest.raises(Refused, match="or one would lose customers"):
        write_control(world.rollouts, VariantsRaised(**common, variants=moved))
    other = {**common, "test_id": "fraud-variants-7"}
    with pytest.raises(Refused, match="fraud-variants-7 does not run"):
        write_control(world.rollouts, VariantsEnded(**other))
    with pytest.raises(Refused, match="version 9 is not a variant"):
        write_control(world.rollouts, VariantRemoved(**common, version=9, service=arm(9).service))
    promoted = world.rollouts.read("fraud-v2-1")[-2]
    with pytest.raises(Refused, match="fraud-variants-1 runs, and no rollout moves"):
        check_may_move(promoted, present, None)
    paused = world.rollouts.read("fraud-v2-1")[0]
    with pytest.raises(Refused, match="can't change what people control"):
        check_may_move(paused, present, dataclasses.replace(present, test=None))
    assert fold(world.rollouts.read("fraud-v2-1")).phase == "confirmed"


def test_facts_of_a_test_are_what_they_were_after_a_journal() -> None:
    variants = (Variant(arm(1), 20.0, ((0, 2000), (3000, 3500))),)
    common = {"model": "fraud", "event_ms": 1, "wall_ms": 2, "test_id": "fraud-variants-1", **WHO}
    for fact in (
        VariantsStarted(**common, champion=arm(2), variants=variants, days=14.0),
        VariantsAnswering(**common, generation=8),
        VariantsRaised(**common, variants=variants),
        VariantRemoved(
            **common, version=1, service=arm(1).service, evidence={"stopped": {"g": "x"}}
        ),
        VariantsEnded(**common),
    ):
        assert decode_control(encode_control(fact)) == fact


def test_a_dry_run_says_what_is_next_and_writes_nothing(world: World) -> None:
    started(world)
    settle(world)
    before = world.outcome()
    ports = world.ports(is_read_only=True)
    report = run_test(world.definition, ports, holder="x", dry_run=True)
    assert report.steps == (
        "fraud-variants-1: let the variants answer: the services of all variants are ready",
    )
    run_pass(world.definition, ports, holder="x", dry_run=True)
    assert world.outcome() == before


def test_a_pass_that_has_no_lease_waits(world: World) -> None:
    started(world)
    assert world.rollouts.acquire("fraud", "another", 60) is not None
    report = run_test(world.definition, world.ports(), holder="reconcile")
    assert report == VariantReport(waits=("another pass holds the lease",))
