"""Times, decision ids and problems: the small things that decide who gets in."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition, model_names
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.units import HOUR_MS
from mlplatform.scoring.api import openapi
from mlplatform.scoring.api.versions import VERSIONS, ApiVersion
from mlplatform.scoring.arms.watermark import LatestEventTime
from mlplatform.scoring.request.decision_ids import (
    is_known,
    is_owned,
    made_ms,
    new_decision_id,
    owned_decision_id,
    ownership,
)
from mlplatform.scoring.request.times import EventTimes
from support.earlier_state import earlier_decision_id

NOW_MS = 1_767_225_600_000
SECRET = b"k" * 32
DOCUMENTS = openapi.documents([load_definition(name) for name in model_names()])


@pytest.mark.parametrize(
    ("offset_ms", "accepted"),
    [(0, True), (-300_000, True), (300_000, True), (-300_001, False), (600_000, False)],
)
def test_live_requests_are_within_five_minutes(offset_ms: int, accepted: bool) -> None:
    times = EventTimes("system", lambda: NOW_MS)
    if accepted:
        times.check(NOW_MS + offset_ms)
        return
    with pytest.raises(Problem) as caught:
        times.check(NOW_MS + offset_ms)
    assert (caught.value.status, caught.value.details.field) == (422, "event_time")


def test_a_replay_begins_anywhere_and_then_stays_near_its_watermark() -> None:
    mark = LatestEventTime(lambda: None)
    times = EventTimes("replay", lambda: mark.event_ms or 0)
    times.check(5)
    mark.advance(NOW_MS)
    mark.advance(NOW_MS - 1)
    times.check(NOW_MS - HOUR_MS)
    times.check(NOW_MS + 48 * HOUR_MS)
    times.check_arrival(NOW_MS - 24 * HOUR_MS)
    for refused_ms in (5, NOW_MS - HOUR_MS - 1, NOW_MS + 48 * HOUR_MS + 1):
        with pytest.raises(Problem):
            times.check(refused_ms)


@given(st.integers(0, 2**47), st.text(max_size=40))
def test_only_ids_given_out_here_are_known(wall_ms: int, other: str) -> None:
    given_id = new_decision_id("fraud", "shop", wall_ms, SECRET)
    assert is_known("fraud", given_id, SECRET)
    assert not is_known("credit", given_id, SECRET)
    assert not is_known("fraud", given_id, b"j" * 32)
    assert not is_known("fraud", other, SECRET)


def test_an_owned_id_is_of_its_model_and_client_alone() -> None:
    told = owned_decision_id("fraud", "shop", NOW_MS, SECRET)
    assert is_known("fraud", told, SECRET)
    assert is_owned("fraud", "shop", told, SECRET)
    assert made_ms(told) == NOW_MS
    assert not is_owned("fraud", "bank", told, SECRET)
    assert not is_owned("credit", "shop", told, SECRET)
    assert not is_owned("fraud", "shop", told, b"j" * 32)
    bank = owned_decision_id("fraud", "bank", NOW_MS, SECRET)
    assert not is_known("fraud", told[:22] + bank[22:32] + told[32:], SECRET)
    asked = new_decision_id("fraud", "shop", NOW_MS, SECRET)
    assert not is_owned("fraud", "shop", asked, SECRET)  # nobody polls for what was answered


@pytest.mark.parametrize("made", [new_decision_id, owned_decision_id])
def test_an_id_says_whose_it_is(made: Callable[[str, str, int, bytes], str]) -> None:
    told = made("fraud", "shop", NOW_MS, SECRET)
    other = made("fraud", "bank", NOW_MS, SECRET)
    assert ownership("fraud", "shop", told, SECRET) == "own"
    assert ownership("fraud", "bank", told, SECRET) == "foreign"
    assert ownership("credit", "shop", told, SECRET) == "unknown"
    swapped = told[:22] + other[22:32] + told[32:]
    assert ownership("fraud", "bank", swapped, SECRET) == "unknown"


def test_ids_of_before_say_nothing_of_their_client() -> None:
    earlier = earlier_decision_id("fraud", NOW_MS, SECRET)
    assert is_known("fraud", earlier, SECRET)
    assert ownership("fraud", "shop", earlier, SECRET) == "unsaid"
    assert ownership("credit", "shop", earlier, SECRET) == "unknown"


def test_ids_rise_with_time_and_never_repeat() -> None:
    ids = [new_decision_id("fraud", "shop", NOW_MS + i, SECRET) for i in range(100)]
    assert ids == sorted(ids)
    assert len({new_decision_id("fraud", "shop", NOW_MS, SECRET) for _ in range(1000)}) == 1000


def test_a_problem_says_what_rfc_9457_wants() -> None:
    problem = Problem(409, "in-flight", "wait", field="Idempotency-Key", retry_after_s=1)
    assert json.loads(problem.body) == {
        "type": "urn:mlplatform:problem:in-flight",
        "title": "Conflict",
        "status": 409,
        "detail": "wait",
        "field": "Idempotency-Key",
    }
    assert (b"retry-after", b"1") in problem.headers
    assert problem.within("labels[2]").details.field == "labels[2].Idempotency-Key"


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
def test_a_document_describes_every_model(
    version: ApiVersion,
) -> None:
    definitions = [load_definition(name) for name in model_names()]
    text = openapi.render(definitions, version)
    for name in model_names():
        assert f"/api/{version.name}/models/{name}/score" in json.loads(text)["paths"]
    assert text == openapi.render(definitions, version)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_document_refers_to_nothing_missing(path: str) -> None:
    text = DOCUMENTS[path].decode()
    components = json.loads(text)["components"]
    found = {f"#/components/{kind}/{name}" for kind, parts in components.items() for name in parts}
    references = {line.split('"')[3] for line in text.splitlines() if '"$ref"' in line}
    assert references
    assert references <= found
