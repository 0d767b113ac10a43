"""A version rolls out and back through KServe: real pods, real passes, one killed in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.journal.approval_codes import Question
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.kubernetes.api import HTTP_ROUTES
from mlplatform.rollouts.passes.commands import (
    ValidatedVersion,
    open_rollout,
    record_approval,
    roll_back,
)
from mlplatform.rollouts.passes.execute import run_pass
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.serving.httproute import HttpRoutes
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.raw_route import applied_generation, read, route_name
from mlplatform.runtime.configuration.on_kubernetes import OnKServe
from mlplatform.runtime.units import DAY_MS
from rollout_world import (
    ENTRANCE,
    FakeApprovals,
    FakeLog,
    FakeVersions,
    StoppedClock,
    canary_rows,
    gate_report,
    shadow_rows,
    small_steps,
)
from support.kserve_world import KServe
from support.onnx_bundles import sigmoid_bundle
from support.platform_process import wait
from support.raw_world import Caller, Load

NAMESPACE = "rollouts"
TENSOR = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}


def little() -> ModelDefinition:
    """One pod a version, and samples that a test can afford."""
    return msgspec.structs.replace(small_steps(60, 120, 5), tier=3)


class Killed(BaseException):
    """The process ended here."""


class DyingPort:
    """A port whose user dies right after the next write, or right before it."""

    def __init__(self, port: Any, when: str) -> None:
        self._port = port
        self._when = when

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._port, name)
        return self._dying(there) if name in ("apply", "write") else there

    def _dying(self, write: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            if self._when == "before":
                raise Killed
            write(*arguments)
            raise Killed

        return call


class World:
    """Passes over a journal of their own; traffic and registry are made by hand, services real."""

    def __init__(self, kserve: KServe, folder: Path) -> None:
        self.kserve = kserve
        self.definition = little()
        self.clock = StoppedClock()
        self.log = FakeLog()
        self.approvals = FakeApprovals()
        self.rollouts = SqliteRollouts(folder / "rollouts.db", self.clock, durable=False)
        self.counted = folder / "counted"
        self.plane = KServePlane(kserve.api, NAMESPACE)
        self.raw = HttpRoutes(kserve.api, NAMESPACE, ENTRANCE)

    def validated(self, version: int) -> ValidatedVersion:
        """A version whose bundle lies where pods and passes find it by its digest."""
        # Another shift of the golden scores within their tolerance is another bundle.
        digest = sigmoid_bundle(self.kserve.folder / "new", shift=version * 1e-7)
        target = self.kserve.folder / digest
        if not target.exists():
            (self.kserve.folder / "new").rename(target)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return ValidatedVersion(version, digest, "ann", 0.001, 0.05, gate_report(digest))

    def open(self, validated: ValidatedVersion) -> str:
        return open_rollout(
            self.rollouts,
            "fraud",
            validated,
            approval="required",
            actor="ann",
            reason="better",
            clock=self.clock,
        )

    def run(self, *, plane: Any = None, raw: Any = None) -> None:
        ports = Ports(
            rollouts=self.rollouts,
            controls=self.rollouts,
            passes=self.rollouts,
            anchors=self.rollouts,
            plane=plane or self.plane,
            versions=FakeVersions(),
            log=self.log,
            approvals=self.approvals,
            clock=self.clock,
            bundles=self.kserve.folder,
            counted=self.counted,
            storage_uri=OnKServe(NAMESPACE, "pvc://bundles").storage_uri,
            raw=raw or self.raw,
        )
        run_pass(self.definition, ports, holder="reconcile")

    def until(self, rollout: str, *phases: str, raw: Any = None) -> None:
        """Passes until the rollout is in one of these phases."""

        def there() -> bool:
            self.run(raw=raw)
            return self.state(rollout).phase in phases

        wait(there, f"{rollout}: {self.state(rollout)}", within_s=KServe.deadline_s)

    def raw_callers_follow(self) -> None:
        """Passes until Envoy routes raw callers by the present generation."""

        def follows() -> bool:
            self.run()
            return self.routed_generation() == self.rollouts.routes("fraud").generation

        wait(follows, "the HTTPRoute", within_s=KServe.deadline_s)

    def routed_generation(self) -> int | None:
        """By which Envoy surely routes raw callers."""
        found = self.raw.find("fraud")
        return applied_generation(None if found is None else read(found))

    def state(self, rollout: str) -> RolloutState:
        return fold(self.rollouts.read(rollout))

    def approve(self, rollout: str) -> None:
        digest = self.state(rollout).asked_digest
        assert digest is not None
        question = Question(rollout, digest, "approve")
        record_approval(
            self.rollouts, question, "bob", "looked at it", proven_by="code", clock=self.clock
        )

    def generation(self) -> int:
        generation = self.rollouts.routes("fraud").generation
        self.rollouts.lease("gateway-1", {"fraud": generation}, 60)
        return generation

    def champion(self, validated: ValidatedVersion) -> str:
        """Bootstraps a first version; returns its service."""
        rollout = self.open(validated)
        self.until(rollout, "awaiting_approval")
        self.approve(rollout)
        self.run()
        self.generation()
        self.clock.event += 8 * DAY_MS
        self.run()
        champion = self.rollouts.routes("fraud").champion
        assert champion is not None
        return champion.service

    def score(self, service: str) -> float:
        url = self.kserve.url(service)
        answer = httpx.post(f"{url}/v2/models/{service}/infer", json={"inputs": [TENSOR]})
        answer.raise_for_status()
        score: float = answer.json()["outputs"][0]["data"][0]
        return score


@pytest.fixture(scope="module")
def kserve() -> Iterator[KServe]:
    made = KServe(little(), NAMESPACE)
    yield made
    made.close()


@pytest.fixture
def world(kserve: KServe, tmp_path: Path) -> Iterator[World]:
    yield World(kserve, tmp_path)
    kserve.api.delete(HTTP_ROUTES.path(NAMESPACE, route_name("fraud")))
    kserve.close()


def test_a_challenger_is_deployed_ramped_and_promoted_and_taken_back(world: World) -> None:
    first = world.champion(world.validated(1))
    world.raw_callers_follow()
    with Load("fraud", {"inputs": [TENSOR]}) as load:
        rollout = world.open(world.validated(2))
        for when in ("before", "after"):
            with pytest.raises(Killed):
                world.run(plane=DyingPort(world.plane, when))
        second = shadowed(world, rollout)
        ramped(world, rollout)
        assert world.plane.names() == sorted([first, second])
        assert (world.score(first), world.score(second)) == (0.5, 0.5)
        taken_back(world, first)

    assert load.failed == {}
    assert load.by[second] > 0
    assert load.answered == load.by[first] + load.by[second]


def shadowed(world: World, rollout: str) -> str:
    """The challenger gets copies, and a tester's requests; returns its service."""
    for when in ("before", "after"):
        with pytest.raises(Killed):
            world.until(rollout, "shadow", raw=DyingPort(world.raw, when))
    world.until(rollout, "shadow")
    world.raw_callers_follow()
    service = world.state(rollout).challenger.service
    answer = Caller("fraud").post({"inputs": [TENSOR]}, mlplatform_version="2")
    assert answer.json()["model_name"] == service
    generation = world.generation()
    world.log.rows[generation] = shadow_rows(100, 3, generation=generation, version=2)
    world.clock.event += 3_600_000
    world.until(rollout, "awaiting_approval")
    world.approve(rollout)
    world.until(rollout, "canary")
    return service


