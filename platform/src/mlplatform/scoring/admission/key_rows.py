"""A key as a row of a table, the same in every database."""

from __future__ import annotations

from typing import Any

import msgspec

from mlplatform.scoring.admission.clients import Key, RateLimit, parse_scope

COLUMNS = (
    "id", "digest", "client", "scopes", "priority", "rate_per_s", "burst", "created_ms",
    "expires_ms", "revoked_ms",
)  # fmt: skip


def row(key: Key) -> tuple[Any, ...]:
    """The values of the columns."""
    scopes = msgspec.json.encode(sorted(map(str, key.scopes))).decode()
    rate, burst = (key.limit.rate_per_s, key.limit.burst) if key.limit else (None, None)
    times = (key.created_ms, key.expires_ms, key.revoked_ms)
    return (key.id, key.digest, key.client, scopes, key.priority, rate, burst, *times)


def key(
    id_: str, digest: str, client: str, scopes: str, priority: Any, rate: float | None,
    burst: int | None, created_ms: int, expires_ms: int | None, revoked_ms: int | None,
) -> Key:  # fmt: skip
    """The key in a row."""
    return Key(
        id=id_,
        digest=digest,
        client=client,
        scopes=frozenset(map(parse_scope, msgspec.json.decode(scopes, type=list[str]))),
        priority=priority,
        limit=None if rate is None or burst is None else RateLimit(rate, burst),
        created_ms=created_ms,
        expires_ms=expires_ms,
        revoked_ms=revoked_ms,
    )
