"""Token buckets: the tokens at a moment, and the time until there are more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlplatform.scoring.admission.clients import RateLimit

BLOCK_S = 0.1
"""Seconds of a limit that make a block: ten renewals a second keep a process supplied."""


@dataclass(frozen=True, slots=True)
class Level:
    """The tokens of a bucket at a moment of wall time."""

    tokens: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class Take:
    """A process's request for up to `tokens` tokens of a bucket with this limit."""

    bucket: str
    limit: RateLimit
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """The tokens that a bucket gave.

    Args:
        retry_after_s: seconds until one more token is available; 0 if all requested tokens were
            given.
    """

    bucket: str
    tokens: int
    retry_after_s: float


def full(limit: RateLimit, now_ms: int) -> Level:
    """The level of a bucket from which nobody has taken yet."""
    return Level(float(limit.burst), now_ms)


def refilled(level: Level, limit: RateLimit, now_ms: int) -> Level:
    """The level now. A clock that was set back neither adds nor removes tokens."""
    passed_s = max(now_ms - level.at_ms, 0) / 1000
    tokens = min(level.tokens + passed_s * limit.rate_per_s, float(limit.burst))
    return Level(tokens, max(now_ms, level.at_ms))


def take_tokens(level: Level, take: Take, now_ms: int) -> tuple[Level, TokenGrant]:
    """Take whole tokens, as many as wanted and available. Returns the level that is left, and the
    grant."""
    now = refilled(level, take.limit, now_ms)
    tokens = min(take.tokens, math.floor(now.tokens))
    left = now.tokens - tokens
    wait_s = 0.0 if tokens == take.tokens else (math.floor(left) + 1 - left) / take.limit.rate_per_s
    return Level(left, now.at_ms), TokenGrant(take.bucket, tokens, wait_s)


def block_size(limit: RateLimit) -> int:
    """Most tokens that one process holds unused."""
    return max(min(math.ceil(limit.rate_per_s * BLOCK_S), limit.burst), 1)
