"""Checks of the body of a person's request that starts or ends a flow run; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from mlplatform.operations.prefect_client import names
from mlplatform.rollouts.journal import approval_codes
from mlplatform.rollouts.journal.approval_codes import Question
from mlplatform.runtime.units import DAY_S, HOUR_S

ACTOR: Final = "actor"
MODEL: Final = "model"
CODE: Final = "code"
"""Field of an approval's form with the code that proves who answers."""
STARTED_BY_THE_PLATFORM: Final = frozenset({"approval"})
"""Flows that only a pass starts: the journal holds the question that they ask."""

OF_AN_INCIDENT: Final = frozenset({"incident", "claim", "traceparent"})
"""Parameters of a run that answers a drift incident: a drift check sets them, never a person."""

RUN_BY_A_SCHEDULE: Final = frozenset({"rollout", "materialize", "drift", "skew"})
"""Flows whose runs people may not end: without these runs no rollback completes, and features go
stale."""

NAMES_ITS_ACTOR: Final = frozenset({"retrain", "validate", "promote", "rollback", "control"})
STOPS_THINGS: Final = frozenset({"rollback", "control"})
"""Flows that a person may always start, however many unfinished runs the person has."""
MOST_UNFINISHED: Final = 20
"""Most unended runs of one person: waiting runs occupy no place, but they fill the database and the
queue."""
DUE_WITHIN_S: Final = DAY_S
AT_ONCE_S: Final = 300
"""Most seconds until a person's run that stops things or promotes at once may begin. Its starter's
right is checked when the run is asked for, and revoking a key ends no run."""
_UNFINISHED: Final = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
HYDRATED: Final = "__prefect_kind"
"""Key that makes Prefect replace a value by a template or by parsed JSON: the run would not use
what was checked, and a template can take any time.

Source: `prefect.server.utilities.user_templates` and `prefect.utilities.schema_tools.hydration`.
"""
MOST_DEPTH: Final = 32
_TAKEN: Final = frozenset({"parameters", "name", "state", "idempotency_key", "tags", "labels"})
_OF_THE_OPERATOR: Final = ("name", "idempotency_key", "tags", "labels")
_DROPPED: Final = frozenset({"enforce_parameter_schema", "empirical_policy", "parent_task_run_id"})


@dataclass(frozen=True, slots=True)
class StartRefusal:
    """The reason why a request is refused, in words for its sender."""

    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """A run that may be started; `body` is sent to Prefect."""

    body: Mapping[str, Any]


def run_start(
    body: object, *, flow: str, model: str, person: str | None, now_s: float
) -> Start | StartRefusal:
    """Check a request that starts a run: it may set parameters and a start time, not where or how
    the run executes.

    Args:
        flow, model: flow and model of the deployment.
        person: name of the person who asks, which becomes the run's actor; None for the operator,
            who may name any actor.
        now_s: the present time, epoch seconds.
    """
    if flow in STARTED_BY_THE_PLATFORM:
        return StartRefusal(f"runs of {flow} are started only by the platform")
    if not isinstance(body, dict) or not isinstance(body.get("parameters", {}), dict):
        return StartRefusal("wanted: a JSON object with parameters")
    for key in sorted(set(body) - _TAKEN - _DROPPED):
        if body[key] not in (None, {}, [], "", "default"):
            return StartRefusal(
                f"{key} can't be chosen: a run takes only parameters; its deployment says where it"
                " runs"
            )
    when = _scheduled(body.get("state"))
    if when is None:
        return StartRefusal("a run begins SCHEDULED, now or at a time")
    within_s = AT_ONCE_S if flow in STOPS_THINGS or is_emergency(body) else DUE_WITHIN_S
    if person is not None and not _is_due(when, now_s + within_s):
        ahead = "now" if within_s == AT_ONCE_S else f"within {within_s // HOUR_S} hours"
        return StartRefusal(
            f"a run that a person starts begins {ahead}; wanted: such a time, with its zone"
        )
    parameters = dict(body.get("parameters") or {})
    if not is_plain(parameters):
        return StartRefusal(
            f"parameters may hold only values: no {HYDRATED}, and no more than {MOST_DEPTH} deep"
        )
    if parameters.get(MODEL, model) != model:
        whose = model or "no model of the platform"
        return StartRefusal(f"{MODEL} is {parameters[MODEL]!r}, and the deployment is of {whose}")
    if person is not None:
        of_incident = sorted(k for k in OF_AN_INCIDENT if parameters.get(k))
        if of_incident:
            return StartRefusal(f"{', '.join(of_incident)}: only a drift check answers an incident")
        named = parameters.get(ACTOR)
        if named not in (None, "", person):
            return StartRefusal(f"{ACTOR} is {named!r}, and you are {person}: give your own name")
        if ACTOR in parameters or flow in NAMES_ITS_ACTOR:
            parameters[ACTOR] = person
    checked = {"parameters": parameters, "state": when, "enforce_parameter_schema": True}
    if person is not None:
        # The name that others see of a run is made from its parameters.
        name = names.run_name(flow, {MODEL: model, **parameters})
        mine = {**checked, "tags": [_tag(person)]}
        return Start(mine if name is None else {**mine, "name": name})
    taken = {key: body[key] for key in _OF_THE_OPERATOR if body.get(key) is not None}
    return Start({**taken, **checked})


