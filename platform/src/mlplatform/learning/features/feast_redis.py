"""Online features in the Redis layout of the Feast SDK, read and written without importing it.

One hash for each entity of a project holds the features of all views over that entity: a field is
the murmur3 hash of `view:feature`, its value a `feast.types.Value` message, and `_ts:view` is the
event time of the view's row. The Feast SDK reads rows that are written here, and this module reads
rows of the SDK; a contract test checks both. A field of our own, `_made:view`, says when our last
row was made; Feast never asks for it.

Source: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md and
feast/infra/online_stores/redis.py (0.67).
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import mmh3
from google.protobuf.timestamp_pb2 import Timestamp

from mlplatform.learning.features.feast_values import columns as columns_of
from mlplatform.learning.features.feast_values import (
    decode,
    encode,
    entity_key_prefix,
    key_value,
)
from mlplatform.learning.features.online import EVENT_TIMESTAMP, FeatureRow, OnlineRow
from mlplatform.model.features.views import FeatureView, view_named
from mlplatform.runtime.errors import StaleFence
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.redis import client, translated

if TYPE_CHECKING:
    import pyarrow as pa

BATCH: Final = 500
"""Number of rows that one round trip writes."""

_WRITE: Final = """
if KEYS[2] and (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then return -1 end
local function micros(message)  -- of a google.protobuf.Timestamp
  local value, at = {0, 0}, 1
  while at <= #message do
    local field, number, scale = math.floor(message:byte(at) / 8), 0, 1
    repeat
      at = at + 1
      local byte = message:byte(at)
      number = number + (byte % 128) * scale
      scale = scale * 128
    until byte < 128
    value[field] = number
    at = at + 1
  end
  return value[1] * 1000000 + math.floor(value[2] / 1000)
end
local stored = redis.call('HMGET', KEYS[1], ARGV[3], ARGV[4])
local event, made = tonumber(ARGV[6]), tonumber(ARGV[7])
if stored[1] then
  local before = micros(stored[1])
  if event < before then return 0 end
  if event == before and stored[2] then
    local known, at = stored[2]:match('^(%d+) (%d+)$')
    if tonumber(known) == before and made < tonumber(at) then return 0 end
  end
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[5], ARGV[4], ARGV[6] .. ' ' .. ARGV[7],
  unpack(ARGV, 8))
return 1
"""
"""Script that stores a row unless a later one exists. ARGV: the view and its fence, the names of
the time and of our field, the time as Feast keeps it, event time and time of making in
microseconds, then names and values. A second key holds the fences; the answer is -1 if the view has
another fence. Microseconds fit a double until the year 2255. If Feast has written a row since, our
field has another event time."""

_NOTE: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or tonumber(known) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
"""
"""Field with the event time in milliseconds of a view's newest row, which Feast's layout lacks."""

