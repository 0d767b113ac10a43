"""Export of spans from a process, on a thread, so that no request waits for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, Literal, Protocol, TypeVar

from mlplatform.runtime.telemetry.spans import Trace

POLL_S: Final = 0.1
MOST_A_SECOND: Final = 2_000
"""Most items of one process per second. Building and encoding one takes the interpreter from the
event loop for some 25 us. When every request is worth its spans, this many are enough to see
why."""
MOST_A_POLL: Final = int(MOST_A_SECOND * POLL_S)
MAX_WAITING: Final = 6_144
SPARE_WAITING: Final = 4_096
"""Number of waiting items below which spare items are queued; the rest of the queue is for those
that matter."""

STOP_S: Final = 1.0

Outcome = Literal["exported", "dropped", "failed"]
T = TypeVar("T")

log = logging.getLogger(__name__)


class TraceSender(Protocol):
    """The destination of traces."""

    def send(self, traces: Sequence[Trace]) -> bool:
        """Send the traces. Returns whether they were taken."""
        ...

    def close(self) -> None: ...


class SpanExport(Generic[T]):
    """Takes the data of spans, builds the spans on its thread, and sends them.

    Args:
        build: builds the spans of one item, in the export thread.
        counted: called with an outcome and the number of items that had it, from either thread.
    """

    def __init__(
        self,
        sender: TraceSender,
        build: Callable[[T], Trace],
        counted: Callable[[Outcome, int], None],
    ) -> None:
        self._sender = sender
        self._build = build
        self._counted = counted
        self._waiting: deque[T] = deque()
        self._is_failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def offer(self, item: T, *, is_spare: bool = False) -> None:
        """Queue an item if there is room; costs the caller a microsecond.

        Args:
            is_spare: whether it is one of many similar items, which are dropped first.
        """
        if len(self._waiting) >= (SPARE_WAITING if is_spare else MAX_WAITING):
            self._counted("dropped", 1)
        else:
            self._waiting.append(item)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what waits, for a moment; a collector that does not answer delays nobody."""
        self._stopping.set()
        self._thread.join(STOP_S)
        self._sender.close()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            self._send()
        self._send()

    def _send(self) -> None:
        items = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_A_POLL))]
        if not items:
            return
        try:
            is_taken = self._sender.send([self._build(item) for item in items])
        except Exception:
            log.exception("spans were not sent")
            is_taken = False
        self._counted("exported" if is_taken else "failed", len(items))
        if is_taken == self._is_failing:
            self._is_failing = not is_taken
            log.warning("spans are %s", "not taken" if self._is_failing else "taken again")
