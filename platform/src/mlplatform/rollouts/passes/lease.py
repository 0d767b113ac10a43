"""The lease of a pass, renewed for as long as the pass runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlplatform.rollouts.journal.journal import Fence, Passes

LONGEST_PASS_S = 1800.0
"""Longest renewal of a lease. After it the lease expires, because a pass that hangs must not hold a
model for ever."""

RENEWALS_PER_TTL = 4

log = logging.getLogger(__name__)


@contextmanager
def hold_lease(
    passes: Passes, fence: Fence, ttl_s: float, *, longest_s: float = LONGEST_PASS_S
) -> Iterator[None]:
    """Renew the lease in the background until the block ends, then give it back.

    A pass that reads a long generation takes longer than a lease lasts. Without renewal the next
    scheduled pass would take the lease over, and neither would ever get to its rollback.
    """
    ended = threading.Event()
    arguments = (passes, fence, ttl_s / RENEWALS_PER_TTL, longest_s, ended)
    renewal = threading.Thread(target=_renew, args=arguments, name="lease renewal", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        passes.release(fence)


def _renew(
    passes: Passes, fence: Fence, every_s: float, longest_s: float, ended: threading.Event
) -> None:
    for _ in range(int(longest_s / every_s)):
        if ended.wait(every_s):
            return
        try:
            if not passes.renew(fence):
                return  # the pass notices it at its next write
        except Exception:  # a locked or full database may recover
            log.exception("the lease of %s was not renewed", fence.holder)
    log.error("the pass of %s has taken %.0f s; its lease runs out", fence.holder, longest_s)
