"""An answer of a model of classes has the most probable ones, and no other answer has any."""

from __future__ import annotations

import json

from msgspec import UNSET, structs

from mlplatform.model.policies.classes import ClassProbability
from mlplatform.scoring.api import grpc_scoring
from mlplatform.scoring.api.shapes import SHAPES, stored_answer
from mlplatform.scoring.request.answers import ScoreBody, encode

STORED = ScoreBody(
    decision="small", score=0.7, reasons=[], model_version=1, bundle="b", route="champion",
    answered_by="champion", generation=1, decision_id="d", degraded=False, degraded_reason=None,
    reasons_omitted=None, top=[ClassProbability("small", 0.7), ClassProbability("large", 0.3)],
)  # fmt: skip
TOP = [{"class": "small", "probability": 0.7}, {"class": "large", "probability": 0.3}]
BINARY = structs.replace(STORED, top=UNSET)


def test_both_versions_of_the_api_tell_them() -> None:
    for shape in SHAPES.values():
        assert json.loads(shape(encode(STORED)))["top"] == TOP
        assert "top" not in json.loads(shape(encode(BINARY)))
    assert stored_answer(encode(STORED)) == STORED


def test_a_grpc_answer_has_the_most_probable_classes_too() -> None:
    found = grpc_scoring._response(STORED, replayed=False)
    assert [(one.class_name, one.probability) for one in found.top] == [
        ("small", 0.7),
        ("large", 0.3),
    ]
    assert not grpc_scoring._response(BINARY, replayed=False).top
