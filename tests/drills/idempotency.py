"""`make drill-idempotency`: retries by key over two gateways while a canary ramps; none may change.

In the middle one gateway is killed, and in the end the rollout is rolled back. COUNT is how many
retries; writes build/drills/idempotency.json. With GATEWAYS=3 each gateway has a home and a log of
its own, and another one is lost for good (`keys_apart.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.runtime.configuration.settings import Home
from support.gateways_world import GatewaysWorld
from support.scoring_world import MODEL, payment

OUT = Path(__file__).parents[2] / "build" / "drills" / "idempotency.json"
CONNECTIONS = 32
REQUESTS_PER_CONNECTION = 50
"""Then another is opened: whichever gateway wakes first may have taken all of the first ones, and
one that was started again has none."""
RETRIES_PER_KEY = 20
TWIN_SHARE = 0.2
"""Of the keys; these are sent twice at once, so that both gateways may answer first."""
PAUSE_S = 0.005
RETRY_AFTER_S = 1.0
"""What 409 and 503 say, to the second."""
STEP_LIMIT_S = 600.0


class KeyedRequest(NamedTuple):
    """A request of the key with this number, and when its connection was cut off before."""

    number: int
    lost_s: float | None = None


class Load:
    """Which request comes next, and whether its answer is the one that its key had before.

    Args:
        ports: of gateways; each connection is to any one of them. It may change.
        retries: of keys that have an answer already.
    """

    def __init__(
        self, ports: list[int], headers: Mapping[str, str], retries: int, seed: int = 7
    ) -> None:
        self.ports = ports
        self.recovery_s = 0.0
        self.changes: list[tuple[int, bytes]] = []
        self.retries = retries
        self.allowed = 0
        self.retried = self.changed = self.lost = self.unanswered = 0
        self.refused: collections.Counter[int] = collections.Counter()
        self.answers: list[bytes] = []
        self._key = headers["Authorization"]
        self._keys = max(200, retries // RETRIES_PER_KEY)
        self._requests: list[bytes] = []
        self._known: list[int] = []
        self._again: collections.deque[KeyedRequest] = collections.deque()
        self._later: collections.deque[tuple[float, KeyedRequest]] = collections.deque()
        self._issued = 0
        self._random = random.Random(seed)

    @property
    def over(self) -> bool:
        return self._issued >= self.retries and not self._again and not self._later

    @property
    def keys(self) -> int:
        return len(self._known)

    def next(self) -> KeyedRequest | None:
        """What to send now; None while nothing is allowed."""
        if self._again:
            return self._again.popleft()
        if self._later and self._later[0][0] <= time.monotonic():
            return self._later.popleft()[1]
        made = len(self._requests)
        if made < self._keys * self._issued / self.retries + CONNECTIONS and made < self._keys:
            return self._fresh()
        if self._issued >= self.allowed or not self._known:
            return None
        self._issued += 1
        return KeyedRequest(self._random.choice(self._known))

    def request(self, sending: KeyedRequest) -> bytes:
        return self._requests[sending.number]

    def answered(self, sending: KeyedRequest, status: int, body: bytes) -> None:
        number = sending.number
        if status != 200:
            self.refused[status] += 1
            self._later.append((time.monotonic() + RETRY_AFTER_S, sending))
            return
        if sending.lost_s is not None:
            self.recovery_s = max(self.recovery_s, time.monotonic() - sending.lost_s)
        if not self.answers[number]:
            self.answers[number] = body
            self._known.append(number)
        else:
            self.retried += 1
            if body != self.answers[number]:
                self.changed += 1
                self.changes.append((number, body))

    def cut_off(self, sending: KeyedRequest) -> None:
        """The connection ended before the answer: its one retry has to be answered."""
        self.lost += 1
        self.unanswered += sending.lost_s is not None
        self._again.append(KeyedRequest(sending.number, sending.lost_s or time.monotonic()))

    def port(self) -> int:
        """Where the next connection goes."""
        return self._random.choice(self.ports)

    def _fresh(self) -> KeyedRequest:
        number = len(self._requests)
        sent = json.dumps(payment(float(number * 37 % 900), customer=number % 9973)).encode()
        head = (
            f"POST /api/v1/models/{MODEL}/score HTTP/1.1\r\nhost: gateway\r\n"
            f"authorization: {self._key}\r\ncontent-type: application/json\r\n"
            f"x-request-timeout-ms: 2000\r\nidempotency-key: key-{number}\r\n"
            f"content-length: {len(sent)}\r\n\r\n"
        )
        self._requests.append(head.encode() + sent)
        self.answers.append(b"")
        if self._random.random() < TWIN_SHARE:
            self._again.append(KeyedRequest(number))
            self._issued += 1
        return KeyedRequest(number)


class Connection(asyncio.Protocol):
    """One request after the other, without a task or a future for any of them."""

    def __init__(self, load: Load) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._load = load
        self._sent: KeyedRequest | None = None
        self._left = REQUESTS_PER_CONNECTION
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent is not None:
            self._load.cut_off(self._sent)
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        start = head.index(b"content-length: ") + 16
        if len(body) < int(head[start:].partition(b"\r")[0]):
            return
        sent, self._sent, self._buffer = self._sent, None, b""
        assert sent is not None
        self._load.answered(sent, int(head[9:12]), body)
        self._left -= 1
        self._send()

    def _send(self) -> None:
        if self._transport.is_closing():
            return
        if self._load.over or self._left <= 0:
            self._transport.close()
            return
        self._sent = self._load.next()
        if self._sent is None:
            asyncio.get_running_loop().call_later(PAUSE_S, self._send)
        else:
            self._transport.write(self._load.request(self._sent))


async def _keep_connected(load: Load) -> None:
    loop = asyncio.get_running_loop()
    while not load.over:
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(load), "127.0.0.1", load.port()
            )
        except OSError:
            await asyncio.sleep(PAUSE_S)
            continue
        await connection.closed


async def send_all(load: Load, story: Callable[[], None]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_keep_connected(load))
        await asyncio.to_thread(story)


def drill(world: GatewaysWorld, retries: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Counts of what came back; `expected` holds what they have to be."""
    world.promote(world.deploy(1))
    challenger = world.deploy(2, offset=0.25)
    world.shadow(challenger)
    load = Load([world.port], world.headers, retries)
    began_s = time.monotonic()
    uvloop.run(send_all(load, lambda: _ramp(world, load, tell)))
    seconds = time.monotonic() - began_s
    records = world.records("decision")
    return {
        "gateways": len(world.names),
        "retries": load.retried,
        "keys": load.keys,
        "changed": load.changed,
        "unanswered": load.unanswered,
        "cut_off": load.lost,
        "refused": {str(status): count for status, count in load.refused.items()},
        **recorded(load, records),
        "verified": verified(world.home),
        "seconds": round(seconds, 1),
        "requests_per_s": round((load.retried + load.keys) / seconds),
        "expected": {"changed": 0, "unanswered": 0, "doubled": 0, "missing": 0, "verified": True},
    }


