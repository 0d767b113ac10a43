"""A pass that takes longer than a lease lasts, and than the interval at which passes start."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.rollouts.passes.test_rollout_passes import (
    World,
    bootstrap,
    failing_rows,
    to_canary,
)

from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.passes.execute import PassReport, run_pass
from mlplatform.rollouts.passes.lease import hold_lease
from mlplatform.runtime.clock import SystemClock
from rollout_world import FakeLog

TTL_S = 1.0
Opener = Callable[[Any], SqlRollouts]
"""Of a journal, by a clock."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    with contextlib.ExitStack() as stack:

        def kept(journal: SqlRollouts) -> SqlRollouts:
            stack.callback(journal.close)
            return journal

        if request.param == "sqlite":
            path = tmp_path / "rollouts.db"
            yield lambda clock: kept(SqliteRollouts(path, clock, durable=False))
            return
        postgres = request.getfixturevalue("postgres")
        address = postgres.database()
        stack.callback(postgres.drop, address)
        yield lambda clock: kept(PostgresRollouts(address, clock))


@dataclass
class StoredWorld(World):
    """A world whose journal is in this store."""

    opener: Opener = field(kw_only=True)

    def __post_init__(self) -> None:
        self.rollouts: Any = self.opener(self.clock)


class SlowLog(FakeLog):
    """A log whose generations are long: reading one takes longer than a lease lasts."""

    def read(self, query: Any) -> Any:
        time.sleep(TTL_S * 1.5)
        return super().read(query)


class LeaseCounts:
    """Leases of passes, and how many were held at once."""

    def __init__(self, passes: Any) -> None:
        self._passes = passes
        self.held = self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._passes, name)

    def acquire(self, *args: Any, **named: Any) -> Any:
        fence = self._passes.acquire(*args, **named)
        self.held += fence is not None
        self.most = max(self.most, self.held)
        return fence

    def release(self, fence: Any) -> None:
        self.held -= 1
        self._passes.release(fence)


def test_passes_that_outlast_their_lease_roll_back_and_never_run_at_once(
    opener: Opener, tmp_path: Path
) -> None:
    """Without renewal each pass is fenced by the next one, and the failing challenger stays."""
    world = StoredWorld(tmp_path, opener=opener)
    bootstrap(world)
    second = to_canary(world)
    generation = world.generation()
    rows = failing_rows(4000, generation)
    slow = SlowLog(rows={generation: rows}, labels=world.log.labels)
    journal = opener(SystemClock())
    leases: Any = LeaseCounts(journal)
    ports = dataclasses.replace(
        world.ports(), log=slow, rollouts=journal, passes=leases, anchors=journal
    )
    reports: list[PassReport] = []

    def one(number: int) -> None:
        time.sleep(TTL_S * number)
        holder = f"pass {number}"
        reports.append(run_pass(world.definition, ports, holder=holder, ttl_s=TTL_S))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.state(second).phase == "rolled_back"
    assert not any("taken over" in wait for report in reports for wait in report.waits)
    assert [report.ran for report in reports].count(False) >= 1
    assert leases.most == 1
    first = next(report for report in reports if report.ran)
    assert [step.partition(": ")[2].partition(":")[0] for step in first.steps][:1] == ["roll back"]


def test_a_pass_that_hangs_loses_its_lease_in_the_end(opener: Opener) -> None:
    journal = opener(SystemClock())
    fence = journal.acquire("fraud", "hangs", TTL_S)
    assert fence is not None
    with hold_lease(journal, fence, TTL_S, longest_s=TTL_S):
        assert journal.acquire("fraud", "next", TTL_S) is None
        time.sleep(TTL_S * 3)
        assert journal.acquire("fraud", "next", TTL_S) is not None
