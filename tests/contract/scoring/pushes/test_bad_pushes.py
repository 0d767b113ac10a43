"""A push with one bad row takes nothing in, whichever row and fault it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.bad_rows import bad_rows
from tests.support.external_world import BUREAU, NAME

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.pushes.sqlite import SqlitePushes
from mlplatform.model.definition import RequestField
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.pushes.pushes import FeaturePushes, PushEntry, PushTarget
from mlplatform.scoring.pushes.rows import RowsBody

KEY = bytes(32)
NOW_MS = 1_800_000_000_000
FIELD = RequestField(type="int64", minimum=0, pseudonymous=True)
GOOD: dict[str, Any] = {
    "customer_id": 7, "as_of": NOW_MS - 5_000, "bureau_score": 612.5, "open_loans": 2,
    "is_listed": None,
}  # fmt: skip


def test_each_bad_row_refuses_its_push_whole_and_the_next_good_one_is_taken(tmp_path: Path) -> None:
    online = FeastSqlite(tmp_path / "online.db", NAME, [BUREAU])
    journal = SqlitePushes(tmp_path / "pushes.db", durable=False)
    target = PushTarget(NAME, BUREAU, RowsBody(NAME, BUREAU, FIELD, KEY), online)
    pushes = FeaturePushes(
        {"bureau": [target]}, PushEntry([target], lambda: journal, lambda: NOW_MS)
    )
    other = json.dumps(GOOD | {"customer_id": 8}).encode()

    def push(*rows: bytes) -> Any:
        body = b'{"rows": [' + b", ".join(rows) + b"]}"
        return asyncio.run(pushes.push([target], "feed", None, body)).answer

    def read(customer: int) -> float | None:
        keys = {"customer": pseudonym(customer, KEY)}
        return online.read(keys, NOW_MS).values["bureau_score"]

    for name, row in bad_rows(GOOD, NOW_MS + 60_000).items():
        if name == "two rows in one":  # in a list this is a comma that is missing
            row = row.replace(b"}{", b"} {")
        with pytest.raises(Problem) as refused:
            push(other, row)
        assert refused.value.status in (400, 422), name
        assert refused.value.details.detail, name
        assert "612.5" not in refused.value.details.detail, name
        assert journal.last(NAME, "bureau") == 0, name
        assert read(8) is None, name
    assert push(other, json.dumps(GOOD).encode()).rows == 2
    assert (read(7), read(8)) == (612.5, 612.5)
    asyncio.run(pushes.stop())