def _ramp(world: GatewaysWorld, load: Load, tell: Callable[[str], None]) -> None:
    def kill() -> None:
        world.await_successor("gateway-0", world.kill("gateway-0"))

    take_steps(
        load,
        tell,
        [
            ("canary 1 %", lambda: world.canary(1.0)),
            ("canary 5 %", lambda: world.canary(5.0)),
            ("canary 25 %", lambda: world.canary(25.0)),
            ("kill -9 gateway-0", kill),
            ("canary 50 %", lambda: world.canary(50.0)),
            ("rollback", world.roll_back),
        ],
    )


def take_steps(
    load: Load, tell: Callable[[str], None], steps: Sequence[tuple[str, Callable[[], object]]]
) -> None:
    """Each step is taken while retries are under way, and done before the next begins."""
    for position, (name, step) in enumerate(steps, start=1):
        load.allowed = load.retries * position // (len(steps) + 1)
        step()
        tell(f"{load.retried} of {load.retries} retries, {load.changed} changed; after {name}")
        end_s = time.monotonic() + STEP_LIMIT_S
        while load.retried < load.allowed * 0.95 and time.monotonic() < end_s:
            time.sleep(0.02)
    load.allowed = load.retries


def recorded(load: Load, records: list[dict[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(r["payload"]["idempotency_key"] for r in records)
    told = {f"key-{n}": json.loads(a)["decision_id"] for n, a in enumerate(load.answers) if a}
    kept = {r["payload"]["idempotency_key"]: r["decision_id"] for r in records}
    # Champion's at first, and within the challenger's share later: another answer by then.
    moved = sum(r["bucket"] < 5000 and r["arm"] == "champion" for r in records)
    return {
        "doubled": sum(counts.values()) - len(counts),
        "missing": sum(kept.get(key) != decision_id for key, decision_id in told.items()),
        "generations": len({r["generation"] for r in records}),
        "moved_by_the_ramp": moved,
        "records_by_writer": dict(
            sorted(collections.Counter(r["writer"] for r in records).items())
        ),
    }


def verified(home: Home) -> bool:
    """Whether a home's log is what was written to it."""
    log = SqliteDecisionLog(home.decisions)
    try:
        return log.verify().ok
    finally:
        log.close()


def passed(found: dict[str, Any]) -> bool:
    """Whether everything is as expected, and the ramp gave some of the keys another arm at all."""
    as_expected = all(found[name] == wanted for name, wanted in found["expected"].items())
    return as_expected and found["moved_by_the_ramp"] > 0


def _run(count: int, gateways: int, homes: int) -> dict[str, Any]:
    def tell(text: str) -> None:
        print(f"drill: {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        if homes:
            from tests.drills import keys_apart  # it builds on this module

            return keys_apart.run(Path(folder), count, homes, tell)
        world = GatewaysWorld(Path(folder), gateways)
        try:
            return drill(world, count, tell)
        finally:
            world.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.drills.idempotency", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="retries (%(default)s)")
    parser.add_argument("--gateways", type=int, default=2, help="of one home (%(default)s)")
    parser.add_argument("--homes", type=int, default=0, help="with a gateway and a log each")
    arguments = parser.parse_args()
    found = _run(arguments.count, arguments.gateways, arguments.homes)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    print(f"{int(passed(found))} passed, {int(not passed(found))} failed")
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
