"""A small world for rollouts: records made by hand, fakes for planes and registries, a clock."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.port import ManifestHead, RecordQuery, Watermark
from mlplatform.decisions.records.record import COLUMNS, arrow_schema
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.rollout import Tolerance
from mlplatform.model.policies.segments import SegmentSource
from mlplatform.model.routes import Arm
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.serving.plane import Manifest, ServiceStatus
from mlplatform.rollouts.verdicts.aggregates import Aggregates, aggregates
from mlplatform.rollouts.verdicts.completeness import complete_until_ms
from mlplatform.rollouts.verdicts.facts import Subject, facts
from mlplatform.rollouts.verdicts.judgement import GateLimits, Judgement, Sources, judge
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.configuration.entrance import Entrance
from mlplatform.runtime.errors import NotFound, Refused

WRITER = "gateway-1"
ENTRANCE = Entrance("edge", "public", "models.example.com")


def arm(version: int) -> Arm:
    bundle = digest({"version": version})
    return Arm(version, bundle, f"fraud-v{version}-{bundle[:8]}")


def gate_report(bundle: str, champion: str | None = None) -> dict[str, Any]:
    """What the registry keeps of a version that passed its gates: two of them, here."""
    quality = "average precision 0.612 on 80 frauds (90 % interval 0.550 to 0.670)"
    latency = "one request on one thread takes 0.1 ms (at most 10 ms allowed)"
    return {
        "model": "fraud",
        "bundle": bundle,
        "champion": champion,
        "passed": True,
        "gates": [
            {"name": "quality", "verdict": "passed", "observed": 0.612, "limit": 0.1,
             "interval": [0.55, 0.67], "reason": quality},
            {"name": "latency", "verdict": "passed", "observed": 0.1, "limit": 10.0,
             "interval": None, "reason": latency},
        ],
    }  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Records as the log's reader gives them; what a row leaves out has a plain default."""
    full = []
    for seq, row in enumerate(rows, start=1):
        defaults: dict[str, Any] = dict.fromkeys(COLUMNS)
        defaults |= {
            "writer": WRITER,
            "seq": seq,
            "kind": "decision",
            "decision_id": f"d{seq}",
            "model": "fraud",
            "event_ms": seq,
            "recorded_ms": seq * 1000,
            "generation": 1,
            "arm": "champion",
            "answered_by": row.get("arm", "champion"),
            "unit": seq,
            "version": 1,
            "score": 0.1,
            "decision": "approve",
            "degraded": False,
            "latency_us": 4000,
        }
        full.append(defaults | dict(row))
    return pa.Table.from_pylist(full, schema=arrow_schema(tuple(COLUMNS)))


def counted(
    rows: Sequence[Mapping[str, Any]],
    role: Role,
    *,
    version: int = 2,
    within_us: float = math.inf,
    until_ms: int | None = None,
    segments: tuple[SegmentSource, ...] = (),
    by_decision: bool = False,
) -> Aggregates:
    """A recount of the rows of generation 1 up to an event time."""
    records = table(rows)
    subject = Subject(1, role, version, within_us, segments, by_decision=by_decision)
    found = facts(records, subject)
    if until_ms is not None:
        found = found.of(found.rows["event_ms"] <= until_ms)
    kinds, ids = records["kind"].to_pylist(), records["decision_id"].to_pylist()
    voided = (i for i, kind in zip(ids, kinds, strict=True) if kind == "void")
    return aggregates(found, subject, frozenset(map(str, voided)))


def judged(
    rows: Sequence[Mapping[str, Any]],
    role: Role,
    limits: GateLimits,
    sources: Sources,
    *,
    version: int = 2,
    within_us: float = math.inf,
    segments: tuple[SegmentSource, ...] = (),
) -> Judgement:
    """The verdict on these rows, as the log that holds them is now."""

    by_decision = limits.step is not None and limits.step.predicted.by_decision

    def found(until_ms: int | None) -> Aggregates:
        return counted(
            rows, role, version=version, within_us=within_us, until_ms=until_ms, segments=segments,
            by_decision=by_decision,
        )  # fmt: skip

    until_ms = complete_until_ms(sources.watermarks)
    return judge(found(None), found(until_ms), limits, sources)


