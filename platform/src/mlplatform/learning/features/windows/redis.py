"""The state of real-time windows on a Redis or Valkey server, shared by gateways with logs of their
own.

A state is what the windows of one model.yaml need: a list of series, known by a digest of it. It
has a position (per writer of a log, the number of the last record that it holds) and tiles, a
string for each entity and series. All keys of a model have one hash tag, so they lie in one slot,
and one script adds records and moves the position: a record counts once, whatever dies when, and
the positions that reads find follow one another. A state is built under a token of its own, and
takes the place of the one before by the same key that holds the position.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import struct
import sys
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
from redis import Redis

from mlplatform.decisions.records.projection import ProjectedRecord
from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.windows.online import WindowValues
from mlplatform.learning.features.windows.state import KEPT_MS, MOST_BEHIND, is_key, request_of
from mlplatform.model.windows.declaration import Window
from mlplatform.model.windows.tiles import BITS, Columns, Series, request_tile, series_of
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.redis import client, translated
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

UNREAD_MS: Final = KEPT_MS
"""Milliseconds for which a state is updated after the last gateway declared it."""
WENT_BACK_S: Final = 60.0
"""Longest time in seconds that windows are stale after a server lost records that were served
already. Records that it lacks are added again within seconds, or are lost with their log."""
_NO_EVICTION: Final = "noeviction"
BATCH: Final = 500
"""Number of entities' tiles that one round trip writes while a state is built."""

_ADVANCE: Final = """
local function whole(text, at) return (struct.unpack('>i8', text, at)) end
local function less(a, b)
  local high_a, low_a = struct.unpack('>i4I4', a)
  local high_b, low_b = struct.unpack('>i4I4', b)
  if high_a ~= high_b then return high_a < high_b end
  return low_a < low_b
end
local function sum(a, b)  -- of two whole numbers of 64 bits; a number here holds 53
  local high_a, low_a = struct.unpack('>I4I4', a)
  local high_b, low_b = struct.unpack('>I4I4', b)
  local low, high = low_a + low_b, high_a + high_b
  if low >= 4294967296 then low, high = low - 4294967296, high + 1 end
  return struct.pack('>I4I4', high % 4294967296, low)
end
local function joined(a, b)  -- by or
  local high_a, low_a = struct.unpack('>I4I4', a)
  local high_b, low_b = struct.unpack('>I4I4', b)
  local high, low = bit.bor(high_a, high_b), bit.bor(low_a, low_b)
  return struct.pack('>I4I4', high % 4294967296, low % 4294967296)
end
local function cell(row, column) return row:sub(8 * column + 1, 8 * column + 8) end
local function merged(old, new, kinds)
  local parts = {new:sub(1, 8)}
  for column = 1, #kinds do
    local a, b = cell(old, column), cell(new, column)
    local kind = kinds:sub(column, column)
    if kind == '+' then a = sum(a, b)
    elseif kind == '|' then a = joined(a, b)
    elseif kind == 'l' or kind == 'f' then  -- with the time that the next column holds
      local at, other = cell(old, column + 1), cell(new, column + 1)
      if at == other then at, other = a, b end
      if at ~= other and (kind == 'l') == less(at, other) then a = b end
    elseif (kind == '>') == less(a, b) then a = b end
    parts[#parts + 1] = a
  end
  return table.concat(parts)
end
local function added(tiles, row, kinds, size, retained)
  local tile, at = whole(row, 1), #tiles - size + 1
  if at < 1 then return row end
  local newest = whole(tiles, at)
  if tile > newest then
    local from = 1
    while from <= #tiles and whole(tiles, from) <= tile - retained do from = from + size end
    return tiles:sub(from) .. row
  end
  if tile <= newest - retained then return tiles end
  while at >= 1 and whole(tiles, at) > tile do at = at - size end
  if at >= 1 and whole(tiles, at) == tile then
    row = merged(tiles:sub(at, at + size - 1), row, kinds)
    return tiles:sub(1, at - 1) .. row .. tiles:sub(at + size)
  end
  return tiles:sub(1, at + size - 1) .. row .. tiles:sub(at + size)
end

local stored = redis.call('GET', KEYS[1])
if not stored then return false end
local token, writer, before, after, head, life = unpack(ARGV, 1, 6)
local lines, seq, before_head = {}, '0', '0'
for line in stored:gmatch('[^\\n]+') do
  local name, at, known = line:match('^(%S+) (%d+) (%d+)$')
  if name == writer then seq, before_head = at, known else lines[#lines + 1] = line end
end
if lines[1] ~= token or seq ~= before then return stored end
if tonumber(head) < tonumber(before_head) then head = before_head end
lines[#lines + 1] = writer .. ' ' .. after .. ' ' .. head
local series, place = {}, 7
for number = 1, tonumber(ARGV[7]) do
  series[number] = {ARGV[place + 1], tonumber(ARGV[place + 2]), ARGV[place + 3]}
  place = place + 3
end
for number = 2, #KEYS do
  local kinds, retained, kept = unpack(series[tonumber(ARGV[place + 1])])
  local rows, size = ARGV[place + 2], 8 * (#kinds + 1)
  local tiles = redis.call('GET', KEYS[number]) or ''
  for at = 1, #rows, size do
    tiles = added(tiles, rows:sub(at, at + size - 1), kinds, size, retained)
  end
  redis.call('SET', KEYS[number], tiles, 'PX', kept)
  place = place + 2
end
stored = table.concat(lines, '\\n')
if life == '0' then redis.call('SET', KEYS[1], stored, 'KEEPTTL')
else redis.call('SET', KEYS[1], stored, 'PX', life) end
return stored
"""
"""`tiles.fold` as a script on the server, for records that follow those of their writer in a state.

KEYS are the position and the tiles that change. ARGV are token, writer, the numbers of its last
record before and after, of the last in its log, how long the state lives (0: as long as it would)
and the number of series. Then they are for each series the kinds of its columns, how many tiles are
retained and how long they are kept, and for each key its series and rows. A contract test compares
both. The answer is the position, whether it was moved or was already elsewhere; empty: no state.
Rows lie one after the other, in whole numbers of 64 bits, big-endian."""

