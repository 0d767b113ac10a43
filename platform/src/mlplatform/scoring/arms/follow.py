"""Following the routes: a thread polls for the newest routes, loads their bundles, and reports."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mlplatform.model.routes import Routes
from mlplatform.rollouts.bundles.background import BeingFetched
from mlplatform.runtime.errors import PlatformError
from mlplatform.scoring.arms.live import LINGER_S, Live, LiveModel, Target
from mlplatform.scoring.arms.processes import Processes

POLL_S = 0.1
FIRST_ROUTES_S = 10.0
FIRST_POLL_S = 0.005
FIRST_BUNDLES_S = 30.0
"""Seconds for which a gateway that has no bundle of a model yet says that it is not ready."""
LEASE_TTL_S = 10.0
LEASE_S = 2.0
"""Seconds between renewals of the lease while nothing changes."""

log = logging.getLogger(__name__)


class RouteSource(Protocol):
    """The calls of `rollouts.journal.journal.Rollouts` that a gateway uses."""

    def routes(self, model: str) -> Routes: ...

    def lease(
        self,
        gateway: str,
        generations: Mapping[str, int],
        ttl_s: float,
        stopped: Mapping[str, str] = ...,
    ) -> None: ...


class RouteFollower:
    """Applies new generations within a poll, bundles first, and reports what it applies.

    A generation that can't be loaded is not applied: the gateway keeps the one before, and its
    lease says so.

    Args:
        open_source: opens the source of routes; called once, in the follower's thread.
        models: returns the models that this gateway has now.
        applied: called with model and number of every new generation.
        processes: the processes that answer for the arms; used in the follower's thread.
        before: called in the follower's thread before each poll.
    """

    def __init__(
        self,
        gateway: str,
        models: Callable[[], Sequence[LiveModel]],
        open_source: Callable[[], RouteSource],
        applied: Callable[[str, int], None],
        processes: Processes,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._gateway = gateway
        self._models = models
        self._open_source = open_source
        self._applied = applied
        self._processes = processes
        self._before = before
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reported_s = float("-inf")
        self._reported_stopped: dict[str, str] = {}
        self._begun_s = time.monotonic()
        self._waiting: set[str] = set()
        self.ready = False

    async def start(self, within_s: float = FIRST_ROUTES_S) -> None:
        """Start following. Returns once the first routes are applied, or after `within_s`.

        Until then this gateway could only refuse requests, while other gateways may answer them.
        """
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._follow, name="routes", daemon=True)
        self._thread.start()
        end_s = self._loop.time() + within_s
        while not self.ready and self._loop.time() < end_s:
            await asyncio.sleep(FIRST_POLL_S)

    async def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)

    def _follow(self) -> None:
        source: RouteSource | None = None
        while not self._stopping.is_set():
            try:
                self._before()
            except Exception:  # routes and kill switches are followed all the same
                log.exception("changed folders of models are not taken up")
            try:
                self._renew_replaced()
                source = source or self._open_source()
                self._pass(source)
            except (PlatformError, sqlite3.Error) as error:
                log.warning("routes were not followed: %s", error)
            except Exception:
                log.exception("routes were not followed")
            self._stopping.wait(POLL_S)

    def _pass(self, source: RouteSource) -> None:
        models = self._models()
        changed = [live for model in models if (live := self._newer(model, source))]
        for live in changed:
            self._hand_over(live)
        stopped = {name: why for m in models for name, why in m.stop_reasons().items()}
        news = changed or stopped != self._reported_stopped
        if news or time.monotonic() - self._reported_s >= LEASE_S:
            generations = {m.definition.name: m.current.routes.generation for m in models}
            source.lease(self._gateway, generations, LEASE_TTL_S, stopped)
            self._reported_s, self._reported_stopped = time.monotonic(), stopped
        first = {m.definition.name for m in models if not m.current.routes.generation}
        if not first & self._waiting or time.monotonic() - self._begun_s > FIRST_BUNDLES_S:
            self.ready = True

    def _renew_replaced(self) -> None:
        assert self._loop is not None
        targets = [t for model in self._models() for t in model.current.targets.values()]
        for target in self._processes.replaced(targets):
            self._loop.call_soon_threadsafe(_renew, target)
        for target in self._processes.broken(targets):
            self._loop.call_soon_threadsafe(target.forget)

    def _newer(self, model: LiveModel, source: RouteSource) -> Live | None:
        """A generation that is not applied yet, with its bundles loaded; None if there is none."""
        name = model.definition.name
        routes = source.routes(name)
        old = model.current.routes.generation
        self._waiting.discard(name)
        if routes.generation == old:
            model.problem = ""
            return None
        try:
            live = model.prepared(routes)
        except PlatformError as error:
            problem = f"generation {routes.generation} can't be applied: {error}"
            if isinstance(error, BeingFetched):
                self._waiting.add(name)
                problem = f"the bundles of generation {routes.generation} are being fetched"
            if problem != model.problem:  # once, and not at each poll
                tell = log.info if name in self._waiting else log.error
                tell("%s keeps the routes of generation %d, as %s", name, old, problem)
            model.problem = problem
            return None
        model.problem = ""
        return live

    def _hand_over(self, live: Live) -> None:
        """Apply a generation in the event loop, and wait until it is applied."""
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._apply, live, done)
        while not done.wait(POLL_S):
            if self._stopping.is_set():
                return

    def _apply(self, live: Live, done: threading.Event) -> None:
        model = next(m for m in self._models() if m.definition.name == live.routes.model)
        for target in model.apply(live):
            self._close_later(target)
        self._applied(live.routes.model, live.routes.generation)
        log.info("%s: generation %d applied", live.routes.model, live.routes.generation)
        done.set()

    def _close_later(self, target: Target) -> None:
        assert self._loop is not None
        self._loop.call_later(LINGER_S, target.close)


def _renew(target: Target) -> None:
    if target.breaker.state != "closed":
        log.info("another process answers for %s: its probes begin", target.arm.service)
    target.renew(time.monotonic())
