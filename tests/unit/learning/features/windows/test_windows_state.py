"""What windows serve is what the log says, whoever writes it, in whatever order, whoever dies."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.arrivals import known_sql, positions_sql, ranks_sql
from mlplatform.learning.features.compile import UnitSample
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.rows import history_schema
from mlplatform.learning.features.windows import build as windows_build
from mlplatform.learning.features.windows.build import build
from mlplatform.learning.features.windows.state import begin
from mlplatform.learning.features.windows.training import PastWindows, with_windows
from mlplatform.learning.training_sets.dataset import requests_between
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.definition import InputSpec
from mlplatform.runtime.errors import InputInvalid, Unavailable
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS, MINUTE_MS
from support.windows_world import (
    NOON_MS,
    WINDOWS,
    Gateway,
    bits,
    decision,
    definition_with_windows,
    differing,
    request,
    streamed,
)

FRAUD = definition_with_windows()
ONE = {"customer_id": 1, "terminal_id": 2, "amount": 10.0}
KEYS = {"customer": 1, "terminal": 2}


def begun(home: Path) -> Path:
    """A new log whose windows know no payment yet."""
    SqliteDecisionLog(home).close()
    assert begin(home / DATABASE, FRAUD, has_history=False)
    return home


def offline_of(home: Path) -> OfflineTable:
    offline = OfflineTable(home / "offline", FRAUD)
    with closing(SqliteDecisionLog(home)) as log:
        offline.project(log)
    return offline


@pytest.mark.parametrize("names", [("gateway-0",), ("gateway-0", "gateway-1")])
def test_all_that_was_served_is_counted_again_offline_bit_for_bit(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    home = begun(tmp_path)
    served = streamed(home, FRAUD, seed=len(names), count=400, names=names)

    assert len(served) > 300
    offline = offline_of(home)
    assert differing(offline, served) == []
    assert differing(offline, served, share=0.4) == []
    assert 0 < len(offline.requests(sample=UnitSample(0.4))) < len(served)
    assert sum(values["c_sum_1d"] > 0 for values in served.values()) > 300


def partly_read(tmp_path: Path, seed: int, terminals: int = 500) -> Path:
    """A home whose gateways answered 300 requests out of order, four in ten without windows."""
    home, chance = begun(tmp_path), random.Random(seed)
    with ExitStack() as stack:
        writers = [stack.enter_context(closing(Gateway(home, FRAUD, name))) for name in "abc"]
        under_way: list[tuple[Gateway, Record]] = []
        for number in range(300):
            at_ms = NOON_MS + number * MINUTE_MS - chance.choice([0, 0, 0, 3_600_000])
            writer, asked = chance.choice(writers), request(chance, 6, terminals)
            answer = writer.answer if chance.random() < 0.6 else decision
            under_way.append((writer, answer(f"d{number}", at_ms, asked)))
            chance.shuffle(under_way)
            while under_way and chance.random() < 0.6:
                first, record = under_way.pop()
                first.write([record])
        for writer, record in under_way:
            writer.write([record])
    return home


@pytest.mark.parametrize("seed", range(4))
def test_windows_do_not_depend_on_which_requests_are_asked_for(tmp_path: Path, seed: int) -> None:
    """Also of requests whose gateway had read no windows: when these became known, the positions of
    all others say."""
    offline = offline_of(partly_read(tmp_path, seed))
    events = offline.requests().order("event_time, request_id").to_arrow_table()
    every = {row["request_id"]: row for row in with_windows(offline, events).to_pylist()}

    for customer in set(events["customer_id"].to_pylist()):
        own = events.filter(pc.field("customer_id") == customer)
        for row in with_windows(offline, own).to_pylist():
            for window in WINDOWS:
                assert bits(row[window.name]) == bits(every[row["request_id"]][window.name])


@pytest.mark.parametrize("key", ["customer_id", "terminal_id"])
def test_ranks_of_one_entity_alone_give_the_windows_of_ranks_of_all(
    tmp_path: Path, key: str
) -> None:
    """So that a distributed engine may rank each bucket of keys by itself."""
    home = begun(tmp_path)
    streamed(home, FRAUD, seed=11, count=300, names=("gateway-0", "gateway-1"))
    offline = offline_of(home)
    events = offline.requests().order("event_time, request_id").to_arrow_table()
    every = {row["request_id"]: row for row in with_windows(offline, events).to_pylist()}
    windows = PastWindows.of(FRAUD, key)
    db = offline.db
    offline.arrivals().create_view("arrivals")
    offline.every_request(0).create_view("stored")
    known = known_sql("arrivals", f"({positions_sql('arrivals')})")
    db.execute(
        f"CREATE TABLE past AS SELECT r.*, k.* EXCLUDE (request_id) FROM stored r"
        f" LEFT JOIN ({known}) k ON r.request_id = k.request_id"
    )
    for entity in set(events[key].to_pylist()):
        db.register("events", events.filter(pc.field(key) == entity))
        ranks = ranks_sql(f"({windows.counted_sql('past')})")
        db.execute(f"CREATE OR REPLACE TABLE ranked AS {ranks}")
        for row in db.sql(windows.joined_sql(0)).to_arrow_table().to_pylist():
            for name in windows.names:
                assert bits(row[name]) == bits(every[row["request_id"]][name])


def test_the_next_request_finds_the_payment_in_any_process(tmp_path: Path) -> None:
    home = begun(tmp_path)
    with closing(Gateway(home, FRAUD, "a")) as first, closing(Gateway(home, FRAUD, "b")) as second:
        before = second.reads.read(KEYS, NOON_MS)
        first.write([first.answer("d1", NOON_MS, ONE)])
        after = second.reads.read(KEYS, NOON_MS + 1_500)

    assert (before.values["c_n_10m"], before.values["c_since"]) == (0.0, None)
    assert before.times == {"customer_windows": None, "terminal_windows": None}
    assert (after.values["c_n_10m"], after.values["c_since"]) == (1.0, 1.5)
    assert after.values["c_mean_1d"] == 10.0
    assert after.position == {"a": 1}


def test_records_of_who_does_not_follow_are_caught_up_with_once(tmp_path: Path) -> None:
    home = begun(tmp_path)
    with closing(SqliteDecisionLog(home)) as log:
        log.append("other", [Entry(decision(f"o{n}", NOON_MS, ONE)) for n in range(3)])
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 0.0
        gateway.write([decision("d1", NOON_MS, ONE)])
        gateway.write([decision("d2", NOON_MS, {**ONE, "customer_id": 9})])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 4.0


def test_a_transaction_that_fails_counts_nothing_and_one_that_is_tried_again_counts_once(
    tmp_path: Path,
) -> None:
    home = begun(tmp_path)
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        bad = decision("d2", 2**70, ONE)  # no database takes its time
        with pytest.raises(InputInvalid):
            gateway.write([decision("d1", NOON_MS, ONE), bad])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 0.0
        gateway.write([decision("d1", NOON_MS, ONE)])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 1.0


def test_a_record_is_written_whatever_becomes_of_its_windows(tmp_path: Path) -> None:
    home = begun(tmp_path)
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        with closing(sqlite.connect(home / DATABASE)) as db:
            db.execute("ALTER TABLE window_tiles RENAME TO away")
        gateway.write([decision("d1", NOON_MS, ONE)])
        with closing(sqlite.connect(home / DATABASE)) as db:
            assert db.execute("SELECT count(*) FROM unsealed_records").fetchone() == (1,)
            db.execute("ALTER TABLE away RENAME TO window_tiles")
        gateway.write([decision("d2", NOON_MS, ONE)])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 2.0


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 1e18},
        {"amount": 10**400},
        {"amount": "10 EUR"},
        {"amount": None},
        {"customer_id": [1]},
        {"customer_id": 2**63},
    ],
)
def test_a_payment_of_another_declaration_is_written_and_holds_up_no_window(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """A series outlives the request fields that it was declared for."""
    with closing(Gateway(begun(tmp_path), FRAUD, "a")) as gateway:
        gateway.write([decision("d1", NOON_MS, ONE), decision("d2", NOON_MS, {**ONE, **changed})])
        gateway.write([decision("d3", NOON_MS, ONE)])
        row = gateway.reads.read(KEYS, NOON_MS)
        assert (row.position, row.values["c_sum_1d"]) == ({"a": 3}, 20.0)


def test_damaged_tiles_fail_no_record_and_no_read_otherwise_than_by_saying_so(
    tmp_path: Path,
) -> None:
    home = begun(tmp_path)
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        gateway.write([decision("d1", NOON_MS, ONE)])
        with closing(sqlite.connect(home / DATABASE)) as db:
            db.execute("UPDATE window_tiles SET tiles = x'0011'")
        with pytest.raises(Unavailable, match="columns"):
            gateway.reads.read(KEYS, NOON_MS)
        gateway.write([decision("d2", NOON_MS, ONE)])
        assert gateway.log.read(RecordQuery()).num_rows == 2


def test_whatever_a_projection_raises_the_record_is_written(tmp_path: Path) -> None:
    class BrokenProjection:
        tables = ""

        def follow(self, *given: object) -> None:
            raise ZeroDivisionError

    with closing(SqliteDecisionLog(tmp_path, projection=BrokenProjection())) as log:
        log.append("a", [Entry(decision("d1", NOON_MS, ONE))])
        assert log.read(RecordQuery()).num_rows == 1


def test_a_state_that_is_behind_catches_up_in_short_transactions(tmp_path: Path) -> None:
    home = begun(tmp_path)
    with closing(SqliteDecisionLog(home)) as log:
        log.append("other", [Entry(decision(f"o{n}", NOON_MS, ONE)) for n in range(450)])
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        counted = []
        for number in range(4):
            gateway.write([decision(f"d{number}", NOON_MS, ONE)])
            counted.append(gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"])
    assert counted == [201.0, 402.0, 453.0, 454.0]


def test_gateways_write_while_windows_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's lock is not taken while tiles are made of history and log."""
    home = begun(tmp_path)
    add = windows_build.add
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        gateway.write([decision("d1", NOON_MS, ONE)])
        offline = offline_of(home)

        def meanwhile(*given: Any) -> int:
            with closing(SqliteDecisionLog(home, lock_wait_ms=0)) as log:
                log.append("b", [Entry(decision("d2", NOON_MS, ONE))])
            return add(*given)

        monkeypatch.setattr(windows_build, "add", meanwhile)
        build(home / DATABASE, offline, gateway.log)
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 2.0


