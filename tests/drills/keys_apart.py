"""`make drill-idempotency GATEWAYS=3`: gateways with logs apart share keys by claims on a Valkey.

Under load one gateway is killed and comes back, and another is lost for good with its home. No
answer may change, and no key may have two decisions that stand, in whichever log.
"""

from __future__ import annotations

import collections
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from tests.drills.idempotency import Load, send_all, take_steps, verified
from tests.servers.instances import redis
from tests.servers.valkey import ValkeyServer

from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.key_claims.port import ClaimStep, KeyClaim, KeyCompletion
from mlplatform.scoring.key_claims.redis import PREFIX, RedisClaims
from support.homes_world import HomesWorld

RECOVERY_S = 30.0
MEASURED = 2_000
AT_ONCE = 32


def run(folder: Path, retries: int, homes: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Counts of what came back and what is on record; `expected` holds what they have to be.

    Args:
        homes: at least 3: one is killed, one is lost, and one stays.
    """
    if homes < 3:
        raise SystemExit(f"GATEWAYS={homes}: one is killed, one is lost, one stays: 3 or more")
    server = redis()
    try:
        world = HomesWorld(folder, server.address, homes)
        try:
            found = _drill(world, retries, tell)
        finally:
            world.close()
        cost = uvloop.run(claim_cost(server.address))
        return found | {"store": server.version, "claim": cost}
    finally:
        if isinstance(server.server, ValkeyServer):
            server.server.close()


def _drill(world: HomesWorld, retries: int, tell: Callable[[str], None]) -> dict[str, Any]:
    world.shadow(world.deploy(2, offset=0.25))
    load = Load([one.port for one in world.gateways], world.headers, retries)
    names = [one.name for one in world.gateways]
    began_s = time.monotonic()
    uvloop.run(send_all(load, lambda: _story(world, load, tell)))
    seconds = time.monotonic() - began_s
    return {
        "gateways": names,
        "retries": load.retried,
        "keys": load.keys,
        "changed": load.changed,
        "cut_off_twice": load.unanswered,
        "cut_off": load.lost,
        "refused": {str(status): count for status, count in load.refused.items()},
        **_recorded(world, load),
        "verified": all(verified(home) for home in [*_homes(world), *world.lost]),
        "recovery_s": round(load.recovery_s, 1),
        "is_back_in_time": load.recovery_s <= RECOVERY_S,
        "seconds": round(seconds, 1),
        "requests_per_s": round((load.retried + load.keys) / seconds),
        "expected": {
            "changed": 0,
            "doubled": 0,
            "doubled_without_the_lost": 0,
            "missing": 0,
            "verified": True,
            "is_back_in_time": True,
        },
    }


def _story(world: HomesWorld, load: Load, tell: Callable[[str], None]) -> None:
    killed, lost = world.gateways[1], world.gateways[2]

    def kill() -> None:
        killed.kill()
        world.start(killed)

    def lose() -> None:
        load.ports.remove(lost.port)  # as a balancer, once it has noticed
        world.lose(lost)

    take_steps(
        load,
        tell,
        [
            ("canary 1 %", lambda: world.canary(1.0)),
            ("canary 25 %", lambda: world.canary(25.0)),
            (f"kill -9 {killed.name}", kill),
            ("canary 50 %", lambda: world.canary(50.0)),
            (f"{lost.name} and its home are lost", lose),
            ("rollback", world.roll_back),
        ],
    )


def _homes(world: HomesWorld) -> list[Any]:
    return [one.home for one in world.gateways]


def _recorded(world: HomesWorld, load: Load) -> dict[str, Any]:
    standing, left = world.standing(), world.standing(lost=False)
    told = {f"key-{n}": json.loads(a)["decision_id"] for n, a in enumerate(load.answers) if a}
    kept = {_key(r): r["decision_id"] for r in standing}
    left_ids = {r["decision_id"] for r in left}
    moved = sum(r["bucket"] < 5000 and r["arm"] == "champion" for r in standing)
    writers = collections.Counter(r["writer"] for r in world.all_records("decision"))
    return {
        "doubled": _doubled(standing),
        "doubled_without_the_lost": _doubled(left),
        "missing": sum(kept.get(key) != decision_id for key, decision_id in told.items()),
        "only_in_the_lost_log": sum(one not in left_ids for one in told.values()),
        "decided_alone": sum("key_claim" in r["payload"] for r in world.all_records("decision")),
        "changes": [_change(world, load, *one) for one in load.changes[:10]],
        "voided": len(world.all_records("void")),
        "generations": len({r["generation"] for r in standing}),
        "moved_by_the_ramp": moved,
        "records_by_writer": dict(sorted(writers.items())),
    }


def _change(world: HomesWorld, load: Load, number: int, body: bytes) -> dict[str, Any]:
    """What the logs have of a key whose answer changed."""
    ids = {json.loads(one)["decision_id"] for one in (load.answers[number], body)}
    records = [r for r in world.all_records("decision", "void") if r["decision_id"] in ids]
    return {
        "key": number,
        "first": json.loads(load.answers[number])["decision_id"],
        "then": json.loads(body)["decision_id"],
        "records": [
            (r["kind"], r["decision_id"], r["writer"], r["payload"].get("key_claim"))
            for r in records
        ],
    }


def _doubled(records: list[dict[str, Any]]) -> int:
    return len(records) - len({_key(r) for r in records})


def _key(record: dict[str, Any]) -> str:
    return str(record["payload"]["idempotency_key"])


async def claim_cost(address: Address) -> dict[str, float]:
    """Microseconds that the store takes for a key, one at a time and many at once, and bytes."""
    store = RedisClaims(address, answer_s=5.0)
    try:
        claims = [new_claim() for _ in range(MEASURED)]
        settled = [new_completion(claim) for claim in claims]
        more = [new_claim() for _ in range(MEASURED)]
        alone = await _each_us(store, claims, 1), await _each_us(store, settled, 1)
        again = [new_completion(claim) for claim in more]
        together = await _each_us(store, more, AT_ONCE), await _each_us(store, again, AT_ONCE)
        size = await store._redis.memory_usage(PREFIX + claims[0].key, samples=0)
    finally:
        await store.close()
    return {
        "claim_us": alone[0],
        "settle_us": alone[1],
        f"claim_us_of_{AT_ONCE}": together[0],
        f"settle_us_of_{AT_ONCE}": together[1],
        "bytes_a_key": float(size or 0),
    }


async def _each_us(store: RedisClaims, steps: list[Any], at_once: int) -> float:
    """The median over the round trips of this many steps, for each step."""
    took = []
    for start in range(0, len(steps), at_once):
        some: list[ClaimStep] = steps[start : start + at_once]
        began_s = time.perf_counter()
        await store.carry_out(some)
        took.append((time.perf_counter() - began_s) / len(some) * 1e6)
    return round(statistics.median(took), 1)


def new_claim() -> KeyClaim:
    return KeyClaim(os.urandom(16), os.urandom(16).hex(), os.urandom(21).hex(), 7 * DAY_MS)


def new_completion(claim: KeyClaim) -> KeyCompletion:
    body = {
        "decision": "approve",
        "score": 0.04,
        "reasons": [],
        "bundle": "5" * 64,
        "route": "champion",
        "decision_id": claim.decision_id,
    }
    answer = msgspec.json.encode(body)
    return KeyCompletion(
        *(claim.key, claim.body_digest, claim.decision_id, claim.keep_ms, 1, answer, 0.04)
    )
