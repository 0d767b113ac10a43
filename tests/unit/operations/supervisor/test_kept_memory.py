"""A view of the processes never waits for their memory to be measured again."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from mlplatform.operations.supervisor.status import (
    KEPT_S,
    Group,
    KeptMemory,
    PlatformStatus,
    ProcessStatus,
    measure,
)
from mlplatform.runtime.processes.records import ProcessId
from support.platform_process import wait

GATEWAY = (ProcessId(1, 1.0), ProcessId(2, 1.0))


def test_memory_is_measured_beside_the_views_and_kept_for_a_while() -> None:
    now_s, asked, slow = [0.0], list[Sequence[Group]](), threading.Event()

    def measured(groups: Sequence[Group]) -> Mapping[ProcessId, float]:
        asked.append(groups)
        if len(asked) > 1:
            slow.wait(30)
        return {group[0]: 100.0 * len(asked) for group in groups}

    memory = KeptMemory(measured, lambda: now_s[0])
    assert memory([GATEWAY]) == {GATEWAY[0]: 100.0}
    now_s[0] = KEPT_S - 1
    assert (memory([GATEWAY]), len(asked)) == ({GATEWAY[0]: 100.0}, 1)
    now_s[0] = KEPT_S
    begun_s = time.monotonic()
    assert [memory([GATEWAY])[GATEWAY[0]] for _ in range(3)] == [100.0] * 3
    assert time.monotonic() - begun_s < 5, "no view waited for the slow measure"
    slow.set()
    wait(lambda: memory([GATEWAY])[GATEWAY[0]] == 200.0, "the new measure is shown")
    assert len(asked) == 2


def test_a_process_that_was_never_measured_is_not_shown_as_one_without_memory() -> None:
    assert measure([()]) == {}
    gateway = ProcessStatus("gateway-0", 1, "ready", "", 0, None, 5.0, 8080)
    assert PlatformStatus("ready", (gateway,)).memory_mb == 0.0
