"""Makes a new page's process ready before its first reader: templates, stores, clients."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from mlplatform.observing.page.queries.schedules import Schedules
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.queries.system_state import SystemState
from mlplatform.observing.page.rendering import compile_templates
from mlplatform.runtime.errors import PlatformError

log = logging.getLogger(__name__)

WITHIN_S: Final = 2.0
"""Seconds that a new process takes for it before it answers. On a quiet machine it takes 0.4."""


def prepare(
    sources: Sources, schedules: Schedules | None, within_s: float = WITHIN_S
) -> threading.Thread:
    """Make ready what the first answer of each view would otherwise pay for: on a thread of its
    own, so that a store that does not answer keeps nobody waiting. Returns the thread.

    Args:
        sources: the page's data.
        schedules: what asks Prefect; None if nothing does.
        within_s: seconds after which this returns, and the thread goes on.
    """
    every = sources.without_restriction()
    steps: list[Callable[[], object]] = [compile_templates, *_reads(every)]
    if schedules is not None:
        steps.insert(1, schedules.prepare)
    thread = threading.Thread(target=_run, args=(steps,), name="warm-up", daemon=True)
    thread.start()
    thread.join(within_s)
    return thread


def _reads(sources: Sources) -> list[Callable[[], object]]:
    """Reads that open each store once, and load the models' definitions."""
    system = SystemState(sources)
    return [
        sources.processes,
        system.log,
        system.queues,
        sources.rollouts_under_way,
        lambda: sources.rollouts(most=1),
        sources.incidents,
    ]


def _run(steps: list[Callable[[], object]]) -> None:
    for step in steps:
        try:
            step()
        except PlatformError as error:  # the view that needs it says so
            log.info("not ready at the start: %s", error)
