"""State as earlier commits of this repository wrote it: their SQL, word for word, with rows."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Final

RECORDS: Final = """
CREATE TABLE IF NOT EXISTS records (
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    decision_id TEXT NOT NULL,
    model TEXT NOT NULL,
    event_ms INTEGER NOT NULL,
    recorded_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    rollout_id TEXT,
    arm TEXT,
    answered_by TEXT,
    unit INTEGER,
    bucket INTEGER,
    version INTEGER,
    bundle TEXT,
    score REAL,
    decision TEXT,
    degraded INTEGER NOT NULL,
    degraded_reason TEXT,
    latency_us INTEGER,
    label INTEGER,
    payload_digest BLOB NOT NULL,
    digest BLOB NOT NULL,
    chain BLOB NOT NULL,
    payload TEXT,
    PRIMARY KEY (writer, seq)
) STRICT;
CREATE TABLE IF NOT EXISTS idempotency (
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    key TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    answer BLOB NOT NULL,
    decision_id TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (client, model, key)
) STRICT;
CREATE TABLE IF NOT EXISTS writers (
    writer TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    chain BLOB NOT NULL,
    event_ms INTEGER,
    heartbeat_at_ms INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    session INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER PRIMARY KEY,
    writer TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    chain BLOB NOT NULL,
    sha256 TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL,
    UNIQUE (writer, first)
) STRICT;
"""
"""Of 1bc2605, the first decision log."""

SPILLS: Final = """
CREATE INDEX IF NOT EXISTS idempotency_expiry ON idempotency (expires_at_ms);
CREATE TABLE IF NOT EXISTS spills (
    spill TEXT PRIMARY KEY,
    moved INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
"""What ebd8cb6 had beside that."""

JOURNAL: Final = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY, rollout_id TEXT, model TEXT, body TEXT NOT NULL, routes TEXT,
    fence INTEGER, digest TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS journal_of_rollout ON journal (rollout_id, seq);
CREATE TABLE IF NOT EXISTS rollouts (
    rollout_id TEXT PRIMARY KEY, model TEXT NOT NULL, opened INTEGER NOT NULL,
    phase TEXT NOT NULL, ramping INTEGER NOT NULL, finished INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_ramping ON rollouts (model) WHERE ramping = 1;
CREATE TABLE IF NOT EXISTS routes (
    model TEXT PRIMARY KEY, generation INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS passes (
    model TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT, ttl_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS gateways (
    gateway TEXT PRIMARY KEY, generations TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT;
"""
"""Of bb4d648, before rollouts had a schema version."""

KEYS: Final = """
CREATE TABLE IF NOT EXISTS keys (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL, scopes TEXT NOT NULL, priority TEXT NOT NULL, rate_per_s REAL,
    burst INTEGER, created_ms INTEGER NOT NULL, expires_ms INTEGER, revoked_ms INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS keys_version (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO keys_version VALUES (1, 0);
CREATE TABLE IF NOT EXISTS buckets (
    bucket TEXT PRIMARY KEY, tokens REAL NOT NULL, at_ms INTEGER NOT NULL) STRICT;
"""
"""Of 74024dc."""


def write(path: Path, *scripts: str) -> None:
    """A database in write-ahead mode as those statements make it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        for script in scripts:
            db.executescript(script)


def keep(path: Path, client: str, model: str, *decisions: str) -> None:
    """Idempotency keys, each of the name of its decision, as RECORDS keeps them for ten years."""
    expires_ms = int((time.time() + 3650 * 86_400) * 1000)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for name in decisions:
            answer = f"answer to {name}".encode()
            row = (client, model, name, "body", answer, name, expires_ms)
            db.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def version(path: Path, part: str) -> int | None:
    """The version that a database says of a part; None where it says none."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_versions'").fetchone():
            return None
        query = "SELECT version FROM schema_versions WHERE part = ?"
        row = db.execute(query, (part,)).fetchone()
    return None if row is None else int(row[0])


def become_newer(path: Path, part: str) -> None:
    """What a newer release would leave."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE schema_versions SET version = version + 1 WHERE part = ?", (part,))


def earlier_decision_id(model: str, wall_ms: int, key: bytes) -> str:
    """As gateways gave them out before ids said whose they are."""
    body = f"{wall_ms:012x}{secrets.token_hex(5)}"
    data = f"{model}/{body}".encode()
    mac = hashlib.blake2b(data, key=key, person=b"decision-id", digest_size=5)
    return body + mac.hexdigest()
