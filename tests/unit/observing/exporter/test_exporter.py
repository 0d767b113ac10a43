"""The exporter shows the state as it stands, and what it can't read as missing, never as zero."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from tests.support.class_model import class_definition

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm, Routes, Variant, VariantTest, no_routes
from mlplatform.observing.exporter import state
from mlplatform.observing.exporter.state import StateCollector
from mlplatform.observing.exporter.targets import targets
from mlplatform.operations.actions.last_results import (
    ArmCounts,
    Check,
    InputShift,
    Outcomes,
    Pass,
    for_people,
    keep,
    last,
    undecided_since,
)
from mlplatform.operations.actions.outcomes import outcomes, total
from mlplatform.rollouts.drift.incidents import Change, Incident, IncidentFinding
from mlplatform.rollouts.events.positions import Position, Progress
from mlplatform.rollouts.events.stream import Backlog, Lag
from mlplatform.runtime.clock import ReplayClock
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, Unavailable
from mlplatform.runtime.http.listener import listen
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.runtime.telemetry.refusals import Refusal, Refusals
from mlplatform.runtime.units import DAY_MS

MODEL = "fraud"


class Rollouts:
    """Routes as they are told; no rollouts."""

    def __init__(self, routes: Routes | None) -> None:
        self._routes = routes

    def routes(self, model: str) -> Routes:
        if self._routes is None:
            raise Unavailable("the journal", "gone")
        return self._routes

    def active(self, model: str | None = None, *, finished: bool = False) -> list[Any]:
        return []


class Incidents:
    """The incidents that it is given."""

    def __init__(self, *known: Incident) -> None:
        self._known = list(known)

    def list(self, model: str | None = None, *, closed: bool = True) -> list[Incident]:
        return self._known


def shown(
    folder: Path,
    routes: Routes | None,
    incidents: Incidents | None = None,
    watermarks: Sequence[Watermark] = (),
) -> CollectorRegistry:
    registry = CollectorRegistry()
    clock = ReplayClock(lambda: 5_000)
    found = incidents or Incidents()
    registry.register(
        StateCollector(
            lambda: (MODEL,),
            Rollouts(routes),
            found,
            lambda: watermarks,
            clock,
            folder,
            Home(folder),
        )
    )
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"mlplatform_{name}", {"model": MODEL, **labels})


def canary() -> Routes:
    arm = Arm(1, "b", "fraud-v1-b")
    return replace(
        no_routes(MODEL),
        generation=4,
        champion=arm,
        challenger=replace(arm, version=2, service="fraud-v2-b"),
        phase="canary",
        challenger_percent=25.0,
    )


def test_shares_are_those_of_the_routes(tmp_path: Path) -> None:
    registry = shown(tmp_path, canary())
    assert value(registry, "routes_share", arm="champion") == 0.75
    assert value(registry, "routes_share", arm="challenger") == 0.25
    assert value(registry, "rollout_phase", phase="canary") == 0.0


@pytest.mark.parametrize(("answering", "left"), [(True, 0.7), (False, 1.0)])
def test_the_variants_of_a_test_have_one_share_together(
    tmp_path: Path, answering: bool, left: float
) -> None:
    arm = Arm(1, "b", "fraud-v1-b")
    variants = tuple(
        Variant(replace(arm, version=version), percent, ())
        for version, percent in ((2, 20), (3, 10))
    )
    test = VariantTest("fraud-variants-1", variants, answering)
    registry = shown(tmp_path, replace(no_routes(MODEL), generation=4, champion=arm, test=test))
    assert value(registry, "routes_share", arm="champion") == pytest.approx(left)
    assert value(registry, "routes_share", arm="variant") == pytest.approx(1 - left)


@pytest.mark.parametrize("killed", [False, True])
def test_a_model_that_a_person_switched_off_is_shown(tmp_path: Path, killed: bool) -> None:
    registry = shown(tmp_path, replace(canary(), killed=killed))
    assert value(registry, "model_killed") == float(killed)
    assert value(registry, "emergency_unconfirmed") == 0.0


def test_what_cannot_be_read_is_counted_and_has_no_value(tmp_path: Path) -> None:
    registry = shown(tmp_path, None)
    assert value(registry, "routes_share", arm="champion") is None
    failures = "mlplatform_exporter_read_failures_total"
    assert (registry.get_sample_value(failures, {"of": "routes"}) or 0) >= 1
    assert registry.get_sample_value(failures, {"of": "log"}) == 0


def test_an_open_incident_is_shown_by_its_state(tmp_path: Path) -> None:
    found = IncidentFinding(MODEL, "drift", 0, 0, 1, {})
    opened = Change(1, 7_000, "open", 0, None, "drifted")
    incident = Incident("i", found, "open", 0, None, 0, None, (opened,))
    broken = Incident("j", replace(found, kind="data fault"), "open", 0, None, 0, None, (opened,))
    registry = shown(tmp_path, canary(), Incidents(incident, broken))
    for kind in ("drift", "data fault"):
        assert value(registry, "drift_incident", kind=kind, state="open") == 1.0
        assert value(registry, "drift_incident", kind=kind, state="claimed") == 0.0
        assert value(registry, "drift_incident_since_seconds", kind=kind) == 7.0
    assert value(registry, "drift_incident", kind="performance", state="open") == 0.0


def test_only_living_writers_have_a_watermark(tmp_path: Path) -> None:
    marks = [
        Watermark("gateway-0", 12, 4_000, 5_000, True),
        Watermark("gateway-1", 9, 1_000, 1_000, False),
    ]
    registry = shown(tmp_path, canary(), watermarks=marks)
    name = "mlplatform_log_watermark_seconds"
    assert registry.get_sample_value(name, {"writer": "gateway-0"}) == 4.0
    assert registry.get_sample_value(name, {"writer": "gateway-1"}) is None


def test_what_flows_saw_last_is_shown(tmp_path: Path) -> None:
    keep(tmp_path, MODEL, Pass(9_000, {"challenger": ArmCounts(pairs=40, flips=3)}))
    moved = InputShift(0.3, 0.2, 0.1, 0.15, 0.0)
    became = Outcomes(matured=100, positives=4, alerts=5, hits=2, late=1, newest_label_ms=3_000)
    keep(tmp_path, MODEL, Check(8_000, "drifted", {"amount": moved}, became))
    registry = shown(tmp_path, canary())
    assert value(registry, "rollout_pass_time_seconds") == 9.0
    assert value(registry, "rollout_step_counts", arm="challenger", of="flips") == 3.0
    assert value(registry, "rollout_step_counts", arm="champion", of="flips") is None
    assert value(registry, "drift_check_time_seconds") == 8.0
    assert value(registry, "drift_verdict", verdict="drifted") == 1.0
    assert value(registry, "drift_psi", input="amount") == 0.3
    assert value(registry, "outcome_precision") == 0.4
    assert value(registry, "outcome_recall") == 0.5
    assert value(registry, "labels_late_share") == 0.25


def test_a_model_of_classes_has_no_positives_to_be_precise_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its alerts are counted, and none of them can turn out right: no share is 0 % of them."""
    monkeypatch.setattr(state, "load_definition", class_definition)
    became = Outcomes(matured=100, positives=0, alerts=5, hits=0, late=0, newest_label_ms=3_000)
    keep(tmp_path, MODEL, Check(8_000, "steady", {}, became))
    registry = shown(tmp_path, canary())
    assert value(registry, "labels_matured_decisions") == 100.0
    assert value(registry, "label_newest_time_seconds") == 3.0
    for name in ("outcome_precision", "outcome_recall", "labels_positive_decisions"):
        assert value(registry, name) is None


