"""Work that tests confinement: it does what hostile code would, and reports the result."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlplatform.runtime.sandbox.protocol import Frame

_LOOPBACK: Final = "127.0.0.1"


def prepare(files: Sequence[int]) -> Callable[[Frame], Frame]:
    """The function that answers a request which names an attempt and, if it needs one, its
    target."""
    return _answer


def _answer(frame: Frame) -> Frame:
    deed, to = frame.body["deed"], frame.body.get("to", "")
    if deed == "flood":
        return Frame({}, [np.zeros(int(to), np.uint8)])
    try:
        return Frame({"done": str(_DEEDS[deed](to))})
    except (OSError, RuntimeError, ImportError) as error:
        return Frame({"failed": type(error).__name__})


def _connect(port: str) -> None:
    socket.socket().connect((_LOOPBACK, int(port)))


def _spin(_: str) -> None:
    while True:
        pass


def _runnable_memory(_: str) -> object:
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def _crash(_: str) -> None:
    ctypes.string_at(0)


def _thread(_: str) -> None:
    threading.Thread(target=print).start()


_DEEDS: Final[dict[str, Callable[[str], Any]]] = {
    "read": lambda to: Path(to).read_bytes()[:8],
    "list": os.listdir,
    "write": lambda to: Path(to).write_bytes(b"x"),
    "socket": lambda _: socket.socket(),
    "connect": _connect,
    "fork": lambda _: os.fork(),
    "exec": lambda to: subprocess.run([to], check=False),
    "kill": lambda to: os.kill(int(to), 0),
    "thread": _thread,
    "allocate": lambda to: np.ones(int(to), np.uint8).nbytes,
    "run": _runnable_memory,
    "spin": _spin,
    "crash": _crash,
    "environment": lambda _: sorted(os.environ),
    "folder": lambda _: os.getcwd(),
    "echo": lambda to: to,
}