def unfinished_runs(person: str) -> Mapping[str, Any]:
    """Prefect's filter for the unended runs that a person has started."""
    states = {"type": {"any_": list(_UNFINISHED)}}
    return {"flow_runs": {"tags": {"all_": [_tag(person)]}, "state": states}}


def _tag(person: str) -> str:
    return f"by {person}"


def form_values(body: object, *, person: str | None) -> Start | StartRefusal:
    """Check the values of a form; nothing else is passed on.

    Args:
        person: name of the person who answers, who must have been given the code; None for the
            operator, who may answer for anybody.
    """
    run_input = body.get("run_input") if isinstance(body, dict) else None
    if not isinstance(run_input, dict) or not is_plain(run_input):
        return StartRefusal(f"wanted: run_input with the form's values, and no {HYDRATED} in it")
    if (
        person is not None
        and approval_codes.claimed_identity(str(run_input.get(CODE, ""))) != person
    ):
        return StartRefusal(f"the code is not one of {person}: give your own")
    return Start({"run_input": run_input})


def question_of(parameters: object, answer: Start) -> Question | None:
    """The question that the run of an approval with these parameters asks, with the form's answer;
    None if a part is missing."""
    named = parameters if isinstance(parameters, dict) else {}
    fields = {
        "rollout_id": named.get("rollout_id"),
        "evidence": named.get("evidence_digest"),
        "answer": answer.body["run_input"].get("decision"),
    }
    try:
        return msgspec.convert(fields, Question)
    except msgspec.ValidationError:
        return None


def is_emergency(body: object) -> bool:
    """Whether a request is an emergency promotion, which happens before another person has
    looked."""
    parameters = body.get("parameters") if isinstance(body, dict) else None
    return isinstance(parameters, dict) and parameters.get("emergency") not in (None, False)


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether Prefect takes a value unchanged."""
    if depth > MOST_DEPTH:
        return False
    if isinstance(value, dict):
        return HYDRATED not in value and all(is_plain(v, depth + 1) for v in value.values())
    return not isinstance(value, list) or all(is_plain(v, depth + 1) for v in value)


CANCELLING: Final[Mapping[str, Any]] = {"state": {"type": "CANCELLING"}}
"""Body sent to Prefect when a person ends a run, without names or messages of that person."""


def is_cancelling(body: object) -> bool:
    """Whether a state change asks for the end of a run."""
    state = body.get("state") if isinstance(body, dict) else None
    return isinstance(state, dict) and state.get("type") == "CANCELLING"


def _scheduled(state: object) -> Mapping[str, Any] | None:
    """The state of a run that is due now or later; None for any other state."""
    if state is None:
        return {"type": "SCHEDULED"}
    if not isinstance(state, dict) or state.get("type", "SCHEDULED") != "SCHEDULED":
        return None
    details = state.get("state_details")
    when = details.get("scheduled_time") if isinstance(details, dict) else None
    return {"type": "SCHEDULED", **({"state_details": {"scheduled_time": when}} if when else {})}


def _is_due(state: Mapping[str, Any], until_s: float) -> bool:
    """Whether a run begins by then; False for a time without a zone."""
    when = state.get("state_details", {}).get("scheduled_time")
    if when is None:
        return True
    try:
        at = datetime.fromisoformat(when)
    except (TypeError, ValueError):
        return False
    return at.tzinfo is not None and at.timestamp() <= until_s
