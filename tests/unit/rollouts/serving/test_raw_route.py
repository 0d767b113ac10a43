"""The HTTPRoute of raw callers: what is rendered, and when it may be written."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mlplatform.model.routes import Routes, no_routes
from mlplatform.rollouts.serving.raw_route import (
    ANSWERED_BY,
    Keep,
    Wait,
    Write,
    applied_generation,
    next_write,
    read,
    render,
)
from mlplatform.runtime.errors import ConfigInvalid
from rollout_world import ENTRANCE, FakeRawRoutes, arm

ONE, TWO = arm(1), arm(2)
STEADY = Routes("fraud", 3, ONE, None, None, None, "steady", 0.0)
SHADOW = Routes("fraud", 4, ONE, TWO, None, "r", "shadow", 0.0)
CANARY = Routes("fraud", 5, ONE, TWO, None, "r", "canary", 5.0)
PROMOTED = Routes("fraud", 6, TWO, None, ONE, "r", "steady", 0.0)


def everybody(routes: Routes) -> dict[str, Any]:
    made = render(routes, ENTRANCE)
    assert made is not None
    rule: dict[str, Any] = made["spec"]["rules"][0]
    return rule


def weights(routes: Routes) -> dict[str, int]:
    return {b["name"]: b["weight"] for b in everybody(routes)["backendRefs"]}


def in_cluster(routes: Routes, *, follows: bool = True) -> FakeRawRoutes:
    made = FakeRawRoutes(follows=follows)
    body = render(routes, ENTRANCE)
    assert body is not None
    made.write(body, None)
    return made


def step(
    routes: Routes, raw: FakeRawRoutes, *, ready: frozenset[str] = frozenset()
) -> Write | Keep | Wait:
    found = raw.find("fraud")
    seen = None if found is None else read(found)
    return next_write(routes, seen, ENTRANCE, ready.__contains__)


@pytest.mark.parametrize(
    ("percent", "wanted"), [(1.0, (99, 1)), (50.0, (50, 50)), (0.5, (99_500, 500))]
)
def test_a_canarys_share_is_its_weight_in_whole_numbers(
    percent: float, wanted: tuple[int, int]
) -> None:
    found = weights(dataclasses.replace(CANARY, challenger_percent=percent))

    assert tuple(found.values()) == wanted
    assert list(found) == [f"{ONE.service}-predictor", f"{TWO.service}-predictor"]


def test_a_shadow_is_mirrored_and_marked_and_answers_nobody() -> None:
    rule = everybody(SHADOW)

    assert list(weights(SHADOW)) == [f"{ONE.service}-predictor"]
    marked, mirror = rule["filters"]
    assert marked["requestHeaderModifier"]["set"] == [{"name": ANSWERED_BY, "value": ONE.service}]
    assert mirror["requestMirror"]["backendRef"]["name"] == f"{TWO.service}-predictor"


@pytest.mark.parametrize("routes", [STEADY, CANARY, PROMOTED], ids=lambda r: r.phase)
def test_where_nothing_is_mirrored_the_mark_is_taken_off(routes: Routes) -> None:
    [only] = everybody(routes)["filters"]

    assert only["requestHeaderModifier"] == {"remove": [ANSWERED_BY]}


@pytest.mark.parametrize(
    ("routes", "versions"), [(STEADY, ["1"]), (SHADOW, ["1", "2"]), (PROMOTED, ["2"])]
)
def test_testers_reach_champion_and_challenger(routes: Routes, versions: list[str]) -> None:
    made = render(routes, ENTRANCE)
    assert made is not None

    headers = [rule["matches"][0]["headers"] for rule in made["spec"]["rules"][1:]]
    assert [h[0]["value"] for h in headers] == versions


@pytest.mark.parametrize("routes", [STEADY, SHADOW, CANARY, PROMOTED], ids=lambda r: r.phase)
def test_the_rule_of_everybody_has_the_same_place_in_every_phase(routes: Routes) -> None:
    made = render(routes, ENTRANCE)
    assert made is not None

    [first, *others] = ["headers" in rule["matches"][0] for rule in made["spec"]["rules"]]
    assert not first
    assert all(others)


def test_without_a_champion_there_is_nothing_to_route() -> None:
    assert render(no_routes("fraud"), ENTRANCE) is None
    assert step(no_routes("fraud"), FakeRawRoutes()) == Keep()


def test_a_first_route_waits_for_the_champion() -> None:
    raw = FakeRawRoutes()

    assert isinstance(step(STEADY, raw), Wait)
    assert isinstance(step(STEADY, raw, ready=frozenset({ONE.service})), Write)


@pytest.mark.parametrize("routes", [SHADOW, CANARY], ids=lambda r: r.phase)
def test_a_new_service_gets_nothing_before_it_is_ready(routes: Routes) -> None:
    raw = in_cluster(STEADY)

    waits = step(routes, raw)
    assert isinstance(waits, Wait)
    assert TWO.service in waits.reason
    assert isinstance(step(routes, raw, ready=frozenset({TWO.service})), Write)


def test_what_has_traffic_already_is_not_asked_again() -> None:
    """A challenger that has just failed must not keep its own share from being taken away."""
    raw = in_cluster(CANARY)
    rolled_back = dataclasses.replace(STEADY, generation=6)

    assert isinstance(step(rolled_back, raw), Write)


def test_planning_on_what_a_plan_produced_changes_nothing() -> None:
    raw = in_cluster(SHADOW)
    decided = step(CANARY, raw)
    assert isinstance(decided, Write)
    raw.write(decided.body, decided.version)

    assert step(CANARY, raw) == Keep()


def test_a_newer_route_is_never_written_over() -> None:
    waits = step(SHADOW, in_cluster(CANARY), ready=frozenset({TWO.service}))

    assert isinstance(waits, Wait)
    assert "generation 5" in waits.reason


def test_what_somebody_changed_is_written_again() -> None:
    raw = in_cluster(CANARY)
    assert raw.route is not None
    raw.route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 1

    assert isinstance(step(CANARY, raw), Write)


def test_a_generation_counts_only_when_the_gateway_has_looked_at_this_spec() -> None:
    raw = in_cluster(SHADOW, follows=False)
    found = raw.find("fraud")
    assert found is not None
    assert applied_generation(read(found)) is None

    raw.follow()
    found = raw.find("fraud")
    assert found is not None
    assert applied_generation(read(found)) == SHADOW.generation

    decided = step(CANARY, raw, ready=frozenset({TWO.service}))
    assert isinstance(decided, Write)
    raw.write(decided.body, decided.version)
    found = raw.find("fraud")
    assert found is not None
    assert applied_generation(read(found)) is None  # its conditions are of the spec before


@pytest.mark.parametrize("kind", ["Accepted", "ResolvedRefs"])
def test_a_gateway_that_objects_does_not_follow(kind: str) -> None:
    raw = in_cluster(SHADOW)
    assert raw.route is not None
    for condition in raw.route["status"]["parents"][0]["conditions"]:
        if condition["type"] == kind:
            condition |= {"status": "False", "message": "no Service"}

    assert read(raw.route).problem == f"{kind} is False: no Service"


def test_another_gateways_word_does_not_count() -> None:
    raw = in_cluster(SHADOW)
    assert raw.route is not None
    raw.route["status"]["parents"][0]["parentRef"]["name"] = "another"

    assert applied_generation(read(raw.route)) is None


def test_a_route_of_somebody_else_is_told() -> None:
    raw = in_cluster(STEADY)
    assert raw.route is not None
    raw.route["metadata"]["annotations"] = {}

    with pytest.raises(ConfigInvalid, match="rename the other one"):
        read(raw.route)
