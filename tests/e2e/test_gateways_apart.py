"""Gateways with logs apart share keys on a real server while one is killed and one is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.drills.idempotency import passed
from tests.drills.keys_apart import run

pytestmark = [pytest.mark.slow, pytest.mark.redis]


@pytest.mark.usefixtures("redis")  # says where there is none
def test_no_retry_changes_an_answer_whichever_gateway_dies(tmp_path: Path) -> None:
    found = run(tmp_path, 3_000, 3, print)

    assert passed(found), found
    assert found["cut_off"] > 0
    assert set(found["records_by_writer"]) == set(found["gateways"])
