"""Who is asked in which order, how long each may take."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm, Phase, Routes, Variant, VariantTest
from mlplatform.scoring.arms.fallback import predict_until, step_until, steps
from mlplatform.scoring.arms.reasons import without_each
from mlplatform.scoring.arms.routing import Assignment

OLD = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa")
NOW = Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")
CHAIN = load_definition("fraud").chain
NEW = Arm(3, "c" * 64, "fraud-v3-cccccccc")


def routes(phase: Phase, *, previous: Arm | None = OLD) -> Routes:
    challenger = NEW if phase in ("shadow", "canary") else None
    return Routes("fraud", 1, NOW, challenger, previous, "fraud-r3", phase, 0.0)


def test_a_challenger_falls_back_to_the_champion_first() -> None:
    assigned = Assignment("challenger", 0, NEW, None)
    order = steps(routes("canary"), assigned)
    assert [(s.name, s.arm) for s in order] == [
        ("challenger", NEW),
        ("champion", NOW),
        ("previous", OLD),
    ]


def test_a_champion_falls_back_to_its_predecessor() -> None:
    order = steps(routes("steady"), Assignment("champion", 0, NOW, None))
    assert [s.name for s in order] == ["champion", "previous"]


def test_a_variant_falls_back_to_the_champion_first() -> None:
    test = VariantTest("fraud-variants-1", (Variant(NEW, 10.0, ((0, 1000),)),), answering=True)
    found = dataclasses.replace(routes("steady", previous=None), test=test)
    order = steps(found, Assignment("variant", 0, NEW, None))
    assert [(s.name, s.arm) for s in order] == [("variant", NEW), ("champion", NOW)]


def test_no_service_is_asked_twice() -> None:
    order = steps(routes("steady", previous=NOW), Assignment("champion", 0, NOW, None))
    assert [s.name for s in order] == ["champion"]


@pytest.mark.parametrize(
    ("named", "step"), [(NOW, "champion"), (NEW, "challenger"), (OLD, "previous")]
)
def test_a_named_version_is_asked_alone(named: Arm, step: str) -> None:
    order = steps(routes("canary"), Assignment("named", 0, named, None))
    assert [(s.name, s.arm) for s in order] == [(step, named)]


@given(st.floats(0, 1e6), st.floats(0.001, 10), st.integers(1, 3))
def test_every_step_gets_its_turn_before_the_reserve(
    start_s: float, span_s: float, count: int
) -> None:
    until_s = predict_until(CHAIN, start_s, start_s + span_s)
    now_s = start_s
    for left in range(count, 0, -1):
        step_s = step_until(CHAIN, now_s, until_s, left)
        assert now_s <= step_s <= until_s
        now_s = step_s
    assert now_s == until_s
    assert until_s <= start_s + span_s


def test_a_step_gets_no_time_where_none_is_left() -> None:
    assert step_until(CHAIN, 5.0, 4.0, 2) == 5.0


def test_each_input_is_replaced_alone() -> None:
    assert without_each([1.0, 2.0], [0.0, 9.0]) == [[0.0, 2.0], [1.0, 9.0]]
