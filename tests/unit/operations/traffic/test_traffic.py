"""Counts of traffic: advanced by new records alone, equal to a recount, and bounded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.operations.actions import traffic
from mlplatform.operations.traffic import buckets, projection
from mlplatform.operations.traffic.buckets import LEVELS
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from rollout_world import table
from support.home_world import HomeWorld

NEWEST_MS = 500 * DAY_MS


@dataclass
class SmallLog:
    """The records of several writers, read as the log's reader reads them."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def append(self, writer: str, **row: Any) -> None:
        seq = 1 + sum(r["writer"] == writer for r in self.rows)
        self.rows.append({"writer": writer, "seq": seq, **row})

    def watermarks(self) -> Sequence[Watermark]:
        last = {r["writer"]: r["seq"] for r in self.rows}
        return [Watermark(writer, seq, 0, 0, live=True) for writer, seq in last.items()]

    def read(self, query: RecordQuery) -> pa.Table:
        after = query.after or {}
        rows = sorted(self.rows, key=lambda r: (r["writer"], r["seq"]))
        kept: list[dict[str, Any]] = []
        for row in rows:
            mine = [r for r in kept if r["writer"] == row["writer"]]
            wanted = row.get("kind", "decision") in query.kinds
            room = query.limit is None or len(mine) < query.limit
            if row["seq"] > after.get(row["writer"], 0) and wanted and room:
                kept.append(row)
        found = table(kept)
        return found.select([c for c in query.columns if c in found.column_names])


ROWS = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["decision", "decision", "shadow", "label", "void"]),
    st.integers(0, 3 * 24) | st.integers(0, 9_600) | st.integers(9_590, 12_000),
    st.sampled_from(["approve", "review", "decline"]),
    st.booleans(),
    st.none() | st.integers(0, 40_000_000),
    st.sampled_from([1, 2, None]),
)


def filled(path: Path, log: SmallLog, portion: int) -> projection.TrafficReport | None:
    assert projection.advance(path, log, "fraud", alerting=EARLIER.alerts, portion=portion)
    return projection.read(path, DAY_MS)


def rows_of(path: Path) -> list[Any]:
    return [
        (level.length_ms, b.start_ms, b.role, b.version, b.counts.requests, b.counts.degraded,
         b.counts.alerts, tuple(b.counts.latency))
        for level in LEVELS
        for b in getattr(projection.read(path, level.keep_ms), "buckets", ())
    ]  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(st.lists(ROWS, max_size=16), st.lists(st.integers(1, 9), max_size=5), st.integers(1, 4))
def test_any_portions_of_late_records_and_voids_come_to_a_recount(
    rows: list[tuple[Any, ...]], stops: list[int], portion: int
) -> None:
    log = SmallLog()
    with tempfile.TemporaryDirectory() as folder:
        steps, again = Path(folder) / "steps.db", Path(folder) / "again.db"
        for number, (writer, kind, hours, decision, degraded, took, version) in enumerate(rows):
            log.append(writer, kind=kind, event_ms=hours * HOUR_MS + number, decision=decision,
                       degraded=degraded, latency_us=took, version=version)  # fmt: skip
            if number in np.cumsum(stops):
                filled(steps, log, portion)
        one, other = filled(steps, log, portion), filled(again, log, 1000)
        assert rows_of(steps) == rows_of(again)
        if one is not None and other is not None:
            assert (one.newest_ms, one.position) == (other.newest_ms, other.position)
            assert one.position == {m.writer: m.seq for m in log.watermarks()}


def test_counts_are_those_of_the_records(tmp_path: Path) -> None:
    log = SmallLog()
    for number in range(10):
        log.append("a", event_ms=NEWEST_MS + number, latency_us=1000 * (number + 1),
                   degraded=number == 0,
                   decision="review" if number < 3 else "approve")  # fmt: skip
    log.append("a", kind="shadow", event_ms=NEWEST_MS, version=2, arm="challenger")
    log.append("a", kind="void", event_ms=NEWEST_MS, decision_id="d1")
    found = filled(tmp_path / "t.db", log, 4)
    assert found is not None
    assert [(b.role, b.version, b.counts.requests) for b in found.buckets] == [
        ("champion", 1, 10), ("shadow", 2, 1),
    ]  # fmt: skip
    counts = found.buckets[0].counts
    assert (counts.degraded, counts.alerts, counts.latency.sum()) == (1, 2, 10)
    assert buckets.quantile_ms(counts.latency, 0.5) == pytest.approx(5.0, rel=0.09)
    assert buckets.quantile_ms(counts.latency, 0.99) == pytest.approx(10.0, rel=0.09)
    assert buckets.quantile_ms(buckets.no_counts().latency, 0.5) is None


