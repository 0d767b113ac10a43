"""A model that drift has asked for: recorded traffic waits for it on a slow machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from demo.late_runs import late_here
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.units import DAY_MS

POLL_S: Final = 0.3
RUN_LIMIT_S: Final = 600.0
WITHIN_MS: Final = 5 * DAY_MS
"""Event time that may go by until a retrain has ended: on two quiet cores it takes three days."""


class LoopNotClosed(PlatformError):
    """Something that had to happen did not, or something happened that must not."""


class AwaitedModel:
    """The model that an incident of drift has asked for.

    Args:
        event_ms: event time that traffic has reached.
    """

    def __init__(self, platform: Platform, model: str, event_ms: Callable[[], int]) -> None:
        self._platform, self._model, self._event_ms = platform, model, event_ms
        self._asked_ms: int | None = None

    async def wait(self) -> None:
        """Wait while the retrain has taken `WITHIN_MS` of event time: the requests would end before
        the story.

        Raises:
            LoopNotClosed: it takes too long on the wall too.
        """
        if not self.is_awaited():
            self._asked_ms = None
            return
        if self._asked_ms is None:
            self._asked_ms = self._event_ms()
        deadline = time.monotonic() + RUN_LIMIT_S
        while self._event_ms() - self._asked_ms > WITHIN_MS and self.is_awaited():
            if time.monotonic() > deadline:
                late = late_here("retrain", [], limit_s=RUN_LIMIT_S, model=self._model)
                raise LoopNotClosed(late)
            await asyncio.sleep(POLL_S)

    def is_awaited(self) -> bool:
        """Whether a retrain was asked for, may still run and has opened no rollout yet."""
        if self._rollouts():
            return False
        incidents = self._platform.incidents.list(self._model, closed=False)
        now_ms = self._platform.clock.wall_ms()
        return any(i.state == "claimed" and i.until_ms > now_ms for i in incidents)

    def under_way(self) -> str:
        """The rollouts, or the model, that the story waits for, in words."""
        found = " and ".join(self._rollouts())
        return found or ("a model was being made" if self.is_awaited() else "nothing was under way")

    def _rollouts(self) -> list[str]:
        active = self._platform.rollouts.active(self._model)
        return [f"{s.rollout_id} was in {s.phase}" for s in active if s.ramping]
