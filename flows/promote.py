"""Open a rollout for a validated version; passes carry it from there."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from mlplatform.operations import wiring
from mlplatform.operations.actions import next_commands
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.operations.prefect_server.forms import Actor, OptionalReason, Reason, Version


@flow(name="promote", flow_run_name=names.RUNS["promote"])
def promote(
    model: str,
    version: Version,
    actor: Actor,
    reason: Reason,
    despite_plan: OptionalReason = "",
    emergency: bool = False,
) -> State[str]:
    """Start to promote a version: deploy, shadow, ask for approval, canary, promote.

    Args:
        model: a model folder's name.
        version: the validated version to roll out.
        actor: who asks (self-declared).
        reason: why; it stands in the journal.
        despite_plan: why to go on although the plan says that it can't decide in time (`mlplatform
            rollouts plan`); it stands in the journal. Empty: such a rollout is refused.
        emergency: promote it at once; a second person confirms it within a day, or it is undone.
    """
    platform = wiring.platform()
    rollout_id = job.open_rollout(
        platform,
        model,
        version,
        actor=actor,
        reason=reason,
        despite_plan=despite_plan,
        emergency=emergency,
    )
    job.rollout_pass(platform, model)
    artifacts.keep_table(
        f"opened-{model}", ("what", "is"), job.facts(platform, rollout_id), about="What was opened"
    )
    links = artifacts.rollout_links(platform.settings, model, version, rollout_id)
    artifacts.keep_links(links)
    return Completed(message=next_commands.of_rollout(rollout_id), data=rollout_id)
