"""A look at what was served names each feature that was wrong, says why, and names nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from mlplatform.decisions.records import unsealed_records
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.skew.verdict import FeatureSkew, SkewReport
from mlplatform.model.definition import RequestField
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS
from models.fraud.generator import Population, generate
from support.skew_world import BEGIN_MS, MODEL, VIEWS, WINDOWS, Faults, ServedValues, World

DAYS, A_DAY = 5, 400
WRONG_DAY = 3
SINCE_MS = BEGIN_MS + WRONG_DAY * DAY_MS


def skew_report(home: Path, faults: Faults) -> SkewReport:
    """At the last days, which are those of the fault."""
    world = World(home, faults).run(DAYS, A_DAY)
    return world.compare(from_ms=SINCE_MS).report


def named(report: SkewReport) -> dict[str, FeatureSkew]:
    return {one.name: one for one in report.skewed}


def test_nothing_is_named_in_a_clean_month(tmp_path: Path) -> None:
    """Two passes of two weeks, where the second goes on behind the first, and one over all."""
    world, after, passes = World(tmp_path), None, []
    for _ in range(2):
        found = world.run(14, 450).compare(after=after, size=3_000)
        after = found.position
        passes.append(found.report)
    whole = world.compare(size=6_000).report

    assert [one.population for one in (*passes, whole)] == [6_300, 6_300, 12_600]
    assert [named(one) for one in (*passes, whole)] == [{}, {}, {}]
    assert all(one.is_known for one in (*passes, whole))
    assert sum(f.different + f.missing for f in whole.features) == 0
    assert max(f.late for f in whole.features) < 20


class VoidedWorld(World):
    """A fourth of each day's payments is void just after its midnight, before its snapshot."""

    def _label(self, now_ms: int) -> None:
        super()._label(now_ms)
        for writer, record in list(self.queued)[::4]:
            if record.kind == "decision":
                at_ms = now_ms + MINUTE_MS
                void = Record(
                    kind="void", decision_id=record.decision_id, model="fraud", event_ms=at_ms,
                    recorded_ms=at_ms,
                )  # fmt: skip
                self._append(writer, void)


def test_a_void_counts_in_the_snapshots_from_its_own_time_on(tmp_path: Path) -> None:
    report = VoidedWorld(tmp_path).run(4, 200).compare().report
    features = {name for view in VIEWS for name in view.feature_names}
    found = [f for f in report.features if f.name in features]
    assert len(found) == len(features)
    assert all(f.sampled == f.equal == 800 for f in found)


def test_a_history_from_before_a_field_was_declared_is_counted(tmp_path: Path) -> None:
    population = Population(customers=300, payments_per_day=400)
    history = generate(seed=1, start_ms=BEGIN_MS - 90 * DAY_MS, days=1, population=population)
    earlier = OfflineTable(tmp_path / "offline", MODEL)
    earlier.import_history(history, b"k" * 32)
    earlier.finish_history()
    added = {**MODEL.request, "risk": RequestField(type="float64", optional=True)}
    world = World(tmp_path, definition=msgspec.structs.replace(MODEL, request=added))
    found = world.run(2, 200).compare().report
    assert (found.population, named(found)) == (400, {})


def doubled(values: ServedValues, at_ms: int) -> None:
    if at_ms >= SINCE_MS and values["c_sum_1d"]:
        values["c_sum_1d"] *= 2


def one_more(values: ServedValues, at_ms: int) -> None:
    if at_ms >= SINCE_MS:
        values["t_n_6h"] = (values["t_n_6h"] or 0) + 1


def mistaken(row: ServedValues) -> ServedValues:
    mean = row.get("customer_mean_7d")
    return row if mean is None else {**row, "customer_mean_7d": mean * 1.1}


@pytest.mark.parametrize(
    ("faults", "feature", "why"),
    [
        (Faults(served=doubled), "c_sum_1d", "2 times what it should be"),
        (Faults(served=one_more), "t_n_6h", "off by +1"),
        (Faults(stored=mistaken), "customer_mean_7d", "online store holds other values"),
    ],
    ids=["a window", "a count", "a stored row"],
)
def test_a_bug_in_one_online_feature_is_named_and_nothing_else(
    tmp_path: Path, faults: Faults, feature: str, why: str
) -> None:
    found = named(skew_report(tmp_path, faults))
    assert set(found) == {feature}
    assert why in (found[feature].cause or "")
    assert found[feature].different > 0
    assert found[feature].late == 0
    assert 1 <= len(found[feature].examples) <= 3


