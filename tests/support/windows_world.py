"""Payments that go through real logs with windows, as gateways write them, and their recount."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.compile import UnitSample
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.windows.online import WindowReads, Windows
from mlplatform.learning.features.windows.state import WindowProjection
from mlplatform.learning.features.windows.training import with_windows
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.model.windows.declaration import Aggregate, Filter, Window

NOON_MS = 1_790_000_000_000
KINDS: tuple[Aggregate, ...] = ("sum", "mean", "std", "min", "max")
ENDS: tuple[Aggregate, ...] = ("first", "last")
WINDOWS = (
    Window(name="c_n_10m", entity="customer", aggregate="count", window="10m", resolution="1m"),
    Window(name="c_n_6h", entity="customer", aggregate="count", window="6h", resolution="1m"),
    Window(
        name="c_since", entity="customer", aggregate="seconds_since", window="6h", resolution="1m"
    ),
    *(
        Window(
            name=f"c_{kind}_1d", entity="customer", aggregate=kind, of="amount", window="1d",
            resolution="1h",
        )
        for kind in KINDS
    ),
    Window(
        name="t_large_2h", entity="terminal", aggregate="count", window="2h", resolution="5m",
        where=Filter(field="amount", op=">", value=80),
    ),
    Window(
        name="t_mean_delayed", entity="terminal", aggregate="mean", of="amount", window="3h",
        resolution="1h", delay="1h",
    ),
    Window(
        name="c_rate_6h", entity="customer", aggregate="rate", window="6h", resolution="1m",
        per="1h",
    ),
    *(
        Window(
            name=f"c_{kind}_6h", entity="customer", aggregate=kind, of="amount", window="6h",
            resolution="5m",
        )
        for kind in ENDS
    ),
    Window(
        name="t_large_share", entity="terminal", aggregate="share", window="2h", resolution="5m",
        matching=Filter(field="amount", op=">", value=80),
    ),
    Window(
        name="t_customers", entity="terminal", aggregate="distinct", of="customer_id", window="3h",
        resolution="1h",
    ),
    Window(name="c_burst", entity="customer", aggregate="ratio", of="c_n_10m", to="c_n_6h"),
)  # fmt: skip


def definition_with_windows(windows: Sequence[Window] = WINDOWS) -> ModelDefinition:
    return msgspec.structs.replace(load_definition("fraud"), windows=tuple(windows))


def bits(value: float | None) -> bytes:
    return b"missing" if value is None or math.isnan(value) else struct.pack("<d", value)


class Gateway:
    """A writer of the log and a reader of windows, as a gateway process has them."""

    reads: Windows

    def __init__(self, home: Path, definition: ModelDefinition, name: str) -> None:
        self.name = name
        self._definition = definition
        self.log = SqliteDecisionLog(home, projection=WindowProjection())
        self.reads = WindowReads(
            home / DATABASE, definition.name, definition.windows, definition.entities
        )

    def close(self) -> None:
        self.log.close()
        self.reads.close()

    def answer(self, decision_id: str, event_ms: int, request: dict[str, Any]) -> Record:
        """What a gateway would record of a request now."""
        entities = self._definition.entities
        row = self.reads.read({e: request[key] for e, key in entities.items()}, event_ms)
        return decision(decision_id, event_ms, request, row)

    def write(self, records: Sequence[Record]) -> None:
        self.log.append(self.name, [Entry(record) for record in records])


def decision(
    decision_id: str, event_ms: int, request: dict[str, Any], row: OnlineRow | None = None
) -> Record:
    payload: dict[str, Any] = {"request": request, "features": {} if row is None else row.values}
    if row is not None and row.position is not None:
        payload["windows_at"] = row.position
    return Record(
        kind="decision", decision_id=decision_id, model="fraud", event_ms=event_ms,
        recorded_ms=event_ms, payload=payload,
    )  # fmt: skip


def request(chance: random.Random, customers: int = 5, terminals: int = 4) -> dict[str, Any]:
    amount = chance.choice([chance.random() * 100, 12.345, 999_999.995, 0.0])
    return {
        "customer_id": -chance.randrange(customers), "terminal_id": chance.randrange(terminals),
        "amount": amount,
    }  # fmt: skip


def event_ms(chance: random.Random, at_ms: int) -> int:
    """Of a payment that arrives now: some are late, some very, some of a clock that is ahead."""
    kind = chance.random()
    if kind < 0.2:
        return at_ms - chance.randrange(300_000)
    if kind < 0.25:
        return at_ms + chance.randrange(300_000)
    return at_ms - chance.randrange(5 * 3_600_000) if kind < 0.28 else at_ms


def streamed(
    home: Path,
    definition: ModelDefinition,
    seed: int,
    count: int,
    names: Sequence[str],
    kind: Callable[[Path, ModelDefinition, str], Gateway] = Gateway,
) -> dict[str, dict[str, Any]]:
    """Payments that gateways answer, several at a time, ended and started again at random; what
    each was served, by decision id."""
    chance, at_ms, served = random.Random(seed), NOON_MS, {}
    with ExitStack() as stack:
        gateways = {n: stack.enter_context(closing(kind(home, definition, n))) for n in names}
        under_way: dict[str, list[Record]] = {name: [] for name in names}
        for number in range(count):
            at_ms += int(chance.expovariate(1 / 60_000))
            name = chance.choice(list(names))
            record = gateways[name].answer(
                f"{seed}-{number}", event_ms(chance, at_ms), request(chance)
            )
            served[record.decision_id] = record.payload["features"]
            under_way[name].append(record)
            if chance.random() < 0.5:
                gateways[name].write(under_way[name])
                under_way[name] = []
            if chance.random() < 0.02:  # it dies: what it had not recorded is answered to nobody
                for lost in under_way[name]:
                    del served[lost.decision_id]
                under_way[name] = []
                gateways[name] = stack.enter_context(closing(kind(home, definition, name)))
        for name, records in under_way.items():
            gateways[name].write(records)
    return served


def differing(
    offline: OfflineTable, served: dict[str, dict[str, Any]], share: float = 1.0
) -> list[tuple[str, str, float | None, float | None]]:
    """Cells of what was served that the offline recount does not give.

    Args:
        share: share (0-1) of the customers whose requests are counted again.
    """
    events = (
        offline.requests(sample=UnitSample(share)).order("event_time, request_id").to_arrow_table()
    )
    found = {row["request_id"]: row for row in with_windows(offline, events).to_pylist()}
    assert share < 1 or set(found) >= set(served)
    names = [w.name for w in offline.definition.windows]
    return [
        (one, name, row[name], served[one][name])
        for one, row in found.items()
        for name in names
        if one in served and bits(row[name]) != bits(served[one][name])
    ]