def test_checks_are_undecided_since_the_first_of_them_until_one_decides(tmp_path: Path) -> None:
    name = "drift_undecided_since_seconds"
    for at_ms, verdict, wanted in (
        (1_000, "steady", None),
        (2_000, "undecided", 2.0),
        (3_000, "undecided", 2.0),
        (4_000, "drifted", None),
        (5_000, "undecided", 5.0),
    ):
        since = undecided_since(verdict, at_ms, last(tmp_path, MODEL, Check))
        keep(tmp_path, MODEL, Check(at_ms, verdict, undecided_since_ms=since))
        assert value(shown(tmp_path, canary()), name) == wanted


def test_a_check_that_an_earlier_version_kept_is_read(tmp_path: Path) -> None:
    (tmp_path / f"{MODEL}.check.json").write_text('{"at_ms": 1000, "verdict": "undecided"}')
    before = last(tmp_path, MODEL, Check)
    assert before is not None
    assert undecided_since("undecided", 2_000, before) == 2_000


def test_a_share_of_nothing_is_no_number(tmp_path: Path) -> None:
    keep(tmp_path, MODEL, Check(8_000, "undecided", {}, Outcomes(0, 0, 0, 0, 0, None)))
    registry = shown(tmp_path, canary())
    assert value(registry, "outcome_precision") is None
    assert value(registry, "labels_late_share") is None
    assert value(registry, "labels_matured_decisions") == 0.0