def shadow_rows(
    units: int,
    per_unit: int,
    *,
    generation: int,
    version: int,
    alert_share: float = 0.01,
    champion_alert_share: float | None = None,
    seed: int = 7,
) -> list[dict[str, Any]]:
    """Each request decided by the champion and copied to the challenger, who agrees with it unless
    the champion has a share of alerts of its own."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(units * per_unit):
        decision = "review" if rng.random() < alert_share else "approve"
        champions = decision
        if champion_alert_share is not None:
            champions = "review" if rng.random() < champion_alert_share else "approve"
        shared = {
            "decision_id": f"g{generation}-{number}",
            "unit": number % units,
            "generation": generation,
            "event_ms": 1000 + number,
        }
        rows.append(shared | {"decision": champions})
        copy = {"kind": "shadow", "arm": "challenger", "version": version, "decision": decision}
        rows.append(shared | copy)
    return rows


def canary_rows(
    units: int, percent: float, *, generation: int, version: int, alert_share: float = 0.01
) -> list[dict[str, Any]]:
    """Exactly the asked share of customers in the challenger's arm, evenly mixed, one request."""
    rng = np.random.default_rng(generation)
    rows: list[dict[str, Any]] = []
    for unit in range(units):
        mine = int((unit + 1) * percent / 100) > int(unit * percent / 100)
        rows.append(
            {
                "decision_id": f"g{generation}-{unit}",
                "unit": unit,
                "generation": generation,
                "event_ms": 1000 + unit,
                "arm": "challenger" if mine else "champion",
                "version": version if mine else 1,
                "decision": "review" if rng.random() < alert_share else "approve",
            }
        )
    return rows


def fraud() -> ModelDefinition:
    return load_definition("fraud")


def small_steps(units: int, requests: int, canary_units: int) -> ModelDefinition:
    """The fraud model with samples that a test can afford: what they can't show is not asked."""
    policy, shown = fraud().rollout, Tolerance(failures=0.2)
    shadow = msgspec.structs.replace(
        policy.shadow, minimum_units=units, minimum_requests=requests, tolerance=shown
    )
    canary = tuple(
        msgspec.structs.replace(step, minimum_units=canary_units, tolerance=shown)
        for step in policy.canary
    )
    policy = msgspec.structs.replace(policy, shadow=shadow, canary=canary, confirm_recall_drop=None)
    return msgspec.structs.replace(fraud(), rollout=policy)


@dataclass
class StoppedClock:
    """Both times stand where they are put."""

    event: int = 1_000_000
    wall: int = 5_000_000

    def event_ms(self) -> int:
        return self.event

    def wall_ms(self) -> int:
        return self.wall


@dataclass
class FakeRawRoutes:
    """HTTPRoutes, and a Gateway that follows each at once, or only when it is told to."""

    follows: bool = True
    entrance: Entrance = ENTRANCE
    route: dict[str, Any] | None = None
    in_force: dict[str, Any] = field(default_factory=dict)
    """The spec that requests are routed by."""

    def find(self, model: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.route)

    def write(self, body: Mapping[str, Any], version: str | None) -> None:
        metadata = {} if self.route is None else self.route["metadata"]
        if version is not None and version != metadata.get("resourceVersion"):
            raise Refused("the object has been modified")
        changed = self.route is None or self.route["spec"] != body["spec"]
        self.route = {**copy.deepcopy(dict(body)), "status": (self.route or {}).get("status", {})}
        self.route["metadata"] |= {
            "resourceVersion": str(int(metadata.get("resourceVersion", 0)) + 1),
            "generation": metadata.get("generation", 0) + changed,
        }
        if self.follows:
            self.follow()

    def follow(self) -> None:
        """The Gateway takes the present route over, and says so."""
        assert self.route is not None
        self.in_force = self.route["spec"]
        told = {"status": "True", "observedGeneration": self.route["metadata"]["generation"]}
        conditions = [{"type": kind, **told} for kind in ("Accepted", "ResolvedRefs")]
        parent = {"name": self.entrance.gateway, "namespace": self.entrance.namespace}
        self.route["status"] = {"parents": [{"parentRef": parent, "conditions": conditions}]}


