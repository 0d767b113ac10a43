"""Take a rollout or the champion back at once, without approval."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server.forms import Actor, Reason, RolloutId


@flow(name="rollback", flow_run_name=names.RUNS["rollback"])
def rollback(
    model: str,
    actor: Actor,
    reason: Reason,
    only: RolloutId | None = None,
) -> State[str]:
    """Route all traffic of a model back: off the challenger, or to the champion's predecessor.

    Args:
        model: a model folder's name.
        actor: who asks (self-declared).
        reason: why; it stands in the journal.
        only: the rollout that may be taken back, as fraud-v2-1; empty: the one under way by then,
            in shadow too, or else the champion's.
    """
    platform, only = wiring.platform(), only or None
    done = job.roll_back(platform, model, actor=actor, reason=reason, only=only)
    return Completed(message=done, data=done)
