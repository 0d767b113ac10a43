"""What deployments and runs are called in Prefect: the words that a person would search for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

APPROVAL_FLOW = "approval"
RUNS = {
    "materialize": "snapshot {model}",
    "drift": "drift check {model}",
    "skew": "skew check {model}",
    "retrain": "retrain {model}",
    "validate": "validate a model for {model}",
    "promote": "promote {model} v{version}",
    "rollout": "rollout pass {model}",
    "rollback": "roll back {model}",
    "control": "{act} {model}",
    "batch": "batch {model}",
    APPROVAL_FLOW: "approve {rollout_id}",
}
"""Each served flow, and the names of its runs, made of its parameters; the approval comes last."""

HEAVY = frozenset({"retrain", "validate", "batch"})
"""Flows that hold cores and memory for minutes or hours. Their runs have places of their own, so
that however many of them are asked for, a pass, a drift check or a snapshot starts on time."""


def deployment(flow: str, model: str) -> str:
    """The deployment of a flow for a model: Prefect allows no slash in it."""
    return f"{model}-{flow}"


def parts(name: str) -> tuple[str, str] | None:
    """The flow and the model of a deployment of that name; None where it is none of ours."""
    for flow in RUNS:
        if name.endswith(f"-{flow}") and len(name) > len(flow) + 1:
            return flow, name.removesuffix(f"-{flow}")
    return None


def automation(model: str) -> str:
    """What starts a model's retrain when its drift incident is ready for one."""
    return deployment("retrain-on-drift", model)


def evidence_key(rollout_id: str, digest: str) -> str:
    """The artifact that keeps the evidence of one question."""
    return f"evidence-{rollout_id}-{digest[:8]}"


def run_name(flow: str, parameters: Mapping[str, Any]) -> str | None:
    """A run's name; None where a parameter is missing, which the server will refuse by itself."""
    try:
        return RUNS[flow].format_map(parameters)
    except KeyError:
        return None