def ramped(world: World, rollout: str) -> None:
    """Every step is judged only when raw callers are routed by it, too."""
    for percent in (5, 25, 50):
        assert world.rollouts.routes("fraud").challenger_percent == percent
        generation = world.generation()
        world.log.rows[generation] = canary_rows(2000, percent, generation=generation, version=2)
        world.clock.event += 3_600_000
        world.raw_callers_follow()
        world.run()
    assert world.state(rollout).phase == "promoted"
    world.generation()
    world.raw_callers_follow()


def taken_back(world: World, first: str) -> None:
    """By hand; the version that failed is retired once nobody is routed to it."""
    roll_back(world.rollouts, world.rollouts, "fraud", actor="eve", reason="x", clock=world.clock)
    routes = world.rollouts.routes("fraud")
    assert routes.champion is not None
    assert routes.champion.service == first
    assert world.plane.status(first).ready
    world.generation()

    def retired() -> bool:
        world.run()
        return world.plane.names() == [first]

    wait(retired, "the end of the version that failed", within_s=KServe.deadline_s)
    assert world.routed_generation() == routes.generation


def test_a_version_that_no_node_can_serve_never_gets_traffic(world: World) -> None:
    first = world.champion(world.validated(3))
    world.definition = msgspec.structs.replace(world.definition, accelerator="cuda")
    validated = world.validated(4)
    rollout = world.open(validated)

    world.run()

    refused = world.state(rollout).refused or ""
    assert re.search(r"nvidia.com/gpu each, .* nothing was changed", refused)
    assert world.plane.names() == [first]
    assert world.state(rollout).phase == "deploying"
