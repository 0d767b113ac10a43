"""Thresholds per segment in model.yaml: what may be declared, and what is refused by its key."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from tests.support.class_model import template

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import model_folder, parse
from mlplatform.model.policies.cut_offs import RowSegment
from mlplatform.model.segment_rules import threshold_segments

FRAUD: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
SHARES = {"shares": {"review": 0.02, "decline": 0.01}}
SCORES = {"scores": {"review": 0.2, "decline": 0.4}}
COSTS = {
    "costs": {
        "approve": {"negative": 0, "positive": 90},
        "review": {"negative": 2, "positive": 20},
        "decline": {"negative": 10, "positive": 0},
    }
}
LARGE = {"name": "large", "input": "amount", "at_least": 500}
WEB = {"name": "web", "field": "channel", "values": ["web"]}


def definition(*segments: dict[str, Any], **changes: Any) -> ModelDefinition:
    document = copy.deepcopy(FRAUD)
    document["request"]["channel"] = {"type": "string", "values": ["web", "shop"]}
    document["request"]["is_new"] = {"type": "bool"}
    document["inputs"] += [
        {"name": "channel_word", "kind": "category", "of": "channel"},
        {"name": "is_new", "kind": "field", "of": "is_new"},
    ]
    decision = document["decision"]
    decision["thresholds"]["segments"] = [copy.deepcopy(segment) for segment in segments]
    decision["capacity"] = 0.05
    for path, value in changes.items():
        part, keys = document, path.split("__")
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
    return parse(yaml.safe_dump(document), "model.yaml")


def test_a_segment_has_its_own_thresholds_by_any_way_and_is_of_an_input_of_rows() -> None:
    new = {"name": "new", "field": "is_new", "values": [True]}
    found = definition(
        LARGE | SHARES, WEB | COSTS, new | SCORES, decision__thresholds__currency="EUR"
    )
    assert threshold_segments(found) == (
        RowSegment(name="large", input="amount", at_least=500.0),
        RowSegment(name="web", input="channel_word", values=("web",)),
        RowSegment(name="new", input="is_new", values=(1.0,)),
    )
    assert found.decision.alert_share == 0.05
    ways = [(s.shares, s.scores, bool(s.costs)) for s in found.decision.thresholds.segments]
    assert ways == [
        (SHARES["shares"], None, False),
        (None, None, True),
        (None, SCORES["scores"], False),
    ]


KEY = "decision.thresholds.segments.0"
MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LARGE, {}, rf"{KEY} is \[\]; wanted: one of shares, scores, costs"),
    (LARGE | SHARES | SCORES, {}, rf"{KEY} is \['shares', 'scores'\]"),
    (LARGE | {"shares": {"decline": 0.1}}, {}, rf"{KEY}.shares is .*each of review, decline"),
    (LARGE | {"scores": {"review": 0.5, "decline": 0.2}}, {}, rf"{KEY}.scores is .*do not fall"),
    (LARGE | {"scores": {"review": 0.5, "decline": 2}}, {}, rf"{KEY}.scores.decline is 2"),
    (LARGE | COSTS, {}, "decision.thresholds.currency is missing"),
    (
        LARGE | {"costs": COSTS["costs"] | {"review": {"negative": 20, "positive": 20}}},
        {"decision__thresholds__currency": "EUR"},
        rf"{KEY}.costs.decline is .*more than review",
    ),
    (LARGE | SHARES | {"input": "price"}, {}, rf"{KEY}.input is 'price'"),
    (LARGE | SHARES | {"field": "amount"}, {}, rf"{KEY} is 'large'; wanted: input or field"),
    (LARGE | SHARES | {"at_least": None}, {}, rf"{KEY} is 'large'; wanted: at_least, below"),
    (LARGE | SHARES | {"below": 5}, {}, rf"{KEY}.below is 5"),
    (
        {"name": "web", "input": "channel_word", "values": ["web"]} | SHARES,
        {},
        rf"{KEY}.input is 'channel_word'; wanted: an input that is one number; a text by its",
    ),
    (
        WEB | SHARES,
        {"request__channel": {"type": "string"}},
        rf"{KEY}.values is \['web'\]; wanted: words that vocabularies.channel_word or "
        r"request.channel.values declare",
    ),
    (WEB | SHARES | {"values": ["fax"]}, {}, rf"{KEY}.values is \['fax'\]"),
    (
        {"name": "s", "field": "terminal_id", "below": 9} | SHARES,
        {},
        rf"{KEY}.field is 'terminal_id'; wanted: a field that an input reads as it is: amount",
    ),
    (
        {"name": "s", "field": "sex", "values": ["female"]} | SHARES,
        {
            "request__sex": {"type": "string", "values": ["female", "male"]},
            "protected": ["sex"],
        },
        rf"{KEY}.field is 'sex'; wanted: a field that an input reads as it is: amount",
    ),
    (LARGE | SHARES, {"decision__capacity": None}, "decision.capacity is missing.*share of req"),
]


@pytest.mark.parametrize(("segment", "changes", "told"), MISTAKES)
def test_a_mistake_is_refused_by_key_value_and_what_is_wanted(
    segment: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(DocumentInvalid, match=told):
        definition(segment, **changes)


def test_names_differ_and_there_are_not_too_many() -> None:
    with pytest.raises(DocumentInvalid, match=r"decision.thresholds.segments is \['large', 'large"):
        definition(LARGE | SHARES, LARGE | SHARES)
    many = [LARGE | SHARES | {"name": f"s{number}"} for number in range(17)]
    with pytest.raises(DocumentInvalid, match=r"decision.thresholds.segments"):
        definition(*many)


def test_a_model_of_numbers_has_none() -> None:
    document = yaml.safe_load(template("fraud", "real"))
    document["decision"]["thresholds"] = {
        **document["decision"].get("thresholds", {}),
        "segments": [LARGE | SCORES],
    }
    with pytest.raises(DocumentInvalid, match=r"decision.thresholds.segments is .*wanted: nothing"):
        parse(yaml.safe_dump(document), "model.yaml")
