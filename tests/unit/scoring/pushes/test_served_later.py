"""Pushes that an online store did not have are served later, whether or not another one comes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.external_world import BUREAU
from tests.unit.scoring.pushes.test_pushed_rows import FIELD, KEY, NOW_MS, ROW

from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.pushes.journal import PushedRow
from mlplatform.learning.features.pushes.sqlite import SqlitePushes
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring.admission.clients import EVERYTHING, Client
from mlplatform.scoring.admission.gate import AdmittedRequest
from mlplatform.scoring.api.features_api import ROOT, endpoints
from mlplatform.scoring.api.http import Request
from mlplatform.scoring.pushes.pushes import (
    MOST_BEHIND,
    FeaturePushes,
    PushEntry,
    PushTarget,
    push_of,
)
from mlplatform.scoring.pushes.rows import RowsBody

MORE = 2 * MOST_BEHIND + 1


class UnavailableStore:
    """The online store, which refuses the first rows that it is given."""

    def __init__(self, online: FeastSqlite) -> None:
        self._online, self.refused = online, 0

    def __getattr__(self, name: str) -> Any:
        if name == "put" and not self.refused:
            self.refused += 1
            raise Unavailable("it is away")
        return getattr(self._online, name)


def test_a_gateway_serves_all_that_was_kept_without_another_push(tmp_path: Path) -> None:
    journal = SqlitePushes(tmp_path / "pushes.db", durable=False)
    online: Any = UnavailableStore(FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU]))
    target = PushTarget("fraud", BUREAU, RowsBody("fraud", BUREAU, FIELD, KEY), online)
    for key in range(MORE):
        row = PushedRow(key, NOW_MS // 1000, (1.0, 1.0, 1.0))
        journal.add([push_of(target, "a", None, (row,))], NOW_MS)
    pushes = FeaturePushes(
        {"bureau": [target]}, PushEntry([target], lambda: journal, lambda: NOW_MS)
    )

    async def live() -> int:
        await pushes.start()
        try:
            for _ in range(200):
                if not journal.waiting("fraud", "bureau", most=1, unserved=True):
                    break
                await asyncio.sleep(0.05)
            return len(journal.waiting("fraud", "bureau", most=1_000, unserved=True))
        finally:
            await pushes.stop()

    assert asyncio.run(live()) == 0
    assert online.refused == 1


class Body:
    """A body that has arrived."""

    def __init__(self, rows: list[Any]) -> None:
        self._text = json.dumps({"rows": rows}).encode()

    async def body(self) -> bytes:
        return self._text


class ChargingGate:
    """A gate that notes what requests cost beside their first token."""

    def __init__(self) -> None:
        self.more: list[int] = []

    def charge(self, admitted: AdmittedRequest, more: int) -> None:
        self.more.append(more)


@pytest.mark.parametrize(("late_ms", "counts_ms"), [(1_000, 0), (1_001, 1_001)])
def test_a_push_costs_a_token_a_row_and_is_told_when_training_joins_it(
    tmp_path: Path, late_ms: int, counts_ms: int
) -> None:
    journal = SqlitePushes(tmp_path / "pushes.db", durable=False)
    online: Any = FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])
    target = PushTarget("fraud", BUREAU, RowsBody("fraud", BUREAU, FIELD, KEY), online)
    times = iter([NOW_MS, NOW_MS + late_ms, NOW_MS + 9_000])
    entry = PushEntry([target], lambda: journal, lambda: next(times))
    entry.serve_all()
    pushes, gate = FeaturePushes({"bureau": [target]}, entry), ChargingGate()
    endpoint = endpoints(pushes, gate, {})[f"{ROOT}/*"]  # type: ignore[arg-type]
    sent: Any = Body([ROW | {"customer_id": key} for key in range(7)])
    admitted = AdmittedRequest(Client("all", EVERYTHING, "standard", None), "standard")
    request = Request(
        sent, "POST", f"{ROOT}/bureau", {b"idempotency-key": b"a"}, 0.0, admitted=admitted
    )

    async def live() -> list[int]:
        try:
            answers = [await endpoint.answer(request) for _ in range(2)]
            return [json.loads(one.body)["available_time"] for one in answers]
        finally:
            await pushes.stop()

    assert asyncio.run(live()) == [NOW_MS + counts_ms] * 2
    assert gate.more == [6, 6]
