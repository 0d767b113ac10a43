"""Delivery of a push to the online store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.journal import KeptPush, Pushes
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.errors import StaleFence, Unavailable

MOST_ERASURES: Final = 10
"""Most erasures between the reading of a push and its delivery."""


def serve(
    pushes: Pushes,
    view: FeatureView,
    kept: KeptPush,
    online: OnlineWriter,
    clock_ms: Callable[[], int],
) -> KeptPush:
    """Give a push's rows to the online store, and record that; repeating it changes nothing.

    The rows are those that the journal has at this moment: an erasure may have removed some since
    the push was read. If one runs meanwhile, the journal is read again.

    Returns:
        The push as it is now. If training's table has taken its rows meanwhile, the push has no
        rows; it was then served before this moment.

    Raises:
        Unavailable: the journal or the online store does not answer, or erasures run one after the
            other.
    """
    for _ in range(MOST_ERASURES):
        fence = online.fence(view.name)  # before the rows are read
        found = pushes.waiting(kept.push.model, view.name, after=kept.number - 1, most=1)
        now = next((one for one in found if one.number == kept.number), None)
        if now is not None and now.served_ms is not None:
            return now
        try:
            if now is not None and now.push.rows:
                online.put(view.name, now.features(view), fence=fence)
            break
        except StaleFence:
            continue
    else:
        raise Unavailable(f"rows of {view.name} are being erased; call again")
    at_ms = max(clock_ms(), kept.arrived_ms)
    if now is None:
        return replace(kept, push=replace(kept.push, rows=()), served_ms=at_ms)
    pushes.mark_served(kept.number, at_ms)
    return replace(now, served_ms=at_ms)
