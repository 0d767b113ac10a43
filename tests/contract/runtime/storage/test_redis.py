"""What every port on Redis or Valkey does when the server is away, slow, or refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.servers.instances import behind, redis_address
from tests.servers.proxy import Proxy

from mlplatform.learning.features.feast_redis import FeastRedis
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.runtime.errors import ConfigInvalid, Unavailable
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address
from mlplatform.scoring.admission.bucket import Take
from mlplatform.scoring.admission.clients import RateLimit
from mlplatform.scoring.admission.redis import RedisBuckets
from mlplatform.scoring.request.feature_reads import FeatureReads, FeaturesUnavailable

ANSWER_S = 0.3
SLACK_S = 1.0
"""A shared machine's; bounded is one answer's time, or two where a connection had broken."""

CUSTOMERS, _ = VIEWS = load_views(model_folder("fraud"))
T_MS = 1_728_000_000_000
TAKE = Take("b", RateLimit(10.0, 20), 1)
Ask = Callable[[], object]


@pytest.fixture
def proxy(redis: Any) -> Iterator[Proxy]:
    redis.empty()
    with Proxy(redis.address.port) as made:
        yield made


def features(address: Address, answer_s: float = ANSWER_S) -> FeastRedis:
    return FeastRedis(address, "fraud", VIEWS, answer_s=answer_s)


def row(value: float) -> pa.Table:
    at = pa.array([T_MS * 1000], pa.timestamp("us"))
    named = {name: pa.array([value], pa.float64()) for name in CUSTOMERS.feature_names}
    key = pa.array([1], pa.int64())
    return pa.table({CUSTOMERS.join_key: key, "event_timestamp": at, "created": at, **named})


def value(store: FeastRedis) -> float | None:
    return store.read({"customer": 1}, T_MS).values["customer_count_1d"]


def unavailable_in_time(ask: Ask) -> None:
    began_s = time.monotonic()
    with pytest.raises(Unavailable):
        ask()
    assert time.monotonic() - began_s < 2 * ANSWER_S + SLACK_S


@pytest.mark.redis
def test_a_server_that_was_killed_is_found_again_and_has_its_rows(redis: Any) -> None:
    if redis.server is None:
        pytest.skip("the server that REDIS_URL names is not ours to stop")
    redis.empty()
    store, buckets = features(redis.address), RedisBuckets(redis.address, answer_s=ANSWER_S)
    store.write(CUSTOMERS.name, row(2.0))
    assert buckets.take([TAKE], T_MS)[0].tokens == 1
    redis.server.kill()
    unavailable_in_time(lambda: value(store))
    unavailable_in_time(lambda: store.write(CUSTOMERS.name, row(3.0)))
    unavailable_in_time(lambda: buckets.take([TAKE], T_MS))
    redis.server.start()
    assert value(store) == 2.0
    assert store.write(CUSTOMERS.name, row(4.0)) == 1
    assert buckets.take([TAKE], T_MS)[0].tokens == 1
    store.close()
    buckets.close()


@pytest.mark.redis
@pytest.mark.parametrize("outage", ["refuse", "hang"])
def test_an_outage_in_the_middle_is_unavailable_in_time_and_over_when_it_is_over(
    redis: Any, proxy: Proxy, outage: str
) -> None:
    address = behind(proxy, redis.address)
    store, buckets = features(address), RedisBuckets(address, answer_s=ANSWER_S)
    store.write(CUSTOMERS.name, row(2.0))
    buckets.take([TAKE], T_MS)
    getattr(proxy, outage)()
    unavailable_in_time(lambda: value(store))
    unavailable_in_time(lambda: buckets.take([TAKE], T_MS))
    unavailable_in_time(lambda: store.write(CUSTOMERS.name, row(3.0)))
    proxy.forward()
    assert value(store) in (2.0, 3.0)
    assert buckets.take([TAKE], T_MS)[0].tokens == 1
    store.close()
    buckets.close()


@pytest.mark.redis
def test_scripts_that_the_server_forgot_are_given_to_it_again(redis: Any) -> None:
    from mlplatform.runtime.storage.redis import client

    redis.empty()
    store, buckets = features(redis.address), RedisBuckets(redis.address, answer_s=ANSWER_S)
    buckets.take([TAKE], T_MS)
    client(redis.address, answer_s=5).script_flush()
    assert store.write(CUSTOMERS.name, row(2.0)) == 1
    assert buckets.take([TAKE], T_MS)[0].tokens == 1


@pytest.mark.redis
async def test_a_store_that_hangs_costs_a_request_its_slice_and_the_event_loop_nothing(
    redis: Any, proxy: Proxy
) -> None:
    store = features(behind(proxy, redis.address), answer_s=0.1)
    store.write(CUSTOMERS.name, row(2.0))
    reads = FeatureReads("fraud", store)
    assert reads.is_apart

    async def read(slice_s: float) -> float:
        began_s = time.monotonic()
        with pytest.raises(FeaturesUnavailable):
            await reads.read_apart({"customer": 1}, T_MS, began_s + slice_s)
        return time.monotonic() - began_s

    late_s, ticks = 0.0, 0

    async def tick() -> None:
        nonlocal late_s, ticks
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(0.002)
            late_s, ticks = max(late_s, time.monotonic() - began_s), ticks + 1

    found = await reads.read_apart({"customer": 1}, T_MS, time.monotonic() + 5)
    assert found.values["customer_count_1d"] == 2.0
    proxy.hang()
    ticking = asyncio.create_task(tick())
    took_s = await asyncio.gather(*(read(0.02) for _ in range(20)))
    ticking.cancel()
    assert max(took_s) < 0.02 + SLACK_S
    assert ticks >= 2
    assert late_s < SLACK_S
    proxy.forward()
    until_s = time.monotonic() + 10
    while True:
        try:
            await reads.read_apart({"customer": 1}, T_MS, time.monotonic() + 0.5)
            break
        except FeaturesUnavailable:
            assert time.monotonic() < until_s
            await asyncio.sleep(0.02)
    reads.close()


@pytest.mark.redis
def test_threads_read_at_once(redis: Any) -> None:
    redis.empty()
    store = features(redis.address, answer_s=5)
    store.write(CUSTOMERS.name, row(2.0))
    seen: list[float | None] = []
    readers = [
        threading.Thread(target=lambda: seen.extend(value(store) for _ in range(100)))
        for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == [2.0] * 800
    store.close()


@pytest.mark.redis
def test_a_wrong_password_is_refused_and_a_new_one_needs_no_restart(
    redis: Any, tmp_path: Path
) -> None:
    if redis.server is None:
        pytest.skip("whether the server that REDIS_URL names wants a password is not ours to say")
    file = tmp_path / "password"
    file.write_text("wrong")
    store = features(dataclasses.replace(redis.address, password_file=file))
    with pytest.raises(Unavailable, match=r"WRONGPASS|invalid username-password"):
        value(store)
    file.write_text(redis.address.password())
    assert value(store) is None or value(store) == 2.0
    nobody = features(dataclasses.replace(redis.address, password_file=None))
    with pytest.raises(Unavailable, match=r"[Aa]uth"):
        value(nobody)


@pytest.mark.redis
def test_traffic_is_encrypted_to_a_server_that_proves_itself(redis: Any) -> None:
    if redis.server is None:
        pytest.skip("the certificate of the server that REDIS_URL names is not ours")
    redis.empty()
    shown = redis.server.certificates
    with Proxy(redis.server.port, tls=shown.server_context()) as tls:
        trusted = redis_address(tls.port, redis.server.password_file, shown.authority)
        store = features(trusted, answer_s=5)
        assert store.write(CUSTOMERS.name, row(2.0)) == 1
        assert value(store) == 2.0
        for wrong in (
            dataclasses.replace(trusted, authority=None),
            dataclasses.replace(trusted, host="127.0.0.2"),
            redis_address(tls.port, redis.server.password_file, None),
        ):
            with pytest.raises(Unavailable):
                value(features(wrong))
        store.close()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://:secret@cache/0", "_PASSWORD_FILE"),
        ("redis://cache/zero", "number"),
        ("rediss://cache/0?ssl_cert_reqs=none", "ssl_ca_certs"),
        ("unix:///run/redis", "redis or rediss"),
        ("redis://:secret@[]cache/0", "redis or rediss"),
    ],
)
def test_a_wrong_address_is_refused_without_saying_a_secret(url: str, wanted: str) -> None:
    with pytest.raises(ConfigInvalid, match=wanted) as caught:
        addresses.redis("MLPLATFORM_REDIS", {"MLPLATFORM_REDIS": url})
    assert "secret" not in str(caught.value)