def test_the_file_stays_bounded_whatever_the_log_holds(tmp_path: Path) -> None:
    path, log = tmp_path / "t.db", SmallLog()
    for day in range(0, 900, 3):
        log.append("a", event_ms=day * DAY_MS)
    filled(path, log, 1000)
    most = sum((level.keep_ms + 2 * level.length_ms) // level.length_ms + 1 for level in LEVELS)
    assert len(rows_of(path)) <= most
    oldest = projection.read(path, LEVELS[-1].keep_ms)
    assert oldest is not None
    assert oldest.buckets[0].start_ms >= (897 - 401) * DAY_MS


def test_a_log_that_was_put_back_is_counted_anew(tmp_path: Path) -> None:
    path, log = tmp_path / "t.db", SmallLog()
    for number in range(5):
        log.append("a", event_ms=NEWEST_MS + number)
    filled(path, log, 1000)
    log.rows = log.rows[:2]
    found = filled(path, log, 1000)
    assert found is not None
    assert (found.position, found.buckets[0].counts.requests) == ({"a": 2}, 2)


def test_an_advance_without_time_does_a_portion_and_says_that_more_is_left(tmp_path: Path) -> None:
    log = SmallLog()
    for number in range(5):
        log.append("a", event_ms=NEWEST_MS + number)
    path = tmp_path / "t.db"
    assert not projection.advance(
        path, log, "fraud", alerting=EARLIER.alerts, portion=2, budget_s=-1.0
    )
    assert projection.advance(path, log, "fraud", alerting=EARLIER.alerts, portion=2)
    assert projection.advance(path, log, "fraud", alerting=EARLIER.alerts, portion=2)


def test_samples_are_one_an_hour_and_a_month_at_most(tmp_path: Path) -> None:
    path, log = tmp_path / "t.db", SmallLog()
    log.append("a", event_ms=NEWEST_MS)
    filled(path, log, 10)
    for hours in range(-40 * 24, 1, 12):
        projection.sample(path, traffic.AGES, NEWEST_MS + hours * HOUR_MS, {"v": hours})
    projection.sample(path, traffic.AGES, NEWEST_MS + 5, {"v": 7})
    found = projection.read(path, 31 * DAY_MS)
    assert found is not None
    kept = found.samples[traffic.AGES]
    assert kept[-1] == (NEWEST_MS, {"v": 7})
    assert len(kept) == 31 * 2 + 1


def test_the_newest_sample_is_read_although_it_is_older_than_the_range(tmp_path: Path) -> None:
    path, log = tmp_path / "t.db", SmallLog()
    log.append("a", event_ms=NEWEST_MS)
    filled(path, log, 10)
    for hours, of in ((-200, "ages"), (-100, "ages"), (-300, "check"), (-1, "check")):
        projection.sample(path, of, NEWEST_MS + hours * HOUR_MS, {"v": hours})
    found = projection.read(path, DAY_MS)
    assert found is not None
    assert {of: [body["v"] for _, body in kept] for of, kept in found.samples.items()} == {
        "ages": [-100], "check": [-1]
    }  # fmt: skip


def test_before_anything_was_counted_there_is_nothing(tmp_path: Path) -> None:
    assert projection.read(tmp_path / "t.db", DAY_MS) is None
    assert not (tmp_path / "t.db").exists()


def test_a_table_without_records_has_no_counts() -> None:
    empty = table([{}]).filter(pc.field("seq") > 1)
    assert buckets.bucket_counts(empty, ()) == {}


def test_a_damaged_file_is_counted_again_by_the_next_pass(tmp_path: Path) -> None:
    path, log = tmp_path / "t.db", SmallLog()
    log.append("a", event_ms=NEWEST_MS)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="the next pass counts it again"):
        projection.read(path, DAY_MS)
    with pytest.raises(Unavailable):
        projection.advance(path, log, "fraud", alerting=EARLIER.alerts)
    assert projection.advance(path, log, "fraud", alerting=EARLIER.alerts)


def test_a_pass_counts_the_log_and_samples_the_ages_of_features(tmp_path: Path) -> None:
    world = HomeWorld(tmp_path / "home")
    world.decide(3)
    entry = world.entry(1)
    of = {"customer_stats": entry.record.event_ms - 2, "terminal_stats": None}
    aged = {"feature_times": of}
    record = msgspec.structs.replace(entry.record, payload=aged, event_ms=world.number)
    world.log.append("gateway-0", [msgspec.structs.replace(entry, record=record)])
    platform = Platform(load({"MLPLATFORM_HOME": str(world.home.root)}))

    traffic.count(platform, "fraud")

    found = traffic.read(platform, "fraud", DAY_MS)
    assert found is not None
    assert sum(b.counts.requests for b in found.buckets) == 4
    assert traffic.feature_ages(platform.log, "fraud") == {"customer_stats": 2}

    label = msgspec.structs.replace(record, kind="label", payload={})
    many = [msgspec.structs.replace(world.entry(1), record=label) for _ in range(100)]
    world.log.append("gateway-0", many)
    told = "labels that came since hide no decision"
    assert traffic.feature_ages(platform.log, "fraud") == {"customer_stats": 2}, told
    world.close()