def test_entities_that_are_over_go_as_fast_as_new_ones_come(tmp_path: Path) -> None:
    """Each customer pays once. The state holds those of nine days, and at most as many more."""
    home, often = begun(tmp_path), 8
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        for turn in range(300):
            at_ms = NOON_MS + turn * DAY_MS // 4
            requests = [{**ONE, "customer_id": often * turn + n} for n in range(often)]
            gateway.write([decision(f"{turn}-{n}", at_ms, one) for n, one in enumerate(requests)])
    with closing(sqlite.connect(home / DATABASE)) as db:
        (kept,) = db.execute("SELECT count(DISTINCT key) FROM window_tiles").fetchone()
    alive = 10 * 4 * often
    assert alive - often <= kept <= 2 * alive


def test_a_series_that_is_not_understood_is_followed_by_nobody_and_records_are_written(
    tmp_path: Path,
) -> None:
    home = begun(tmp_path)
    with closing(Gateway(home, FRAUD, "a")) as gateway:
        with closing(sqlite.connect(home / DATABASE)) as db:
            db.execute("INSERT INTO window_series (model, declaration) VALUES ('fraud', '{}')")
        gateway.write([decision("d1", NOON_MS, ONE)])
        with pytest.raises(Unavailable, match="series"):
            begin(home / DATABASE, FRAUD, has_history=False)
        with closing(sqlite.connect(home / DATABASE)) as db:
            assert db.execute("SELECT count(*) FROM unsealed_records").fetchone() == (1,)
            db.execute("DELETE FROM window_series WHERE declaration = '{}'")
        gateway.write([decision("d2", NOON_MS, ONE)])
        assert gateway.reads.read(KEYS, NOON_MS).values["c_n_10m"] == 2.0


