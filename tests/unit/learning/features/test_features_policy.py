"""What it means that features are not there, per feature, cause and policy."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import NO_GAPS, FeatureGaps, FeaturePolicies, Gaps
from mlplatform.model.features.views import FeatureField, FeatureView, MissingPolicy, StalePolicy
from mlplatform.scoring.request.feature_reads import (
    QUICK_READS,
    SLOW_READ_S,
    SLOW_READS,
    FeatureReads,
    FeaturesUnavailable,
)
from mlplatform.scoring.request.scoring import features_missing


def view(name: str, stale: StalePolicy = "degrade", **fields: MissingPolicy) -> FeatureView:
    made = tuple(
        FeatureField(
            name=field,
            dtype="float64",
            aggregate="count",
            column=None,
            window_days=1,
            delay_days=0,
            missing=policy,
            default=None,
        )
        for field, policy in fields.items()
    )
    return FeatureView(
        name=name, entity=name, join_key=f"{name}_id", ttl_ms=TTL_MS, fields=made, stale=stale
    )


TTL_MS = 1_000
NOW_MS = 10_000
VIEWS = (
    view("shop", "degrade", seen="default", busy="degrade"),
    view("card", "fallback", age="default"),
    view("bank", "refuse", open="refuse"),
)
ALL = ("seen", "busy", "age", "open")


def row(*missing: str, stale: tuple[str, ...] = ()) -> OnlineRow:
    times = {v.name: None if v.name in (*missing, *stale) else NOW_MS for v in VIEWS}
    return OnlineRow({}, times, stale)


def gaps(used: Collection[str], read: OnlineRow, **newest: int | None) -> Gaps:
    return FeaturePolicies(VIEWS, used).gaps(read, NOW_MS, newest)


def test_nothing_is_said_of_features_that_are_there() -> None:
    assert gaps(ALL, row()) is NO_GAPS


@pytest.mark.parametrize(
    ("used", "read", "features", "told", "follows"),
    [
        pytest.param(
            ("seen",), row("shop"), {"seen": ("missing", "default")},
            FeatureGaps(missing=("shop",)), "",
            id="an entity without a row is told, and ordinary",
        ),
        pytest.param(
            ("seen", "busy"), row("shop"),
            {"seen": ("missing", "default"), "busy": ("missing", "degrade")},
            FeatureGaps(missing=("shop",)), "degraded",
            id="a feature that says so degrades",
        ),
        pytest.param(
            ("seen",), row(stale=("shop",)), {"seen": ("stale", "degrade")},
            FeatureGaps(stale=("shop",)), "degraded",
            id="what is stale degrades, whatever a missing row does",
        ),
        pytest.param(
            ALL, row("shop", stale=("card",)),
            {
                "seen": ("missing", "default"), "busy": ("missing", "degrade"),
                "age": ("stale", "fallback"),
            },
            FeatureGaps(missing=("shop",), stale=("card",)), "degraded withheld",
            id="one view for which no model is asked",
        ),
        pytest.param(
            ALL, row("bank"), {"open": ("missing", "refuse")},
            FeatureGaps(missing=("bank",)), "refused",
            id="one without which nothing is decided",
        ),
        pytest.param(("seen",), row("card"), {}, None, "", id="one that the model never reads"),
    ],
)  # fmt: skip
def test_each_feature_follows_its_policy(
    used: tuple[str, ...],
    read: OnlineRow,
    features: Mapping[str, Any],
    told: FeatureGaps | None,
    follows: str,
) -> None:
    found = gaps(used, read)
    assert (found.features, found.by_cause) == (features, told)
    flags = {"degraded": found.degraded, "withheld": found.withheld, "refused": bool(found.refused)}
    assert [name for name, holds in flags.items() if holds] == follows.split()


def test_an_old_row_of_a_view_that_is_up_to_date_is_a_missing_one() -> None:
    """No snapshot holds this entity any more: training knows it as one without a row."""
    found = gaps(("seen",), row(stale=("shop",)), shop=NOW_MS - TTL_MS)
    assert (found.by_cause, found.degraded) == (FeatureGaps(missing=("shop",)), False)


@pytest.mark.parametrize("newest_ms", [NOW_MS - TTL_MS - 1, None])
def test_no_row_of_a_view_without_a_new_snapshot_is_a_stale_one(newest_ms: int | None) -> None:
    """Nobody knows what a snapshot of today would hold."""
    found = gaps(("seen",), row("shop"), shop=newest_ms)
    assert (found.by_cause, found.degraded) == (FeatureGaps(stale=("shop",)), True)


def test_views_are_stale_by_their_newest_row() -> None:
    policies = FeaturePolicies(VIEWS, ("seen", "age"))
    newest = {"shop": NOW_MS - TTL_MS - 1, "card": NOW_MS, "bank": 0}
    assert policies.stale_at(NOW_MS, newest) == ("shop",)
    assert policies.stale_at(NOW_MS, {"shop": None}) == ()


def test_a_store_that_does_not_answer_always_degrades() -> None:
    found = FeaturePolicies(VIEWS, ("seen",)).unavailable()
    assert found.features == {"seen": ("unavailable", "degrade")}
    assert (found.by_cause, found.degraded) == (FeatureGaps(unavailable=("shop",)), True)


class Store:
    """Online features that take their time, or fail."""

    def __init__(self) -> None:
        self.takes_s = 0.0
        self.held_up = False
        self.error: Exception | None = None

    is_remote = False

    def is_held_up(self) -> bool:
        return self.held_up

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        time.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return row()

    def newest(self) -> Mapping[str, int | None]:
        return {}

    def write(self, view: str, rows: Any) -> int:
        raise AssertionError("nothing writes here")

    def close(self) -> None: ...


@pytest.mark.parametrize("apart", [False, True], ids=["in the loop", "by the thread"])
async def test_a_locked_store_is_unavailable(apart: bool) -> None:
    store = Store()
    store.error = sqlite3.OperationalError("database is locked")
    reads = FeatureReads("fraud", store)

    async def read() -> OnlineRow:
        if apart:
            return await reads.read_apart({}, 0, time.monotonic() + 1)
        return reads.read({}, 0)

    with pytest.raises(FeaturesUnavailable, match="locked"):
        await read()
    reads.close()


async def test_slow_reads_in_a_row_send_the_next_to_a_thread_until_they_are_quick() -> None:
    store = Store()
    reads = FeatureReads("fraud", store)
    quick_s = 1.0
    while quick_s > SLOW_READ_S:  # a busy machine may make the first one slow
        began_s = time.perf_counter()
        reads.read({}, 0)
        quick_s = time.perf_counter() - began_s
    store.takes_s = 0.05
    for slow in range(1, SLOW_READS + 1):
        reads.read({}, 0)
        assert reads.is_apart == (slow == SLOW_READS)
    began_s = time.monotonic()
    with pytest.raises(FeaturesUnavailable):
        await reads.read_apart({}, 0, began_s + 0.005)
    store.takes_s = 0.0
    for _ in range(10 * QUICK_READS):
        await reads.read_apart({}, 0, time.monotonic() + 5)
        await asyncio.sleep(0)
        if not reads.is_apart:
            break
    assert not reads.is_apart
    reads.close()


async def test_a_store_that_is_held_up_is_not_read_in_the_loop() -> None:
    store = Store()
    reads = FeatureReads("fraud", store)
    assert not reads.is_apart
    store.held_up = True
    assert reads.is_apart
    for _ in range(QUICK_READS):
        await reads.read_apart({}, 0, time.monotonic() + 5)
    assert reads.is_apart  # as long as it lasts, however quick
    store.held_up = False
    for _ in range(10 * QUICK_READS):
        await reads.read_apart({}, 0, time.monotonic() + 5)
        await asyncio.sleep(0)
        if not reads.is_apart:
            break
    assert not reads.is_apart
    reads.close()


async def test_reads_do_not_pile_up_behind_one_that_hangs() -> None:
    store = Store()
    store.takes_s = 0.3
    reads = FeatureReads("fraud", store)
    until_s = time.monotonic() + 0.02
    results = await asyncio.gather(
        *(reads.read_apart({}, 0, until_s) for _ in range(100)), return_exceptions=True
    )
    assert all(isinstance(result, FeaturesUnavailable) for result in results)
    reads.close()


def test_a_refusal_names_the_feature_and_says_when_to_try_again() -> None:
    problem = features_missing(gaps(ALL, row(stale=("bank",))))
    assert (problem.status, problem.name) == (503, "features-missing")
    assert "feature open is stale" in str(problem)
    assert problem.retry_after_s is not None
