"""`python -m mlplatform.runtime.sandbox.child`: confines itself, then works for its parent.

Its arguments are numbers of open files and the limits; it reads no environment and no setting.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox import confinement, protocol
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.protocol import Frame
from mlplatform.runtime.units import MIB

MOST_REQUEST_BYTES: Final = 512 * MIB

Answer = Callable[[Frame], Frame]
Prepare = Callable[[Sequence[int]], Answer]
"""Function that makes the function which answers requests about open files, before the child
confines itself."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a child's command line.

    Args:
        module, name: module and name of the work's `Prepare` function.
        channel: descriptor on which it receives requests and sends answers.
        parent: descriptor of the read end of a pipe whose other end only the parent holds.
        files: descriptors of the work's files.
    """

    module: str
    name: str
    channel: int
    parent: int
    limits: ProcessLimits
    files: tuple[int, ...] = ()


def main(arguments: Sequence[str]) -> None:
    start = msgspec.json.decode(arguments[0], type=Start)
    try:
        confinement.end_with(start.parent)
        found = confinement.hide_files()
        prepare: Prepare = getattr(importlib.import_module(start.module), start.name)
        answer = prepare(start.files)
        found += confinement.lock(start.limits)
    except Exception as error:  # noqa: BLE001 -- a process's edge; nothing from outside was read
        _send(start.channel, Frame({"refused": f"{type(error).__name__}: {error}"}))
        return
    _send(start.channel, Frame({"in_force": found}))
    while True:
        _send(start.channel, _answer_of(answer, _next(start.channel), start.limits))


def _answer_of(answer: Answer, frame: Frame, limits: ProcessLimits) -> Frame:
    """The answer, or why there is none; the kernel ends a process that takes too long."""
    signal.setitimer(signal.ITIMER_PROF, float(frame.body["cpu_s"]))
    try:
        return answer(frame)
    except InputInvalid as error:
        return Frame({"refused": error.problem})
    except MemoryError:
        return Frame({"refused": f"it takes more than {limits.memory_bytes // MIB} MiB of memory"})
    except Exception as error:  # noqa: BLE001 -- a process's edge; the text may be the file's
        return Frame({"refused": f"it could not be worked on ({type(error).__name__})"})
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _next(channel: int) -> Frame:
    return protocol.read(lambda size: _received(channel, size), MOST_REQUEST_BYTES)


def _received(channel: int, size: int) -> bytearray:
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        got = os.readv(channel, [view[at:]])
        if got == 0:
            os._exit(0)  # the parent has closed the pipe
        at += got
    return found


def _send(channel: int, frame: Frame) -> None:
    for part in protocol.packed(frame):
        view: Any = memoryview(part)
        while view:
            view = view[os.write(channel, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
