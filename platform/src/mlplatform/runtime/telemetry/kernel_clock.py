"""How far this machine's clock is off, as its kernel knows it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.prometheus import Collector, Family, gauge_value

ERROR: Final = 5
"""adjtimex's result if nothing keeps the clock on time."""
STA_NANO: Final = 0x2000
"""Bit of `status`: the offset is in nanoseconds, not microseconds."""


class _Timex(ctypes.Structure):
    """struct timex, of which `offset` and `status` are read; the rest gives it its size.

    Source: adjtimex(2), linux/timex.h.
    """

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@dataclass(frozen=True, slots=True)
class KernelClock:
    """The kernel's report on its clock.

    Args:
        offset_s: seconds that are still to be corrected.
        synchronised: whether a time service keeps the clock correct; otherwise the offset has no
            meaning.
    """

    offset_s: float
    synchronised: bool


def kernel_clock() -> KernelClock | None:
    """The kernel's clock; None if the kernel does not report it: on macOS, or in a sandbox that
    refuses."""
    if sys.platform != "linux":
        return None
    clock = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(clock))
    if state < 0:
        return None
    unit_s = 1e-9 if clock.status & STA_NANO else 1e-6
    return KernelClock(clock.offset * unit_s, state != ERROR)


class ClockCollector(Collector):
    """`mlplatform_clock_*`, asked for at each scrape by one system call."""

    def collect(self) -> Iterable[Family]:
        seen = kernel_clock()
        yield gauge_value(signals.CLOCK_OFFSET, None if seen is None else seen.offset_s)
        yield gauge_value(
            signals.CLOCK_SYNCHRONISED, None if seen is None else float(seen.synchronised)
        )
