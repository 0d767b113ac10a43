"""A drill of a full disk fails for each promise that does not hold."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
from tests.drills.disk import Finding, judged
from tests.drills.disk_home import Filler, until

WHOLE = Finding(
    answers=10,
    refused={"log-unavailable": 4},
    unanswered=0,
    degraded={},
    lost=0,
    doubled=0,
    recovery_s=0.4,
    ready_s=2.0,
    restarted={"mlflow": "ended with status 1"},
    hands=0,
    ended="status 1: No space left on device",
    again="",
    half_written=[],
    verified=True,
    expected="",
)


def test_refusals_and_restarts_break_no_promise() -> None:
    assert judged(WHOLE).ok


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"answers": 0}, id="nothing was answered"),
        pytest.param({"unanswered": 1}, id="a request without an answer"),
        pytest.param({"lost": 1}, id="an answer without a record"),
        pytest.param({"doubled": 1}, id="a key with two decisions"),
        pytest.param({"verified": False}, id="a log that does not verify"),
        pytest.param({"recovery_s": None}, id="answers that stay degraded"),
        pytest.param({"ready_s": None}, id="a process that does not come back"),
        pytest.param({"hands": 1}, id="a process that needs a hand"),
        pytest.param({"again": "status 1"}, id="a command that fails afterwards too"),
        pytest.param({"half_written": [".a.draft"]}, id="a file that nobody will end"),
    ],
)
def test_each_promise_can_be_broken(change: dict[str, object]) -> None:
    found = judged(msgspec.structs.replace(WHOLE, **change))
    assert len(found.broken) == 1
    assert not found.ok


def test_the_filler_takes_what_is_left_and_what_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 3_000_000

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = min(room, len(data))
        room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with Filler(tmp_path):
        assert room == 0
        room = 5_000
        assert until(lambda: room == 0, 5.0)
        assert list(tmp_path.iterdir()) != []
    assert list(tmp_path.iterdir()) == []
