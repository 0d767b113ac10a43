"""What a cache of bundles fetches, and what it gives up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlplatform.rollouts.bundles.plan import (
    KEPT_S,
    LEFT_FREE_BYTES,
    CacheEntry,
    FetchSpace,
    bytes_to_fetch,
    evictions,
    fetch_space,
    space_problem,
)

NOW_S = 1e9
GB = 10**9
A, B, C, D = (letter * 64 for letter in "abcd")


def aged(digest: str, size: int, hours: float) -> CacheEntry:
    return CacheEntry(digest, size, NOW_S - hours * 3600)


def test_what_is_here_of_a_file_is_not_fetched() -> None:
    sizes = {"bundle.json": 10, "weights.bin": 1000}
    assert bytes_to_fetch(sizes, {}) == 1010
    assert bytes_to_fetch(sizes, {"weights.bin": 900}) == 110
    assert bytes_to_fetch(sizes, {"weights.bin": 5000, "gone.bin": 7}) == 10


def test_bundles_used_longest_ago_leave_first_and_no_more_than_need_to() -> None:
    cached = [aged(A, 3 * GB, 5), aged(B, 3 * GB, 50), aged(C, 3 * GB, 20)]
    assert evictions(cached, (), FetchSpace(1 * GB, 99 * GB, 10 * GB), NOW_S) == ()
    assert evictions(cached, (), FetchSpace(2 * GB, 99 * GB, 10 * GB), NOW_S) == (B,)
    assert evictions(cached, (), FetchSpace(5 * GB, 99 * GB, 10 * GB), NOW_S) == (B, C)


def test_what_is_named_in_use_or_only_here_stays() -> None:
    cached = [
        aged(A, 3 * GB, 50),
        CacheEntry(B, 3 * GB, None),
        aged(C, 3 * GB, 0.9 * KEPT_S / 3600),
        aged(D, 3 * GB, 2),
    ]
    assert evictions(cached, {A}, FetchSpace(9 * GB, 99 * GB, 10 * GB), NOW_S) == (D,)


def test_a_disk_without_room_is_freed_too() -> None:
    cached = [aged(A, 3 * GB, 5), aged(B, 3 * GB, 50)]
    assert evictions(cached, (), FetchSpace(1 * GB, 1 * GB, 99 * GB), NOW_S) == (B,)
    assert evictions(cached, (), FetchSpace(1 * GB, 2 * GB, 99 * GB), NOW_S) == ()


def test_a_fetch_without_room_says_what_it_needs_and_the_way_out() -> None:
    assert space_problem(FetchSpace(GB, GB + LEFT_FREE_BYTES, 0)) == ""
    problem = space_problem(FetchSpace(6 * GB, 2 * GB, 0))
    assert problem.startswith("needs 6,067 MB, and 2,000 MB of the disk are free")
    assert "MLPLATFORM_BUNDLES" in problem


def test_a_volume_with_a_limit_counts_where_it_has_less_than_the_disk() -> None:
    """A pod whose volume outgrows its limit is evicted; the node's disk says nothing of it."""
    free = fetch_space(GB, 99 * GB, 2 * GB, most=4 * GB, volume=6 * GB)
    assert free == FetchSpace(GB, 4 * GB, 4 * GB, is_limited=True)
    assert fetch_space(GB, 3 * GB, 2 * GB, most=GB, volume=6 * GB) == FetchSpace(GB, 3 * GB, GB)
    assert fetch_space(GB, 9 * GB, 2 * GB, most=GB, volume=0) == FetchSpace(GB, 9 * GB, GB)
    assert fetch_space(GB, 9 * GB, 7 * GB, most=GB, volume=6 * GB).free == 0
    problem = space_problem(fetch_space(5 * GB, 99 * GB, 2 * GB, most=4 * GB, volume=6 * GB))
    assert problem.startswith("needs 5,067 MB, and 4,000 MB of its volume are left")
    assert "MLPLATFORM_BUNDLE_VOLUME_MIB" in problem


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.none() | st.floats(0, 100), st.booleans()), max_size=8
    ),
    st.integers(0, 200),
    st.integers(0, 300),
    st.integers(1, 200),
)
def test_evictions_take_only_what_may_go_and_suffice_where_that_can(
    bundles: list[tuple[int, float | None, bool]], wanted: int, free: int, most: int
) -> None:
    cached = [
        CacheEntry(str(n), size, None if hours is None else NOW_S - hours * 3600)
        for n, (size, hours, _) in enumerate(bundles)
    ]
    named = {str(n) for n, (_, _, is_named) in enumerate(bundles) if is_named}
    room = FetchSpace(wanted, free + LEFT_FREE_BYTES, most)
    gone = evictions(cached, named, room, NOW_S)
    may_go = {
        one.digest
        for one in cached
        if one.used_s is not None and NOW_S - one.used_s > KEPT_S and one.digest not in named
    }
    assert set(gone) <= may_go
    left = sum(one.size for one in cached if one.digest not in gone) + wanted
    freed = sum(one.size for one in cached if one.digest in gone)
    suffices = left <= most and wanted <= free + freed
    assert suffices or set(gone) == may_go
