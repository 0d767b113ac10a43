"""Assignment is sticky, nested and even."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.routes import BUCKETS, Arm, Phase, Routes, Variant, VariantTest, no_routes
from mlplatform.rollouts.journal.variants import allotted
from mlplatform.runtime.errors import NotFound
from mlplatform.scoring.arms.routing import assign, assign_named, bucket

UNITS = st.integers(-(2**63), 2**63 - 1)
PERCENTS = st.integers(0, 100).map(float) | st.floats(0, 100)
OLD = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa")
NEW = Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")


def canary(percent: float, rollout_id: str = "fraud-r2") -> Routes:
    return Routes("fraud", 5, OLD, NEW, OLD, rollout_id, "canary", percent)


@given(UNITS, st.text(max_size=15), PERCENTS)
def test_a_unit_keeps_its_bucket_whatever_the_share(unit: int, salt: str, percent: float) -> None:
    assert assign(canary(percent, salt or "r"), unit).bucket == bucket(unit, salt or "r")
    assert 0 <= bucket(unit, salt) < BUCKETS


@given(UNITS, PERCENTS, PERCENTS)
def test_a_ramp_only_adds_customers(unit: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if assign(canary(low), unit).arm == "challenger":
        assert assign(canary(high), unit).arm == "challenger"


@given(UNITS)
def test_nobody_at_zero_and_everybody_at_a_hundred(unit: int) -> None:
    assert assign(canary(0), unit).target == OLD
    assert assign(canary(100), unit).target == NEW


@pytest.mark.parametrize("percent", [1, 5, 25, 50])
def test_the_share_is_the_one_asked_for(percent: int) -> None:
    units = 40_000
    got = sum(assign(canary(percent), unit).arm == "challenger" for unit in range(units))
    deviation = (units * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(got - units * percent / 100) < 4 * deviation


def test_buckets_are_even() -> None:
    units, cells = 50_000, 100
    counts = [0] * cells
    for unit in range(units):
        counts[bucket(unit, "fraud-r2") * cells // BUCKETS] += 1
    expected = units / cells
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_squared < 149  # 99.9th percentile at 99 degrees of freedom


def test_two_rollouts_draw_their_customers_independently() -> None:
    units = range(20_000)
    both = sum(
        assign(canary(10, "fraud-r2"), u).arm == "challenger"
        and assign(canary(10, "fraud-r3"), u).arm == "challenger"
        for u in units
    )
    assert abs(both - 200) < 4 * 200**0.5


@given(UNITS)
def test_in_shadow_the_champion_answers_and_the_challenger_gets_a_copy(unit: int) -> None:
    shadow = dataclasses.replace(canary(0), phase="shadow")
    given_arm = assign(shadow, unit)
    assert (given_arm.arm, given_arm.target, given_arm.shadow) == ("champion", OLD, NEW)


@pytest.mark.parametrize("phase", ["shadow", "canary"])
@pytest.mark.parametrize("arm", [OLD, NEW], ids=["champion", "challenger"])
@given(UNITS)
def test_a_version_that_a_request_names_is_asked_whosever_the_customer_is(
    phase: Phase, arm: Arm, unit: int
) -> None:
    """And no copy of the request goes to the challenger."""
    routes = dataclasses.replace(canary(50), phase=phase)
    for name in (str(arm.version), arm.bundle):
        found = assign_named(routes, unit, name)
        assert found is not None
        assert (found.arm, found.target, found.shadow) == ("named", arm, None)


THIRD = Arm(3, "c" * 64, "fraud-v3-cccccccc")


def in_test(percents: dict[int, float], answering: bool = True) -> Routes:
    """A test of versions 2 and 3 beside version 1."""
    arms = {2: NEW, 3: THIRD}
    ranges = allotted(percents)
    variants = tuple(Variant(arms[v], share, ranges[v]) for v, share in percents.items())
    test = VariantTest("fraud-variants-1", variants, answering)
    return Routes("fraud", 5, OLD, None, None, "fraud-r2", "steady", 0.0, test=test)


@pytest.mark.parametrize(
    ("unit", "number", "version"),
    [
        (0, 8858, 1), (1, 933, 2), (-1, 4476, 1), (7, 8004, 1), (42, 3915, 1), (1000, 4346, 1),
        (2**63 - 1, 2517, 3), (-(2**63), 2368, 3), (7_264_127_731, 75, 2),
    ],
)  # fmt: skip
def test_the_customers_of_a_test_are_these(unit: int, number: int, version: int) -> None:
    """Golden vectors: another hash would move the customers of a running test."""
    found = assign(in_test({2: 20.0, 3: 10.0}), unit)
    assert (found.bucket, found.target.version) == (number, version)
    assert found.arm == ("champion" if version == 1 else "variant")
    assert found.shadow is None


@pytest.mark.parametrize(
    ("unit", "salt", "number"),
    [(0, "fraud-r2", 9701), (1, "fraud-r2", 7080), (42, "fraud-v2-1", 9672), (-7, "fraud", 9838)],
)
def test_the_customers_of_a_rollout_are_these(unit: int, salt: str, number: int) -> None:
    assert bucket(unit, salt) == number


@given(UNITS)
def test_a_test_has_a_salt_of_its_own_once_its_variants_answer(unit: int) -> None:
    found = assign(in_test({2: 50.0}), unit)
    assert found.bucket == bucket(unit, "fraud-variants-1")
    waits = assign(in_test({2: 50.0}, answering=False), unit)
    assert (waits.arm, waits.target, waits.bucket) == ("champion", OLD, bucket(unit, "fraud-r2"))


def test_each_variant_has_its_share_and_the_champion_the_rest() -> None:
    units = 40_000
    found = [assign(in_test({2: 20.0, 3: 10.0}), unit).target.version for unit in range(units)]
    for version, percent in ((1, 70), (2, 20), (3, 10)):
        deviation = (units * percent / 100 * (1 - percent / 100)) ** 0.5
        assert abs(found.count(version) - units * percent / 100) < 4 * deviation


@given(UNITS)
def test_a_larger_share_takes_customers_from_the_champion_alone(unit: int) -> None:
    low = in_test({2: 20.0, 3: 10.0})
    assert low.test is not None
    ranges = allotted({2: 35.0, 3: 12.0}, {v.arm.version: v.buckets for v in low.test.variants})
    variants = (Variant(NEW, 35.0, ranges[2]), Variant(THIRD, 12.0, ranges[3]))
    high = dataclasses.replace(low, test=dataclasses.replace(low.test, variants=variants))
    before, after = assign(low, unit), assign(high, unit)
    assert after.target in (before.target, NEW, THIRD)
    if before.arm == "variant":
        assert after.target == before.target


def test_a_request_can_name_a_variant_that_answers() -> None:
    found = assign_named(in_test({2: 20.0}), 7, "2")
    assert found is not None
    assert (found.arm, found.target, found.bucket) == ("named", NEW, bucket(7, "fraud-variants-1"))
    assert assign_named(in_test({2: 20.0}, answering=False), 7, "2") is None


@pytest.mark.parametrize("name", ["3", "01", "-1", " 1", "a", "a" * 63, "A" * 64, "", "champion"])
def test_what_is_no_served_version_is_assigned_to_nobody(name: str) -> None:
    assert assign_named(canary(50), 7, name) is None


def test_a_model_without_champion_is_named() -> None:
    with pytest.raises(NotFound, match="fraud"):
        assign(no_routes("fraud"), 1)
