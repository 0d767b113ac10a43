"""A push on its way into the online store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.journal import KeptPush, Pushes
from mlplatform.model.features.views import FeatureView


def serve(
    pushes: Pushes,
    view: FeatureView,
    kept: KeptPush,
    online: OnlineWriter,
    clock_ms: Callable[[], int],
) -> KeptPush:
    """Give a push's rows to the online store, and say so; again changes nothing.

    The rows are those that the journal has at this moment: an erasure may have taken some out since
    the push was read, and served the rest.

    Returns:
        The push as it is now. One whose rows training's table has taken meanwhile has none; it was
        served by this moment.

    Raises:
        Unavailable: either does not answer.
    """
    found = pushes.waiting(kept.push.model, view.name, after=kept.number - 1, most=1)
    now = next((one for one in found if one.number == kept.number), None)
    if now is not None and now.served_ms is not None:
        return now
    if now is not None and now.push.rows:
        online.put(view.name, now.features(view))
    at_ms = max(clock_ms(), kept.arrived_ms)
    if now is None:
        return replace(kept, push=replace(kept.push, rows=()), served_ms=at_ms)
    pushes.mark_served(kept.number, at_ms)
    return replace(now, served_ms=at_ms)
