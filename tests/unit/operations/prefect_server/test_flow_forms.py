"""The forms that start flows: what a person may type is described, and refused before a run."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from mlplatform.operations.actions.controls import Act, OfModel, OfRollout
from mlplatform.operations.prefect_client import names
from support.flow_forms import form

PERSON = {"actor": "ana", "reason": "new terminals"}


@pytest.mark.parametrize("flow", names.RUNS)
def test_each_field_of_a_form_has_a_type_and_a_description(flow: str) -> None:
    fields = form(flow)["properties"]
    assert fields
    for name, field in fields.items():
        assert {"type", "anyOf"} & set(field), f"{flow}: {name} takes anything"
        assert field.get("description"), f"{flow}: {name} says nothing"


def test_what_a_control_does_is_one_list_to_choose_from_that_says_what_each_does() -> None:
    field = form("control")["properties"]["act"]
    assert "anyOf" not in field, "Prefect shows each part of a union behind a tab of its own"
    assert set(field["enum"]) == {*get_args(OfModel), *get_args(OfRollout)}
    assert all(act in field["description"] for act in field["enum"])


@pytest.mark.parametrize("flow", names.RUNS)
def test_a_form_is_of_one_model(flow: str) -> None:
    field = form(flow, "credit-default")["properties"]["model"]
    assert (field["enum"], field["readOnly"]) == (["credit-default"], True)


@pytest.mark.parametrize(
    ("flow", "values", "field"),
    [
        ("promote", {"version": "abc", **PERSON}, "version"),
        ("promote", {"version": 0, **PERSON}, "version"),
        ("promote", {"version": 3, "actor": "ana", "reason": "no"}, "reason"),
        ("promote", {"version": 3, "emergency": "perhaps", **PERSON}, "emergency"),
        ("retrain", {"actor": "a", "reason": "new terminals"}, "actor"),
        ("retrain", {"as_of": 7, **PERSON}, "as_of"),
        ("retrain", {"as_of": "yesterday", **PERSON}, "as_of"),
        ("materialize", {"at": "midnight"}, "at"),
        ("batch", {"first": "monday"}, "first"),
        ("retrain", {"open_rollout": "perhaps", **PERSON}, "open_rollout"),
        ("validate", {"onnx_path": 7, "actor": "ana"}, "onnx_path"),
        ("validate", {"onnx_path": "model.onnx", "actor": "a" * 81}, "actor"),
        ("control", {"act": "stop", **PERSON}, "act"),
        ("control", {"act": "pause", "rollout_id": "fraud v2", **PERSON}, "rollout_id"),
        ("rollback", {"only": "the newest", **PERSON}, "only"),
        ("batch", {"version": -1}, "version"),
        ("rollback", {"actor": "ana", "reason": ""}, "reason"),
    ],
)
def test_values_that_a_form_does_not_take_are_refused_by_the_server(
    flow: str, values: dict[str, Any], field: str
) -> None:
    """Source: Prefect's server checks a run's parameters with this function."""
    with pytest.raises(ValidationError, match=f"'{field}'"):
        validate({"model": "fraud", **values}, form(flow), raise_on_error=True)


@pytest.mark.parametrize(
    ("flow", "values"),
    [
        ("promote", {"version": 3, **PERSON}),
        ("retrain", {"as_of": "2026-03-01T00:00:00Z", "incident": "i-1", "claim": 2, **PERSON}),
        ("retrain", {"as_of": None, "open_rollout": True, **PERSON}),
        ("validate", {"onnx_path": "/models/new.onnx", "actor": "ana"}),
        *(("control", {"act": act, **PERSON}) for act in get_args(Act)),
        ("control", {"act": "pause", "rollout_id": "credit-default-v2-1", **PERSON}),
        ("rollback", {"only": "fraud-v12-3", **PERSON}),
        ("rollback", {"only": None, **PERSON}),
        ("retrain", {"as_of": "2026-03-01T00:00:00.000+00:00", **PERSON}),
        ("retrain", {"as_of": "2026-03-01", **PERSON}),
        ("materialize", {"at": "2026-03-01T00:00:00Z"}),
        ("batch", {"first": "2026-03-01", "last": None}),
    ],
)
def test_values_that_a_form_takes(flow: str, values: dict[str, Any]) -> None:
    assert validate({"model": "fraud", **values}, form(flow), raise_on_error=True) == []
