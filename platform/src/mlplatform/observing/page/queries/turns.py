"""Turns at what only a few requests may do at a time, without waiting."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from mlplatform.runtime.errors import Unavailable


@contextlib.contextmanager
def turn(turns: threading.Semaphore, why: str) -> Iterator[None]:
    """Takes a turn for the block; to wait for one would keep a thread from other requests.

    Args:
        why: what the others do, in words, for the message.

    Raises:
        Unavailable: no turn is free.
    """
    if not turns.acquire(blocking=False):
        raise Unavailable(f"{why}: ask again in a moment")
    try:
        yield
    finally:
        turns.release()
