"""Names of deployments and runs in Prefect, made of the words that a person would search for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlplatform.model.definition import dns_name

APPROVAL_FLOW = "approval"
DRIFT_WATCH = "drift-watch"
"""The author of versions that a drift check asks for, and the holder of its claims."""
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
    "replay": "replay {model} v{version}",
    "plan": "plan a rollout of {model}",
    APPROVAL_FLOW: "approve {rollout_id}",
}
"""Flow → name of its runs, with their parameters; the approval comes last."""

HEAVY = frozenset({"retrain", "validate", "batch", "replay"})
"""Flows that use cores and memory for minutes or hours. Their runs have a limit of their own, so
that passes, drift checks and snapshots start on time however many of them are asked for."""


def deployment(flow: str, model: str) -> str:
    """The name of the deployment of a flow for a model; Prefect allows no slash in it."""
    return f"{model}-{flow}"


def parts(name: str) -> tuple[str, str] | None:
    """The flow and the model of a deployment's name; None if it is not one of the platform's."""
    for flow in RUNS:
        if name.endswith(f"-{flow}") and len(name) > len(flow) + 1:
            return flow, name.removesuffix(f"-{flow}")
    return None


def automation(model: str) -> str:
    """The name of the automation that starts a model's retrain when its drift incident is ready for
    one."""
    return deployment("retrain-on-drift", model)


def evidence_key(rollout_id: str, digest: str) -> str:
    """The key of the artifact that holds the evidence of one question."""
    return dns_name(f"evidence-{rollout_id}-{digest[:8]}")


def run_name(flow: str, parameters: Mapping[str, Any]) -> str | None:
    """The name of a run; None if a parameter is missing, since the server refuses such a run
    itself."""
    try:
        return RUNS[flow].format_map(parameters)
    except KeyError:
        return None
