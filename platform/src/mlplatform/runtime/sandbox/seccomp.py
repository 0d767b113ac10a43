"""A filter of system calls: a process that computes and answers needs few, and gets no others.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; numbers of arch/x86/entry/syscalls
and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from mlplatform.runtime.sandbox import kernel

_X86: Final[Mapping[str, int]] = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "nanosleep": 35, "setitimer": 38, "getpid": 39, "exit": 60, "gettimeofday": 96,
    "getrusage": 98, "sigaltstack": 131, "gettid": 186, "futex": 202, "sched_getaffinity": 204,
    "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "set_robust_list": 273, "getrandom": 318, "rseq": 334,
}  # fmt: skip
_ARM: Final[Mapping[str, int]] = {
    "read": 63, "write": 64, "close": 57, "fstat": 80, "ppoll": 73, "lseek": 62, "mmap": 222,
    "mprotect": 226, "munmap": 215, "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "rt_sigreturn": 139, "pread64": 67, "readv": 65, "writev": 66, "sched_yield": 124,
    "mremap": 216, "madvise": 233, "nanosleep": 101, "setitimer": 103, "getpid": 172, "exit": 93,
    "gettimeofday": 169, "getrusage": 165, "sigaltstack": 132, "gettid": 178, "futex": 98,
    "sched_getaffinity": 123, "restart_syscall": 128, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "exit_group": 94, "set_robust_list": 99, "getrandom": 278, "rseq": 293,
}  # fmt: skip
_MACHINES: Final = {"x86_64": (0xC000003E, 317, _X86), "aarch64": (0xC00000B7, 277, _ARM)}
"""Architecture → its audit number, the number of seccomp(2), and the allowed calls."""

_SET_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _AUDIT_AT, _THIRD_ARGUMENT_AT = 0, 4, 32
_PROT_EXEC: Final = 4
_X32_CALLS: Final = 0x40000000
"""First number of another table of calls on x86_64."""

_Step = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def has_calls() -> bool:
    """Whether there is a list of calls for this machine."""
    return kernel.machine() in _MACHINES


def confine() -> bool:
    """Restrict all threads of this process to the listed calls, without mapping memory to run code
    from; other calls fail with EPERM. Returns False if this machine has no list.

    Raises:
        OSError: the kernel has no filters, or does not accept this one.
    """
    if not has_calls():
        return False
    audit, number, calls = _MACHINES[kernel.machine()]
    steps = program(audit, calls)
    packed = b"".join(struct.pack("=HBBI", *step) for step in steps)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    filter_ = _Program(len(steps), packed)
    kernel.syscall(number, _SET_FILTER, _ALL_THREADS, ctypes.byref(filter_))
    return True


def program(audit: int, calls: Mapping[str, int]) -> Sequence[_Step]:
    """The filter as steps (operation, jump if true, jump if not, value)."""
    mapping = {calls["mmap"], calls["mprotect"]}
    plain = sorted(set(calls.values()) - mapping)
    steps: list[_Step] = [
        (_LOAD, 0, 0, _AUDIT_AT),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _REFUSE),
    ]
    # The steps after the list: refuse, two steps for mappings, refuse, allow.
    refuse, inspect, allow = len(plain) + 2, len(plain) + 3, len(plain) + 6
    ways = [(n, inspect) for n in sorted(mapping)] + [(n, allow) for n in plain]
    for position, (call, target) in enumerate(ways):
        steps.append((_EQUAL, target - position - 1, 0, call))
    assert len(ways) == refuse
    return [
        *steps,
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
        (_ANY_BIT, 0, 1, _PROT_EXEC),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