def history(count: int) -> pa.Table:
    chance = random.Random(7)
    rows = [
        {
            "request_id": f"h{n:05d}", "event_time": (NOON_MS - (count - n) * MINUTE_MS) * 1000,
            **request(chance), "label": None, "label_time": None,
        }
        for n in range(count)
    ]  # fmt: skip
    for row in rows:
        row["customer_id"] = abs(row["customer_id"])
    return pa.Table.from_pylist(rows, schema=history_schema(FRAUD))


def test_windows_that_are_built_of_history_and_log_are_followed_from_there(tmp_path: Path) -> None:
    offline = OfflineTable(tmp_path / "offline", FRAUD)
    offline.import_history(history(500), b"k" * 32)
    offline.finish_history()
    with closing(SqliteDecisionLog(tmp_path)) as log:
        assert not begin(tmp_path / DATABASE, FRAUD, has_history=True)
        log.append("old", [Entry(decision(f"o{n}", NOON_MS, ONE)) for n in range(5)])
        with closing(Gateway(tmp_path, FRAUD, "gateway-0")) as gateway:
            stale = gateway.reads.read(KEYS, NOON_MS)
            assert set(stale.stale) == {"customer_windows", "terminal_windows"}
            assert set(stale.values) == {w.name for w in WINDOWS}
        assert build(tmp_path / DATABASE, offline, log) > 10
        log.seal()

    keys = offline.requests().aggregate("customer_id", "customer_id").fetchall()
    served = {}
    with closing(Gateway(tmp_path, FRAUD, "gateway-0")) as gateway:
        for number, (customer,) in enumerate([*keys, *keys]):
            asked = {"customer_id": customer, "terminal_id": number % 4, "amount": 7.5}
            record = gateway.answer(f"d{number}", NOON_MS + number * 1000, asked)
            gateway.write([record])
            served[record.decision_id] = record.payload["features"]
    with closing(SqliteDecisionLog(tmp_path)) as log:
        offline.project(log)

    assert max(values["c_n_6h"] for values in served.values()) > 50
    assert differing(offline, served) == []


