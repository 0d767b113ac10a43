"""Payments at a steady rate through Service `gateway`, by the client library, from several
addresses: the Service keeps each of them on one gateway."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from tests.cluster.kubernetes import TestCluster
from tests.cluster.processes import Failed

from mlplatform_client.client import Client
from mlplatform_client.errors import CallFailed
from mlplatform_client.wire import Settings

RANGE: Final = "10.77.1.0/24"
CLIENTS: Final = 10
"""At once, each with an address; the cluster's own are elsewhere (`layout.py`)."""
NUMBERS: Final = itertools.count(1)
"""Of addresses. Each load has its own: the Service keeps a former one where that has been."""
CUSTOMERS: Final = 300
RATE_PER_S: Final = 20.0
DEADLINE_S: Final = 20.0
"""Of a call with its attempts: others use these processors too."""


@contextlib.contextmanager
def load(cluster: TestCluster, url: str, api_key: str, model: str) -> Iterator[Load]:
    """From clients on addresses of their own, which the link's end takes with it."""
    if not cluster.inside("ip", "route", "replace", RANGE, "via", cluster.layout.host_ip):
        raise Failed(f"the cluster has no way back to {RANGE}")
    addresses = [f"10.77.1.{number}" for number in itertools.islice(NUMBERS, CLIENTS)]
    for address in addresses:
        cluster.link_address(address)
    made = Load(url, api_key, model, addresses, rate_per_s=RATE_PER_S)
    try:
        yield made
    finally:
        made.stop()


class Load:
    """Runs from its start to `stop`.

    Attributes:
        bodies: idempotency key → each payment.
        moments: idempotency key → its event time, which no other payment has, epoch ms.
        answers: idempotency key → decision id, of each payment that was answered.
        failures: what the library raised after its last attempt, and when, on the monotonic clock.
        retries: why each attempt beyond a call's first was made, with its idempotency key.
    """

    def __init__(
        self, url: str, api_key: str, model: str, addresses: Sequence[str], *, rate_per_s: float
    ) -> None:
        self.bodies: dict[str, dict[str, Any]] = {}
        self.moments: dict[str, int] = {}
        self.answers: dict[str, str] = {}
        self.failures: dict[str, float] = {}
        self.retries: list[tuple[str | None, str]] = []
        self._model = model
        self._pause_s = len(addresses) / rate_per_s
        self._customers = itertools.cycle(range(CUSTOMERS))
        self._last_ms = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._clients = [self._client(url, api_key, address) for address in addresses]
        self._threads = [
            threading.Thread(target=self._send, args=(number, client), daemon=True)
            for number, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns once no call is under way."""
        self._over.set()
        for thread, client in zip(self._threads, self._clients, strict=True):
            thread.join()
            client.close()

    def until_more(self, count: int, *, within_s: float = 120.0) -> None:
        """Returns once as many more were answered."""
        wanted, end_s = len(self.answers) + count, time.monotonic() + within_s
        while len(self.answers) < wanted:
            assert time.monotonic() < end_s, f"{len(self.answers)} answers, not {wanted}"
            time.sleep(0.1)

    def told(self) -> str:
        """Its figures, in words."""
        counts = (len(self.bodies), len(self.failures), len(self.retries))
        return "{} payments, {} failed, {} tries again".format(*counts)

    def repeated_ms(self) -> set[int]:
        """Event times of the payments that were sent more than once."""
        return {self.moments[key] for key, _ in self.retries if key is not None}

    def _client(self, url: str, api_key: str, address: str) -> Client:
        settings = Settings(deadline_s=DEADLINE_S, on_retry=self._note)
        transport = httpx.HTTPTransport(local_address=address)
        return Client(url, api_key, settings, transport=transport)

    def _note(self, error: CallFailed, _: float) -> None:
        self.retries.append((error.key, str(error)))

    def _send(self, number: int, client: Client) -> None:
        next_s = time.monotonic() + self._pause_s * number / len(self._clients)
        while not self._over.wait(max(0.0, next_s - time.monotonic())):
            next_s = max(next_s + self._pause_s, time.monotonic())
            key = uuid.uuid4().hex
            with self._lock:
                self._last_ms = max(self._last_ms + 1, time.time_ns() // 1_000_000)
                self.moments[key] = self._last_ms
                body = self.bodies[key] = payment(next(self._customers), self._last_ms)
            try:
                answer = client.score(self._model, body, key=key)
            except CallFailed as error:
                self.failures[f"{key}: {error}"] = time.monotonic()
            else:
                self.answers[key] = answer.decision_id


def payment(customer: int = 7, event_ms: int | None = None) -> dict[str, Any]:
    """A request of the example model; of now where no event time is named."""
    shown_ms = time.time_ns() // 1_000_000 if event_ms is None else event_ms
    moment = datetime.fromtimestamp(shown_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {"customer_id": customer, "terminal_id": 3, "amount": 40.0, "event_time": moment}
