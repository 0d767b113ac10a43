"""Rollouts of models whose labels are classes or numbers, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mlplatform.decisions.records.record import LABEL_VALUES
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.rollout import RolloutPolicy, Tolerance
from mlplatform.rollouts.journal.approval_codes import Question
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.passes.commands import ValidatedVersion, open_rollout, record_approval
from mlplatform.rollouts.passes.execute import run_pass
from mlplatform.rollouts.passes.ports import Ports
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
)

FLIPS = 0.05
"""Of replayed requests: the two versions decide another class."""
REQUESTS = 2000


def affordable(made: ModelDefinition) -> ModelDefinition:
    """With samples that a test can afford."""
    policy, shown = made.rollout, Tolerance(failures=0.2)
    shadow = msgspec.structs.replace(
        policy.shadow,
        minimum_units=60,
        minimum_requests=120,
        tolerance=Tolerance(failures=0.2, disagreement=0.2),
    )
    canary = tuple(
        msgspec.structs.replace(step, minimum_units=5, tolerance=shown) for step in policy.canary
    )
    policy = msgspec.structs.replace(policy, shadow=shadow, canary=canary)
    return msgspec.structs.replace(made, rollout=policy)


@dataclass
class World:
    folder: Path
    definition: ModelDefinition
    clock: StoppedClock = field(default_factory=StoppedClock)
    log: FakeLog = field(default_factory=FakeLog)
    plane: FakePlane = field(default_factory=FakePlane)
    approvals: FakeApprovals = field(default_factory=FakeApprovals)

    def __post_init__(self) -> None:
        self.rollouts = SqliteRollouts(self.folder / "rollouts.db", self.clock, durable=False)
        self.versions, self.raw = FakeVersions(), FakeRawRoutes()

    def settle(self) -> None:
        ports = Ports(
            rollouts=self.rollouts,
            controls=self.rollouts,
            passes=self.rollouts,
            anchors=self.rollouts,
            plane=self.plane,
            versions=self.versions,
            log=self.log,
            approvals=self.approvals,
            clock=self.clock,
            bundles=self.folder / "bundles",
            counted=self.folder / "counted",
            server_of=lambda folder: None,
            raw=self.raw,
        )
        run_pass(self.definition, ports, holder="reconcile")
        routes = self.rollouts.routes("fraud")
        self.rollouts.lease("gateway-1", {"fraud": routes.generation}, 60)

    def open(self, version: int) -> str:
        report = gate_report(arm(version).bundle, arm(1).bundle if version > 1 else None)
        counts = {"alerts": 0, "champion_alerts": 0, "both_alerts": 0}
        report["replayed"] = {"requests": 1000, **counts, "flips": int(1000 * FLIPS)}
        validated = ValidatedVersion(version, arm(version).bundle, "ann", 0.0, 0.0, report)
        return open_rollout(
            self.rollouts, "fraud", validated, approval="required", actor="ann", reason="better",
            clock=self.clock,
        )  # fmt: skip

    def approve(self, rollout_id: str) -> None:
        asked = self.state(rollout_id).asked_digest
        assert asked is not None
        question = Question(rollout_id, asked, "approve")
        record_approval(
            self.rollouts, question, "bob", "looked at it", proven_by="code", clock=self.clock
        )

    def state(self, rollout_id: str) -> RolloutState:
        return fold(self.rollouts.read(rollout_id))

    @property
    def generation(self) -> int:
        return self.rollouts.routes("fraud").generation

    def label(self, decision_id: str, value: str | float) -> None:
        row = {"kind": "label", "decision_id": decision_id, "decision": None, "score": None}
        row[LABEL_VALUES[self.definition.task]] = value
        self.log.labels.append(row | {"label": None, "event_ms": self.clock.event})

    def live_on(self, days: int = 8) -> None:
        routes = self.rollouts.routes("fraud")
        assert routes.champion is not None
        row = {"generation": routes.generation, "version": routes.champion.version}
        self.log.rows.setdefault(routes.generation, []).append(row | {"decision": "usual"})
        self.clock.event += days * DAY_MS
        self.label("another", "usual" if self.definition.classes else 1.0)

    def first_version(self) -> World:
        """Opened, approved and confirmed."""
        first = self.open(1)
        self.settle()
        self.approve(first)
        self.settle()
        self.live_on()
        self.settle()
        assert self.state(first).phase == "confirmed"
        return self

    def promoted(self, shadow: Callable[[], list[dict[str, Any]]]) -> str:
        """A second version, after these requests in shadow and calm ones in canary."""
        second = self.open(2)
        self.settle()
        self.log.rows[self.generation] = shadow()
        self.clock.event += 3_600_000
        self.settle()
        self.approve(second)
        self.settle()
        for step in self.definition.rollout.canary:
            self.clock.event += 3_600_000
            units = int(10_000 / step.percent)
            rows = canary_rows(units, step.percent, generation=self.generation, version=2)
            self.log.rows[self.generation] = [row | {"decision": "usual"} for row in rows]
            self.settle()
        self.settle()
        assert self.state(second).phase == "promoted", self.state(second).reason
        return second

    def tolerating(self, **limits: float) -> RolloutPolicy:
        """From now on judged by such limits of matured labels: `confirm_…` and of `stop`."""
        policy = self.definition.rollout
        stop = {name: v for name, v in limits.items() if not name.startswith("confirm_")}
        rest = {name: v for name, v in limits.items() if name.startswith("confirm_")}
        changed = msgspec.structs.replace(policy.stop, **stop)
        policy = msgspec.structs.replace(policy, stop=changed, **rest)
        self.definition = msgspec.structs.replace(self.definition, rollout=policy)
        return policy


def class_pairs(world: World, flips: float) -> list[dict[str, Any]]:
    """Requests of which the challenger decides another class than the champion for a share."""
    rows = []
    for number in range(REQUESTS):
        shared = {
            "decision_id": f"s{number}",
            "unit": number % 500,
            "generation": world.generation,
            "event_ms": world.clock.event + number,
        }
        other = number % 100 < 100 * flips
        rows.append(shared | {"decision": "usual"})
        copy = {"kind": "shadow", "arm": "challenger", "version": 2}
        rows.append(shared | copy | {"decision": "large" if other else "usual"})
    return rows