def test_a_file_that_nobody_kept_so_is_corrupt(tmp_path: Path) -> None:
    assert last(tmp_path, MODEL, Pass) is None
    keep(tmp_path, MODEL, Pass(1))
    (tmp_path / f"{MODEL}.pass.json").write_text("{}")
    with pytest.raises(Corrupt, match="at_ms"):
        last(tmp_path, MODEL, Pass)


POLICY = load_definition("fraud").decision
NONE_HIDES = msgspec.structs.replace(POLICY, hides_outcome=())


def test_outcomes_follow_the_last_label_and_leave_voids_out() -> None:
    decisions = pa.table(
        {
            "decision_id": ["a", "b", "c", "d", "e"],
            "event_ms": [0, 0, 0, 0, 0],
            "decision": ["decline", "review", "approve", "approve", "decline"],
        }
    )
    labels = pa.table(
        {
            "decision_id": ["a", "b", "b", "c", "e"],
            "event_ms": [DAY_MS, DAY_MS, 2 * DAY_MS, 4 * DAY_MS, DAY_MS],
            "recorded_ms": [0, 0, 0, 0, 0],
            "seq": [1, 2, 3, 4, 5],
            "label": pa.array([1, 1, 0, 1, 1], pa.int8()),
        }
    )
    voids = pa.table({"decision_id": ["e"]})
    seen = outcomes(decisions, labels, voids, maturity_ms=3 * DAY_MS, policy=POLICY)
    assert seen == Outcomes(
        matured=4, positives=2, alerts=2, hits=1, late=1, newest_label_ms=4 * DAY_MS
    )


def test_a_declined_payment_without_a_label_is_no_false_alarm() -> None:
    decisions = pa.table(
        {
            "decision_id": ["a", "b", "c"],
            "event_ms": [0, 0, 0],
            "decision": ["decline", "decline", "review"],
        }
    )
    labels = pa.table(
        {
            "decision_id": ["a"],
            "event_ms": [DAY_MS],
            "recorded_ms": [0],
            "seq": [1],
            "label": pa.array([1], pa.int8()),
        }
    )
    voids = pa.table({"decision_id": pa.array([], pa.string())})
    seen = outcomes(decisions, labels, voids, maturity_ms=1, policy=POLICY)
    assert (seen.matured, seen.alerts, seen.hits) == (2, 2, 1)
    seen = outcomes(decisions, labels, voids, maturity_ms=1, policy=NONE_HIDES)
    assert (seen.matured, seen.alerts, seen.hits) == (3, 3, 1)


def test_no_decisions_make_no_outcomes() -> None:
    none = pa.array([], pa.int64())
    ids = pa.array([], pa.string())
    decisions = pa.table({"decision_id": ids, "event_ms": none, "decision": ids})
    labels = pa.table(
        {"decision_id": ids, "event_ms": none, "recorded_ms": none, "seq": none, "label": none}
    )
    seen = outcomes(decisions, labels, pa.table({"decision_id": ids}), maturity_ms=1, policy=POLICY)
    assert seen == Outcomes(0, 0, 0, 0, 0, None)


def test_every_process_that_said_where_it_listens_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "gateways").mkdir()
    (tmp_path / "predictors").mkdir()
    (tmp_path / "gateways" / "gateway-0.json").write_text('{"port": 81, "pid": 1}')
    (tmp_path / "predictors" / "fraud-v1-b.json").write_text('{"port": 82, "pid": 1}')
    (tmp_path / "predictors" / "cut-off.json").write_text("")
    (tmp_path / "exporter.json").write_text('{"port": 80, "pid": 1}')
    assert [(t["labels"]["process"], *t["targets"]) for t in targets(tmp_path)] == [
        ("exporter", "127.0.0.1:80"),
        ("gateway", "127.0.0.1:81"),
        ("predictor", "127.0.0.1:82"),
    ]


