"""A rollout opens with its plan; one that can't decide in time is refused, or opened despite it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.policies.training import ExplorationPolicy
from mlplatform.model.routes import no_routes
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import Opened, PlannedStep, RolloutPlan
from mlplatform.rollouts.passes import history
from mlplatform.rollouts.passes.commands import ValidatedVersion, open_rollout
from mlplatform.rollouts.passes.history import read_profile
from mlplatform.rollouts.passes.planning import rollout_plan
from mlplatform.rollouts.passes.summary import question
from mlplatform.rollouts.verdicts.ramp import Plan
from mlplatform.runtime.errors import PlanRefused
from mlplatform.runtime.times import utc_minute_text
from mlplatform.runtime.units import HOUR_MS
from rollout_world import StoppedClock, arm, fraud

START_MS = 1_800_000_000_000
A_DAY = 400
STEP = PlannedStep(
    percent=5.0, hours=35.6, deadline_h=168.0, passes=0.98, decides="failures", exposed=166
)
WITH_CHAMPION = dataclasses.replace(no_routes("fraud"), champion=arm(1), phase="steady")
GOOD = RolloutPlan(history_h=168.0, requests_h=417.0, steps=(STEP,))
REFUSED = RolloutPlan(requests_h=8.0, steps=(STEP,), refusal="shadow can't decide")
DESPITE = RolloutPlan(
    requests_h=8.0, steps=(STEP,), refusal="shadow can't decide", despite="traffic comes in May"
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    with closing(SqliteDecisionLog(tmp_path / "decisions")) as opened:
        yield opened


def filled(log: SqliteDecisionLog, days: float, **fields: Any) -> int:
    """The event time at the end of these days, with as many decisions a day as `A_DAY`."""
    rng, count = np.random.default_rng(3), round(days * A_DAY)
    end_ms = START_MS + round(days * 24 * HOUR_MS)
    at_ms = np.sort(rng.integers(START_MS, end_ms, count))
    defaults: dict[str, Any] = {
        "kind": "decision", "model": "fraud", "arm": "champion", "answered_by": "champion",
        "version": 1, "score": 0.1, "latency_us": 4000,
    }  # fmt: skip
    defaults |= fields

    def record(n: int, ms: int) -> Record:
        decision = "review" if n % 50 == 0 else "approve"
        who = {"decision_id": f"d{n}", "unit": n % 80, "decision": decision}
        return Record(event_ms=ms, recorded_ms=ms, **who, **defaults)

    records = [record(n, int(ms)) for n, ms in enumerate(at_ms)]
    log.append("gw", [Entry(record, None) for record in records])
    return end_ms


def opened(folder: Path, plan: RolloutPlan | None) -> Opened:
    with closing(SqliteRollouts(folder / "rollouts.db")) as rollouts:
        validated = ValidatedVersion(2, arm(2).bundle, "ann", 0.001, 0.03, {})
        rollout_id = open_rollout(
            rollouts, "fraud", validated, approval="required", actor="ann", reason="better",
            clock=StoppedClock(), plan=None if plan is None else lambda _: plan,
        )  # fmt: skip
        (fact,) = rollouts.read(rollout_id)
        assert isinstance(fact, Opened)
        assert fold([fact]).plan == plan
        return fact


# The log


def test_a_profile_is_what_the_log_holds_of_the_days(log: SqliteDecisionLog) -> None:
    end_ms = filled(log, 3.0)
    found = read_profile(log, fraud(), days=2.0, now_event_ms=end_ms)
    assert found is not None
    assert found.hours == pytest.approx(48.0)
    assert found.requests_h == pytest.approx(A_DAY / 24, rel=0.1)
    assert found.alerts == pytest.approx(0.02, rel=0.2)
    assert found.failed == 0
    assert found.speed == 1.0
    assert found.busy_hours == pytest.approx(48, abs=2)
    assert not found.positives > 0  # no label has come


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"answered_by": "small_model", "degraded": True, "degraded_reason": "deadline"}, 1.0),
        ({"latency_us": 45_000}, 1.0),
        ({"answered_by": "small_model", "degraded_reason": "queue_full"}, None),
        ({"arm": "challenger", "answered_by": "challenger"}, None),
    ],
    ids=["not answered", "answered too late", "never asked", "another arm's"],
)
def test_failures_are_the_champions_within_a_challengers_time(
    log: SqliteDecisionLog, fields: dict[str, Any], share: float | None
) -> None:
    end_ms = filled(log, 1.0, **fields)
    found = read_profile(log, fraud(), days=1.0, now_event_ms=end_ms)
    assert (None if found is None else found.failed) == share


def test_of_too_many_requests_stretches_are_read_that_cover_the_days(
    log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_ms = filled(log, 3.0)
    whole = read_profile(log, fraud(), days=3.0, now_event_ms=end_ms)
    monkeypatch.setattr(history, "MOST_REQUESTS", 400)
    monkeypatch.setattr(history, "SLICE_REQUESTS", 10)
    monkeypatch.setattr(history, "STRETCH_H", 0.5)
    part = read_profile(log, fraud(), days=3.0, now_event_ms=end_ms)
    assert whole is not None
    assert part is not None
    assert part.requests < 700
    assert part.busy_hours == pytest.approx(72, abs=8)
    assert part.requests_h == pytest.approx(whole.requests_h, rel=0.2)


@pytest.mark.parametrize(
    ("payload", "drawn", "chance"),
    [
        (None, 1.0, 0.05),
        ({"propensity": 0.25}, 1.0, 0.25),
        ({"propensity": 0.0, "excluded": "amount"}, 0.0, 0.0),
    ],
    ids=["a slice that has drawn nothing yet", "drawn", "excluded by its amount"],
)
def test_what_declines_hide_is_read_with_the_slice_that_was_drawn(
    log: SqliteDecisionLog, payload: dict[str, Any] | None, drawn: float, chance: float
) -> None:
    end_ms = filled(log, 1.0, score=0.7, payload=payload or {})
    slice_ = ExplorationPolicy(
        share=0.05, decision="review", amount="amount", maximum_amount=1.0, maximum_sum=1.0
    )
    decision = msgspec.structs.replace(fraud().decision, hides_outcome=("review",))
    hiding = msgspec.structs.replace(fraud(), decision=decision)
    without = read_profile(log, hiding, days=1.0, now_event_ms=end_ms)
    explored = msgspec.structs.replace(hiding, exploration=slice_)
    found = read_profile(log, explored, days=1.0, now_event_ms=end_ms)
    assert without is not None
    assert without.hidden is not None
    assert found is not None
    assert found.hidden is not None
    assert without.hidden.share == pytest.approx(0.02, rel=0.2)
    assert without.hidden.positive == pytest.approx(0.7)
    assert (without.hidden.drawn, without.hidden.chance) == (0.0, 0.0)
    assert found.hidden.chance == chance
    assert found.hidden.drawn <= drawn


# The plan


def test_too_little_traffic_is_said_and_refuses_nothing(
    log: SqliteDecisionLog, tmp_path: Path
) -> None:
    made = rollout_plan(fraud(), log, no_routes("fraud"), {}, days=7, now_event_ms=START_MS)
    assert made == "no plan: there is no champion to compare a first version with"
    made = rollout_plan(fraud(), log, WITH_CHAMPION, {}, days=7, now_event_ms=START_MS)
    assert isinstance(made, str)
    assert made.startswith(
        "no plan: the log holds 0 of the 24 hours with traffic that a plan needs"
    )
    end_ms = filled(log, 0.5)
    made = rollout_plan(fraud(), log, WITH_CHAMPION, {}, days=7, now_event_ms=end_ms)
    assert made == (
        "no plan: the log holds 12 of the 24 hours with traffic that a plan needs; it is possible "
        f"from {utc_minute_text(end_ms + 12 * HOUR_MS)} on at the earliest, with requests in each "
        "hour until then"
    )
    assert opened(tmp_path, RolloutPlan(missing=str(made))).plan == RolloutPlan(missing=str(made))


def test_thin_traffic_is_planned_and_refused(log: SqliteDecisionLog) -> None:
    end_ms = filled(log, 3.0)
    made = rollout_plan(fraud(), log, WITH_CHAMPION, {}, days=7, now_event_ms=end_ms)
    assert isinstance(made, Plan)
    assert made.refusal.startswith("shadow can't decide within its deadline of 10 days")


def test_a_rollout_that_cannot_decide_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="shadow can't decide"):
        opened(tmp_path, REFUSED)


@pytest.mark.parametrize("plan", [GOOD, DESPITE, None], ids=["good", "despite", "none"])
def test_the_journal_keeps_the_plan(tmp_path: Path, plan: RolloutPlan | None) -> None:
    assert opened(tmp_path, plan).plan == plan


def test_who_approves_reads_what_the_next_step_is_expected_to_take() -> None:
    evidence = {"version": 2, "model": "fraud", "plan": msgspec.to_builtins(GOOD)}
    asked = question("fraud-v2-1", evidence)
    assert "If approved: the next step" in asked
    assert "planned to take 35.6 h" in asked
    assert "Its deadline is 7 days. Its slowest gate is failures." in asked
    assert "reaches 166 customers" in asked
    missing = {"plan": {"missing": "no plan: fewer than 24 hours of traffic in the log"}}
    assert "fewer than 24 hours" in question("fraud-v2-1", evidence | missing)