_KINDS: Final[Mapping[str, str]] = {
    **{"last_ms": ">", "max": ">", "first_ms": "<", "min": "<", "last": "l", "first": "f"},
    **dict.fromkeys(BITS, "|"),
}
"""Kinds of columns that do not add up."""

_logger = logging.getLogger(__name__)
_logger.addFilter(RateLimitFilter())


@dataclass(frozen=True, slots=True)
class Position:
    """The records that a state holds.

    Args:
        token: identifies the tiles that belong to this state.
        seqs: per writer, the number of the last record that the state includes.
        heads: per writer, the number of the last record in its log, as it was last reported.
    """

    token: str
    seqs: Mapping[str, int]
    heads: Mapping[str, int]

    @property
    def behind(self) -> int:
        """The number of records that logs were reported to have, and that the state lacks."""
        return sum(max(head - self.seqs[writer], 0) for writer, head in self.heads.items())


class State(NamedTuple):
    """The series of one model.yaml's windows, with the digest that identifies them."""

    id: str
    series: tuple[Series, ...]


def state_of(windows: Sequence[Window], keys: Mapping[str, str]) -> State:
    """The state that these windows need.

    Args:
        keys: entity → the request field that holds its key.
    """
    series = tuple(one for one, _ in series_of(windows, keys))
    digest = hashlib.sha256(msgspec.json.encode(series)).hexdigest()[:16]
    return State(digest, series)


