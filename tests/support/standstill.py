"""How long this process was not run, by a machine that others use too."""

from __future__ import annotations

import threading
import time
from typing import Self

TICK_S = 0.005


class Standstill:
    """Meters it in a thread of its own: what blocks the thread that is tested is not counted.

    Attributes:
        lasted_s: of all times together in which that thread was due and did not run.
    """

    def __init__(self) -> None:
        self.lasted_s = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _tick(self) -> None:
        is_over = False
        while not is_over:
            due_s = time.monotonic() + TICK_S
            is_over = self._is_over.wait(TICK_S)
            self.lasted_s += max(time.monotonic() - due_s, 0.0)