_MARK: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if known == ARGV[3] then return 1 end  -- sent again
if known ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""Script that replaces a view's mark if it is still the previous one; an empty text stands for no
mark."""


class FeastRedis:
    """OnlineFeatures on a Redis or Valkey server; one round trip a read; safe for threads.

    A row is written whole or not at all, a batch row by row. Every method may raise Unavailable.

    Args:
        project: Feast's project name, with which every key ends.
        answer_s: seconds to wait for an answer of the server.
    """

    is_remote = True

    def __init__(
        self, address: Address, project: str, views: Sequence[FeatureView], *, answer_s: float
    ) -> None:
        self._address = address
        self._redis = client(address, answer_s=answer_s)
        self._script = self._redis.register_script(_WRITE)
        self._note = self._redis.register_script(_NOTE)
        self._set_mark = self._redis.register_script(_MARK)
        self._newest = f"mlplatform:newest:{project}"
        self._marks = f"mlplatform:marks:{project}"
        self._fences = f"mlplatform:fences:{project}"
        self._project = project.encode()
        self._views = {view.name: view for view in views}
        self._missing: dict[str, float | None] = {f: None for v in views for f in v.feature_names}
        self._times: dict[str, int | None] = {v.name: None for v in views}
        self._layouts = [
            (view, entity_key_prefix(view.join_key), [*_fields(view), _time_field(view)])
            for view in views
        ]

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        asked = [
            (view, prefix + key_value(keys[view.entity]) + self._project, fields)
            for view, prefix, fields in self._layouts
            if view.entity in keys
        ]
        with translated(self._address):
            pipeline = self._redis.pipeline(transaction=False)
            for _, key, fields in asked:
                pipeline.hmget(key, fields)
            answers = pipeline.execute()
        row = OnlineRow(self._missing.copy(), self._times.copy(), stale := set())
        for (view, _, _), answer in zip(asked, answers, strict=True):
            if _is_stale(row, view, answer, event_ms):
                stale.add(view.name)
        return row

    def is_held_up(self) -> bool:
        return False

    def write(self, view: str, rows: pa.Table) -> int:
        definition = view_named(view, self._views)
        newest_ms = _newest_ms(rows) if rows.num_rows else None
        return self._stored_rows(definition, columns_of(definition, rows), newest_ms)

    def put(self, view: str, rows: Sequence[FeatureRow], *, fence: str | None = None) -> int:
        newest_ms = max((event_us // 1000 for _, event_us, _, _ in rows), default=None)
        return self._stored_rows(view_named(view, self._views), rows, newest_ms, fence)

    def fence(self, view: str) -> str:
        with translated(self._address):
            found = self._redis.hget(self._fences, view)
        return found.decode() if isinstance(found, bytes) else found or ""

    def remove(self, view: str, keys: Collection[int | str]) -> int:
        """Remove rows. A hash that holds nothing more is removed too."""
        definition = view_named(view, self._views)
        prefix, time_field = entity_key_prefix(definition.join_key), _time_field(definition)
        fields = [*_fields(definition), time_field, f"_made:{view}".encode()]
        count = 0
        with translated(self._address):
            self._redis.hset(self._fences, view, secrets.token_hex(16))
            for key in keys:
                pipeline = self._redis.pipeline(transaction=True)
                place = prefix + key_value(key) + self._project
                pipeline.hexists(place, time_field)
                pipeline.hdel(place, *fields)
                count += bool(pipeline.execute()[0])
        return count

    def mark(self, view: str) -> str | None:
        with translated(self._address):
            found = self._redis.hget(self._marks, view)
        return found.decode() if isinstance(found, bytes) else found

    def set_mark(self, view: str, before: str | None, mark: str) -> bool:
        with translated(self._address):
            return bool(self._set_mark(keys=[self._marks], args=[view, before or "", mark]))

    def newest(self) -> Mapping[str, int | None]:
        with translated(self._address):
            times = self._redis.hmget(self._newest, list(self._views))
        return {
            n: None if ms is None else int(ms) for n, ms in zip(self._views, times, strict=True)
        }

    def close(self) -> None:
        self._redis.close()

    def _stored_rows(
        self,
        view: FeatureView,
        rows: Iterable[FeatureRow],
        newest_ms: int | None,
        fence: str | None = None,
    ) -> int:
        changed, fences = 0, [] if fence is None else [self._fences]
        with translated(self._address):
            self._redis.script_load(_WRITE)
            for batch in _batches(self._arguments(view, rows)):
                pipeline = self._redis.pipeline(transaction=False)
                for key, arguments in batch:
                    names = [key, *fences]
                    own = [view.name, fence or "", *arguments]
                    pipeline.evalsha(self._script.sha, len(names), *names, *own)
                done = pipeline.execute()
                if -1 in done:
                    raise StaleFence(f"rows of {view.name} were erased since these were read")
                changed += sum(done)
            if newest_ms is not None:
                self._note(keys=[self._newest], args=[view.name, newest_ms])
        return changed

    def _arguments(
        self, view: FeatureView, rows: Iterable[FeatureRow]
    ) -> Iterator[tuple[bytes, list[bytes | str | int]]]:
        fields, prefix = _fields(view), entity_key_prefix(view.join_key)
        time_field, made_field = _time_field(view), f"_made:{view.name}"
        for key, event_us, made_us, values in rows:
            cells: list[bytes | str | int] = [time_field, made_field, _timestamp(event_us)]
            cells += [event_us, made_us]
            for place, field, value in zip(fields, view.fields, values, strict=True):
                cells += [place, encode(value, field.dtype)]
            yield prefix + key_value(key) + self._project, cells


def _is_stale(row: OnlineRow, view: FeatureView, answer: list[bytes | None], event_ms: int) -> bool:
    """Whether the view's stored row is too old; a valid one is added to the answer."""
    *cells, stored = answer
    if stored is None:
        return False
    at_ms = _milliseconds(stored)
    if at_ms < event_ms - view.ttl_ms:
        return True
    row.times[view.name] = at_ms
    for name, cell in zip(view.feature_names, cells, strict=True):
        row.values[name] = decode(cell or b"", name)
    return False


def _fields(view: FeatureView) -> list[bytes]:
    hashed = (mmh3.hash(f"{view.name}:{name}", signed=False) for name in view.feature_names)
    return [struct.pack("<I", number) for number in hashed]


def _time_field(view: FeatureView) -> bytes:
    return f"_ts:{view.name}".encode()


def _newest_ms(rows: pa.Table) -> int:
    import pyarrow as pa  # only writers need it; the gateway reads
    import pyarrow.compute as pc

    newest = pc.max(rows.column(EVENT_TIMESTAMP)).cast(pa.timestamp("ms"), safe=False)
    return int(newest.cast(pa.int64()).as_py())


def _timestamp(event_us: int) -> bytes:
    seconds, micros = divmod(event_us, 1_000_000)
    return bytes(Timestamp(seconds=seconds, nanos=micros * 1000).SerializeToString())


def _milliseconds(stored: bytes) -> int:
    found = Timestamp.FromString(stored)
    return int(found.seconds) * 1000 + int(found.nanos) // 1_000_000


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