class RedisWindows:
    """The states of one model's windows on a server; safe for threads.

    Every method may raise Unavailable.

    Args:
        own: the state of the windows that model.yaml declares here.
        answer_s: seconds to wait for an answer of the server.
        redis: an existing client of the server, with its own time limits; None creates one.
    """

    def __init__(
        self,
        address: Address,
        model: str,
        own: State,
        *,
        answer_s: float,
        redis: Redis | None = None,
    ) -> None:
        self.model = model
        self.own = own
        self._address = address
        self._redis = client(address, answer_s=answer_s) if redis is None else redis
        self._script = self._redis.register_script(_ADVANCE)
        self._prefix = f"{{mlplatform:windows:{model}}}"

    def states(self) -> list[State]:
        """The states that are updated, with `own` if it is built. A state that nobody has declared
        for `UNREAD_MS` is dropped; one that is not understood, as of a newer release, is left to
        that release."""
        with translated(self._address):
            listed: Any = self._redis.hgetall(f"{self._prefix}:states")
            names = [name.decode() for name in listed]
            there = self._values([self._at(name) for name in names]) if names else []
        found = []
        for name, text, position in zip(names, listed.values(), there, strict=True):
            if position is None:
                continue
            try:
                series = msgspec.json.decode(text, type=tuple[Series, ...])
            except NOT_JSON as error:
                _logger.error("windows of %s: state %s: %s", self.model, name, error)
                continue
            found.append(State(name, series))
        return found

    def position(self, state: State) -> Position | None:
        """The records that a state holds; None if there is no such state."""
        with translated(self._address):
            return _position(self._values([self._at(state.id)])[0])

    def advance(
        self,
        state: State,
        before: Position,
        writer: str,
        records: Sequence[ProjectedRecord],
        head: int,
    ) -> Position | None:
        """Add the records that follow those of their writer in the state.

        All records are added or none. None is added if the state has moved since `before` for this
        writer, or was built anew.

        Args:
            records: the writer's records after `before`, without gaps; empty to report only `head`.
            head: number of the last record in the writer's log.

        Returns:
            The present position; None if the state no longer exists.
        """
        at = before.seqs.get(writer, 0)
        rows = _rows(self.model, state.series, records)
        names = [self._tiles(before.token, number, key) for number, key in rows]
        life_ms = UNREAD_MS + _longest_ms(state) if state == self.own else 0
        arguments: list[Any] = [
            *(before.token, writer, at, records[-1].seq if records else at, head, life_ms),
            len(state.series),
        ]
        for series in state.series:
            arguments += (_kinds(series), series.retained, _kept_ms(series))
        for (number, _), added in rows.items():
            arguments += (number + 1, bytes(added))
        with translated(self._address):
            return _position(self._script(keys=[self._at(state.id), *names], args=arguments))

    def build(self, position: Mapping[str, int], tiles: Iterable[tuple[int, Any, Columns]]) -> int:
        """Replace `own` by a newly built state, in one step. Returns its number of tiles of
        entities.

        Args:
            position: per writer, the number of the last record that the tiles include.
            tiles: for each entity and series: number of the series, key of the entity, and the
                tiles.

        Raises:
            Refused: the server may evict keys when its memory is full.
        """
        self._check_eviction()
        token, count, at = secrets.token_hex(8), 0, self._at(self.own.id)
        lines = [token, *(f"{writer} {seq} {seq}" for writer, seq in position.items())]
        rest = iter(tiles)
        with translated(self._address):
            while batch := list(islice(rest, BATCH)):
                pipeline = self._redis.pipeline(transaction=False)
                for number, key, columns in batch:
                    name = self._tiles(token, number, key)
                    pipeline.set(name, _packed(columns), px=_kept_ms(self.own.series[number]))
                pipeline.execute()
                count += len(batch)
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.getset(at, "\n".join(lines))
            pipeline.pexpire(at, UNREAD_MS + _longest_ms(self.own))
            pipeline.hset(
                f"{self._prefix}:states", self.own.id, msgspec.json.encode(self.own.series)
            )
            old = _position(pipeline.execute()[0])
            if old is not None:
                self._drop(old.token)
        return count

    def _check_eviction(self) -> None:
        """Raise if the server may evict tiles, because windows would lack records and nobody could
        tell."""
        with translated(self._address):
            memory: Any = self._redis.info("memory")
        policy = memory.get("maxmemory_policy", _NO_EVICTION)
        if memory.get("maxmemory") and policy != _NO_EVICTION:
            raise Refused(
                f"Redis at {self._address} has maxmemory-policy {policy}: with its memory full it"
                " would drop parts of windows, and nothing would show it;"
                f" set maxmemory-policy {_NO_EVICTION}"
            )

    def close(self) -> None:
        self._redis.close()

    def read(self, token: str, keys: Sequence[Any]) -> tuple[Position | None, list[bytes | None]]:
        """The position of `own` and the tiles of each of its series, all of one moment.

        Args:
            token: the token of the position. If it is another one, the tiles do not belong to the
                position.
            keys: for each series, the key of the entity.
        """
        names = [self._tiles(token, number, key) for number, key in enumerate(keys)]
        with translated(self._address):
            text, *tiles = self._values([self._at(self.own.id), *names])
        return _position(text), tiles

    def _drop(self, token: str) -> None:
        batch: list[bytes] = []
        for name in self._redis.scan_iter(
            match=f"{_escaped(self._prefix)}:t:{token}:*", count=1000
        ):
            batch.append(name)
            if len(batch) == BATCH:
                self._redis.unlink(*batch)
                batch = []
        if batch:
            self._redis.unlink(*batch)

    def _values(self, names: Sequence[str | bytes]) -> list[bytes | None]:
        """The values of these keys, all read at one time."""
        found: Any = self._redis.mget(names)
        return list(found)

    def _at(self, state: str) -> str:
        return f"{self._prefix}:at:{state}"

    def _tiles(self, token: str, number: int, key: object) -> bytes:
        kind = "s" if isinstance(key, str) else "i"
        value = int(key) if isinstance(key, int) else key
        return f"{self._prefix}:t:{token}:{number}:{kind}{value}".encode(errors="surrogatepass")


