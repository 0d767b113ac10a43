"""The end of a process by SIGTERM or SIGINT, in one way for all processes.

`process.start` works within `ended_by_signals`: until a process serves, a signal ends it as
`sys.exit(0)` does. Then it has one that works in steps look at `stopping_at_signals`; what runs on
an event loop takes signals over for as long as it serves, by `called_at_signals`.
"""

from __future__ import annotations

import _thread
import asyncio
import faulthandler
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

log = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_STDERR: Final = 2
"""Number of standard error, because `sys.stderr` may be closed, or not a file."""
LIMIT_S: Final = 60.0
"""Longest end of any process in seconds, which is a gateway's in Kubernetes: its sleep before the
signal is a part of them. A supervisor waits less, and no other pod longer."""
_AGAIN_S: Final = 0.2
_seen: Final[set[int]] = set()


class _SignalExit(SystemExit):
    """A signal raises this in the main thread, wherever that is."""


def has_end_signal() -> bool:
    """Whether a signal has come: errors after it are no failure of this process."""
    return bool(_seen)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes a signal end the process with status 0 within the block, wherever it is; for the main
    thread.

    Python loses what a signal's handler raises in a finalizer, in a callback of a weak reference
    and where its compiler folds constants, and imports are full of these. If the process has not
    left the block `_AGAIN_S` later, the signal is raised again, for the handler of that moment. It
    is not raised again while the exception is on its way, so that the main thread's clean-up is not
    interrupted. If an extension's import raises its own error in place of the handler's exception,
    the status is still 0.
    """

    def end() -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        raise _SignalExit(0)

    def tell_again(number: int, frame: object) -> None:
        if _is_on_its_way(sys.exception()):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            signal.raise_signal(signal.SIGTERM)

    def report(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, _SignalExit):
            before(lost)

    before, sys.unraisablehook = sys.unraisablehook, report
    signal.signal(signal.SIGALRM, tell_again)
    _act_at_signals(end)
    try:
        yield
    except Exception as error:
        if not has_end_signal():
            raise
        log.warning(
            "the process ends all the same; an error came meanwhile: %s: %s",
            type(error).__name__,
            error,
        )
        raise _SignalExit(0) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = before


def _is_on_its_way(handled: BaseException | None) -> bool:
    """Whether the exception being handled is a signal's, or was raised while one was handled."""
    while handled is not None and not isinstance(handled, _SignalExit):
        handled = handled.__context__
    return handled is not None


def stopping_at_signals() -> threading.Event:
    """An event that is set at SIGTERM or SIGINT; to be called in the main thread.

    A thread sets it: the main thread may be in `wait` when the signal comes, and hold the event's
    lock there.
    """
    stopping = threading.Event()
    _act_at_signals(lambda: _thread.start_new_thread(stopping.set, ()))
    return stopping


@contextmanager
def called_at_signals(act: Callable[[], object]) -> Iterator[None]:
    """Makes a signal call `act` in the running event loop within the block; afterwards the earlier
    handler counts again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), {n: signal.getsignal(n) for n in SIGNALS}
    _act_at_signals(lambda: loop.call_soon_threadsafe(act))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _act_at_signals(act: Callable[[], object]) -> None:
    """Make a signal call `act`, in the main thread between any two of its steps; it must take no
    lock that this thread may hold.

    A process that has not ended `LIMIT_S` later is ended with status 1, and what each of its
    threads was doing is in its log.
    """

    def on_signal(number: int, frame: object) -> None:
        _seen.add(number)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=_STDERR)
        act()

    for number in SIGNALS:
        signal.signal(number, on_signal)
