"""Passes carry a rollout to its end, and one that dies between any two writes changes nothing."""

from __future__ import annotations

import contextlib
import copy
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.segments import RolloutSegment, SegmentLimits, SegmentPolicy
from mlplatform.rollouts.journal.approval_codes import Question
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.passes.commands import (
    ValidatedVersion,
    open_rollout,
    record_approval,
    roll_back,
)
from mlplatform.rollouts.passes.execute import PassReport, run_pass
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.replay import ReplayedVerdict, replay_verdict
from mlplatform.rollouts.passes.services import retire
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import Busy, PlatformError, Refused, Unavailable
from mlplatform.runtime.units import DAY_MS
from rollout_world import (
    FakeApprovals,
    FakeLog,
    FakePlane,
    FakeRawRoutes,
    FakeVersions,
    StoppedClock,
    arm,
    canary_rows,
    gate_report,
    plain,
    shadow_rows,
    small_steps,
    table,
)

WRITES = {
    "apply", "remove", "fetch", "set_alias", "ensure_requested", "seal", "write",
    "commit", "control", "acquire", "release", "anchor",
}  # fmt: skip


def small() -> ModelDefinition:
    return small_steps(60, 120, 5)


def validated(version: int) -> ValidatedVersion:
    return ValidatedVersion(
        version, arm(version).bundle, "ann", 0.001, 0.05, gate_report(arm(version).bundle)
    )


@dataclass
class ReadPort:
    """A port that must not be written to."""

    port: Any

    def __getattr__(self, name: str) -> Any:
        assert name not in WRITES, f"{name} writes"
        return getattr(self.port, name)


@dataclass
class World:
    """Everything around a pass."""

    folder: Path
    clock: StoppedClock = field(default_factory=StoppedClock)
    plane: FakePlane = field(default_factory=FakePlane)
    versions: FakeVersions = field(default_factory=FakeVersions)
    approvals: FakeApprovals = field(default_factory=FakeApprovals)
    log: FakeLog = field(default_factory=FakeLog)
    raw: FakeRawRoutes = field(default_factory=FakeRawRoutes)
    definition: ModelDefinition = field(default_factory=small)

    def __post_init__(self) -> None:
        self.rollouts = SqliteRollouts(self.folder / "rollouts.db", self.clock, durable=False)

    def ports(self, *, is_read_only: bool = False) -> Ports:
        def port(of: Any) -> Any:
            return ReadPort(of) if is_read_only else of

        return Ports(
            rollouts=port(self.rollouts),
            controls=port(self.rollouts),
            passes=port(self.rollouts),
            anchors=port(self.rollouts),
            plane=port(self.plane),
            versions=port(self.versions),
            log=port(self.log),
            approvals=port(self.approvals),
            clock=self.clock,
            bundles=self.folder / "bundles",
            counted=self.folder / "counted",
            server_of=lambda folder: None,
            raw=port(self.raw),
        )

    def run(self) -> PassReport:
        return run_pass(self.definition, self.ports(), holder="reconcile")

    def settle(self) -> PassReport:
        return self.run()

    def open(self, version: int) -> str:
        return open_rollout(
            self.rollouts,
            "fraud",
            validated(version),
            approval=self.definition.rollout.approval,
            actor="ann",
            reason="better",
            clock=self.clock,
        )

    def approve(self, rollout_id: str, answer: Any = "approve", approver: str = "bob") -> None:
        digest = self.state(rollout_id).asked_digest
        assert digest is not None
        assert digest in self.approvals.asked
        question = Question(rollout_id, digest, answer)
        record_approval(
            self.rollouts, question, approver, "looked at it", proven_by="code", clock=self.clock
        )

    def state(self, rollout_id: str) -> RolloutState:
        return fold(self.rollouts.read(rollout_id))

    def back(self) -> RolloutState:
        return roll_back(
            self.rollouts, self.rollouts, "fraud", actor="eve", reason="alarm", clock=self.clock
        )

    def generation(self) -> int:
        routes = self.rollouts.routes("fraud")
        self.rollouts.lease("gateway-1", {"fraud": routes.generation}, 60)
        return routes.generation

    def pass_time(self, hours: float = 1.0) -> None:
        self.clock.event += int(hours * 3_600_000)
        self.clock.wall += 1000

    def forget(self) -> None:
        """Have passes read the log anew, as a test has changed what was in it."""
        shutil.rmtree(self.folder / "counted", ignore_errors=True)

    def live_on(self, days: int = 8) -> None:
        """Days in which the champion answers, and reports of fraud come in."""
        routes = self.rollouts.routes("fraud")
        assert routes.champion is not None
        answered = {"generation": routes.generation, "version": routes.champion.version}
        self.log.rows.setdefault(routes.generation, []).append(answered)
        self.clock.event += days * DAY_MS
        report = {"kind": "label", "decision_id": "another", "label": 1}
        self.log.labels.append(report | {"event_ms": self.clock.event})

    def outcome(self) -> dict[str, Any]:
        """Everything that must not depend on where a pass died."""
        states = self.rollouts.active("fraud", finished=True)
        return {
            "states": plain(states),
            "journal": [plain(self.rollouts.read(s.rollout_id)) for s in states],
            "routes": plain(self.rollouts.routes("fraud")),
            "services": self.plane.names(),
            "aliases": self.versions.aliases,
            "asked": sorted(self.approvals.asked),
            "anchor": plain(self.rollouts.last_anchor()),
            "verify": self.rollouts.verify(),
            "raw callers": self.raw.in_force,
        }


