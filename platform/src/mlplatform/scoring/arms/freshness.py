"""Whether a model's features are as new as their views require, with traffic and without."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping

from mlplatform.learning.features.online import OnlineFeatures
from mlplatform.learning.features.policy import NOTHING_KNOWN, FeaturePolicies
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.figures import percent
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.arms.states import FeaturesState

REFRESH_S = 5.0
"""Seconds between two questions to the store for its newest rows."""
LOST_MS = 0
"""Event time given to the newest row of a view whose rows have vanished, so that the view counts as
stale."""
WINDOW_S = 60
"""Length of the window of counted decisions in seconds."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class StaleShare:
    """The share of the last minute's decisions that stale features degraded.

    Args:
        clock_s: returns seconds of the monotonic clock.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._seconds = [0] * WINDOW_S
        self._decisions = [0] * WINDOW_S
        self._stale = [0] * WINDOW_S

    def count(self, is_stale: bool) -> None:
        """Count a decision."""
        second = int(self._clock_s())
        place = second % WINDOW_S
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._decisions[place] = self._stale[place] = 0
        self._decisions[place] += 1
        self._stale[place] += is_stale

    def share(self) -> float | None:
        """The share of the last minute's decisions without fresh features; None if there was no
        decision."""
        since = int(self._clock_s()) - WINDOW_S
        places = [place for place, second in enumerate(self._seconds) if second > since]
        decisions = sum(self._decisions[place] for place in places)
        return sum(self._stale[place] for place in places) / decisions if decisions else None


class Freshness:
    """Tracks the newest rows of one model's views, and the decisions without them.

    Args:
        policies: returns the policies of the features that the champion reads; called each time,
            because the champion may change.
        now_ms: returns the platform's event time.
        limit: largest tolerated share (0-1) of decisions without fresh features.
    """

    def __init__(
        self,
        model: str,
        features: OnlineFeatures,
        policies: Callable[[], FeaturePolicies | None],
        now_ms: Callable[[], int],
        limit: float,
    ) -> None:
        self._model = model
        self._features = features
        self._policies = policies
        self._now_ms = now_ms
        self._limit = limit
        self._following: asyncio.Task[None] | None = None
        self._is_away = False
        self.newest: Mapping[str, int | None] = NOTHING_KNOWN
        self.decisions = StaleShare()

    def succeed(self, former: Freshness) -> None:
        """Begin with what another one knows of the same store, and count on with its decisions."""
        self.newest, self._is_away = former.newest, former._is_away
        self.decisions = former.decisions

    async def start(self) -> None:
        """Start tracking. The newest rows are known on return, if the store answers."""
        await self._refresh()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def state(self) -> FeaturesState:
        """The present freshness."""
        share, stale, unmade = self.decisions.share(), self.stale_views(), self.unmade_views()
        is_fresh = not (self._is_away or stale or unmade)
        return FeaturesState(
            healthy=is_fresh and (share or 0.0) <= self._limit,
            store="away" if self._is_away else "answers",
            stale_views=list(stale),
            unmade_views=list(unmade),
            stale_share=share,
            stale_share_limit=self._limit,
        )

    def stale_views(self) -> tuple[str, ...]:
        """The stale views among those that the champion reads."""
        policies = self._policies()
        return () if policies is None else policies.stale_at(self._now_ms(), self.newest)

    def unmade_views(self) -> tuple[str, ...]:
        """The views that the champion reads and of which the store holds no row."""
        policies = self._policies()
        views = () if policies is None else policies.views
        return tuple(v.name for v in views if self.newest.get(v.name, LOST_MS) is None)

    def ages(self) -> Mapping[str, float]:
        """View that the champion reads → age of its newest snapshot, if known, over its ttl; more
        than 1 is too old."""
        policies = self._policies()
        return {} if policies is None else policies.ages(self._now_ms(), self.newest)

    def complaint(self) -> str | None:
        """A sentence on what is wrong with the features; None if nothing is."""
        state = self.state()
        if state.healthy:
            return None
        if state.store == "away":
            return f"features of {self._model}: their store does not answer"
        if state.stale_views:
            views = ", ".join(state.stale_views)
            return f"features of {self._model}: the newest snapshot of {views} is too old"
        if state.unmade_views:
            views = ", ".join(state.unmade_views)
            return f"features of {self._model}: no snapshot of {views} is known"
        share, limit = state.stale_share or 0.0, state.stale_share_limit
        return (
            f"features of {self._model}: {percent(share)} of the last minute's decisions were made"
            f" without fresh features; at most {percent(limit)} may be"
        )

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            found = await asyncio.to_thread(self._features.newest)
        except (PlatformError, sqlite3.Error) as error:
            self._is_away = True
            log.warning("the newest features of %s were not looked up: %s", self._model, error)
            return
        self._is_away = False
        self.newest = {
            view: LOST_MS if at_ms is None and self.newest.get(view) is not None else at_ms
            for view, at_ms in found.items()
        }
