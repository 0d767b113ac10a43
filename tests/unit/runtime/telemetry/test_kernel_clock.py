"""What the kernel says of its clock is told in seconds, and its silence is not called health."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest

from mlplatform.runtime.telemetry import kernel_clock as module
from mlplatform.runtime.telemetry.kernel_clock import ERROR, STA_NANO, ClockCollector, KernelClock


class Kernel:
    """Answers adjtimex as it is told."""

    def __init__(self, state: int, offset: int = 0, status: int = 0) -> None:
        self._answer = state, offset, status

    def adjtimex(self, told: Any) -> int:
        state, told._obj.offset, told._obj.status = self._answer
        return state


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no adjtimex")
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Kernel(0, 5_000_000, STA_NANO), KernelClock(0.005, True)),
        (Kernel(0, -250), KernelClock(-0.00025, True)),
        (Kernel(ERROR, 0), KernelClock(0.0, False)),
        (Kernel(-1), None),
    ],
    ids=["nanoseconds", "microseconds", "nothing keeps it on time", "refused"],
)
def test_the_offset_is_told_in_seconds(
    kernel: Kernel, expected: KernelClock | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: kernel)
    assert module.kernel_clock() == expected


def test_a_kernel_that_says_nothing_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernel_clock", lambda: None)
    assert [family.samples for family in ClockCollector().collect()] == [[], []]
