"""Token buckets: how many tokens there are at a moment, and how long until there are more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlplatform.scoring.admission.clients import RateLimit

LEASE_S = 0.1
"""A block is what a limit allows in this time: ten renewals a second keep a process supplied."""


@dataclass(frozen=True, slots=True)
class Level:
    """The tokens of a bucket at a moment of wall time."""

    tokens: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class Take:
    """A process's wish: up to `tokens` of a bucket with this limit."""

    bucket: str
    limit: RateLimit
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What was given.

    Args:
        retry_after_s: until one more token is there; 0 where all that was asked for was given.
    """

    bucket: str
    tokens: int
    retry_after_s: float


def full(limit: RateLimit, now_ms: int) -> Level:
    """A bucket that nobody took from yet."""
    return Level(float(limit.burst), now_ms)


def refilled(level: Level, limit: RateLimit, now_ms: int) -> Level:
    """The level now. A clock that was set back refills nothing and takes nothing away."""
    passed_s = max(now_ms - level.at_ms, 0) / 1000
    tokens = min(level.tokens + passed_s * limit.rate_per_s, float(limit.burst))
    return Level(tokens, max(now_ms, level.at_ms))


def take_tokens(level: Level, take: Take, now_ms: int) -> tuple[Level, TokenGrant]:
    """Whole tokens, as many as wanted and there; the level that is left."""
    now = refilled(level, take.limit, now_ms)
    tokens = min(take.tokens, math.floor(now.tokens))
    left = now.tokens - tokens
    wait_s = 0.0 if tokens == take.tokens else (math.floor(left) + 1 - left) / take.limit.rate_per_s
    return Level(left, now.at_ms), TokenGrant(take.bucket, tokens, wait_s)


def block(limit: RateLimit) -> int:
    """How many tokens one process holds at most without having used them."""
    return max(min(math.ceil(limit.rate_per_s * LEASE_S), limit.burst), 1)
