"""How fresh features are, by the store alone and by what was decided without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import FeaturePolicies
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring.arms.freshness import Freshness

VIEWS = load_views(model_folder("fraud"))
TTL_MS = VIEWS[0].ttl_ms
NOW_MS = 10 * TTL_MS
READ = FeaturePolicies(VIEWS, ("customer_count_1d",))
"""Of a model that reads one of the views."""


class Store:
    """A store whose newest rows are given."""

    is_remote = False

    def __init__(self, **newest: int | None) -> None:
        self.rows: Mapping[str, int | None] | None = newest

    def newest(self) -> Mapping[str, int | None]:
        if self.rows is None:
            raise Unavailable("the store")
        return self.rows

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        raise AssertionError("nothing reads here")

    def is_held_up(self) -> bool:
        return False

    def write(self, view: str, rows: Any) -> int:
        raise AssertionError("nothing writes here")

    def close(self) -> None: ...


async def followed(store: Store, policies: FeaturePolicies | None = READ) -> Freshness:
    """After one look at the store."""
    freshness = Freshness("fraud", store, lambda: policies, lambda: NOW_MS, 0.05)
    await freshness.start()
    await freshness.stop()
    return freshness


@pytest.mark.parametrize(
    ("age_ms", "healthy"), [(0, True), (TTL_MS, True), (TTL_MS + 1, False), (-1, True)]
)
async def test_a_view_is_too_old_beyond_its_ttl(age_ms: int, healthy: bool) -> None:
    freshness = await followed(Store(customer_stats=NOW_MS - age_ms))
    assert freshness.state().healthy == healthy
    assert freshness.state().stale_views == ([] if healthy else ["customer_stats"])
    assert freshness.ages() == {"customer_stats": max(age_ms, 0) / TTL_MS}


async def test_a_view_that_the_champion_does_not_read_is_nobodys() -> None:
    freshness = await followed(Store(terminal_stats=0, customer_stats=NOW_MS))
    assert freshness.complaint() is None
    assert (await followed(Store(customer_stats=0), None)).complaint() is None


async def test_a_store_that_was_emptied_is_stale_and_not_full_of_new_customers() -> None:
    store = Store(customer_stats=NOW_MS)
    freshness = await followed(store)
    store.rows = {"customer_stats": None}
    for _ in range(2):
        await freshness.start()
        await freshness.stop()
        row = OnlineRow({}, {"customer_stats": None, "terminal_stats": None})
        assert READ.gaps(row, NOW_MS, freshness.newest).withheld
        assert freshness.stale_views() == ("customer_stats",)


async def test_a_store_that_was_always_empty_is_not_one_of_new_customers() -> None:
    freshness = await followed(Store(customer_stats=None, terminal_stats=None))
    row = OnlineRow({}, {"customer_stats": None, "terminal_stats": None})
    assert READ.gaps(row, NOW_MS, freshness.newest).withheld
    assert freshness.state().unmade_views == ["customer_stats"]
    complaint = "features of fraud: no snapshot of customer_stats is known"
    assert freshness.complaint() == complaint


async def test_a_store_that_does_not_answer_is_away_until_it_does() -> None:
    store = Store()
    store.rows = None
    freshness = await followed(store)
    assert freshness.complaint() == "features of fraud: their store does not answer"
    store.rows = {"customer_stats": NOW_MS}
    await freshness.start()
    await freshness.stop()
    assert freshness.complaint() is None


@pytest.mark.parametrize(("stale", "healthy"), [(5, True), (6, False)])
async def test_more_than_the_declared_share_is_too_much(stale: int, healthy: bool) -> None:
    freshness = await followed(Store(customer_stats=NOW_MS))
    for number in range(100):
        freshness.decisions.count(number < stale)
    assert freshness.state().stale_share == stale / 100
    assert (freshness.complaint() is None) == healthy
    if not healthy:
        assert "6.00 % of the last minute's decisions" in str(freshness.complaint())
