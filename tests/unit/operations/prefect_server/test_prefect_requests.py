"""A run that a person starts takes parameters, in that person's name, and nothing else."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any

import pytest

from mlplatform.operations.prefect_server import prefect_requests
from mlplatform.operations.prefect_server.prefect_requests import (
    AT_ONCE_S,
    DUE_WITHIN_S,
    MOST_DEPTH,
    Start,
    StartRefusal,
    form_values,
    is_cancelling,
)

NOW_S = 1_900_000_000.0
PARAMETERS = {"model": "fraud", "actor": "ana", "reason": "weekly"}


started = functools.partial(prefect_requests.run_start, now_s=NOW_S)


def _start(**body: Any) -> Start | StartRefusal:
    return started({"parameters": PARAMETERS, **body}, flow="retrain", model="fraud", person="ana")


def _parameters(taken: Start | StartRefusal) -> Any:
    assert isinstance(taken, Start)
    return taken.body["parameters"]


def test_prefect_is_told_to_hold_parameters_to_their_schema() -> None:
    taken = _start(enforce_parameter_schema=False)
    assert isinstance(taken, Start)
    assert taken.body["enforce_parameter_schema"] is True


@pytest.mark.parametrize("given", [{"incident": "fraud-drift-1"}, {"claim": 1}])
def test_a_person_answers_no_drift_incident(given: dict[str, Any]) -> None:
    """A run that fails its gates would close the claim of the one that a check asked for."""
    taken = _start(parameters={**PARAMETERS, **given})
    assert taken == StartRefusal(f"{next(iter(given))}: only a drift check answers an incident")
    of_forms = {"incident": None, "claim": 0, "traceparent": ""}
    assert isinstance(_start(parameters={**PARAMETERS, **of_forms}), Start)


def test_a_person_starts_runs_in_their_own_name() -> None:
    assert _parameters(_start())["actor"] == "ana"
    nameless = started(
        {"parameters": {"model": "fraud"}}, flow="promote", model="fraud", person="ana"
    )
    assert _parameters(nameless)["actor"] == "ana"
    other = started({"parameters": PARAMETERS}, flow="retrain", model="fraud", person="bo")
    assert isinstance(other, StartRefusal)
    assert "give your own name" in other.reason


def test_who_runs_the_platform_starts_runs_for_others() -> None:
    taken = started({"parameters": PARAMETERS}, flow="retrain", model="fraud", person=None)
    assert _parameters(taken)["actor"] == "ana"


def test_a_flow_without_an_actor_gets_none() -> None:
    taken = started({"parameters": {"model": "fraud"}}, flow="rollout", model="fraud", person="ana")
    assert _parameters(taken) == {"model": "fraud"}


@pytest.mark.parametrize(
    "body",
    [
        {"job_variables": {"image": "evil"}},
        {"infrastructure_document_id": "6d1f0c1e-2f5a-4a6e-9d7c-0e6b8b1c2d3e"},
        {"work_queue_name": "theirs"},
        {"context": {"a": 1}},
        {"state": {"type": "COMPLETED"}},
        {"state": "SCHEDULED"},
        {"parameters": [1]},
    ],
)
def test_nothing_about_where_or_how_it_runs_is_taken(body: dict[str, Any]) -> None:
    assert isinstance(_start(**body), StartRefusal)


def test_what_prefects_own_form_sends_besides_is_left_out() -> None:
    taken = _start(job_variables={}, work_queue_name=None, state={"type": "SCHEDULED"})
    assert isinstance(taken, Start)
    wanted = {"parameters", "state", "enforce_parameter_schema", "name", "tags"}
    assert set(taken.body) == wanted


def at(ahead_s: float) -> str:
    return datetime.fromtimestamp(NOW_S + ahead_s, UTC).isoformat()


def due(when: object) -> dict[str, Any]:
    return {"type": "SCHEDULED", "state_details": {"scheduled_time": when, "x": 1}}


def test_a_run_may_be_due_later() -> None:
    taken = _start(state=due(at(DUE_WITHIN_S)))
    assert isinstance(taken, Start)
    assert taken.body["state"]["state_details"] == {"scheduled_time": at(DUE_WITHIN_S)}
    assert isinstance(_start(state=due(at(-60.0).replace("+00:00", "Z"))), Start)


@pytest.mark.parametrize(
    "when", [at(DUE_WITHIN_S + 1), "9999-12-31T23:59:59Z", "2030-01-01T00:00:00", "soon", 7, [1]]
)
def test_a_run_is_not_due_long_after_its_starter_may_have_lost_the_right(when: object) -> None:
    """A key that is revoked does not end the runs that it has started."""
    assert isinstance(_start(state=due(when)), StartRefusal)
    of_the_operator = {"parameters": PARAMETERS, "state": due(when)}
    free = started(of_the_operator, flow="retrain", model="fraud", person=None)
    assert isinstance(free, Start)


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [("control", {"act": "kill"}), ("rollback", {}), ("promote", {"emergency": True})],
)
def test_what_stops_things_or_promotes_at_once_begins_now(
    flow: str, parameters: dict[str, Any]
) -> None:
    def asked(ahead_s: float) -> Start | StartRefusal:
        body = {"parameters": parameters, "state": due(at(ahead_s))}
        return started(body, flow=flow, model="fraud", person="ana")

    assert isinstance(asked(AT_ONCE_S), Start)
    assert isinstance(asked(AT_ONCE_S + 1), StartRefusal)


def test_nobody_asks_for_an_approval_but_a_pass() -> None:
    assert isinstance(
        started({"parameters": {}}, flow="approval", model="fraud", person=None), StartRefusal
    )


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    assert isinstance(started(body, flow="retrain", model="fraud", person="ana"), StartRefusal)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"state": {"type": "CANCELLING"}}, True),
        ({"state": {"type": "COMPLETED"}}, False),
        ({"state": "CANCELLING"}, False),
        (None, False),
    ],
)
def test_a_state_is_set_to_end_a_run_alone(body: object, wanted: bool) -> None:
    assert is_cancelling(body) is wanted


@pytest.mark.parametrize("person", ["ana", None])
@pytest.mark.parametrize("model", ["other", "../../etc", 3, None])
def test_a_run_is_about_the_model_of_its_deployment(person: str | None, model: object) -> None:
    asked = {"parameters": PARAMETERS | {"model": model}}
    taken = started(asked, flow="retrain", model="fraud", person=person)
    assert isinstance(taken, StartRefusal)
    assert "the deployment is of fraud" in taken.reason


def test_a_persons_run_is_called_by_what_it_does() -> None:
    taken = _start(name="approve fraud-v9-1: ALL GATES PASSED", tags=["x"], labels={"a": "b"})
    assert isinstance(taken, Start)
    assert taken.body["name"] == "retrain fraud"
    assert taken.body["tags"] == ["by ana"]
    assert not {"labels", "idempotency_key"} & set(taken.body)


DEEP: Any = "end"
for _ in range(MOST_DEPTH + 2):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "parameters",
    [
        {"__prefect_kind": "json", "value": '{"model": "credit", "actor": "bo"}'},
        {"__prefect_kind": "none", "value": {"actor": "carla"}},
        PARAMETERS | {"reason": {"__prefect_kind": "jinja", "template": "{{ 9**9**9 }}"}},
        PARAMETERS | {"reason": [{"a": [{"__prefect_kind": "json", "value": "1"}]}]},
        PARAMETERS | {"reason": DEEP},
    ],
    ids=["json for all", "a value for all", "a template", "deep within", "too deep"],
)
@pytest.mark.parametrize("person", ["ana", None])
def test_what_was_checked_is_what_runs(parameters: dict[str, Any], person: str | None) -> None:
    asked = {"parameters": parameters}
    assert isinstance(started(asked, flow="retrain", model="fraud", person=person), StartRefusal)
    assert isinstance(form_values({"run_input": parameters}, person=person), StartRefusal)


def test_an_answer_is_a_forms_values_alone() -> None:
    form = {"decision": "approve", "code": "bo:1:A", "reason": "read it"}
    taken = form_values({"run_input": form, "other": 1}, person="bo")
    assert isinstance(taken, Start)
    assert taken.body == {"run_input": form}
    assert isinstance(form_values({}, person="bo"), StartRefusal)


@pytest.mark.parametrize("code", ["ana:1:2:A", "bob:1:2:A", "", "Chief Risk Officer:1:A", None, 3])
def test_a_person_answers_with_a_code_of_their_own(code: object) -> None:
    form = {"decision": "approve", "code": code, "reason": "read it"}
    taken = form_values({"run_input": form}, person="bo")
    assert taken == StartRefusal("the code is not one of bo: give your own")
    assert isinstance(form_values({"run_input": form}, person=None), Start)
