"""A flow run without a process does not stay PENDING or RUNNING for ever."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.schemas.objects import StateType

from mlplatform.operations.prefect_server.orphans import Orphans

DEPLOYMENT = uuid4()


@dataclass
class Run:
    state_type: StateType
    id: UUID = field(default_factory=uuid4)
    name: str = "rollout pass fraud"


class Server:
    """Runs as Prefect's client shows them, and the states that it was told to set."""

    def __init__(self, *runs: Run) -> None:
        self.runs = list(runs)
        self.told: list[tuple[UUID, str]] = []
        self.is_down = False

    async def read_flow_runs(self, *, flow_run_filter: Any, deployment_filter: Any) -> list[Run]:
        if self.is_down:
            raise httpx.ConnectError("down")
        assert deployment_filter.id.any_ == [DEPLOYMENT]
        wanted = flow_run_filter.state.type.any_
        return [run for run in self.runs if run.state_type in wanted]

    async def set_flow_run_state(self, run_id: UUID, state: Any, *, force: bool) -> None:
        assert force
        self.told.append((run_id, state.type.value))
        (run,) = (run for run in self.runs if run.id == run_id)
        run.state_type = state.type


def orphans(server: Server, *with_process: Run) -> Orphans:
    known = {run.id for run in with_process}
    return Orphans(server, [DEPLOYMENT], known.__contains__)  # type: ignore[arg-type]


async def test_two_looks_settle_what_has_no_process() -> None:
    begun, waiting = Run(StateType.RUNNING), Run(StateType.PENDING)
    alive, asked = Run(StateType.RUNNING), Run(StateType.PAUSED)
    server = Server(begun, waiting, alive, asked)
    settling = orphans(server, alive)
    assert await settling.settle() == []
    assert sorted(await settling.settle()) == sorted((begun.id, waiting.id))
    assert dict(server.told) == {begun.id: "CRASHED", waiting.id: "SCHEDULED"}
    assert await settling.settle() == []


async def test_a_run_that_ends_between_two_looks_keeps_its_state() -> None:
    run = Run(StateType.RUNNING)
    server = Server(run)
    settling = orphans(server)
    await settling.settle()
    run.state_type = StateType.COMPLETED
    assert (await settling.settle(), server.told) == ([], [])


async def test_a_run_that_is_seen_again_after_a_pause_is_not_settled_at_once() -> None:
    run = Run(StateType.RUNNING)
    server = Server(run)
    settling = orphans(server)
    await settling.settle()
    server.runs.clear()
    await settling.settle()
    server.runs.append(run)
    assert await settling.settle() == []


async def test_a_server_that_is_down_is_asked_again() -> None:
    run = Run(StateType.RUNNING)
    server = Server(run)
    settling = orphans(server)
    await settling.settle()
    server.is_down = True
    assert await settling.settle() == []
    server.is_down = False
    assert await settling.settle() == [run.id]
