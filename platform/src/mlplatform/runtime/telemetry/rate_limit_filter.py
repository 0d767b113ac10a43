"""Keeps messages of every request from filling the log: a full disk is no time to write more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

EVERY_S = 1.0


class RateLimitFilter(logging.Filter):
    """Lets each message of a logger through once a second, with the number left out before it.

    The text before values are put in identifies a message, so there are as many as there are calls
    in the module.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock_s = clock_s
        self._mutex = threading.Lock()
        self._logged: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = self._clock_s()
        with self._mutex:
            logged_s, left_out = self._logged.get(record.msg, (float("-inf"), 0))
            if now_s - logged_s < EVERY_S:
                self._logged[record.msg] = logged_s, left_out + 1
                return False
            self._logged[record.msg] = now_s, 0
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like it since the last)"
        return True
