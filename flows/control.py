"""Have a rollout wait, go on or end, or a model be asked no more, by a person's word."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from mlplatform.operations import wiring
from mlplatform.operations.actions import controls as job
from mlplatform.operations.actions.controls import Act
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server.forms import Actor, Reason, RolloutId


@flow(name="control", flow_run_name=names.RUNS["control"])
def control(
    model: str,
    act: Act,
    actor: Actor,
    reason: Reason,
    rollout_id: RolloutId = "",
) -> State[str]:
    """Pause, resume or abort a rollout; kill a model, lift that, or clear gateways' stops.

    Args:
        model: a model folder's name.
        act: pause: the rollout takes no further step; resume: it goes on; abort: it ends, and the
            champion answers all. kill: no version is asked, and the fallback decides; lift ends
            that. clear: gateways ask a version again that they stopped for its decisions.
        actor: who asks (self-declared).
        reason: why; it stands in the journal.
        rollout_id: the rollout to pause, resume or abort, as fraud-v2-1; empty: the one under way.
    """
    done = job.control(wiring.platform(), model, act, rollout_id, actor=actor, reason=reason)
    return Completed(message=done, data=done)
