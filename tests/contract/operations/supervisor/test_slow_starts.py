"""A child that starts more slowly than its deadline, on a busy machine, comes up nevertheless."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from mlplatform.operations.supervisor.child import Child
from mlplatform.operations.supervisor.spec import ChildSpec
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.parent_death import ParentDeathPipe

LIMIT_S = 60
SLOW = """
import pathlib, sys, time
time.sleep(2)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""


async def test_each_late_start_gives_the_next_one_more_time(tmp_path: Path) -> None:
    home, parent_pipe, mark = Home(tmp_path), ParentDeathPipe(), tmp_path / "mark"
    home.create()
    argv = (sys.executable, "-c", SLOW, str(mark))
    spec = ChildSpec("sleeper", argv, check=mark, start_deadline_s=0.8)
    child = Child(spec, home, parent_pipe, lambda _: None)
    keeping = asyncio.create_task(child.keep())
    try:
        until_s = time.monotonic() + LIMIT_S
        while not child.ready and time.monotonic() < until_s:
            await asyncio.sleep(0.05)
        assert child.ready, child.reason
        assert child.restarts >= 1
        assert "did not come up within" in child.ended
    finally:
        child.stop()
        await keeping
        parent_pipe.close()