class RedisWindowReads:
    """`Windows` of a state on a server: one command a read; safe for threads.

    Args:
        keys: entity → the request field that holds its key.
    """

    is_remote = True

    def __init__(
        self, store: RedisWindows, windows: Sequence[Window], keys: Mapping[str, str]
    ) -> None:
        self._store = store
        self._values = WindowValues(windows, keys)
        self._widths = [len(series.columns) for series in self._values.series]
        self._token = ""
        self._reached: Mapping[str, int] = {}
        self._back_since_s: float | None = None

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        reached = self._reached
        asked = [keys.get(entity) for entity in self._values.entities]
        position, stored = self._store.read(self._token, asked)
        if position is not None and position.token != self._token:  # built anew meanwhile
            self._token = position.token
            position, stored = self._store.read(position.token, asked)
            if position is not None and position.token != self._token:
                raise Unavailable("windows are being built again and again")
        if (
            position is None
            or position.behind > MOST_BEHIND
            or self._is_behind_reads(reached, position)
        ):
            return self._values.stale()
        found = [
            None if tiles is None else _unpacked(tiles, width)
            for tiles, width in zip(stored, self._widths, strict=True)
        ]
        return self._values.row(found, position.seqs, event_ms)

    def is_held_up(self) -> bool:
        return False

    def close(self) -> None:
        self._store.close()

    def _is_behind_reads(self, reached: Mapping[str, int], position: Position) -> bool:
        """Whether the state lacks records that this process has served already: a server without
        them took over.

        The positions of reads would then have no order.
        """
        lacks = any(position.seqs.get(writer, 0) < seq for writer, seq in reached.items())
        now_s = time.monotonic()
        if lacks:
            self._back_since_s = self._back_since_s or now_s
            if now_s - self._back_since_s < WENT_BACK_S:
                return True
        self._back_since_s, self._reached = None, position.seqs
        return False


def _position(text: bytes | None) -> Position | None:
    if text is None:
        return None
    try:
        token, *lines = text.decode().split("\n")
        by_writer = {writer: (int(seq), int(head)) for writer, seq, head in map(str.split, lines)}
    except ValueError as error:
        raise Unavailable(f"the stored position of windows is damaged: {text[:80]!r}") from error
    return Position(
        token,
        {w: seq for w, (seq, _) in by_writer.items()},
        {w: head for w, (_, head) in by_writer.items()},
    )


def _rows(
    model: str, series: Sequence[Series], records: Sequence[ProjectedRecord]
) -> dict[tuple[int, Any], bytearray]:
    """The tiles of each record alone, by series and entity."""
    found: dict[tuple[int, Any], bytearray] = {}
    forms = [struct.Struct(f">{len(one.columns)}q").pack for one in series]
    for record in records:
        if record.kind != "decision" or record.model != model or record.payload is None:
            continue
        request = request_of(record.payload)
        for number, one in enumerate(series):
            key = request.get(one.key)
            if not is_key(key):
                continue
            made = request_tile(one, record.event_ms, request)
            if made is not None:
                found.setdefault((number, key), bytearray()).extend(forms[number](*made))
    return found


def _kinds(series: Series) -> str:
    """How each column but the first is merged when two tiles have one number."""
    return "+" + "".join(_KINDS.get(name, "+") for name in series.kept)


def _kept_ms(series: Series) -> int:
    return series.retained * series.tile_ms + KEPT_MS


def _longest_ms(state: State) -> int:
    return max(series.retained * series.tile_ms for series in state.series)


def _packed(columns: Columns) -> bytes:
    flat = array("q", (value for row in zip(*columns, strict=True) for value in row))
    if sys.byteorder == "little":
        flat.byteswap()
    return flat.tobytes()


def _unpacked(tiles: bytes, width: int) -> Columns:
    if not tiles or len(tiles) % (8 * width):
        raise Unavailable(
            f"stored tiles are damaged: {len(tiles)} bytes do not divide into {width} columns"
        )
    flat = array("q", tiles)
    if sys.byteorder == "little":
        flat.byteswap()
    return [flat[column::width] for column in range(width)]


def _escaped(pattern: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in pattern)
