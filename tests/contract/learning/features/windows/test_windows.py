"""What every state of real-time windows keeps to, beside the log of one home or on a server that
gateways with logs of their own share."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.servers.proxy import Proxy

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.projection import ProjectedRecord
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows import projector, state
from mlplatform.learning.features.windows.online import WindowValues
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.windows.tiles import fold, new_columns
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.redis import client
from support import shared_windows_world as shared
from support.scoring_world import wait_for
from support.shared_windows_world import SharedGateway, UnprojectedGateway, replica_table
from support.windows_world import (
    NOON_MS,
    WINDOWS,
    Gateway,
    bits,
    decision,
    definition_with_windows,
    differing,
    event_ms,
    request,
    streamed,
)

FRAUD = definition_with_windows()
ONE = {"customer_id": 1, "terminal_id": 2, "amount": 10.0}
KEYS = {"customer": 1, "terminal": 2}
NAMES = ("gateway-0", "gateway-1", "gateway-2")
REDIS = pytest.param("redis", marks=pytest.mark.redis)
STALE = {"customer_windows", "terminal_windows"}


class OneHome:
    """Gateways of one home, which share its log."""

    kind: Callable[[Path, ModelDefinition, str], Gateway] = Gateway

    def __init__(self, root: Path) -> None:
        self.root = root
        SqliteDecisionLog(root).close()

    def begin(self) -> None:
        assert state.begin(self.root / DATABASE, FRAUD, has_history=False)

    def known(self) -> OfflineTable:
        offline = OfflineTable(self.root / "offline", FRAUD)
        with closing(SqliteDecisionLog(self.root)) as log:
            offline.project(log)
        return offline


class OwnHomes:
    """Gateways with a log each, and one server."""

    def __init__(self, root: Path, redis: Any) -> None:
        redis.empty()
        self.root, self.address = root, redis.address
        self.kind = partial(SharedGateway, redis.address)

    def begin(self) -> None:
        shared.begin(self.root, self.address, FRAUD)

    def known(self) -> OfflineTable:
        return replica_table(self.root, FRAUD, [n for n in NAMES if (self.root / n).exists()])


Place = OneHome | OwnHomes


@pytest.fixture(params=["sqlite", REDIS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "redis":
        return OwnHomes(tmp_path, request.getfixturevalue("redis"))
    return OneHome(tmp_path)


@pytest.fixture
def gateways(place: Place) -> Iterator[list[Gateway]]:
    place.begin()
    with ExitStack() as stack:
        made = [place.kind(place.root, FRAUD, name) for name in NAMES]
        yield [stack.enter_context(closing(one)) for one in made]


def expected(records: Sequence[Record], keys: dict[str, int], at_ms: int) -> dict[str, Any]:
    """Every window by tiles of these payments."""
    values = WindowValues(FRAUD.windows, FRAUD.entities)
    tiles = []
    for series, entity in zip(values.series, values.entities, strict=True):
        columns = new_columns(series)
        for one in records:
            if one.payload["request"][series.key] == keys[entity]:
                fold(columns, series, one.event_ms, one.payload["request"])
        tiles.append(columns if columns[0] else None)
    return values.row(tiles, {}, at_ms).values


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_values_are_those_of_the_payments_whoever_writes_them_in_whatever_order(
    gateways: list[Gateway], seed: int
) -> None:
    chance, at_ms = random.Random(seed), NOON_MS
    records = []
    for number in range(300):
        at_ms += int(chance.expovariate(1 / 120_000))
        asked = request(chance, customers=3, terminals=3)
        records.append(decision(f"{seed}-{number}", event_ms(chance, at_ms), asked))
    chance.shuffle(records)
    rest = list(records)
    while rest:
        count = chance.randrange(1, 40)
        chance.choice(gateways).write(rest[:count])
        rest = rest[count:]

    for key in range(3):
        keys = {"customer": -key, "terminal": key}
        for asked_ms in (at_ms, at_ms - 1_800_000, at_ms + 7_200_000):
            wanted = expected(records, keys, asked_ms)
            for gateway in gateways:
                row = gateway.reads.read(keys, asked_ms)
                assert {n: bits(v) for n, v in row.values.items()} == {
                    n: bits(v) for n, v in wanted.items()
                }
                assert row.position is not None
                assert sum(row.position.values()) == len(records)


def test_the_next_request_finds_the_payment_in_any_gateway(gateways: list[Gateway]) -> None:
    first, second, _ = gateways
    before = second.reads.read(KEYS, NOON_MS)
    first.write([first.answer("d1", NOON_MS, ONE)])
    after = second.reads.read(KEYS, NOON_MS + 1_500)

    assert (before.values["c_n_10m"], before.values["c_since"]) == (0.0, None)
    assert before.times == dict.fromkeys(STALE)
    assert (after.values["c_n_10m"], after.values["c_since"]) == (1.0, 1.5)
    assert after.position == {"gateway-0": 1}
    other = second.reads.read({"customer": 1, "terminal": 9}, NOON_MS)
    assert other.times == {"customer_windows": NOON_MS, "terminal_windows": None}


@pytest.mark.parametrize("amounts", [(10.0, 30.0, 20.0), (30.0, 20.0, 10.0)])
def test_of_payments_of_one_time_the_greatest_is_the_last_in_whatever_order(
    gateways: list[Gateway], amounts: Sequence[float]
) -> None:
    for number, amount in enumerate(amounts):
        gateways[0].write([decision(f"d{number}", NOON_MS, {**ONE, "amount": amount})])
        gateways[0].reads.read(KEYS, NOON_MS)
    values = gateways[0].reads.read(KEYS, NOON_MS).values
    assert (values["c_first_6h"], values["c_last_6h"]) == (10.0, 30.0)
    gateways[0].write([decision("later", NOON_MS + 1, {**ONE, "amount": 5.0})])
    gateways[0].write([decision("before", NOON_MS - 1, {**ONE, "amount": 50.0})])
    values = gateways[0].reads.read(KEYS, NOON_MS + 1).values
    assert (values["c_first_6h"], values["c_last_6h"]) == (50.0, 5.0)
    assert (values["t_customers"], values["t_large_share"], values["c_burst"]) == (1.0, 0.0, 1.0)


def test_a_void_takes_no_payment_out_of_any_window(gateways: list[Gateway]) -> None:
    """Every decision counts, as it does in training."""
    gateway = gateways[0]
    gateway.write([decision("d1", NOON_MS, ONE)])
    before = gateway.reads.read(KEYS, NOON_MS).values
    void = msgspec.structs.replace(decision("d1", NOON_MS, ONE), kind="void", payload=None)
    gateway.write([void])
    after = gateway.reads.read(KEYS, NOON_MS)
    assert (after.values, after.position) == (before, {"gateway-0": 2})


def test_all_that_was_served_is_counted_again_offline_bit_for_bit(place: Place) -> None:
    place.begin()
    served = streamed(place.root, FRAUD, 7, 300, NAMES[:2], place.kind)

    assert len(served) > 200
    assert differing(place.known(), served) == []
    assert sum(values["c_sum_1d"] > 0 for values in served.values()) > 200


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 1e18},
        {"amount": "10 EUR"},
        {"customer_id": [1]},
        {"customer_id": 2**63},
        {"customer_id": "1"},
    ],
)
def test_a_payment_of_another_declaration_is_written_and_holds_up_no_window(
    gateways: list[Gateway], changed: dict[str, Any]
) -> None:
    gateway = gateways[0]
    gateway.write([decision("d1", NOON_MS, ONE), decision("d2", NOON_MS, {**ONE, **changed})])
    gateway.write([decision("d3", NOON_MS, ONE)])
    row = gateway.reads.read(KEYS, NOON_MS)
    assert (row.position, row.values["c_sum_1d"]) == ({"gateway-0": 3}, 20.0)


def test_large_sums_and_their_squares_are_whole(gateways: list[Gateway]) -> None:
    """Squares add up beyond 2^53, where a float holds no longer every whole number."""
    amounts = [200_000_000_000.37 + 7 * n for n in range(80)]
    records = [
        decision(f"d{n}", NOON_MS + n, {**ONE, "amount": amount})
        for n, amount in enumerate(amounts)
    ]
    gateways[0].write(records[:60])
    gateways[1].write(records[60:])
    row = gateways[2].reads.read(KEYS, NOON_MS + 1000)
    wanted = expected(records, KEYS, NOON_MS + 1000)
    names = ("c_sum_1d", "c_std_1d", "c_min_1d", "c_max_1d")
    assert [row.values[n] for n in names] == [wanted[n] for n in names]


def test_windows_without_their_state_are_stale(place: Place) -> None:
    with closing(place.kind(place.root, FRAUD, "gateway-0")) as gateway:
        gateway.write([decision("d1", NOON_MS, ONE)])
        row = gateway.reads.read(KEYS, NOON_MS)
        assert set(row.stale) == STALE
        assert set(row.values) == {w.name for w in FRAUD.windows}
        assert row.position is None


def test_a_state_far_behind_is_stale_until_it_has_caught_up(place: Place) -> None:
    place.begin()
    with closing(place.kind(place.root, FRAUD, "gateway-0")) as gateway:
        many = [Entry(decision(f"d{n}", NOON_MS, ONE)) for n in range(state.MOST_BEHIND + 600)]
        if isinstance(gateway, SharedGateway):
            gateway.log.append("gateway-0", many)
            gateway.projector.step()
        else:
            with closing(SqliteDecisionLog(place.root)) as log:  # one that follows no windows
                log.append("gateway-9", many)
        assert set(gateway.reads.read(KEYS, NOON_MS).stale) == STALE
        for number in range(20):
            gateway.write([decision(f"e{number}", NOON_MS, ONE)])
        row = gateway.reads.read(KEYS, NOON_MS)
        assert (row.stale, row.values["c_n_10m"]) == ((), len(many) + 20)


@pytest.fixture
def homes(tmp_path: Path, redis: Any) -> OwnHomes:
    made = OwnHomes(tmp_path, redis)
    made.begin()
    return made


DEATHS, PAYMENTS, BURST = 10, 300, 40


@pytest.mark.redis
@pytest.mark.slow
def test_projectors_that_are_killed_lose_and_double_nothing(homes: OwnHomes) -> None:
    """Two gateways with homes of their own. Their projectors are killed ten times, at a random
    moment of a burst of payments. What each payment was served is counted again from both logs."""
    chance, names, served = random.Random(5), NAMES[:2], {}
    at_ms, seen, deaths = NOON_MS, set(), set(chance.sample(range(PAYMENTS), DEATHS))
    with ExitStack() as stack:
        gateways, running = {}, {}
        for name in names:
            gateways[name] = UnprojectedGateway(homes.address, homes.root, FRAUD, name)
            stack.enter_context(closing(gateways[name]))
            running[name] = shared.projector_process(homes.root / name, name, homes.address)
        stack.callback(lambda: [one.kill() for one in running.values()])

        def position() -> Mapping[str, int]:
            return gateways[names[0]].reads.read(KEYS, at_ms).position or {}

        for number in range(PAYMENTS):
            at_ms += int(chance.expovariate(1 / 60_000))
            name = chance.choice(names)
            count = BURST if number in deaths else 1
            records = [
                gateways[name].answer(f"d{number}-{n}", event_ms(chance, at_ms), request(chance))
                for n in range(count)
            ]
            served |= {one.decision_id: one.payload["features"] for one in records}
            seen |= {tuple(sorted(one.payload["windows_at"].items())) for one in records}
            before = position().get(name, 0)
            gateways[name].write(records)
            if count == 1:
                time.sleep(chance.random() * 0.005)
                continue
            wait_for(lambda n=name, b=before: position().get(n, 0) > b)
            time.sleep(chance.random() * 0.02)
            running[name].kill()
            running[name].wait()
            running[name] = shared.projector_process(homes.root / name, name, homes.address)
        wait_for(lambda: sum(position().values()) == len(served))
        reads = gateways[names[0]].reads
        last = [reads.read({"customer": -n, "terminal": n % 4}, at_ms).values for n in range(5)]

    assert len(served) == PAYMENTS + DEATHS * (BURST - 1)
    assert len(seen) > 20
    assert differing(homes.known(), served) == []
    assert sum(values["c_n_6h"] for values in last) > 50


@pytest.mark.redis
def test_records_that_are_added_again_count_once_whoever_adds_them(homes: OwnHomes) -> None:
    """Also where a script was carried out and its answer lost, or two projectors add the same."""
    with closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as gateway:
        store, own = gateway.store, gateway.store.own
        before = store.position(own)
        assert before is not None
        records = [
            ProjectedRecord(n, "decision", "fraud", NOON_MS, json.dumps({"request": ONE}))
            for n in (1, 2, 3)
        ]
        first = store.advance(own, before, "gateway-0", records, 3)
        again = store.advance(own, before, "gateway-0", records, 3)
        part = store.advance(own, before, "gateway-0", records[:1], 3)
        assert first == again == part == store.position(own)
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 3.0


@pytest.mark.redis
def test_a_server_that_is_away_holds_up_no_record_and_gets_all_of_them_later(
    homes: OwnHomes,
) -> None:
    with Proxy(homes.address.port) as proxy:
        away = dataclasses.replace(homes.address, port=proxy.port)
        with closing(SharedGateway(away, homes.root, FRAUD, "gateway-0")) as gateway:
            gateway.write([decision("d1", NOON_MS, ONE)])
            proxy.refuse()
            with pytest.raises(Unavailable, match="Redis"):
                gateway.write([decision("d2", NOON_MS, ONE)])
            with pytest.raises(Unavailable, match="Redis"):
                gateway.reads.read(KEYS, NOON_MS)
            proxy.forward()
            gateway.write([decision("d3", NOON_MS, ONE)])
            assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 3.0


@pytest.mark.redis
def test_a_server_that_has_lost_what_was_served_is_stale_until_it_has_it_again(
    homes: OwnHomes,
) -> None:
    """A replica takes over that had not all of it: tiles and position are of one earlier moment."""
    with (
        closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as gateway,
        closing(client(homes.address, answer_s=5)) as redis,
    ):
        gateway.write([decision("d1", NOON_MS, ONE)])
        strings = redis.scan_iter("*", _type="string")
        earlier = {name: redis.get(name) for name in strings}
        gateway.write([decision("d2", NOON_MS, ONE)])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 2.0
        redis.mset(earlier)
        assert set(gateway.reads.read(KEYS, NOON_MS).stale) == STALE
        gateway.write([decision("d3", NOON_MS, ONE)])
        gateway.project()
        row = gateway.reads.read(KEYS, NOON_MS)
        assert (row.stale, row.values["c_n_10m"]) == ((), 3.0)


@pytest.mark.redis
def test_records_that_were_sealed_are_added_and_those_that_are_gone_are_named(
    homes: OwnHomes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = homes.root / "gateway-0"
    with closing(SqliteDecisionLog(folder, segment_rows=(10, 40))) as log:
        log.append("gateway-0", [Entry(decision(f"d{n}", NOON_MS, ONE)) for n in range(100)])
        log.seal()
        log.append("gateway-0", [Entry(decision("last", NOON_MS, ONE))])
    with closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as gateway:
        gateway.project()
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 101.0

        homes.begin()  # of a home that no record has reached
        with closing(sqlite.connect(folder / DATABASE)) as db:
            db.execute("DELETE FROM files")
        gateway.project()
        assert "history windows fraud" in caplog.text
        now_ms = time.time_ns() // 1_000_000
        assert gateway.projector.lags(now_ms)["fraud", "gateway-0"].records == 101


@pytest.mark.redis
def test_a_state_that_lacks_what_no_log_has_holds_up_no_other(homes: OwnHomes) -> None:
    folder, other = homes.root / "gateway-0", definition_with_windows(WINDOWS[:3])
    with closing(SqliteDecisionLog(folder, segment_rows=(10, 40))) as log:
        log.append("gateway-0", [Entry(decision(f"d{n}", NOON_MS, ONE)) for n in range(40)])
        log.seal()
        replica_table(homes.root, other, ["gateway-0"])
        shared.begin(homes.root, homes.address, other)  # whose home the records have reached
    with closing(sqlite.connect(folder / DATABASE)) as db:
        db.execute("DELETE FROM files")
    with closing(SharedGateway(homes.address, homes.root, other, "gateway-0")) as gateway:
        gateway.write([decision("next", NOON_MS, ONE)])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 41.0


@pytest.mark.redis
def test_what_is_kept_is_bounded_and_goes_by_itself(homes: OwnHomes) -> None:
    with (
        closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as gateway,
        closing(client(homes.address, answer_s=5)) as redis,
    ):
        for number in range(30):
            at_ms = NOON_MS + number * 3_600_000
            gateway.write([decision(f"d{number}-{n}", at_ms + n, ONE) for n in range(50)])
        sizes = [redis.strlen(name) for name in redis.scan_iter("*:t:*")]
        lives_ms = [redis.pttl(name) for name in redis.scan_iter("{mlplatform:windows:fraud}*")]
        longest = max(s.retained * len(s.columns) * 8 for s in gateway.store.own.series)
        assert max(sizes) <= longest
        day_ms = 86_400_000
        assert sorted(lives_ms)[0] == -1  # the list of states
        assert all(8 * day_ms < ms <= 11 * day_ms for ms in sorted(lives_ms)[1:])

        homes.begin()  # anew: what was there goes
        assert list(redis.scan_iter("*:t:*")) == []
        gateway.project()
        assert len(list(redis.scan_iter("*:t:*"))) == len(sizes)


@pytest.mark.redis
def test_no_windows_are_built_on_a_server_that_evicts(homes: OwnHomes) -> None:
    with closing(client(homes.address, answer_s=5)) as redis:
        redis.config_set("maxmemory-policy", "volatile-lru")
        homes.begin()  # of all the memory that there is, nothing is taken out
        redis.config_set("maxmemory", "1gb")
        try:
            with pytest.raises(Refused, match=r"volatile-lru.*set maxmemory-policy noeviction"):
                homes.begin()
        finally:
            redis.config_set("maxmemory", "0")
            redis.config_set("maxmemory-policy", "noeviction")
        homes.begin()


@pytest.mark.redis
def test_a_state_is_built_of_history_and_logs_while_gateways_write(homes: OwnHomes) -> None:
    names = NAMES[:2]
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(closing(SharedGateway(homes.address, homes.root, FRAUD, n)))
            for n in names
        ]
        gateways[0].write([decision("d1", NOON_MS, ONE)])
        gateways[1].write([decision("d2", NOON_MS, ONE)])
        replica_table(homes.root, FRAUD, names)
        gateways[1].write([decision("d3", NOON_MS, ONE)])
        homes.begin()  # of a home that d3 has not reached
        gateways[0].write([decision("d4", NOON_MS, ONE)])
        gateways[1].project()
        row = gateways[0].reads.read(KEYS, NOON_MS)
        assert (row.position, row.values["c_n_10m"]) == ({"gateway-0": 2, "gateway-1": 2}, 4.0)


@pytest.mark.redis
def test_windows_that_are_declared_anew_are_built_beside_those_that_are_read(
    homes: OwnHomes,
) -> None:
    """Gateways of the release before read theirs while both are followed."""
    other = definition_with_windows(WINDOWS[:3])
    with (
        closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as old,
        closing(SharedGateway(homes.address, homes.root, other, "gateway-1")) as new,
    ):
        new.write([decision("d1", NOON_MS, ONE)])
        assert new.reads.read(KEYS, NOON_MS).stale
        assert old.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 1.0
        shared.begin(homes.root, homes.address, other)
        old.write([decision("d2", NOON_MS, ONE)])
        new.write([decision("d3", NOON_MS, ONE)])
        for gateway in (old, new):
            assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 3.0


@pytest.mark.redis
def test_what_another_writer_left_in_the_log_is_added_without_a_pause(homes: OwnHomes) -> None:
    with closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as gone:
        many = [Entry(decision(f"d{n}", NOON_MS, ONE)) for n in range(10 * projector.BATCH)]
        gone.log.append("gateway-0", many)
        stores = [shared.store_of(homes.address, FRAUD)]
        clock = SystemClock()
        other = projector.WindowProjector(gone.folder, "gateway-1", stores, clock, refresh_s=3_600)
        with closing(other):
            while other.step():
                pass
        assert gone.reads.read(KEYS, NOON_MS).values["c_n_10m"] == len(many)


@pytest.mark.redis
def test_a_projector_says_how_far_windows_are_behind_and_since_when(homes: OwnHomes) -> None:
    with closing(SharedGateway(homes.address, homes.root, FRAUD, "gateway-0")) as gateway:
        many = [Entry(decision(f"d{n}", NOON_MS, ONE)) for n in range(700)]
        gateway.log.append("gateway-0", many)
        gateway.projector.step()
        now_ms = time.time_ns() // 1_000_000
        lag = gateway.projector.lags(now_ms)["fraud", "gateway-0"]
        assert (lag.records, lag.since_ms) == (700 - projector.BATCH, NOON_MS)
        gateway.project()
        assert gateway.projector.lags(now_ms)["fraud", "gateway-0"].behind_s(now_ms) == 0.0
        later_ms = now_ms + 60_000  # nobody has looked since: no data is not health
        assert gateway.projector.lags(later_ms)["fraud", "gateway-0"].behind_s(later_ms) > 50
