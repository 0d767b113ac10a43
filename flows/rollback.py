"""Take a rollout or the champion back at once, without approval."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from mlplatform import wiring
from mlplatform.jobs import rollouts as job


@flow(name="rollback")
def rollback(
    model: str,
    actor: Annotated[str, Field(min_length=2, max_length=80)],
    reason: Annotated[str, Field(min_length=5, max_length=500)],
) -> str:
    """Route all traffic of a model back: off the challenger, or to the champion's predecessor.

    Args:
        model: a model folder's name.
        actor: who asks (self-declared).
        reason: why; it stands in the journal.
    """
    return job.roll_back(wiring.platform(), model, actor=actor, reason=reason)