Chapter = Callable[[World], object]


def bootstrap(world: World) -> None:
    first = world.open(1)
    world.settle()
    world.approve(first)
    world.settle()
    world.generation()
    world.live_on()
    world.settle()
    assert world.state(first).phase == "confirmed"


def to_canary(world: World, version: int = 2) -> str:
    rollout_id = world.open(version)
    world.settle()
    world.pass_time()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(70, 2, generation=generation, version=version)
    world.settle()
    world.approve(rollout_id)
    world.settle()
    return rollout_id


def to_promoted(world: World, version: int = 2) -> str:
    rollout_id = to_canary(world, version)
    for step in world.definition.rollout.canary:
        world.pass_time()
        generation = world.generation()
        units = int(10_000 / step.percent)
        world.log.rows[generation] = canary_rows(
            units, step.percent, generation=generation, version=version
        )
        world.settle()
    world.generation()
    world.settle()
    return rollout_id


def failing_rows(units: int, generation: int) -> list[dict[str, Any]]:
    """A canary at 5 % whose challenger never answers in time."""
    rows = canary_rows(units, 5, generation=generation, version=2)
    for row in rows:
        if row["arm"] == "challenger":
            row |= {"answered_by": "champion", "degraded": True, "degraded_reason": "deadline"}
    return rows


def confirmation(world: World) -> None:
    world.live_on()
    world.settle()
    world.generation()
    world.settle()
    assert world.state("fraud-v2-1").phase == "confirmed"


def regret(world: World) -> None:
    world.back()
    world.settle()
    world.generation()
    world.settle()
    assert world.state("fraud-v2-1").phase == "rolled_back"


def no_room(world: World) -> None:
    """The champion's service is lost, a stray one holds its GPU, and a challenger wants one."""
    world.plane.gpus = 1
    world.plane.manifests = {arm(7).service: {}}
    rollout_id = world.open(2)
    for _ in range(3):
        world.settle()
    assert world.plane.names() == [arm(1).service]
    world.clock.wall += 600_000
    world.settle()
    assert world.state(rollout_id).reason.endswith("1 of 1 are taken")


def deadline(world: World) -> None:
    rollout_id = to_canary(world, 2)
    world.pass_time(169)
    world.settle()
    world.generation()
    world.settle()
    assert world.state(rollout_id).phase == "rolled_back"


