"""The decisions of a machine's cache of bundles: what to fetch, and what to remove for that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.runtime.units import MIB

KEPT_S: Final = 3600.0
"""Seconds after its last use for which a bundle is kept: a batch or a replay may still read it."""
LEFT_FREE_BYTES: Final = 64 * MIB
"""Bytes of the disk that a fetch leaves to others."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A bundle of the cache.

    Args:
        used_s: when it was last used, in seconds since the epoch; None: the store may lack it, so
            that it can't be fetched again.
    """

    digest: str
    size: int
    used_s: float | None


@dataclass(frozen=True, slots=True)
class FetchSpace:
    """The space of the disk that a fetch needs, and that there is.

    Args:
        wanted: bytes that are still to be fetched.
        free: bytes that are free on the disk, or on a volume with a limit of its own.
        most: bytes that the cache may have.
        is_limited: whether the volume's limit counts, not the disk.
    """

    wanted: int
    free: int
    most: int
    is_limited: bool = False


def fetch_space(wanted: int, disk_free: int, held: int, *, most: int, volume: int) -> FetchSpace:
    """The space for a fetch into a folder.

    Args:
        disk_free: bytes that are free on the folder's disk.
        held: bytes that the folder holds, drafts of fetches too.
        volume: bytes that the folder's volume may hold; 0: it has no limit of its own.
    """
    left = max(0, volume - held)
    if not volume or disk_free <= left:
        return FetchSpace(wanted, disk_free, most)
    return FetchSpace(wanted, left, most, is_limited=True)


def bytes_to_fetch(sizes: Mapping[str, int], here: Mapping[str, int]) -> int:
    """Bytes that are missing of files, of which a first part may be here."""
    return sum(max(0, size - here.get(name, 0)) for name, size in sizes.items())


def evictions(
    cached: Sequence[CacheEntry], named: Collection[str], space: FetchSpace, now_s: float
) -> tuple[str, ...]:
    """The bundles to remove so that a fetch has room, those first that were not used for longest.

    A bundle stays that something names, that was used within `KEPT_S`, or that can't be fetched
    again. The space may then be too small.
    """
    total = sum(one.size for one in cached) + space.wanted
    excess = max(total - space.most, space.wanted + LEFT_FREE_BYTES - space.free)
    by_age = sorted(
        (one.used_s, one.digest, one.size)
        for one in cached
        if one.used_s is not None and now_s - one.used_s > KEPT_S and one.digest not in named
    )
    found = []
    for _, digest, size in by_age:
        if excess <= 0:
            break
        found.append(digest)
        excess -= size
    return tuple(found)


def space_problem(space: FetchSpace) -> str:
    """Why there is no room for a fetch; empty if there is."""
    if space.wanted + LEFT_FREE_BYTES <= space.free:
        return ""
    wanted, free = (space.wanted + LEFT_FREE_BYTES) / 1e6, space.free / 1e6
    if space.is_limited:
        return (
            f"needs {wanted:,.0f} MB, and {free:,.0f} MB of its volume are left: give the volume"
            " more (its sizeLimit, and MLPLATFORM_BUNDLE_VOLUME_MIB); it is then fetched by itself"
        )
    return (
        f"needs {wanted:,.0f} MB, and {free:,.0f} MB of the disk are free: make room there, or name"
        " a folder on a larger disk (MLPLATFORM_BUNDLES); it is then fetched by itself"
    )
