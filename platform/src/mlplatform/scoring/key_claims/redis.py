"""Claims on idempotency keys on a Redis or Valkey server, by one script."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

from mlplatform.decisions.records.port import StoredAnswer, shortened
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.redis import loop_client, translated
from mlplatform.scoring.key_claims.packed_answers import (
    NAME_BYTES,
    PackedAnswer,
    packed,
    unpacked,
    whole,
)
from mlplatform.scoring.key_claims.port import (
    LEASE_MS,
    ClaimedKey,
    ClaimResult,
    ClaimStep,
    HeldKey,
    KeyCompletion,
    KeyRelease,
    LostAnswer,
    SettledKey,
)

PREFIX: Final = b"{mlkeys}:"
"""Prefix of all keys, short since each of millions has it. Its braces put them into one slot of a
cluster, because one script works on several."""
SHAPE: Final = PREFIX + b"s:"
MOST_SHAPES: Final = 4_096
"""Most shapes that a process stores; an answer of a further shape is stored whole."""
_ID_BYTES: Final = 21
_WIDTH: Final = 8


class _Kind(IntEnum):
    """The first number of a key's result in the script's answer."""

    CLAIMED = 0
    SETTLED = 1
    HELD = 2
    LOST = 3


_SCRIPT: Final = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease, results = tonumber(ARGV[1]), {{}}

local function settle(name, body, id, keep, answer, shape)
  redis.call('DEL', name)
  redis.call('HSET', name, 'b', body, 'i', id, 'a', answer)
  redis.call('PEXPIRE', name, keep)
  if shape ~= '' then
    local text = '{SHAPE.decode()}' .. string.sub(answer, 2, {1 + NAME_BYTES})
    -- longer than any key that names it; renewed within a day, not each time
    if redis.call('PTTL', text) < tonumber(keep) then
      redis.call('SET', text, shape, 'PX', keep + 86400000)
    end
  end
end

local function hold(name, body, id, keep, token, earlier)
  redis.call('HSET', name, 'b', body, 'i', id, 't', token, 'l',
    string.format('%.0f', now + lease))
  if earlier ~= '' then redis.call('HSET', name, 'e', earlier) end
  redis.call('PEXPIRE', name, keep)
  return {{{_Kind.CLAIMED}, token, earlier}}
end

local function has(earlier, id)
  for at = 1, #earlier, {_ID_BYTES} do
    if string.sub(earlier, at, at + {_ID_BYTES - 1}) == id then return true end
  end
  return false
end

for at, name in ipairs(KEYS) do
  local act, body, id, token, keep, answer, shape, known = unpack(ARGV, {_WIDTH} * at - 6,
    {_WIDTH} * at + 1)
  local b, i, t, l, e, a = unpack(redis.call('HMGET', name, 'b', 'i', 't', 'l', 'e', 'a'))
  local earlier = e or ''
  if act == 'release' then
    if i == id and not a then
      if token == '0' and earlier == '' then
        redis.call('DEL', name)
      else
        redis.call('HSET', name, 'l', '0')
      end
    end
    results[at] = false
  elseif a then
    local text = false
    if string.byte(a, 1) > 0 then
      text = redis.call('GET', '{SHAPE.decode()}' .. string.sub(a, 2, {1 + NAME_BYTES}))
    end
    if text == false and string.byte(a, 1) > 0 then
      if known ~= i then
        results[at] = {{{_Kind.LOST}}}
      else
        settle(name, body, known, keep, answer, shape)
        results[at] = {{{_Kind.SETTLED}, body, known, answer, shape, ''}}
      end
    else
      results[at] = {{{_Kind.SETTLED}, b, i, a, text, ''}}
    end
  elseif act == 'complete' then
    if not i or i == id and (token == '0' or token == t) then
      settle(name, body, id, keep, answer, shape)
      results[at] = {{{_Kind.SETTLED}, body, id, answer, shape, ''}}
    else
      results[at] = {{{_Kind.HELD}, math.max(tonumber(l) - now, 0)}}
    end
  elseif not i then
    if known ~= '' then
      settle(name, body, known, keep, answer, shape)
      results[at] = {{{_Kind.SETTLED}, body, known, answer, shape, ''}}
    else
      results[at] = hold(name, body, id, keep, 1, '')
    end
  elseif known ~= '' and (i == known or i == id) then
    settle(name, body, known, keep, answer, shape)
    results[at] = {{{_Kind.SETTLED}, body, known, answer, shape, earlier}}
  elseif i == id then
    results[at] = {{{_Kind.CLAIMED}, tonumber(t), earlier}}
  elseif now < tonumber(l) then
    results[at] = {{{_Kind.HELD}, tonumber(l) - now}}
  elseif known ~= '' and not has(earlier, known) then
    settle(name, body, known, keep, answer, shape)
    results[at] = {{{_Kind.SETTLED}, body, known, answer, shape, earlier .. i}}
  else
    results[at] = hold(name, body, id, keep, t + 1, earlier .. i)
  end
end
return results
"""
"""Fields of a key: `b` digest of the request, `i` decision, `a` answer once it is settled; before
that `t` token, `l` end of the lease by the server's clock, `e` earlier decisions. ARGV: the lease,
then for each key act, digest, decision, token, life, answer, text of its shape, and the known
decision. Of a release the token says whether a record may exist."""


