"""Names in Prefect can be searched for, and each has one home."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from mlplatform.operations.prefect_client import names

FLOWS = Path(__file__).parents[4] / "flows"
BANNED = set("/%&<>")
"""Source: `prefect.types.names.BANNED_CHARACTERS` of Prefect 3.9."""


def flow_function(flow: str) -> ast.FunctionDef:
    body = ast.parse((FLOWS / f"{flow}.py").read_text()).body
    return next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == flow)


def test_every_flow_has_names() -> None:
    assert {path.stem for path in FLOWS.glob("*.py")} == set(names.RUNS)


@pytest.mark.parametrize("flow", names.RUNS)
def test_a_runs_name_is_made_of_parameters_that_the_flow_has(flow: str) -> None:
    function = flow_function(flow)
    parameters = {a.arg for a in function.args.args}
    used = {field for _, field, _, _ in string.Formatter().parse(names.RUNS[flow]) if field}
    assert used
    assert used <= parameters
    assert f"names.RUNS['{flow}']" in ast.unparse(function.decorator_list[0])


@pytest.mark.parametrize("flow", names.RUNS)
def test_names_say_the_model_and_hold_nothing_that_prefect_refuses(flow: str) -> None:
    given = {
        "model": "fraud", "rollout_id": "fraud-v3-1", "version": 3, "act": "kill",
        "first": "2026-03-01", "last": "2026-03-07",
    }  # fmt: skip
    run = names.run_name(flow, given)
    assert run is not None
    for name in (run, names.deployment(flow, "fraud"), names.automation("fraud")):
        assert "fraud" in name
        assert not BANNED & set(name)


def test_a_question_is_found_by_its_rollout() -> None:
    assert names.run_name(names.APPROVAL_FLOW, {"rollout_id": "fraud-v3-1"}) == "approve fraud-v3-1"
    assert names.evidence_key("fraud-v3-1", "0123456789abcdef") == "evidence-fraud-v3-1-01234567"


def test_a_run_without_a_parameter_of_its_name_is_named_by_the_server() -> None:
    assert names.run_name("promote", {"model": "fraud"}) is None
