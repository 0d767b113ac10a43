"""What it means that features are not there, per feature, cause and policy."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import pytest

from mlplatform.features.definitions import FeatureField, FeatureView, MissingPolicy
from mlplatform.features.online import OnlineRow
from mlplatform.features.policy import NO_GAPS, FeaturePolicies
from mlplatform.gateway.feature_reads import (
    QUICK_READS,
    SLOW_READ_S,
    SLOW_READS,
    FeatureReads,
    FeaturesUnavailable,
)
from mlplatform.gateway.scoring import features_missing


def view(name: str, **fields: MissingPolicy) -> FeatureView:
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
    return FeatureView(name=name, entity=name, join_key=f"{name}_id", ttl_ms=1, fields=made)


VIEWS = (view("shop", seen="default", busy="degrade"), view("card", age="refuse"))
ALL = ("seen", "busy", "age")


def row(shop: int | None = 1, card: int | None = 1, stale: tuple[str, ...] = ()) -> OnlineRow:
    return OnlineRow({}, {"shop": shop, "card": card}, stale)


def test_nothing_is_said_of_features_that_are_there() -> None:
    assert FeaturePolicies(VIEWS, ALL).gaps(row()) is NO_GAPS


@pytest.mark.parametrize(
    ("used", "read", "features", "degraded", "refused"),
    [
        pytest.param(
            ("seen",), row(shop=None), {"seen": ("missing", "default")}, False, (),
            id="a default stands for it",
        ),
        pytest.param(
            ("seen", "busy"), row(shop=None, stale=("shop",)),
            {"seen": ("stale", "default"), "busy": ("stale", "degrade")}, True, (),
            id="one of them degrades",
        ),
        pytest.param(
            ALL, row(card=None), {"age": ("missing", "refuse")}, False, ("age",),
            id="one without which nothing is decided",
        ),
        pytest.param(("seen",), row(card=None), {}, False, (), id="one that the model never reads"),
    ],
)  # fmt: skip
def test_each_feature_follows_its_policy(
    used: tuple[str, ...],
    read: OnlineRow,
    features: Mapping[str, Any],
    degraded: bool,
    refused: tuple[str, ...],
) -> None:
    gaps = FeaturePolicies(VIEWS, used).gaps(read)
    assert (gaps.features, gaps.degraded, gaps.refused) == (features, degraded, refused)


def test_a_store_that_does_not_answer_always_degrades() -> None:
    gaps = FeaturePolicies(VIEWS, ("seen",)).unavailable()
    assert (gaps.features, gaps.degraded) == ({"seen": ("unavailable", "default")}, True)


class Store:
    """Online features that take their time, or fail."""

    def __init__(self) -> None:
        self.takes_s = 0.0
        self.held_up = False
        self.error: Exception | None = None

    is_remote = False

    def is_held_up(self) -> bool:
        return self.held_up

    def read(self, keys: Mapping[str, int], event_ms: int) -> OnlineRow:
        time.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return row()

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
    gaps = FeaturePolicies(VIEWS, ALL).gaps(row(card=None, stale=("card",)))
    problem = features_missing(gaps)
    assert (problem.status, problem.name) == (503, "features-missing")
    assert "feature age is stale" in str(problem)
    assert problem.retry_after_s is not None
