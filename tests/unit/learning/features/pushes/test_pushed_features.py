"""Pushed values: what training joins is what serving read, whatever died in between."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from msgspec.structs import replace
from tests.support.external_world import BUREAU, T_S, fraud_like
from tests.unit.learning.features.external.test_external_join import KEY, Values, World, values

from mlplatform.decisions.records.port import KEEP_MS
from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.learning.features.external import compaction
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.compaction import compact
from mlplatform.learning.features.external.table_import import serve_missing
from mlplatform.learning.features.external_parts import MARK, ClientPushes
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.online import FeatureRow
from mlplatform.learning.features.pushes.intake import take_pushed
from mlplatform.learning.features.pushes.journal import (
    DurablePush,
    KeptPush,
    Place,
    Push,
    PushedRow,
    ReusedKey,
)
from mlplatform.learning.features.pushes.serving import serve
from mlplatform.learning.features.pushes.sqlite import SqlitePushes
from mlplatform.learning.training_sets.join import view_join
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import DAY_S

MODEL = "fraud"


class Killed(Exception):
    pass


class DyingProcess:
    """An object whose process dies before one of its calls."""

    def __init__(self, real: Any, calls: Iterator[bool]) -> None:
        self._real, self._calls = real, calls

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if next(self._calls):
                raise Killed
            return getattr(self._real, name)(*args, **named)

        return call


class PushWorld(World):
    """A view that is imported and pushed; seconds may have fractions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.journal: Any = SqlitePushes(folder / "pushes.db", durable=False)
        self.now_ms = 0

    def clock_ms(self) -> int:
        return T_S * 1000 + self.now_ms

    def push_of(
        self, rows: Sequence[tuple[int, int, float | None]], key: str | None = None
    ) -> Push:
        """Rows of key, event time (s after T) and score."""
        stored = tuple(
            PushedRow(self.stored_key(k), T_S + s, tuple(values(score).values()))
            for k, s, score in rows
        )
        return Push(MODEL, "bureau", "feed", key, str(hash(stored)), BUREAU.feature_names, stored)

    def push(
        self, rows: Sequence[tuple[int, int, float | None]], key: str | None = None
    ) -> DurablePush:
        push = self.push_of(rows, key)
        added = self.journal.add([push], self.clock_ms())
        assert isinstance(added, list)
        kept = KeptPush(added[0].number, push, added[0].arrived_ms, None)
        serve(self.journal, BUREAU, kept, self.online, self.clock_ms)
        one: DurablePush = added[0]
        return one

    def project(self, online: Any = None, journal: Any = None) -> int:
        columns = ExternalColumns.of(BUREAU, fraud_like(), KEY, self.clock_ms())
        parts = self.offline.external("bureau")
        return take_pushed(
            journal or self.journal, columns, MODEL, parts, online or self.online, self.clock_ms
        )

    def served_now(self, key: int) -> Values:
        row = self.online.read({"customer": self.stored_key(key)}, self.clock_ms())
        return {name: row.values[name] for name in BUREAU.feature_names}

    def joined_ms(self, asked: list[tuple[int, int]]) -> list[Values]:
        return self.joined([(key, at_ms / 1000) for key, at_ms in asked])  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(6))