def test_a_training_set_has_the_windows_of_its_payments_in_their_order(tmp_path: Path) -> None:
    inputs = (
        *FRAUD.inputs[:4],
        InputSpec(name="c_mean_1d", kind="window", of="customer"),
        InputSpec(name="t_large_2h", kind="window", of="terminal"),
        InputSpec(name="to_mean", kind="ratio", of="amount", to="c_mean_1d"),
    )
    learnt = msgspec.structs.replace(FRAUD, inputs=inputs)
    offline = OfflineTable(tmp_path / "offline", learnt)
    offline.import_history(history(300), b"k" * 32)
    bounds = {"from_ms": NOON_MS - 100 * MINUTE_MS, "to_ms": NOON_MS, "as_of_ms": NOON_MS}
    found = requests_between(learnt, (), offline, **bounds, join=training_join)
    every = with_windows(offline, offline.requests().order("event_time").to_arrow_table())

    assert found.names[-3:] == ("c_mean_1d", "t_large_2h", "to_mean")
    assert found.event_ms.tolist() == sorted(found.event_ms)
    assert len(found) == 100
    means = every["c_mean_1d"].to_numpy()[-100:].astype(np.float32)
    assert np.array_equal(found.x[:, 4], means, equal_nan=True)
    assert np.nanmin(means) > 0
