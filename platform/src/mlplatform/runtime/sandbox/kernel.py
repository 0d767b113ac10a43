"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any, Final

PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38


def machine() -> str:
    """The architecture: `x86_64`, `aarch64` and so on; empty if the kernel is not Linux."""
    return platform.machine() if sys.platform == "linux" else ""


def syscall(number: int, *arguments: Any) -> int:
    """The result of a system call; integers are passed as unsigned 64-bit numbers.

    Raises:
        OSError: as the kernel says.
    """
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *wide))


def prctl(option: int, value: int) -> None:
    """Raises:
    OSError: as the kernel says.
    """
    zero = ctypes.c_ulong(0)
    _checked(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