def test_training_joins_what_serving_read_of_pushes_and_imports(tmp_path: Path, seed: int) -> None:
    """Several pushes in a second, late ones, corrections, imports between, parts at any time."""
    draw = random.Random(seed)
    world, asked, read = PushWorld(tmp_path), [], []
    imported: set[tuple[int, int, int]] = set()
    for _ in range(60):
        world.now_ms += draw.choice([1, 7, 400, 90_000, DAY_S * 400])
        world.now_s = world.now_ms // 1000
        match draw.randrange(6):
            case 0:
                world.now_ms = -(-world.now_ms // 1000) * 1000  # the note of an import is exact
                world.now_s = world.now_ms // 1000
                row = (draw.randrange(3), draw.randrange(-9 * DAY_S, world.now_s + 1), world.now_s)
                if row not in imported:
                    imported.add(row)
                    world.take([(*row, draw.randrange(100) / 4)])
            case 1:
                world.project()
            case _:
                event_s = draw.choice([world.now_s, world.now_s // DAY_S * DAY_S])
                keys = draw.sample(range(3), draw.randrange(1, 4))
                score = draw.choice([None, draw.randrange(100) / 4])
                world.push([(key, event_s, score) for key in keys])
        for key in range(4):
            asked.append((key, world.now_ms))
            read.append(world.served_now(key))
    world.project()
    assert world.joined_ms(asked) == read
    assert len({str(one) for one in read}) > 5


@pytest.mark.parametrize("dies_at", range(8))
def test_a_kill_at_any_step_loses_and_doubles_nothing(tmp_path: Path, dies_at: int) -> None:
    """Of the projection; what the gateway kept and did not serve is served before."""
    world, calls = PushWorld(tmp_path), iter([n == dies_at for n in range(1_000)])
    world.now_ms = 1_000
    world.push([(1, 0, 1.0)])
    world.journal.add([world.push_of([(2, 0, 2.0)])], world.clock_ms())  # and then it died
    world.now_ms = 3_600_000
    try:
        world.project(DyingProcess(world.online, calls), DyingProcess(world.journal, calls))
    except Killed:
        world.now_ms += 1_000
        world.project()
    assert world.project() == 0
    parts = world.offline.external("bureau")
    assert sum(note.rows for one in parts.notes() for note in one.pushed.values()) >= 2
    asked = [(1, 1_000), (2, world.now_ms - 1_800_000), (2, world.now_ms)]
    assert world.joined_ms(asked) == [values(1.0), values(None), values(2.0)]
    assert world.served_now(2) == values(2.0)


def test_pushes_that_come_meanwhile_are_taken_by_the_next_call(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    world.push([(1, 0, 1.0)])

    class Busy:
        """A journal that gets a push whenever a part has been made, five times at most."""

        def __getattr__(self, name: str) -> Any:
            if name == "mark_taken" and world.now_ms < 5:
                world.now_ms += 1
                world.push([(1, 0, 1.0 + world.now_ms)])
            return getattr(world.journal, name)

    assert world.project(journal=Busy()) == 1
    assert len(world.offline.external("bureau").every()) == 1
    assert world.project() == 1
    assert world.project() == 0


@pytest.mark.parametrize("is_older", [False, True], ids=["empty", "of a backup"])
@pytest.mark.parametrize("is_taken", [False, True], ids=["in the journal", "in the table"])
def test_a_push_does_not_hide_that_the_online_store_was_lost(
    tmp_path: Path, is_older: bool, is_taken: bool
) -> None:
    world = PushWorld(tmp_path)
    parts, file = world.offline.external("bureau"), tmp_path / "online.db"
    world.take([(1, 0, 0, 1.0)])
    world.online.close()
    copy = file.read_bytes()
    world.online = FeastSqlite(file, "fraud", [BUREAU])
    world.now_ms, world.now_s = DAY_S * 1000, DAY_S
    world.take([(2, 0, DAY_S, 2.0)])
    world.push([(3, 0, 3.0)])
    world.project()
    world.now_ms += 1_000
    if not is_older:
        world.push([(4, 0, 4.0)])
    world.online.close()
    file.write_bytes(copy) if is_older else file.unlink()
    world.online = FeastSqlite(file, "fraud", [BUREAU])
    world.push([(5, DAY_S, 5.0)])  # newer than all that is in the parts
    if is_taken or not is_older:
        world.project()
    assert serve_missing(BUREAU, parts, world.online, world.clock_ms) == len(parts.every())
    found = [world.served_now(key) for key in (1, 2, 3, 5)]
    assert found == [values(1.0), values(2.0), values(3.0), values(5.0)]
    assert world.served_now(4) == values(None if is_older else 4.0)
    for key in range(6, 9):
        world.push([(key, 0, 1.0)])
        world.project()
        assert serve_missing(BUREAU, parts, world.online, world.clock_ms) == 0


def test_a_home_of_before_is_served_once_more_and_no_more(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    parts = world.offline.external("bureau")
    world.take([(1, 0, 0, 1.0)])
    (parts.folder / MARK).unlink()
    world.online._db.execute("DELETE FROM mlplatform_marks")
    assert serve_missing(BUREAU, parts, world.online, world.clock_ms) == 1
    assert serve_missing(BUREAU, parts, world.online, world.clock_ms) == 0


@pytest.mark.parametrize("seed", range(4))
def test_parts_that_are_merged_and_lack_what_has_ended_are_joined_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Killed at the moment of the change too; imports and pushes go on meanwhile."""
    draw = random.Random(seed)
    world, asked, read = PushWorld(tmp_path), [], []
    monkeypatch.setattr(compaction, "MOST_SMALL", 3)
    parts, done = world.offline.external("bureau"), []
    for step in range(70):
        world.now_ms += draw.choice([1, 400, DAY_S * 300])
        event_s = draw.randrange(world.now_ms // 1000 + 1)
        if draw.random() < 0.3:
            world.now_ms = -(-world.now_ms // 1000) * 1000
            world.now_s = world.now_ms // 1000
            world.take([(draw.randrange(3), event_s, world.now_s, step / 4)])
        else:
            world.push([(draw.randrange(3), event_s, step / 4)])
        for key in range(4):
            asked.append((key, world.now_ms))
            read.append(world.served_now(key))
        if draw.random() < 0.3:
            world.project()
        if draw.random() < 0.2:
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", _killed)
                patch.setattr(compaction, "MOST_SMALL", 1)
                with pytest.raises(Killed):
                    compact(BUREAU, parts, horizon_ms=None)
            done.append(compact(BUREAU, parts, horizon_ms=None))
        if draw.random() < 0.1:
            parts.remove_replaced(float("inf"))
    world.project()
    assert max(one.merged for one in done) >= 3
    assert world.joined_ms(asked) == read
    horizon_ms = T_S * 1000 + world.now_ms // 2
    short = replace(BUREAU, ttl_ms=DAY_S * 1000)
    before = _joined_by(world, short, asked)
    dropped = compact(short, parts, horizon_ms=horizon_ms).dropped
    since = [n for n, (_, at_ms) in enumerate(asked) if T_S * 1000 + at_ms >= horizon_ms]
    after = _joined_by(world, short, asked)
    assert [after[n] for n in since] == [before[n] for n in since]
    assert dropped > 0
    newest = {key: world.served_now(key) for key in range(4)}
    (tmp_path / "online.db").unlink()
    world.online = FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])
    serve_missing(BUREAU, parts, world.online, world.clock_ms)
    assert {key: world.served_now(key) for key in range(4)} == newest
    parts.remove_replaced(float("inf"))
    assert len(parts.every()) == len(list(parts.folder.glob("*.parquet"))) == 1
    assert _joined_by(world, short, asked) == after


def _killed(*_: Any) -> None:
    raise Killed


def _joined_by(world: PushWorld, view: FeatureView, asked: list[tuple[int, int]]) -> list[Any]:
    keys = [world.stored_key(key) for key, _ in asked]
    times = pa.array([(T_S * 1000 + at_ms) * 1000 for _, at_ms in asked], pa.timestamp("us"))
    events = pa.table({"event_time": times, "customer_id": pa.array(keys, pa.int64())})
    return view_join(world.offline, [view], events).select(list(view.feature_names)).to_pylist()


def test_a_push_counts_after_every_other_one_of_its_view(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    arrived = [world.push([(1, 0, float(score))]).arrived_ms for score in range(3)]
    assert arrived == [T_S * 1000, T_S * 1000 + 1, T_S * 1000 + 2]
    assert world.served_now(1) == values(2.0)


def test_a_key_is_known_with_its_content_after_training_has_the_rows(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    first = world.push([(1, 0, 1.0)], "a")
    world.project()
    again = world.journal.add([world.push_of([(1, 0, 1.0)], "a")], world.clock_ms() + 5)
    assert again == [
        DurablePush(first.number, first.arrived_ms, is_new=False, served_ms=first.arrived_ms)
    ]
    other = world.journal.add([world.push_of([(1, 0, 2.0)], "a")], world.clock_ms())
    assert isinstance(other, ReusedKey)
    world.now_ms = KEEP_MS + 1
    world.push([(1, 0, 3.0)])
    world.project()
    world.push([(1, 0, 2.0)], "a")  # the key is free again
    assert world.served_now(1) == values(2.0)


def test_a_part_says_who_pushed_it(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    world.push([(1, 0, 1.0), (2, 0, 1.0)])
    world.now_ms = 500
    world.push([(1, 0, 2.0)])
    assert world.project() == 3
    (note,) = world.offline.external("bureau").notes()
    at_ms = T_S * 1000
    assert note.pushed == {
        "feed": ClientPushes(pushes=2, rows=3, first_ms=at_ms, last_ms=at_ms + 500)
    }
    assert note.taken_ms == at_ms


def test_a_feature_that_was_declared_since_then_is_missing(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    push = Push(MODEL, "bureau", "feed", None, "x", ("open_loans",), (PushedRow(5, T_S, (3.0,)),))
    (added,) = world.journal.add([push], world.clock_ms())
    kept = KeptPush(added.number, push, added.arrived_ms, None)
    expected: list[FeatureRow] = [
        (5, T_S * 10**6, T_S * 10**6, (None, 3.0, None)),
    ]
    assert kept.features(BUREAU) == expected


def test_a_gap_is_what_this_journal_did_not_have_and_is_kept_once(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    journal = world.journal

    def found(first: int | None, last: int, partition: int = 0, of: str = "a") -> list[Any]:
        gone = [DroppedRange("bank", partition, first, last)]
        added = journal.add_gaps(MODEL, "bureau", gone, {"bank": of}, last)
        return [(one.first_offset, one.last_offset, one.since_ms) for one in added]

    assert found(None, 4) == []  # nothing was read before: it may all be older than the group
    push = world.push_of([(1, 0, 1.0)])
    assert journal.add_read(push, [Place("bank", 0, 9, 5_000, "a")], world.clock_ms())
    assert found(0, 9) == []
    assert found(4, 12) == [(10, 12, 5_000)]
    assert found(4, 12) == []
    assert found(None, 12) == []
    assert found(4, 15) == [(10, 15, 5_000)]  # more was gone when it was looked for again
    assert found(None, 20) == [(10, 20, 5_000)]
    assert found(0, 3, of="b") == [(0, 3, None)]  # of a topic that was made anew
    assert found(0, 3, partition=1) == [(0, 3, None)]
    assert [
        (one.topic_id, one.partition, one.first_offset, one.last_offset, one.found_ms)
        for one in journal.gaps(MODEL, "bureau")
    ] == [("b", 0, 0, 3, 3), ("a", 1, 0, 3, 3), ("a", 0, 10, 20, 12)]
    assert journal.gaps(MODEL, "other") == []
    assert journal.gaps(MODEL, "bureau")[0].summary == (
        "bank-0 dropped offsets 0 to 3 before they were read"
    )


def test_a_place_counts_as_read_in_the_topic_that_it_was_read_in(tmp_path: Path) -> None:
    """A topic that was made anew has another id, whatever its offsets and times are."""
    world = PushWorld(tmp_path)

    def is_read(score: float, offset: int, published_ms: int, of: str) -> bool:
        push = world.push_of([(1, 0, score)])
        place = Place("bank", 0, offset, published_ms, of)
        return world.journal.add_read(push, [place], world.clock_ms()) is None

    assert not is_read(1.0, 7, 5_000, "")
    assert is_read(1.0, 7, 5_000, "")
    assert is_read(1.0, 7, 5_000, "a")  # of before ids were kept
    world.journal.begin_reading(MODEL, "bureau", [Place("bank", 0, 8, 5_000, "a")])
    assert world.journal.topics_read(MODEL, "bureau") == {("bank", 0): "a"}
    assert is_read(1.0, 7, 9_000, "a")
    assert not is_read(2.0, 8, 1_000, "a")
    assert not is_read(3.0, 0, 10, "b")
    assert is_read(3.0, 0, 10, "b")
    world.journal.begin_reading(MODEL, "bureau", [Place("bank", 0, 1, 0, "c")])
    assert not is_read(3.0, 0, 10, "c")
