"""Token buckets on a Redis or Valkey server, shared by the gateways of all machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.redis import client, translated
from mlplatform.scoring.admission.bucket import Take, TokenGrant
from mlplatform.scoring.admission.store import FORGET_AFTER_MS

PREFIX: Final = "{mlplatform:buckets}:"
"""Prefix of keys. Its braces put all buckets into one slot of a cluster, because one script works
on several."""

_TAKE: Final = """
local now, forget, given = tonumber(ARGV[1]), ARGV[2], {}
for at, name in ipairs(KEYS) do
  local rate, burst, wanted = unpack(ARGV, 3 * at, 3 * at + 2)
  rate, burst, wanted = tonumber(rate), tonumber(burst), tonumber(wanted)
  local stored = redis.call('HMGET', name, 'tokens', 'at_ms')
  local tokens, since = burst, now
  if stored[1] then
    since = tonumber(stored[2])
    tokens = math.min(tonumber(stored[1]) + math.max(now - since, 0) / 1000 * rate, burst)
    since = math.max(now, since)
  end
  local taken = math.min(wanted, math.floor(tokens))
  local left, wait = tokens - taken, 0
  if taken < wanted then wait = (math.floor(left) + 1 - left) / rate end
  redis.call('HSET', name, 'tokens', string.format('%.17g', left), 'at_ms',
    string.format('%.0f', since))
  redis.call('PEXPIRE', name, forget)
  given[at] = {taken, string.format('%.17g', wait)}
end
return given
"""
"""`bucket.take_tokens` for several buckets, as a script on the server. ARGV: now, the life, then
rate, burst and wish of each. A contract test compares both."""


class RedisBuckets:
    """`Buckets` on a server; safe for threads and processes.

    Levels need not outlive the server: a bucket that was lost is full.

    Args:
        answer_s: seconds to wait for an answer of the server.
    """

    def __init__(self, address: Address, *, answer_s: float) -> None:
        self._address = address
        self._redis = client(address, answer_s=answer_s)
        self._take = self._redis.register_script(_TAKE)

    def close(self) -> None:
        self._redis.close()

    def take(self, takes: Sequence[Take], now_ms: int) -> list[TokenGrant]:
        wishes = [w for t in takes for w in (repr(t.limit.rate_per_s), t.limit.burst, t.tokens)]
        with translated(self._address):
            taken = self._take(
                keys=[f"{PREFIX}{take.bucket}" for take in takes],
                args=[now_ms, FORGET_AFTER_MS, *wishes],
            )
        return [
            TokenGrant(take.bucket, int(tokens), float(wait_s))
            for take, (tokens, wait_s) in zip(takes, taken, strict=True)
        ]
