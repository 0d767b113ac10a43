"""A gateway and its worker that tell as much as they can, of requests that could be recognised."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import httpx

from mlplatform.commands.decisions.trace import TraceReport, look_up
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.routes import Arm
from mlplatform.runtime.configuration.settings import Settings
from support.scoring_world import ScoringWorld, payment, wait_for

DEADLINE: Final = {"X-Request-Timeout-Ms": "8000"}
FIRST_CUSTOMER, FIRST_TERMINAL = 8_675_309_000_000, 7_123_456_000_000
"""So unlike any other number that what holds them would be found."""
SETTLED_S = 60.0


class ObservedWorld(ScoringWorld):
    """A world whose gateway and worker tell as much as they can."""

    arm: Arm

    def start(self, **settings: str) -> None:
        self.sent: list[dict[str, Any]] = []
        self._numbers = itertools.count()
        self.arm = self.deploy(1)
        self.promote(self.arm)
        variables = {"MLPLATFORM_LOG_LEVEL": "debug", "MLPLATFORM_TRACE_SHARE": "0"}
        self.start_gateway(MLPLATFORM_SPILL_MAX_MIB="1", **variables, **settings)
        self.start_worker()

    def payment(self, **changes: Any) -> dict[str, Any]:
        """A payment of somebody who is in no other one, which the amount bundles approve: hundreds
        that they decline would stop them."""
        number = next(self._numbers)
        who = {"customer_id": FIRST_CUSTOMER + number, "terminal_id": FIRST_TERMINAL + number}
        body = payment(amount=40.0 + (number % 400) + 0.0625) | who | changes
        self.sent.append(body)
        return body

    @property
    def settings(self) -> Settings:
        return Settings(self.home, "system", self.port, 1, 2)

    def found(self, any_id: str, *names: str) -> TraceReport:
        """What is known of an id, once the spans of these names are there."""

        def look() -> TraceReport | None:
            found = look_up(self.settings, any_id)
            return found if set(names) <= {span.name for span in found.spans} else None

        found: TraceReport = wait_for(look)
        return found

    @contextmanager
    def locked_log(self) -> Iterator[None]:
        """Somebody holds the write lock of the log."""
        with closing(sqlite3.connect(self.home.decisions / DATABASE)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.rollback()

    def unrecorded(self, client: httpx.Client) -> str:
        """The trace of a request whose decision could be recorded nowhere: answered 503."""
        self.settled(client)
        with self.locked_log():

            def failed_trace() -> str | None:  # there is one once the spill is full
                items = [self.payment() for _ in range(500)]
                client.post("/score:batch", json={"requests": items}, headers=DEADLINE)
                trace_id = f"{time.time_ns():032x}"
                headers = {"traceparent": f"00-{trace_id}-{'b' * 16}-00", **DEADLINE}
                answer = client.post("/score", json=self.payment(), headers=headers)
                return trace_id if answer.status_code == 503 else None

            trace_id: str = wait_for(failed_trace, SETTLED_S)
        self.settled(client)
        return trace_id

    def settled(self, client: httpx.Client) -> None:
        """Returns when answers are not degraded, or not any more."""

        def is_well() -> bool:
            answer = client.post("/score", json=self.payment()).json()
            return answer.get("degraded") is False

        wait_for(is_well, SETTLED_S)

    def challengers(self, client: httpx.Client) -> dict[str, Any]:
        """An answer of the challenger's, by itself."""

        def answered() -> dict[str, Any] | None:
            answer = client.post("/score", json=self.payment(), headers=DEADLINE).json()
            is_its = answer["route"] == answer["answered_by"] == "challenger"
            return answer if is_its else None

        answer: dict[str, Any] = wait_for(answered, SETTLED_S)
        return answer
