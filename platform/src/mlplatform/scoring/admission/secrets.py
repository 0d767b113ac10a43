"""API keys as their owners hold them: 256 random bits, of which only a digest is kept."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "mlp_"
"""Lets a scan of code and logs find a key that was left there."""


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: bytes) -> bytes:
    """SHA-256: a slow hash protects what people choose, and nobody can guess 256 random bits."""
    return hashlib.sha256(secret).digest()


def key_id(secret_digest: bytes) -> str:
    return secret_digest[:4].hex()