def test_a_rollout_goes_its_way_and_is_confirmed(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_promoted(world)
    routes = world.rollouts.routes("fraud")
    assert (routes.champion, routes.previous, routes.phase) == (arm(2), arm(1), "steady")
    assert world.plane.names() == sorted([arm(1).service, arm(2).service])
    assert world.versions.aliases == {"champion": 2}
    world.live_on()
    world.settle()
    world.generation()
    world.settle()
    assert world.state(second).phase == "confirmed"
    assert world.plane.names() == [arm(2).service]
    phases = [type(fact).__name__ for fact in world.rollouts.read(second)]
    assert phases == [
        "Opened", "ShadowStarted", "ApprovalAsked", "Answered",
        *["CanaryStepped"] * 3, "Promoted", "Confirmed",
    ]  # fmt: skip


def test_a_pass_after_a_pass_does_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_canary(world)
    before = world.outcome()
    assert world.run().steps == ()
    assert world.outcome() == before


def test_a_dry_run_says_what_is_next_and_writes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.open(1)
    before = world.outcome()
    report = run_pass(world.definition, world.ports(is_read_only=True), holder="x", dry_run=True)
    assert report.dry_run
    assert report.steps == (f"fraud-v1-1: deploy {arm(1).service}: the rollout was opened",)
    assert world.outcome() == before


def test_who_approves_sees_the_gate_report_and_is_bound_to_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    [(asked, evidence)] = world.approvals.asked.items()
    assert evidence["validation"] == gate_report(arm(1).bundle)
    assert asked == digest(dict(evidence)) == world.state(first).asked_digest
    assert asked != digest(evidence | {"validation": {}})


def test_only_one_rollout_of_a_model_ramps(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = world.open(2)
    assert world.open(2) == second
    with pytest.raises(Busy, match=second):
        world.open(3)


def test_the_champion_is_not_rolled_out_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    with pytest.raises(Refused, match="champion already"):
        world.open(1)


@pytest.mark.parametrize(
    ("approver", "refusal"),
    [
        (" ANN\n", "somebody else"),
        ("\uff41nn", "somebody else"),
        ("ann\u200b", "can't be seen"),
        ("\u202eann", "can't be seen"),
    ],
    ids=["in capitals", "in full width", "with an invisible space", "from right to left"],
)
def test_the_author_does_not_approve_under_a_name_that_looks_the_same(
    tmp_path: Path, approver: str, refusal: str
) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    with pytest.raises(Refused, match=refusal):
        world.approve(first, approver=approver)


def test_an_answer_that_nobody_read_in_time_comes_too_late(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    world.pass_time(world.definition.rollout.approval_deadline_h)
    world.approve(first)
    world.settle()
    assert world.state(first).phase == "rolled_back"
    assert world.state(first).reason == "bob answered too late, after 7 days of event time"


def test_the_author_does_not_approve(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    with pytest.raises(Refused, match="somebody else"):
        world.approve(first, approver=" Ann ")


def test_an_answer_to_other_evidence_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    with pytest.raises(Refused, match="about evidence"):
        record_approval(
            world.rollouts,
            Question(first, "0" * 64, "approve"),
            "bob",
            "yes",
            proven_by="code",
            clock=world.clock,
        )


def test_the_same_answer_twice_is_one_and_a_second_one_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    world.approve(first)
    world.approve(first)
    with pytest.raises(Refused, match="answered by bob"):
        world.approve(first, answer="reject", approver="cid")


def test_a_rejected_challenger_leaves_the_traffic(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = world.open(2)
    world.settle()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(70, 2, generation=generation, version=2)
    world.settle()
    world.approve(second, answer="reject")
    world.settle()
    world.generation()
    world.settle()
    assert world.state(second).reason.startswith("rejected by bob")
    assert world.rollouts.routes("fraud").challenger is None
    assert world.plane.names() == [arm(1).service]


def test_a_challenger_with_wrong_alerts_is_stopped_in_shadow(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = world.open(2)
    world.settle()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(
        70, 2, generation=generation, version=2, alert_share=0.5, champion_alert_share=0.1
    )
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert (
        "The challenger raised alerts on 70 of 140 requests (50.00 %)" in world.state(second).reason
    )


def test_a_slow_challenger_is_rolled_back_in_canary(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_canary(world)
    generation = world.generation()
    rows = failing_rows(400, generation)
    world.log.rows[generation] = rows
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert "failed to answer 20 of 20 requests (100.00 %) in time" in world.state(second).reason


def test_a_service_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    world.plane.broken.add(arm(2).service)
    second = world.open(2)
    report = world.settle()
    assert any("self-test failed" in wait for wait in report.waits)
    world.clock.wall += 600_000
    world.settle()
    assert world.state(second).reason == "not ready in time: self-test failed"
    assert world.plane.names() == [arm(1).service]


def test_a_challenger_without_room_leaves_the_rest_of_the_pass_to_be_done(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    stray = arm(7).service
    world.plane.gpus = 1
    world.plane.manifests = {stray: {}}  # it holds the GPU, and the champion's service is lost
    second = world.open(2)
    report = world.settle()
    assert world.plane.names() == [arm(1).service]
    assert [step.split(":")[0] for step in report.steps] == [
        f"retire {stray}",
        f"deploy {arm(1).service}",
    ]
    report = world.settle()
    numbers = f"{arm(2).service} needs 1 GPU; 1 of 1 are taken"
    assert f"{second}: {arm(2).service} can't be started: {numbers}" in report.waits
    assert world.state(second).reason == numbers
    assert world.rollouts.last_anchor() is not None
    before = world.outcome()
    assert world.settle().steps == ()
    assert world.outcome() == before
    world.clock.wall += 600_000
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert world.state(second).reason == f"not ready in time: {numbers}"
    assert world.plane.names() == [arm(1).service]


def test_a_champion_without_room_is_told_and_the_stray_still_goes(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    world.plane.gpus = 0
    world.plane.manifests = {arm(7).service: {}}
    report = world.settle()
    assert world.plane.names() == []
    refusal = f"{arm(1).service} needs 1 GPU; 0 of 0 are taken"
    assert any(w.startswith("can't deploy") and w.endswith(refusal) for w in report.waits)
    world.plane.gpus = 1
    world.settle()
    assert world.plane.names() == [arm(1).service]


def test_a_challenger_goes_on_as_soon_as_there_is_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    world.plane.gpus = 1
    second = world.open(2)
    for _ in range(3):
        world.settle()
    facts = [type(fact).__name__ for fact in world.rollouts.read(second)]
    assert facts == ["Opened", "DeployRefused"]
    world.plane.gpus = 2
    world.settle()
    assert world.state(second).phase == "shadow"


def test_an_inconclusive_step_is_rolled_back_at_its_deadline(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_canary(world)
    world.clock.wall += 864_000_000
    world.settle()
    assert "inconclusive at its deadline (10 days of wall time)" in world.state(second).reason


def test_a_service_stays_while_a_gateway_applies_older_routes(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = world.open(2)
    world.settle()
    world.generation()
    world.back()
    report = world.settle()
    assert arm(2).service in world.plane.names()
    assert any("waits for gateway-1" in wait for wait in report.waits)
    world.generation()
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert world.plane.names() == [arm(1).service]


def test_raw_callers_follow_the_journal_through_a_whole_rollout(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_canary(world)
    first = world.definition.rollout.canary[0].percent
    assert raw_weights(world) == {arm(1).service: 100 - first, arm(2).service: first}
    world.back()
    world.settle()
    assert raw_weights(world) == {arm(1).service: 100}


def test_a_healthy_step_waits_for_raw_callers_to_be_routed_by_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    world.raw.follows = False
    second = world.open(2)
    world.settle()
    world.pass_time()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(70, 2, generation=generation, version=2)
    report = world.settle()
    assert world.state(second).phase == "shadow"
    assert any("does not follow generation" in wait for wait in report.waits)
    world.raw.follow()
    world.settle()
    assert world.state(second).phase == "awaiting_approval"


def test_a_bad_challenger_goes_though_the_gateway_follows_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    world.raw.follows = False
    second = world.open(2)
    world.settle()
    world.pass_time()
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(
        70, 2, generation=generation, version=2, alert_share=0.9, champion_alert_share=0.1
    )
    report = world.settle()
    world.generation()
    assert world.state(second).phase == "rolled_back"
    assert arm(2).service in world.plane.names()
    assert any("waits for the HTTPRoute" in wait for wait in (*report.waits, *world.run().waits))
    world.raw.follow()
    world.settle()
    assert world.plane.names() == [arm(1).service]


def test_a_service_that_raw_callers_reach_is_not_removed(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_canary(world)
    world.back()  # nothing has been told to the Gateway yet
    with pytest.raises(Refused, match="raw callers still reach it"):
        retire(world.ports(), "fraud", arm(2).service)


def raw_weights(world: World) -> dict[str, float]:
    backends = world.raw.in_force["rules"][0]["backendRefs"]
    return {b["name"].removesuffix("-predictor"): b["weight"] for b in backends}


def test_a_service_that_the_routes_list_is_not_removed(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    with pytest.raises(Refused, match="in use"):
        retire(world.ports(), "fraud", arm(1).service)


def test_a_rollback_takes_the_lease_from_a_running_pass(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_promoted(world)
    world.rollouts.acquire("fraud", "a pass that hangs", 600)
    assert world.run().ran is False
    assert world.back().phase == "rolled_back"
    assert world.rollouts.routes("fraud").champion == arm(1)


def test_rollbacks_go_to_the_predecessor_and_then_to_the_last_confirmed(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    to_promoted(world, 2)
    to_promoted(world, 3)
    assert world.plane.names() == sorted([arm(2).service, arm(3).service])
    world.back()
    world.settle()
    routes = world.rollouts.routes("fraud")
    assert (routes.champion, routes.previous) == (arm(2), arm(1))
    assert arm(1).service in world.plane.names()
    world.back()
    world.settle()
    routes = world.rollouts.routes("fraud")
    assert (routes.champion, routes.previous) == (arm(1), None)
    with pytest.raises(Refused, match="there is nothing to roll back"):
        world.back()


def test_a_champion_that_is_replaced_before_it_stands_is_superseded(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_promoted(world, 2)
    third = to_promoted(world, 3)
    assert world.state(second).phase == "promoted"
    world.live_on()
    world.settle()
    assert world.state(third).phase == "confirmed"
    world.settle()
    assert world.state(second).phase == "superseded"


def test_a_pass_reads_the_real_decision_log_and_anchors_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = world.open(2)
    world.settle()
    generation = world.generation()
    rows = shadow_rows(70, 2, generation=generation, version=2)
    columns = set(Record.__struct_fields__)
    plain_rows = table(rows).to_pylist()
    with contextlib.closing(SqliteDecisionLog(tmp_path / "decisions")) as log:
        entries = [
            Entry(Record(**{k: v for k, v in r.items() if k in columns})) for r in plain_rows
        ]
        log.append("gateway-1", entries)
        world.log = log  # type: ignore[assignment]
        shutil.rmtree(tmp_path / "counted")  # of the other log
        world.settle()
        assert world.state(second).phase == "awaiting_approval"
        anchor = world.rollouts.last_anchor()
        assert anchor is not None
        assert log.verify(anchor).ok
        later = entries[0].record
        void = {"kind": "void", "decision_id": later.decision_id, "payload": {}}
        label = {"kind": "label", "decision_id": later.decision_id, "label": 1}
        log.append("gateway-1", [
            Entry(msgspec.structs.replace(later, **void)),
            Entry(msgspec.structs.replace(later, **label)),
            Entry(msgspec.structs.replace(later, decision_id="late", decision="decline")),
        ])  # fmt: skip
        (unchanged,) = again(world, second)
        assert unchanged.differences == (), "what came later changes nothing"
    with contextlib.closing(sqlite3.connect(tmp_path / "decisions" / DATABASE)) as db:
        fields = "kind, model, rollout_id, arm, answered_by, version, bundle"
        db.execute(
            f"INSERT INTO record_contexts ({fields}, decision, degraded, degraded_reason)"
            f" SELECT {fields}, 'decline', degraded, degraded_reason FROM unsealed WHERE seq = 5"
        )
        db.execute(
            "UPDATE unsealed_records SET context = (SELECT max(number) FROM record_contexts)"
            " WHERE place IN (SELECT place FROM unsealed WHERE seq = 5)"
        )
        db.commit()
    with contextlib.closing(SqliteDecisionLog(tmp_path / "decisions")) as log:
        world.log = log  # type: ignore[assignment]
        (changed,) = again(world, second)
        assert "does not hold what was judged" in changed.differences[0]
        assert any("alerts: " in difference for difference in changed.differences)


def again(world: World, rollout_id: str, **fields: Any) -> list[ReplayedVerdict]:
    """Every verdict of a rollout, by other fields of its facts where they are given."""
    found = []
    for number, fact in enumerate(world.rollouts.read(rollout_id)):
        changed = msgspec.structs.replace(fact, **fields) if "verdict" in fact.evidence else fact
        folder = world.folder / "again" / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        found.append(replay_verdict(folder, world.log, changed, world.definition.rollout))
    return [verdict for verdict in found if verdict is not None]


def test_every_verdict_is_computed_again_to_the_bit(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_promoted(world)
    world.live_on()
    world.settle()
    found = again(world, second)
    assert [v.transition for v in found] == [
        "approval-asked", *["canary"] * 2, "promoted", "confirmed"
    ]  # fmt: skip
    assert [v for v in found if v.differences or v.notes or v.again != v.recorded] == []


SEGMENTS = SegmentPolicy(
    stop=SegmentLimits(alerts=0.5, disagreement=0.3),
    tolerance=SegmentLimits(alerts=5.0, disagreement=5.0),
    groups=(
        RolloutSegment(name="small", input="amount", below=50.0, required=False),
        RolloutSegment(name="night", input="night", values=(1.0,), required=False),
    ),
)


def test_verdicts_on_segments_are_computed_again_to_the_bit(tmp_path: Path) -> None:
    world = World(tmp_path)
    policy = msgspec.structs.replace(world.definition.rollout, segments=SEGMENTS)
    world.definition = msgspec.structs.replace(world.definition, rollout=policy)
    bootstrap(world)
    second = to_canary(world)
    found = again(world, second)
    assert [v for v in found if v.differences or v.notes or v.again != v.recorded] == []
    shadow = next(f for f in world.rollouts.read(second) if "verdict" in f.evidence)
    gate = shadow.evidence["gates"]["alerts of small"]
    assert gate["holds"] is False
    row = next(r for rows in world.log.rows.values() for r in rows if "kind" in r)
    row["payload"] = None  # a copy has none that is read
    decision = next(
        r for r in world.log.rows[row["generation"]] if r["decision_id"] == row["decision_id"]
    )
    decision["payload"] = '{"request": {"amount": 20}}'
    told = again(world, second)[0].differences
    assert "does not hold what was judged" in told[0]


def test_evidence_from_before_there_were_segments_replays(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_canary(world)
    fact = next(f for f in world.rollouts.read(second) if "basis" in f.evidence)
    evidence = copy.deepcopy(fact.evidence)
    basis = evidence["basis"]
    del basis["policy"]["segments"], basis["subject"]["segments"]
    del basis["limits"]["step"]["segments"]
    assert again(world, second, evidence=evidence)[0].differences == ()


def test_another_releases_words_are_no_difference_and_its_numbers_are(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_canary(world)
    fact = next(f for f in world.rollouts.read(second) if "basis" in f.evidence)
    evidence = copy.deepcopy(fact.evidence)
    evidence["gates"]["failures"]["reason"] = "failed to answer 0 of 120 requests in time"
    (told,) = again(world, second, evidence=evidence)[0].differences[1:]
    assert told.startswith("gates.failures.reason: "), "the same release says the same words"
    evidence["basis"]["code"] = "0.1.0+another"
    found = again(world, second, evidence=evidence)[0]
    assert found.differences == ()
    assert any(note.startswith("judged by 0.1.0+another") for note in found.notes)
    evidence["gates"]["failures"]["values"]["trials"] += 1
    assert (
        "gates.failures.values.trials" in again(world, second, evidence=evidence)[0].differences[1]
    )


def test_what_has_changed_since_a_verdict_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = worse(world)
    world.live_on()
    world.settle()
    rollback = again(world, second)[-1]
    assert (rollback.transition, rollback.differences) == ("rolled-back", ())

    place = next(n for n, r in enumerate(world.log.labels) if r["decision_id"] != "another")
    label = world.log.labels[place]
    world.log.labels[place] = label | {"label": 0}
    changed = again(world, second)[-1]
    assert "another outcome" in changed.differences[0]
    assert any(d.startswith("gates.recall.values.") for d in changed.differences)
    world.log.labels[place] = label

    evidence = world.rollouts.read(second)[-1].evidence
    forged = copy.deepcopy(evidence)
    forged["gates"]["recall"]["values"]["caught"] += 1
    told = again(world, second, evidence=forged)[-1].differences
    assert any(d.startswith("gates.recall.values.caught: ") for d in told)

    policy = world.definition.rollout
    stop = msgspec.structs.replace(policy.stop, alerts=0.5)
    world.definition = msgspec.structs.replace(
        world.definition, rollout=msgspec.structs.replace(policy, stop=stop)
    )
    noted = again(world, second)[-1]
    assert noted.differences == (), "it is held to the policy of its time"
    assert noted.notes == (
        "model.yaml has changed since: rollout.stop.alerts was 0.15 and is now 0.5",
    )

    nothing = again(world, second, evidence={"verdict": "HEALTHY"})[-1]
    assert (nothing.again, len(nothing.differences)) == (None, 1)


def missed(world: World, generation: int) -> None:
    """Label every twentieth payment of a shadow phase fraud: the champion had ranked it highest."""
    for number, row in enumerate(world.log.rows[generation]):
        fraud = number // 2 % 20 == 0  # a decision and its copy
        row["score"] = 0.9 if fraud and "kind" not in row else 0.1
        row["event_ms"] = world.clock.event
        if fraud and "kind" not in row:
            label = {"kind": "label", "decision_id": row["decision_id"], "label": 1}
            world.log.labels.append(label | {"event_ms": world.clock.event})


def worse(world: World) -> str:
    """The second version's rollout, promoted, whose shadow phase its labels turn against it."""
    second = to_promoted(world)
    generation = world.state(second).shadow_generation
    assert generation is not None
    world.log.rows[generation] = shadow_rows(2000, 2, generation=generation, version=2)
    missed(world, generation)
    world.forget()
    return second


def test_a_promotion_whose_labels_turn_out_worse_is_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = worse(world)
    world.live_on()
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert "those of the version before it held 52 of them." in world.state(second).reason
    assert world.rollouts.routes("fraud").champion == arm(1)


def test_a_challenger_whose_labels_mature_in_its_last_step_is_not_promoted(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_canary(world)
    generation = world.state(second).shadow_generation
    assert generation is not None
    world.log.rows[generation] = shadow_rows(2000, 2, generation=generation, version=2)
    missed(world, generation)
    world.forget()
    for step in world.definition.rollout.canary[:-1]:
        world.pass_time()
        present, units = world.generation(), int(10_000 / step.percent)
        world.log.rows[present] = canary_rows(units, step.percent, generation=present, version=2)
        world.settle()
    assert world.state(second).phase == "canary"
    world.clock.event += 4 * DAY_MS
    world.log.labels.append(
        {"kind": "label", "decision_id": "another", "label": 1, "event_ms": world.clock.event}
    )
    world.settle()
    assert world.state(second).phase == "rolled_back"


def test_a_promotion_is_not_confirmed_by_days_without_traffic_or_without_labels(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    world.approve(first)
    world.settle()
    world.generation()
    world.clock.event += 8 * DAY_MS
    assert any("no request since its share was set" in wait for wait in world.settle().waits)
    world.live_on()
    world.settle()
    assert world.state(first).phase == "confirmed"
    second = to_promoted(world)
    world.live_on()
    world.log.labels.clear()
    world.forget()
    assert any("Labels have stopped coming" in wait for wait in world.settle().waits)
    assert world.state(second).phase == "promoted"


def test_a_promotion_waits_for_its_shadow_phase_to_be_in_the_log(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_promoted(world)
    world.log.rows.clear()
    world.forget()
    world.clock.event += 8 * DAY_MS
    report = world.settle()
    assert world.state(second).phase == "promoted"
    assert any("the log holds no request" in wait for wait in report.waits)


@pytest.mark.parametrize(
    "error", [Unavailable("MLflow does not answer"), Refused("this account may not set aliases")]
)
def test_a_registry_that_sets_no_alias_delays_nothing_else(
    tmp_path: Path, error: PlatformError
) -> None:
    world = World(tmp_path)
    first = world.open(1)
    world.settle()
    world.approve(first)

    def fails(*_: Any) -> None:
        raise error

    world.versions.set_alias = fails  # type: ignore[method-assign]
    report = world.run()
    assert world.state(first).phase == "promoted"
    assert f"for a later pass: {error}" in report.waits
    assert world.rollouts.last_anchor() is not None