@dataclass
class FakePlane:
    """Services that are ready as soon as they are applied, unless told otherwise.

    Args:
        gpus: how many there are, for services that hold one each; None: enough.
    """

    manifests: dict[str, Manifest] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    gpus: int | None = None

    def apply(self, manifest: Manifest) -> None:
        name, taken = manifest["metadata"]["name"], len(self.manifests)
        if name not in self.manifests and self.gpus is not None and taken >= self.gpus:
            raise Refused(f"{name} needs 1 GPU; {taken} of {self.gpus} are taken")
        self.manifests[name] = manifest

    def status(self, name: str) -> ServiceStatus:
        if name not in self.manifests:
            raise NotFound(name)
        return ServiceStatus(name, ready=name not in self.broken, reason="self-test failed")

    def endpoint(self, name: str) -> str | None:
        return None

    def remove(self, name: str) -> None:
        self.manifests.pop(name, None)

    def names(self) -> list[str]:
        return sorted(self.manifests)


@dataclass
class FakeVersions:
    """A registry with every version in it."""

    aliases: dict[str, int] = field(default_factory=dict)
    fetched: list[int] = field(default_factory=list)

    def fetch(self, model: str, version: int, into: Path) -> Path:
        self.fetched.append(version)
        return into

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self.aliases[alias] = version


@dataclass
class FakeApprovals:
    """Questions by digest."""

    asked: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def ensure_requested(self, rollout_id: str, evidence: Mapping[str, Any], digest: str) -> None:
        self.asked[digest] = evidence


@dataclass
class FakeLog:
    """A log that holds the rows that it was given, by generation, numbered as they came."""

    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    labels: list[dict[str, Any]] = field(default_factory=list)
    live: bool = True
    reached_ms: int = 10**12
    numbered: list[dict[str, Any]] = field(default_factory=list)

    def append(self, writer: str, entries: Sequence[Any]) -> list[Any]:
        raise AssertionError("a pass appends nothing to the log")

    def read(self, query: RecordQuery) -> pa.Table:
        numbers = self._numbers()
        if query.kinds == ("label",):
            rows = self.labels
        elif "decision" in query.kinds:
            rows = self.rows.get(query.generation or 0, [])
        else:
            return table([])
        after = (query.after or {}).get(WRITER, 0)
        found = table([row | {"seq": numbers[id(row)]} for row in rows])
        return found.filter(pc.field("seq") > after).slice(0, query.limit)

    def seal(self) -> ManifestHead:
        return ManifestHead(len(self.rows), digest(sorted(self.rows)), {})

    def verify(self, anchor: ManifestHead | None = None, *, heads: Any = ()) -> Any:
        raise AssertionError("a pass does not verify the log")

    def watermarks(self) -> list[Watermark]:
        return [Watermark(WRITER, len(self._numbers()), self.reached_ms, 0, self.live)]

    def _numbers(self) -> dict[int, int]:
        numbers = {id(row): number for number, row in enumerate(self.numbered, start=1)}
        for rows in (*self.rows.values(), self.labels):
            for row in rows:
                if id(row) not in numbers:
                    self.numbered.append(row)
                    numbers[id(row)] = len(self.numbered)
        return numbers


def plain(value: Any) -> Any:
    """The value as JSON types, for comparing two worlds."""
    return msgspec.to_builtins(value)
