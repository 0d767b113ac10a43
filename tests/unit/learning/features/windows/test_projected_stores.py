"""Windows on a server of models that come and go while a gateway runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.projection import ProjectedRecord
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.windows.projector import WindowProjector
from mlplatform.learning.features.windows.redis import Position, RedisWindows, State
from mlplatform.runtime.clock import SystemClock

OWN = cast(State, "own")


class Store:
    """The state of one model's windows, kept here."""

    own = OWN

    def __init__(self, model: str) -> None:
        self.model = model
        self.taken: list[int] = []
        self.is_closed = False
        self.reached = Position("token", {}, {})

    def states(self) -> list[State]:
        return [OWN]

    def position(self, state: State) -> Position:
        return self.reached

    def advance(
        self,
        state: State,
        position: Position,
        writer: str,
        records: Sequence[ProjectedRecord],
        reached: int,
    ) -> Position:
        self.taken += [record.seq for record in records]
        self.reached = replace(position, seqs={**position.seqs, writer: reached})
        return self.reached

    def close(self) -> None:
        self.is_closed = True


def test_a_store_that_comes_later_gets_the_log_and_one_that_goes_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteDecisionLog(tmp_path)
    record = Record(
        kind="decision", decision_id="d", model="m", event_ms=1, recorded_ms=1, payload={}
    )
    log.append("gateway-0", [Entry(record)])
    projector = WindowProjector(tmp_path, "gateway-0", (), SystemClock(), refresh_s=3600.0)
    assert not projector.has_stores
    assert not projector.step()
    first, second = Store("first"), Store("second")
    projector.use([cast(RedisWindows, first)])
    assert projector.has_stores
    projector.step()
    assert (first.taken, second.taken) == ([1], [])
    projector.use([cast(RedisWindows, first), cast(RedisWindows, second)])
    projector.step()
    assert second.taken == [1]
    projector.use([cast(RedisWindows, second)])
    projector.step()
    assert (first.is_closed, second.is_closed) == (True, False)
    projector.close()
    assert second.is_closed
    log.close()