class RedisClaims:
    """`ClaimStore` on a server, for one event loop; safe for processes.

    Args:
        answer_s: seconds to wait for an answer of the server.
    """

    def __init__(self, address: Address, *, answer_s: float, lease_ms: int = LEASE_MS) -> None:
        self._address = address
        self._redis = loop_client(address, answer_s=answer_s)
        self._script = self._redis.register_script(_SCRIPT)
        self._lease_ms = lease_ms
        self._shapes: set[bytes] = set()

    async def close(self) -> None:
        await self._redis.aclose()

    async def carry_out(self, steps: Sequence[ClaimStep]) -> list[ClaimResult]:
        names = [PREFIX + step.key for step in steps]
        values = [value for step in steps for value in self._arguments(step)]
        with translated(self._address):
            found = await self._script(keys=names, args=[self._lease_ms, *values])
        return [_result(step, one) for step, one in zip(steps, found, strict=True)]

    async def doubts(self) -> list[str]:
        """Why the server may forget keys before they end, as it says itself."""
        with translated(self._address):
            memory = await self._redis.info("memory")
            found = {**memory, **await self._redis.info("persistence")}
        doubts = []
        if (policy := found.get("maxmemory_policy", "noeviction")) != "noeviction":
            doubts.append(f"it drops keys when memory is short (maxmemory-policy {policy})")
        if not found.get("aof_enabled", 0):
            doubts.append("a restart loses keys (appendonly no)")
        return doubts

    def _arguments(self, step: ClaimStep) -> tuple[bytes | str | int, ...]:
        decision = bytes.fromhex(step.decision_id)
        if isinstance(step, KeyRelease):
            return "release", b"", decision, int(step.may_be_recorded), 0, b"", b"", b""
        if isinstance(step, KeyCompletion):
            head = ("complete", _digest(step.body_digest), decision, step.token, step.keep_ms)
            one = self._packed(step)
            return (*head, one.data, one.shape, b"")
        if (known := step.known) is None:
            digest = _digest(step.body_digest)
            return "claim", digest, decision, 0, step.keep_ms, b"", b"", b""
        digest, own = _digest(known.body_digest), bytes.fromhex(known.decision_id)
        return "claim", digest, decision, 0, step.keep_ms, whole(known.answer).data, b"", own

    def _packed(self, step: KeyCompletion) -> PackedAnswer:
        one = packed(step.answer, step.decision_id, step.score)
        name = one.data[1 : 1 + NAME_BYTES]
        if one.shape and name not in self._shapes:
            if len(self._shapes) >= MOST_SHAPES:
                return whole(step.answer)
            self._shapes.add(name)
        return one


def _digest(body_digest: str) -> bytes:
    return bytes.fromhex(shortened(body_digest))


def _result(step: ClaimStep, found: Any) -> ClaimResult:
    match found:
        case None:
            return None
        case [_Kind.CLAIMED, token, earlier]:
            return ClaimedKey(int(token), _ids(earlier))
        case [_Kind.SETTLED, body, decision, data, text, superseded]:
            decision_id = decision.hex()
            answer = unpacked(data, text or b"", decision_id)
            return SettledKey(StoredAnswer(answer, body.hex(), decision_id), _ids(superseded))
        case [_Kind.HELD, left_ms]:
            return HeldKey(int(left_ms))
        case [_Kind.LOST]:
            return LostAnswer()
    raise Unavailable(f"the store of claims answers {type(step).__name__} with {found!r}")


def _ids(joined: bytes) -> tuple[str, ...]:
    starts = range(0, len(joined), _ID_BYTES)
    return tuple(joined[start : start + _ID_BYTES].hex() for start in starts)
