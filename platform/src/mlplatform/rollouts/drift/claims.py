"""An incident's claim, renewed for as long as the work that answers the incident goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mlplatform.rollouts.drift.incidents import Incidents
from mlplatform.runtime.errors import NotFound, StaleFence

log = logging.getLogger(__name__)

PARTS: Final = 3
"""A claim is renewed this many times before it would expire, so that two renewals may fail."""


@contextmanager
def renewal(
    incidents: Incidents,
    incident: str,
    claim: int,
    *,
    lasts_s: float,
    wall_ms: Callable[[], int],
) -> Iterator[None]:
    """Renews a claim within the block, so that it does not expire. If the process dies, the claim
    expires.

    Args:
        lasts_s: seconds for which the claim holds after each renewal.

    Raises:
        StaleFence: the claim had been taken over before the block began, or the incident is over. A
            claim that is taken over later is not renewed any more, and its answer is refused.
        NotFound: there is no such incident.
    """

    def prolong() -> None:
        incidents.prolong(incident, claim, until_ms=wall_ms() + round(lasts_s * 1000))

    def go_on() -> None:
        while not ended.wait(lasts_s / PARTS):
            try:
                prolong()
            except (StaleFence, NotFound) as error:
                log.warning("%s", error)
                return
            except Exception as error:  # noqa: BLE001 -- a database may refuse for a moment only
                log.warning("claim %d of %s is not prolonged: %r", claim, incident, error)

    prolong()
    ended = threading.Event()
    going_on = threading.Thread(target=go_on, name=f"claim-{incident}", daemon=True)
    going_on.start()
    try:
        yield
    finally:
        ended.set()
        going_on.join()
