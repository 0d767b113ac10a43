"""What the arms of a test have done, counted from the log: each request once, for its own arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.training import ExplorationPolicy
from mlplatform.model.routes import Variant
from mlplatform.rollouts.journal.controls import (
    VariantRemoved,
    VariantsAnswering,
    VariantsEnded,
    VariantsStarted,
    VariantTestState,
)
from mlplatform.rollouts.variants.comparison import ArmFigures, compare
from mlplatform.runtime.units import DAY_MS
from rollout_world import arm, fraud

BEGAN_MS = 100 * DAY_MS
MATURED_MS = BEGAN_MS + 30 * DAY_MS
FACT: dict[str, Any] = {
    "model": "fraud", "event_ms": BEGAN_MS, "wall_ms": BEGAN_MS, "actor": "eve", "reason": "try it",
    "test_id": "fraud-variants-1",
}  # fmt: skip
VARIANTS = (Variant(arm(1), 20.0, ((0, 2000),)), Variant(arm(3), 10.0, ((2000, 3000),)))
TEST = VariantTestState(
    VariantsStarted(**FACT, champion=arm(2), variants=VARIANTS, days=14.0),
    VARIANTS,
    VariantsAnswering(**FACT, generation=7),
)


@pytest.fixture
def log(tmp_path: Path) -> SqliteDecisionLog:
    return SqliteDecisionLog(tmp_path / "log")


def decided(number: int, bucket: int = 5000, **changes: Any) -> Record:
    """A decision of the arm that the bucket belongs to."""
    version = 1 if bucket < 2000 else 3 if bucket < 3000 else 2
    arm_name = "champion" if version == 2 else "variant"
    facts: dict[str, Any] = {
        "kind": "decision", "decision_id": f"{number:032x}", "model": "fraud",
        "event_ms": BEGAN_MS + number, "recorded_ms": BEGAN_MS + number, "generation": 7,
        "arm": arm_name, "answered_by": arm_name, "unit": number, "bucket": bucket,
        "version": version, "bundle": arm(version).bundle, "score": 0.1, "decision": "approve",
        "latency_us": 4000,
    }  # fmt: skip
    return Record(**facts | changes)


def label(number: int, value: int) -> Record:
    at = BEGAN_MS + DAY_MS
    return Record(
        kind="label", decision_id=f"{number:032x}", model="fraud", event_ms=at, recorded_ms=at,
        label=value,
    )  # fmt: skip


def figures(
    log: SqliteDecisionLog,
    records: Iterable[Record],
    *,
    now_ms: int = MATURED_MS,
    test: VariantTestState = TEST,
    definition: ModelDefinition | None = None,
) -> tuple[ArmFigures, ...]:
    log.append("gateway-1", [Entry(record) for record in records])
    return compare(definition or fraud(), log, test, now_ms=now_ms)


def test_each_request_counts_for_the_arm_that_it_was_assigned_to(log: SqliteDecisionLog) -> None:
    records = [decided(n, unit=n % 40) for n in range(80)]
    records += [decided(100 + n, 1500, unit=100 + n % 10, latency_us=9000) for n in range(20)]
    records += [decided(200 + n, 2500, unit=200) for n in range(6)]
    failed = {"answered_by": "champion", "version": 2, "degraded": True,
              "degraded_reason": "deadline"}  # fmt: skip
    records += [decided(300 + n, 2500, unit=300, **failed) for n in range(4)]
    own = {"answered_by": "rules", "degraded": True, "degraded_reason": "bulkhead"}
    records.append(decided(400, 100, **own))
    champion, first, second = figures(log, records)
    assert (champion.arm, champion.version, champion.percent) == ("champion", 2, 70.0)
    assert (champion.customers, champion.requests, champion.failures) == (40, 80, 0)
    assert (first.arm, first.version, first.percent) == ("variant", 1, 20.0)
    assert (first.customers, first.requests, first.failures) == (10, 20, 0)
    assert (second.customers, second.requests, second.failures, second.answers) == (2, 10, 4, 6)
    assert champion.p50_ms == pytest.approx(4.0, rel=0.02)
    assert first.p99_ms == pytest.approx(9.0, rel=0.02)


def test_records_of_other_times_and_callers_count_for_nobody(log: SqliteDecisionLog) -> None:
    ended = VariantsEnded(**{**FACT, "wall_ms": BEGAN_MS + 50, "event_ms": BEGAN_MS + 50})
    records = [
        decided(1),
        decided(2, generation=6),
        decided(3, arm="named", answered_by="champion"),
        decided(4, unit=None),
        decided(60),
        decided(5),
        Record(kind="void", decision_id=f"{5:032x}", model="fraud", event_ms=BEGAN_MS + 6,
               recorded_ms=BEGAN_MS + 6),
    ]  # fmt: skip
    found = figures(log, records, test=dataclasses.replace(TEST, end=ended))
    assert [one.requests for one in found] == [1, 0, 0]


def test_where_nothing_came_there_is_no_figure(log: SqliteDecisionLog) -> None:
    for one in figures(log, []):
        assert (one.customers, one.requests, one.alerts, one.matured) == (0, 0, 0, 0)
        assert (one.p50_ms, one.p99_ms, one.recall, one.precision) == (None,) * 4
    waiting = dataclasses.replace(TEST, answering=None)
    assert figures(log, [decided(1)], test=waiting) == ()


def outcomes() -> list[Record]:
    """Of 60 positives the champion finds 30 and version 1 finds 45, each with 60 alerts."""
    records = []
    for bucket, base, found in ((5000, 0, 30), (500, 10_000, 45)):
        for n in range(400):
            number, is_positive = base + n, n < 60
            alerts = n < found or 60 <= n < 120 - found
            decision = "review" if alerts else "approve"
            records.append(decided(number, bucket, decision=decision, score=0.6))
            if is_positive:
                records.append(label(number, 1))
    return records


def test_matured_labels_give_recall_and_precision_with_bounds(log: SqliteDecisionLog) -> None:
    champion, first, second = figures(log, outcomes())
    assert (champion.matured, champion.positives, champion.alerts) == (400, 60, 60)
    for one, share in ((champion, 0.5), (first, 0.75)):
        for found in (one.recall, one.precision):
            assert found is not None
            assert found.value == pytest.approx(share)
            assert 0 <= found.low < share < found.high <= 1
    assert (second.recall, second.precision) == (None, None)


def test_young_requests_and_missing_labels_say_nothing_of_outcomes(log: SqliteDecisionLog) -> None:
    days = fraud().label.maturity_days
    young = figures(log, outcomes(), now_ms=BEGAN_MS + days * DAY_MS - 1)
    assert [(one.matured, one.recall, one.precision) for one in young] == [(0, None, None)] * 3
    assert young[0].alerts == 60


def test_no_label_at_all_is_no_data_and_no_bad_precision(log: SqliteDecisionLog) -> None:
    records = [record for record in outcomes() if record.kind == "decision"]
    champion, first, _ = figures(log, records)
    assert (champion.matured, champion.recall, champion.precision) == (400, None, None)
    assert (first.matured, first.recall, first.precision) == (400, None, None)


def test_what_a_decline_hides_widens_the_bounds(log: SqliteDecisionLog) -> None:
    """Nobody can report a declined payment: it may be a fraud that was found, or none."""
    base = {one.arm: one for one in figures(log, outcomes())[:2]}
    hidden = [decided(50_000 + n, 5000, decision="decline", score=0.95) for n in range(30)]
    champion = figures(log, hidden)[0]
    before, after = base["champion"].precision, champion.precision
    assert before is not None
    assert after is not None
    assert champion.alerts == 90
    assert after.high - after.low > before.high - before.low + 0.2


def test_explored_requests_stand_for_those_that_a_decline_hid(log: SqliteDecisionLog) -> None:
    records = outcomes()
    for n in range(200):
        explored = n % 2 == 0
        draw = {"propensity": 0.5, "explored": explored}
        if explored:
            draw |= {"explored_instead_of": "decline"}
        decision = "approve" if explored else "decline"
        records.append(decided(60_000 + n, 5000, decision=decision, score=0.95, payload=draw))
        if explored and n % 4 == 0:
            records.append(label(60_000 + n, 1))
    policy = ExplorationPolicy(
        share=0.5, decision="approve", amount="amount", maximum_amount=50.0, maximum_sum=500.0
    )
    explores = msgspec.structs.replace(fraud(), exploration=policy)
    champion = figures(log, records, definition=explores)[0]
    assert champion.precision is not None
    # of 60 alerts and 200 declines half are frauds
    assert champion.precision.value == pytest.approx((30 + 100) / 260, abs=0.02)


def test_a_variant_that_was_taken_out_keeps_its_figures(log: SqliteDecisionLog) -> None:
    removed = VariantRemoved(**FACT, version=1, service=arm(1).service)
    test = dataclasses.replace(TEST, variants=VARIANTS[1:], removals=(removed,))
    records = [decided(1, 500), decided(2, 2500), decided(3, 5000)]
    found = figures(log, records, test=test)
    assert [(one.version, one.percent, one.requests) for one in found] == [
        (2, 90.0, 1), (1, 0.0, 1), (3, 10.0, 1),
    ]  # fmt: skip
