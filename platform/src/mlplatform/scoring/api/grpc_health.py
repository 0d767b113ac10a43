"""`grpc.health.v1.Health`: whether requests can be answered, for probes that speak gRPC."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api.grpc_calls import Answer, Call, Notices, Send, parsed
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.protos import health_pb2 as pb

SERVICE: Final = "grpc.health.v1.Health"
WHOLE: Final = ""
"""Name by which a caller asks about the server instead of one of its services."""

POLL_S: Final = 0.25
"""Seconds between two checks for changes, which are sent to watching callers."""

WATCHES: Final = 8
"""Most open streams of one connection. A client library opens one for each service it calls."""

WATCH_S: Final = 900.0
"""Longest life of a stream in seconds, after which its client opens another. Otherwise the
connection of a client that vanished would be in use as long as its stream."""

_STATUS: Final = pb.HealthCheckResponse


class HealthService:
    """Reports the status of the server once (`Check`) or at each change (`Watch`), to anybody.

    Args:
        services: names of this listener's services, which are always ready together.
        watch_s: seconds for which a stream of `Watch` stays open.
    """

    def __init__(
        self, health: Health, services: Collection[str], *, watch_s: float = WATCH_S
    ) -> None:
        self._health = health
        self._known = {WHOLE, SERVICE, *services}
        self._watch_s = watch_s
        self._open: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._is_draining = False
        self._is_ended = False
        self._polling: asyncio.Task[None] | None = None

    def answers(self) -> dict[str, Answer]:
        """Method → the function that answers it."""
        return {"Check": self._check}

    def notices(self) -> dict[str, Notices]:
        """Method → the function that sends its messages."""
        return {"Watch": self._watch}

    def start(self) -> None:
        """Start checking for changes, in the running event loop."""
        self._polling = asyncio.get_running_loop().create_task(self._poll())

    def begin_drain(self) -> None:
        """Report that the server ends soon. Streams stay open, because clients would open
        others."""
        self._is_draining = True
        self._wake()

    def stop(self) -> None:
        """End the streams."""
        self._is_ended = True
        self._wake()
        if self._polling is not None:
            self._polling.cancel()

    async def _check(self, request: bytes, call: Call) -> pb.HealthCheckResponse:
        service = parsed(pb.HealthCheckRequest, request).service
        if service not in self._known:
            raise Problem(404, "unknown-service", f"there is no service {service[:64]!r}")
        return pb.HealthCheckResponse(status=self._status())

    async def _watch(self, request: bytes, call: Call, send: Send) -> None:
        """Send the status at each change. A caller who sends a key is no stranger any more, and
        keeps its connection; standard clients watch without a key, and stop being strangers at
        their first call with one."""
        service = parsed(pb.HealthCheckRequest, request).service
        if b"authorization" in call.headers:
            call.gate.leave(await call.admit(None, "read"))
        with self._place(call.peer), suppress(TimeoutError):
            async with asyncio.timeout(self._watch_s):
                await self._send_changes(service, send)

    @contextmanager
    def _place(self, peer: str) -> Iterator[None]:
        if self._open[peer] >= WATCHES:
            detail = f"this connection has {WATCHES} open watches, the limit; end one of them first"
            raise Problem(429, "too-many-watches", detail)
        self._open[peer] += 1
        try:
            yield
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    async def _send_changes(self, service: str, send: Send) -> None:
        sent = None
        while not self._is_ended:
            changed = self._changed
            status = self._status() if service in self._known else _STATUS.SERVICE_UNKNOWN
            if status != sent:
                await send(pb.HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    def _status(self) -> pb.HealthCheckResponse.ServingStatus:
        if self._is_draining:
            return _STATUS.NOT_SERVING
        try:
            self._health.check_ready()
        except Problem:
            return _STATUS.NOT_SERVING
        return _STATUS.SERVING

    async def _poll(self) -> None:
        last = self._status()
        while True:
            await asyncio.sleep(POLL_S)
            status = self._status()
            if status != last:
                last = status
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
