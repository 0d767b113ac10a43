"""Orphaned flow runs: the server says that they run, and no process works on them.

A runner tells the server how each run ended. What the server can't write then, on a full disk, is
lost. The run would stay PENDING, RUNNING or CANCELLING for ever, processes that follow it would
wait, and an approval that is believed to be on its way would not be asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Final
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Scheduled

from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

EVERY_S: Final = 20.0
"""Seconds between two checks. A run is settled after two checks in a row without a process, since
one check may fall between the end of a process and the state that it set last."""
GONE: Final = "its process is gone, and could not say how it ended"
NEVER_STARTED: Final = "its process was not started; it is tried again"

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class Orphans:
    """Settles runs of some deployments that have no process.

    Args:
        deployments: ids of the deployments whose runs only this process starts; there may be more
            of them later.
        has_process: returns whether a run is starting or running here.
    """

    def __init__(
        self,
        client: PrefectClient,
        deployments: Collection[UUID],
        has_process: Callable[[UUID], bool],
    ) -> None:
        self._client = client
        self._deployments = deployments
        self._has_process = has_process
        self._seen: set[UUID] = set()

    async def settle(self) -> list[UUID]:
        """Check once; returns the ids of the settled runs.

        A run that had begun becomes crashed. A run that had not begun is scheduled again. A run
        that was to be cancelled becomes cancelled.
        """
        unsettled = FlowRunFilterStateType(
            any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        )
        try:
            found = await self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=unsettled)),
                deployment_filter=DeploymentFilter(
                    id=DeploymentFilterId(any_=list(self._deployments))
                ),
            )
            orphans = {run.id: run for run in found if not self._has_process(run.id)}
            twice, self._seen = self._seen & orphans.keys(), set(orphans)
            for run_id in twice:
                state = _settled(orphans[run_id].state_type)
                await self._client.set_flow_run_state(run_id, state, force=True)
                log.warning("flow run %s: %s", orphans[run_id].name, state.message)
        except (httpx.HTTPError, ObjectNotFound) as error:  # the next check tries again
            log.warning("runs without a process were not settled: %s", error)
            return []
        return sorted(twice)


def _settled(now: StateType | None) -> State[Any]:
    if now == StateType.PENDING:
        return Scheduled(message=NEVER_STARTED)
    return Cancelled(message=GONE) if now == StateType.CANCELLING else Crashed(message=GONE)
