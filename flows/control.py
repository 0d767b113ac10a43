"""Have a rollout wait, go on or end, or a model be asked no more, by a person's word."""

from __future__ import annotations

from prefect import flow

from mlplatform.operations import wiring
from mlplatform.operations.actions import controls as job
from mlplatform.operations.actions.controls import OfModel, OfRollout
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server.forms import Actor, Reason


@flow(name="control", flow_run_name=names.RUNS["control"])
def control(
    model: str,
    act: OfModel | OfRollout,
    actor: Actor,
    reason: Reason,
    rollout_id: str = "",
) -> str:
    """Pause, resume or abort a rollout; kill a model, lift that, or clear gateways' stops.

    Args:
        model: a model folder's name.
        act: what to do; docs/controls.md says what each does.
        actor: who asks (self-declared).
        reason: why; it stands in the journal.
        rollout_id: of the rollout to pause, resume or abort; empty for the others.
    """
    return job.control(wiring.platform(), model, act, rollout_id, actor=actor, reason=reason)
