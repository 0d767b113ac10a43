"""How a process of the platform is told to end: by SIGTERM or SIGINT, in one way for all of them.

`process.start` calls `end_at_signals`: until a process serves, a signal ends it as `sys.exit(0)`
does. Then one that works in a loop of its own asks for `stopping_at_signals`; servers take signals
over for as long as they serve, and give them back.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, NoReturn

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_STDERR: Final = 2
"""By number: `sys.stderr` may be closed, or not a file."""
LIMIT_S: Final = 60.0
"""The longest end of any process, a gateway's in Kubernetes. Supervisor and kubelet wait less."""
_AGAIN_S: Final = 0.05


class _Told(SystemExit):
    """Raised by a signal, wherever the main thread is then."""


def end_at_signals() -> None:
    """From now on a signal ends this process with status 0; for the main thread.

    Python drops what is raised in a finalizer or a weak reference's callback, and imports are full
    of these: a process that was told there is told again.
    """

    def end() -> NoReturn:
        raise _Told(0)

    def tell_again(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, _Told):
            before(dropped)
            return
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()

    before, sys.unraisablehook = sys.unraisablehook, tell_again
    act_at_signals(end)


def stopping_at_signals() -> threading.Event:
    """An event that is set at SIGTERM or SIGINT; to be asked for in the main thread."""
    stopping = threading.Event()
    act_at_signals(stopping.set)
    return stopping


def act_at_signals(act: Callable[[], object]) -> None:
    """Have a signal call this, in the main thread.

    A process that has not ended `LIMIT_S` later is ended with status 1, and what each of its
    threads was doing is in its log.
    """

    def told(number: int, frame: object) -> None:
        faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=_STDERR)
        act()

    for number in SIGNALS:
        signal.signal(number, told)
