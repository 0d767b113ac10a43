"""Cached scores of rows, for callers that send the same row again."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence

from mlplatform.model.policies.serving import CachePolicy

Raw = float | tuple[float, ...]
"""One raw score, or the probabilities of all classes."""


class ScoreCache:
    """Raw scores by the exact bytes of the row, of one bundle; the least recently used goes first.

    A model is a function of its row, so an equal row has an equal score; `keep_s` only bounds how
    long a row that nobody asks for any more takes room. Reads no clock.

    Args:
        width: number of values in a row.
    """

    __slots__ = ("_entries", "_keep_s", "_kept", "_pack")

    def __init__(self, policy: CachePolicy, width: int) -> None:
        self._entries = policy.entries
        self._keep_s = policy.keep_s
        self._kept: OrderedDict[bytes, tuple[Raw, float]] = OrderedDict()
        self._pack = struct.Struct(f"<{width}d").pack

    def key(self, row: Sequence[float]) -> bytes:
        return self._pack(*row)

    def score(self, key: bytes, now_s: float) -> Raw | None:
        """The cached score of a row's key, unless it is too old."""
        found = self._kept.get(key)
        if found is None:
            return None
        raw, kept_s = found
        if now_s - kept_s > self._keep_s:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return raw

    def keep(self, key: bytes, raw: Raw, now_s: float) -> None:
        """Cache a score; the least recently used one makes room."""
        kept = self._kept
        kept[key] = (raw, now_s)
        kept.move_to_end(key)
        if len(kept) > self._entries:
            kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)
