"""`make bench-claims`: what a claim on an idempotency key costs on Valkey and on PostgreSQL, in us.

A request pays for two round trips: the claim of its key, and settling it. Both servers run on this
machine, once as they survive a killed process and once as they survive a power cut. PostgreSQL is
asked by one statement that does what the script on Valkey does. Writes build/bench/key_claims.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop
from tests.drills.keys_apart import new_claim, new_completion
from tests.servers import postgres as postgres_server
from tests.servers.instances import Postgres, postgres, redis

from mlplatform.runtime.storage.postgres import connect
from mlplatform.scoring.key_claims.port import KeyClaim, KeyCompletion
from mlplatform.scoring.key_claims.redis import PREFIX, RedisClaims

OUT = Path(__file__).parents[2] / "build" / "bench" / "key_claims.json"
AT_ONCE = (1, 8, 32)
TABLE = """
CREATE TABLE key_claims (
    key bytea PRIMARY KEY, body bytea NOT NULL, decision bytea NOT NULL, token int NOT NULL,
    lease_at timestamptz, earlier bytea, answer bytea, ends_at timestamptz NOT NULL
)
"""
CLAIM = """
WITH asked(key, body, decision) AS (
    SELECT * FROM unnest(CAST(:keys AS bytea[]), CAST(:bodies AS bytea[]), CAST(:ids AS bytea[]))
), claimed AS (
    INSERT INTO key_claims AS k
    SELECT key, body, decision, 1, now() + interval '5 s', NULL, NULL, now() + interval '7 d'
    FROM asked ORDER BY key
    ON CONFLICT (key) DO UPDATE SET token = k.token + 1, decision = excluded.decision,
        earlier = coalesce(k.earlier, '') || k.decision, lease_at = excluded.lease_at
    WHERE k.answer IS NULL AND k.lease_at < now()
    RETURNING key, token, earlier
)
SELECT key, token, earlier, NULL, NULL, NULL FROM claimed
UNION ALL
SELECT k.key, k.token, k.earlier, k.decision, k.answer, k.body FROM key_claims k JOIN asked a
USING (key) WHERE NOT EXISTS (SELECT 1 FROM claimed c WHERE c.key = a.key)
"""
SETTLE = """
UPDATE key_claims k SET answer = a.answer, lease_at = NULL
FROM unnest(CAST(:keys AS bytea[]), CAST(:ids AS bytea[]), CAST(:answers AS bytea[]))
    a(key, decision, answer)
WHERE k.key = a.key AND k.decision = a.decision AND k.answer IS NULL RETURNING k.key
"""
Ask = Callable[[Sequence[Any]], Awaitable[object]]


async def each_us(ask: Ask, steps: Sequence[Any], at_once: int) -> dict[str, float]:
    """For one step: median and 99th percentile of the time, and this process's processor time."""
    took, began_cpu_s = [], time.thread_time()
    for start in range(0, len(steps), at_once):
        some = steps[start : start + at_once]
        began_s = time.perf_counter()
        await ask(some)
        took.append((time.perf_counter() - began_s) / len(some) * 1e6)
    cpu_us = (time.thread_time() - began_cpu_s) / len(steps) * 1e6
    p99 = statistics.quantiles(took, n=100)[98] if len(took) > 1 else took[0]
    return {
        k: round(v, 1) for k, v in (("p50", statistics.median(took)), ("p99", p99), ("cpu", cpu_us))
    }


async def measured(claim: Ask, settle: Ask, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for at_once in AT_ONCE:
        claims = [new_claim() for _ in range(count)]
        found[f"claim_of_{at_once}"] = await each_us(claim, claims, at_once)
        settled = [new_completion(one) for one in claims]
        found[f"settle_of_{at_once}"] = await each_us(settle, settled, at_once)
    return found


async def on_valkey(count: int, *, durable: bool) -> dict[str, Any]:
    server = redis()
    store = RedisClaims(server.address, answer_s=10.0)
    try:
        await store._redis.config_set("appendfsync", "always" if durable else "no")
        found = await measured(store.carry_out, store.carry_out, count)
        claim = new_claim()
        await store.carry_out([claim])
        await store.carry_out([new_completion(claim)])
        size = await store._redis.memory_usage(PREFIX + claim.key, samples=0)
        return {"server": server.version, **found, "bytes_a_key": size}
    finally:
        await store.close()
        if server.server is not None:
            server.server.close()


async def on_postgres(count: int, *, durable: bool) -> dict[str, Any]:
    with _settings(fsync="on" if durable else "off"):
        server = postgres()
    try:
        found, size = await _asked(server, count)
        return {"server": server.version, **found, "bytes_a_key": size}
    finally:
        if server.server is not None:
            server.server.close()


async def _asked(server: Postgres, count: int) -> tuple[dict[str, Any], int]:
    database = server.database()
    made = connect(database, "bench", database.password(), answer_s=10.0)
    with contextlib.closing(made) as connection:
        connection.run(TABLE)
        claiming, settling = connection.prepare(CLAIM), connection.prepare(SETTLE)

        async def claim(some: Sequence[KeyClaim]) -> object:
            return claiming.run(
                keys=[one.key for one in some],
                bodies=[bytes.fromhex(one.body_digest)[:16] for one in some],
                ids=[bytes.fromhex(one.decision_id) for one in some],
            )

        async def settle(some: Sequence[KeyCompletion]) -> object:
            return settling.run(
                keys=[one.key for one in some],
                ids=[bytes.fromhex(one.decision_id) for one in some],
                answers=[os.urandom(17) for _ in some],
            )

        found = await measured(claim, settle, count)
        query = "SELECT pg_total_relation_size('key_claims') / count(*) FROM key_claims"
        return found, int(connection.run(query)[0][0])


@contextlib.contextmanager
def _settings(**changed: str) -> Iterator[None]:
    before = dict(postgres_server.SETTINGS)
    postgres_server.SETTINGS.update(changed)
    try:
        yield
    finally:
        postgres_server.SETTINGS.update(before)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.key_claims", description=__doc__)
    parser.add_argument("--count", type=int, default=2_000, help="keys a row (%(default)s)")
    count = parser.parse_args().count
    found = {
        f"{name}, {'power cut' if durable else 'killed process'}": uvloop.run(
            measure(count, durable=durable)
        )
        for durable in (False, True)
        for name, measure in (("valkey", on_valkey), ("postgres", on_postgres))
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
