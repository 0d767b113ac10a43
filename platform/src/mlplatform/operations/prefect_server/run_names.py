"""Names of runs from the moment they exist: Prefect names them at their start, and till then at
random.

A schedule plans its runs an hour ahead and an automation starts one without a name. Both would be
words like `epsilon-ouchi` in lists of what comes, and a run that never starts would keep them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlplatform.operations.prefect_client import names


def name_of(deployment: str, parameters: Mapping[str, Any]) -> str | None:
    """The name of a run of a deployment; None if the deployment is not one of the platform's, or a
    parameter of the name is missing."""
    found = names.parts(deployment)
    if found is None:
        return None
    flow, model = found
    return names.run_name(flow, {"model": model, **parameters})


def install() -> None:
    """Make the Prefect server of this process name runs by their flow and parameters.

    Prefect has no public way to do so; the version is pinned, and
    tests/e2e/test_prefect_forms.py fails if this no longer takes effect.
    """
    from prefect.server import models  # Prefect reads its environment when it is imported

    deployments: Any = models.deployments
    flow_runs: Any = models.flow_runs
    create, generate = flow_runs.create_flow_run, deployments._generate_scheduled_flow_runs

    async def create_named(*args: Any, session: Any, flow_run: Any, **options: Any) -> Any:
        if flow_run.deployment_id is not None:
            deployment = await deployments.read_deployment(
                session=session, deployment_id=flow_run.deployment_id
            )
            named = None if deployment is None else name_of(deployment.name, flow_run.parameters)
            flow_run.name = named or flow_run.name
        return await create(*args, session=session, flow_run=flow_run, **options)

    async def generate_named(
        *args: Any, session: Any, deployment_id: Any, **options: Any
    ) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = await generate(
            *args, session=session, deployment_id=deployment_id, **options
        )
        if not runs:
            return []
        deployment = await deployments.read_deployment(session=session, deployment_id=deployment_id)
        for run in runs:
            named = None if deployment is None else name_of(deployment.name, run["parameters"])
            run.update({} if named is None else {"name": named})
        return runs

    flow_runs.create_flow_run = create_named
    deployments._generate_scheduled_flow_runs = generate_named
