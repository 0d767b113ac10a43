"""The listening socket that a supervisor hands down to a child, by the number in a variable."""

from __future__ import annotations

import os
import socket
from typing import Final

VARIABLE: Final = "MLPLATFORM_LISTEN_FD"


def inherited_socket() -> socket.socket | None:
    """The socket that the supervisor has handed down to this process; None without one."""
    text = os.environ.pop(VARIABLE, "")
    if not text.isdigit():
        return None
    sock = socket.socket(fileno=int(text))
    sock.set_inheritable(False)
    return sock