def test_a_frozen_feed_is_named_with_the_moment_since_when(tmp_path: Path) -> None:
    report = skew_report(tmp_path, Faults(frozen=("customer_stats", WRONG_DAY)))
    found = named(report)
    assert found
    assert all(name.startswith("customer_") for name in found)
    assert {"customer_count_1d", "customer_count_7d", "customer_mean_7d"} <= set(found)
    assert all((f.cause or "").startswith("frozen feed since 2026-02-19") for f in found.values())
    assert sum(f.different + f.missing for f in report.features) == 0


def test_a_state_that_takes_in_nothing_is_named_with_the_moment_since_when(tmp_path: Path) -> None:
    report = skew_report(tmp_path, Faults(stopped=("terminal", SINCE_MS)))
    found = named(report)
    assert set(found) == {"t_n_6h", "t_large_1d", "t_customers_1d"}
    assert all("frozen feed since" in (f.cause or "") for f in found.values())


def test_a_late_projection_is_named_with_how_late_it_is(tmp_path: Path) -> None:
    report = skew_report(tmp_path, Faults(behind_ms=30 * MINUTE_MS))
    found = named(report)
    assert "t_n_6h" in found
    assert set(found) <= {w.name for w in WINDOWS}
    assert all((f.cause or "").startswith("late by") for f in found.values())
    assert sum(f.different for f in report.features) == 0


def test_a_late_partition_is_named_as_late_events(tmp_path: Path) -> None:
    late = (SINCE_MS + 18 * HOUR_MS, SINCE_MS + DAY_MS)
    report = skew_report(tmp_path, Faults(late=late))
    found = named(report)
    assert {"terminal_count_1d", "terminal_count_7d"} <= set(found)
    assert all("late" in (f.cause or "") for f in found.values())
    assert sum(f.different + f.missing for f in report.features) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda values, _: values.pop("c_since"), "definition changed: records do not hold"),
        (lambda values, _: values.update(c_since=None), "defaults served"),
    ],
    ids=["not there", "none"],
)
def test_defaults_and_features_that_are_not_served_are_told(
    tmp_path: Path, change: Callable[[ServedValues, int], None], why: str
) -> None:
    found = named(skew_report(tmp_path, Faults(served=change)))
    assert set(found) == {"c_since"}
    assert why in (found["c_since"].cause or "")


def test_erased_payments_name_no_feature_that_counted_them(tmp_path: Path) -> None:
    """Those who were served with them cannot be counted again; a fault beside them is still one."""
    world = World(tmp_path, Faults(served=doubled)).run(DAYS, A_DAY)
    some = "SELECT writer, seq FROM unsealed WHERE kind = 'decision' AND event_ms < ? LIMIT 20"
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        for writer, seq in db.execute(some, (SINCE_MS,)).fetchall():
            unsealed_records.remove_payloads(db, writer, [seq])
        db.commit()
    report = world.compare(from_ms=SINCE_MS).report

    assert report.unreadable == 20
    assert set(named(report)) == {"c_sum_1d"}
    (count,) = (one for one in report.features if one.name == "terminal_count_7d")
    assert (count.different > 20, count.verdict) == (True, "not known")
    assert "without their payload" in (count.cause or "")


def test_a_sample_that_is_too_small_says_nothing_and_never_equal(tmp_path: Path) -> None:
    report = World(tmp_path).run(2, 100).compare().report
    assert report.sampled == 200
    assert {f.verdict for f in report.features} == {"not known"}
    assert "could not be judged" in report.summary


def test_a_pass_reads_what_is_new_alone(tmp_path: Path) -> None:
    world = World(tmp_path).run(2, 100)
    first = world.compare()
    again = world.compare(after=first.position)
    assert first.report.sampled == 200
    assert again.report.sampled == 0
    assert again.position == first.position
