"""Secrets of API keys: 256 random bits, of which only a digest is stored."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "mlp_"
"""Prefix by which scans of code and logs find a key."""


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: bytes) -> bytes:
    """SHA-256 of a secret. A slow hash protects what people choose; nobody can guess 256 random
    bits."""
    return hashlib.sha256(secret).digest()


def key_id(secret_digest: bytes) -> str:
    return secret_digest[:4].hex()
