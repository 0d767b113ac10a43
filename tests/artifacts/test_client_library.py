"""The client library's wheel, and its types beside the API's own description."""

from __future__ import annotations

import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hatchling.builders.wheel import WheelBuilder

from mlplatform.model.definition import MAX_DEADLINE_MS, MIN_DEADLINE_MS
from mlplatform.scoring.admission.priorities import PRIORITIES
from mlplatform.scoring.explanations.explanations import LIMIT_S
from mlplatform.scoring.request.payloads import MAX_ITEMS
from mlplatform_client import (
    Answer,
    Contribution,
    DecidingRule,
    Explanation,
    Label,
    LabelReceipt,
    VoidReceipt,
    __version__,
    calls,
)
from mlplatform_client.replies import Problem

ROOT: Final = Path(__file__).parents[2]
CLIENT: Final = ROOT / "clients" / "python"
SCHEMAS: Final = json.loads((ROOT / "docs/openapi/v2.json").read_text())["components"]["schemas"]


def properties(kind: type[msgspec.Struct]) -> set[str]:
    return set(kind.__struct_fields__)


def test_the_wheel_holds_the_library_and_needs_two_others(tmp_path: Path) -> None:
    [built] = WheelBuilder(str(CLIENT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        [metadata] = [wheel.read(n).decode() for n in names if n.endswith("METADATA")]
    sources = {p.name for p in (CLIENT / "src/mlplatform_client").glob("*") if p.is_file()}
    held = {n.partition("/")[2] for n in names if n.startswith("mlplatform_client/")}
    assert held == sources
    assert "py.typed" in held
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert [line.split()[1].split(">")[0].split("<")[0] for line in needed] == ["httpx", "msgspec"]
    assert f"Version: {__version__}" in metadata


def test_it_has_the_number_of_the_release() -> None:
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == release


@pytest.mark.parametrize(
    ("kind", "schema", "own"),
    [
        (Answer, "AnswerV2", {"replayed"}),
        (Contribution, "Contribution", set()),
        (DecidingRule, "RuleValues", set()),
        (Explanation, "ExplanationAnswer", set()),
        (Label, "LabelItem", set()),
        (LabelReceipt, "LabelsAnswer", set()),
        (VoidReceipt, "VoidAnswer", set()),
    ],
)
def test_its_types_have_the_fields_of_the_api(
    kind: type[msgspec.Struct], schema: str, own: set[str]
) -> None:
    assert properties(kind) - own == set(SCHEMAS[schema]["properties"])


def test_parts_of_an_answer_have_the_fields_of_the_api() -> None:
    answer: dict[str, Any] = SCHEMAS["AnswerV2"]["properties"]
    named = {"ReasonInfo", "ModelInfo", "RouteInfo", "Degradation", "FeatureGaps"}
    named.add("ClassProbability")
    assert {n for n in named if f"/{n}" in json.dumps(answer)} == named
    given = {n: {k: _value(v) for k, v in SCHEMAS[n]["properties"].items()} for n in named}
    whole = {
        "decision_id": "0" * 42, "decision": "review", "score": 0.5, "reasons_omitted": None,
        "answered_by": "champion", "reasons": [given["ReasonInfo"]], "model": given["ModelInfo"],
        "route": given["RouteInfo"], "degraded": given["Degradation"],
        "feature_gaps": given["FeatureGaps"], "top": [given["ClassProbability"]],
    }  # fmt: skip
    read = msgspec.json.decode(json.dumps(whole), type=Answer)
    assert json.loads(msgspec.json.encode(read)) == {**whole, "replayed": False}


def _value(schema: dict[str, Any]) -> object:
    if "enum" in schema:
        return schema["enum"][0]
    return {"string": "x", "integer": 1, "number": 0.5, "array": ["x"]}[schema["type"]]


def test_its_limits_are_those_of_the_api() -> None:
    assert calls.MAX_ITEMS == MAX_ITEMS
    assert (calls.MIN_WITHIN_MS, calls.MAX_WITHIN_MS) == (MIN_DEADLINE_MS, MAX_DEADLINE_MS)
    assert calls.EXPLAIN_S > LIMIT_S, "a gateway says itself that it is late"
    assert set(calls.PRIORITIES) == set(PRIORITIES)
    assert properties(Problem) <= set(SCHEMAS["ProblemDetails"]["properties"])