def test_the_room_of_the_home_is_that_of_its_disk(tmp_path: Path) -> None:
    registry = shown(tmp_path, canary())
    free = registry.get_sample_value("mlplatform_home_free_bytes")
    size = registry.get_sample_value("mlplatform_home_size_bytes")
    assert size == shutil.disk_usage(tmp_path).total
    assert free is not None
    assert 0 < free < size


def test_a_home_that_is_gone_has_no_room_to_show_and_is_counted(tmp_path: Path) -> None:
    registry = shown(tmp_path / "gone", canary())
    assert registry.get_sample_value("mlplatform_home_free_bytes") is None
    failures = "mlplatform_exporter_read_failures_total"
    assert (registry.get_sample_value(failures, {"of": "disk"}) or 0) >= 1


def test_windows_together_are_their_sums_and_the_newest_label() -> None:
    one, none = Outcomes(4, 2, 2, 1, 1, 7), Outcomes(3, 0, 1, 0, 0, None)
    assert total([one, none]) == Outcomes(7, 2, 3, 1, 1, 7)
    assert total([none]).newest_label_ms is None


def test_a_figure_that_cannot_be_kept_fails_no_pass(tmp_path: Path) -> None:
    (tmp_path / "measured").write_text("a file where a folder is to be")
    with for_people():
        keep(tmp_path / "measured", MODEL, Pass(1))
    with for_people():
        raise pa.ArrowInvalid("a sealed file is damaged")


def test_a_token_that_is_empty_opens_no_listener() -> None:
    with pytest.raises(ConfigInvalid, match="token"):
        listen(MetricRegistry(), "")


def test_what_was_refused_in_the_last_day_is_counted_by_door(tmp_path: Path) -> None:
    kept = Refusals(Home(tmp_path).audit)
    now_ms = ReplayClock(lambda: 5_000).wall_ms()
    for age_ms, door in ((0, "prefect"), (1_000, "prefect"), (2 * DAY_MS, "approval")):
        kept.keep(Refusal(now_ms - age_ms, door, "unknown", f"{age_ms}", "no log-in"))
    registry = shown(tmp_path, canary())
    assert registry.get_sample_value("mlplatform_refusals", {"door": "prefect"}) == 2
    assert registry.get_sample_value("mlplatform_refusals", {"door": "approval"}) is None


def test_a_folder_that_comes_later_is_shown_from_the_next_collection_on(tmp_path: Path) -> None:
    names, registry = [MODEL], CollectorRegistry()
    clock, home = ReplayClock(lambda: 5_000), Home(tmp_path)
    registry.register(
        StateCollector(lambda: names, Rollouts(canary()), Incidents(), tuple, clock, tmp_path, home)
    )

    def generation() -> float | None:
        return registry.get_sample_value("mlplatform_routes_generation", {"model": "credit"})

    assert generation() is None
    names.append("credit")
    assert generation() == 4


def test_a_receiver_s_lag_is_shown_in_events_and_seconds(tmp_path: Path) -> None:
    class Clock(ReplayClock):
        def wall_ms(self) -> int:
            return 9_500

    behind = Progress("desk", Position(3, 4), 1, True, 7, 2, "", "answered 503")
    lags = [Lag(behind, Backlog(2, 2_000)), Lag(replace(behind, receiver="b"), Backlog(0, None))]
    registry = CollectorRegistry()
    registry.register(
        StateCollector(
            lambda: (MODEL,), Rollouts(None), Incidents(), tuple, Clock(lambda: 5_000), tmp_path,
            Home(tmp_path), lambda: lags,
        )
    )  # fmt: skip

    def shown(name: str, receiver: str) -> float | None:
        return registry.get_sample_value(f"mlplatform_events_{name}", {"receiver": receiver})

    assert (shown("lag", "desk"), shown("lag_seconds", "desk")) == (2, 7.5)
    assert (shown("delivered_total", "desk"), shown("delivery_failures_total", "desk")) == (7, 2)
    assert (shown("lag", "b"), shown("lag_seconds", "b")) == (0, 0)
