"""Waiting for a core is counted, and waiting for anything else is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mlplatform.runtime.processes.core_wait import core_wait_s

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this kernel does not count it"
)
SPINS = "while True: pass"
SLEEPS = "import time; time.sleep(600)"


@contextmanager
def on_one_core(program: str) -> Iterator[int]:
    """The process id of a program that may use one core only, the first one."""
    process = subprocess.Popen([sys.executable, "-S", "-c", program])
    try:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield process.pid
    finally:
        process.kill()
        process.wait()


def until_waited(pid: int, least_s: float) -> float:
    deadline = time.monotonic() + 60
    while (waited := core_wait_s(pid)) < least_s:
        assert time.monotonic() < deadline, f"waited {waited} s"
        time.sleep(0.05)
    return waited


def test_three_that_share_a_core_wait_for_it_and_one_that_sleeps_does_not() -> None:
    with ExitStack() as stack:
        asleep = stack.enter_context(on_one_core(SLEEPS))
        spinning = [stack.enter_context(on_one_core(SPINS)) for _ in range(3)]
        before = core_wait_s(asleep)
        for pid in spinning:
            until_waited(pid, 1.0)
        assert core_wait_s(asleep) - before < 0.5


def test_a_process_that_is_gone_waits_for_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    assert core_wait_s(gone.pid) == 0.0
