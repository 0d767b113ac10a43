"""Evidence has names and types for who reads it, and keeps all that was ever written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.rollouts.passes.test_rollout_passes import World, bootstrap, to_promoted

from mlplatform.rollouts.journal.basis_evidence import BasisEvidence, PlanEvidence
from mlplatform.rollouts.journal.evidence import Evidence, GateEvidence
from mlplatform.rollouts.journal.transitions import Confirmed, RolloutPlan, decode, encode
from mlplatform.rollouts.verdicts.basis import Basis


def test_evidence_of_an_earlier_release_keeps_what_no_type_names() -> None:
    held = {"verdict": "HEALTHY", "looks": [1, 2], "gates": {"failures": {"p": 0.5}}}
    fact = Confirmed(rollout_id="fraud-v2-1", model="fraud", event_ms=1, wall_ms=2, actor="pass",
                     reason="because", evidence=held)  # type: ignore[typeddict-item]  # fmt: skip
    again = decode(encode(fact))
    assert again.evidence == held
    assert again.evidence_digest == fact.evidence_digest


def test_every_name_that_a_pass_writes_has_a_type(tmp_path: Path) -> None:
    world = World(tmp_path)
    bootstrap(world)
    second = to_promoted(world)
    evidence = [fact.evidence for fact in world.rollouts.read(second)]
    assert {name for one in evidence for name in one} <= Evidence.__annotations__.keys()
    gates = [gate for one in evidence for gate in one.get("gates", {}).values()]
    assert gates
    assert {name for gate in gates for name in gate} <= GateEvidence.__annotations__.keys()


def shape(kept: Any) -> Any:
    """Names, types and which may be missing, at any depth, of what JSON holds of a class."""
    schema = msgspec.json.schema(kept)

    def of(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return of(schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in node:
            return sorted((of(one) for one in node["anyOf"]), key=repr)
        if "enum" in node:
            return sorted(node["enum"])
        fields = {name: of(one) for name, one in node.get("properties", {}).items()}
        more = of(node.get("items")), of(node.get("additionalProperties") or None)
        return node.get("type"), fields, sorted(node.get("required", ())), more

    return of(schema)


@pytest.mark.parametrize(("kept", "named"), [(Basis, BasisEvidence), (RolloutPlan, PlanEvidence)])
def test_a_basis_and_a_plan_have_in_evidence_the_names_and_types_of_their_classes(
    kept: Any, named: Any
) -> None:
    assert shape(named) == shape(kept)
