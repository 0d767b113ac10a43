"""Landlock: a process may read some files, and reaches no other file, no TCP and no other process's
socket.

Source: Linux, Documentation/userspace-api/landlock.rst; include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mlplatform.runtime.sandbox import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Numbers of the system calls, the same on every architecture."""
_VERSION_ASKED: Final = 1
_PATH_BENEATH: Final = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ALL_NET: Final = 0b11
"""Rights to bind and to connect TCP sockets."""
_ALL_SCOPES: Final = 0b11
"""Scopes of abstract Unix sockets and signals."""
_RIGHTS_OF_FILES: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file rights that each version knows; later ones know no more of those refused here."""


def version() -> int:
    """The kernel's version of Landlock; 0 if it has none."""
    if not kernel.machine():
        return 0
    try:
        return kernel.syscall(_CREATE, None, 0, _VERSION_ASKED)
    except OSError:
        return 0


def restrict_to(readable: Iterable[Path]) -> int:
    """Restrict this thread, and those that it starts, to reading below these paths. Returns the
    version in force, 0 if the kernel has none.

    Raises:
        OSError: the kernel has Landlock, but the call failed.
    """
    abi = version()
    if abi == 0:
        return 0
    files = (1 << _RIGHTS_OF_FILES[min(abi, max(_RIGHTS_OF_FILES))]) - 1
    net = _ALL_NET if abi >= 4 else 0
    scopes = _ALL_SCOPES if abi >= 6 else 0
    known = 8 * (1 + (abi >= 4) + (abi >= 6))
    attributes = struct.pack("=QQQ", files, net, scopes)[:known]
    ruleset = kernel.syscall(_CREATE, ctypes.c_char_p(attributes), known, 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.syscall(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a missing path need not be readable
    try:
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", rights, descriptor)
        kernel.syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(descriptor)
