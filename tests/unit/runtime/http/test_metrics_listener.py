"""The listener of /metrics runs in a thread that the end of its process cuts short."""

from __future__ import annotations

import subprocess
import sys

ENDS_SLOWLY = """
import ctypes, sys, time
from mlplatform.runtime.http.listener import listen
from mlplatform.runtime.telemetry.prometheus import MetricRegistry

listen(MetricRegistry(), "a-token")
time.sleep(0.5 + float(sys.argv[1]))  # the loop runs, with a timer each tenth of a second
libc = ctypes.CDLL(None)
libc.on_exit(libc.sleep, None)  # called as sleep(1): with the exit code, the interpreter gone
sys.exit(1)
"""


def test_a_process_ends_in_order_while_its_listener_waits_for_connections() -> None:
    ending = [
        subprocess.Popen([sys.executable, "-c", ENDS_SLOWLY, str(hundredths / 100)])
        for hundredths in range(0, 10, 2)
    ]
    assert [process.wait(timeout=60) for process in ending] == [1] * len(ending)
