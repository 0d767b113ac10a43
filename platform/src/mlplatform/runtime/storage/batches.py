"""Many rows by one SQLite statement.

The interpreter lock is released and taken again for each step of a statement. Beside a busy event
loop, each time costs up to a switch interval (5 ms).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

_CHUNKS = (64, 32, *range(16, 0, -1))
_Row = TypeVar("_Row")


def chunks(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """The rows in parts of few sizes, so that the statements stay prepared.

    Every small size is there, as most commits are small.
    """
    start = 0
    while start < len(rows):
        size = next(size for size in _CHUNKS if size <= len(rows) - start)
        yield rows[start : start + size]
        start += size


@lru_cache(maxsize=512)
def inserting(table: str, width: int, count: int) -> str:
    """The statement that inserts this many rows of this many columns.

    Where it fails, its first rows may be there: roll back. To be able to undo them by itself, it
    would copy each page that it changes, which costs as much as to change it.
    """
    one = f"({','.join('?' * width)})"
    return f"INSERT OR FAIL INTO {table} VALUES {','.join([one] * count)}"
