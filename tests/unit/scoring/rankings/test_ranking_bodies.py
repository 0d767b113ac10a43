"""Bodies of requests with items: the fields of each item, and one canonical form."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import parse
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.rankings.bodies import RankingBodies, RankRequest

TEMPLATE = resources.files("mlplatform.commands.authoring").joinpath("templates/ranking/model.yaml")
SENT: dict[str, Any] = {
    "customer_id": 7,
    "income": 4000.0,
    "event_time": 1_767_225_600_000,
    "items": [{"offer": "card", "price": 10.0}, {"offer": "loan", "price": 20.0}],
}


def _definition(**changed: str) -> ModelDefinition:
    text = TEMPLATE.read_text().replace("@NAME@", "next-offer")
    for before, after in changed.items():
        assert before in text
        text = text.replace(before, after)
    return parse(text, "model.yaml")


def _parse(body: Any, definition: ModelDefinition | None = None) -> RankRequest:
    own = definition or _definition()
    assert own.ranking is not None
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RankingBodies(own, own.ranking).parse(text)


def test_each_item_is_a_request_about_it_alone() -> None:
    found = _parse(SENT)
    assert found.event_ms == SENT["event_time"]
    assert list(found.items) == [
        {"customer_id": 7, "income": 4000.0, "offer": "card", "price": 10.0},
        {"customer_id": 7, "income": 4000.0, "offer": "loan", "price": 20.0},
    ]
    assert [*found.items[0]] == [*_definition().request], "in the order of model.yaml"


def test_one_request_has_one_canonical_form() -> None:
    spelled = b'{"items": [{"price":10,"offer":"card"} ,{"offer":"loan","price":2e1}],"income":4e3,'
    spelled += b'"event_time":"2026-01-01T00:00:00Z","customer_id":7}'
    assert _parse(spelled).body == _parse(SENT).body
    turned = SENT | {"items": SENT["items"][::-1]}
    assert _parse(turned).body != _parse(SENT).body


def test_an_optional_field_that_is_left_out_changes_no_earlier_request() -> None:
    more = {
        "  price: {type: float64,": "  colour: {type: string, optional: true}\n"
        "  price: {type: float64,",
        "items: [offer, price]": "items: [offer, price, colour]",
    }
    found = _parse(SENT, _definition(**more))
    assert found.items[0]["colour"] is None
    assert found.body == _parse(SENT).body
    some = SENT | {"items": [SENT["items"][0] | {"colour": "red"}, SENT["items"][1]]}
    assert _parse(some, _definition(**more)).body != found.body


@pytest.mark.parametrize(
    ("body", "status", "name", "field"),
    [
        (b"{", 400, "malformed-json", None),
        (b'{"customer_id":7,"customer_id":8}', 422, "missing-field", None),
        (json.dumps(SENT).replace('"card"', '"card", "offer": "x"').encode(), 422,
         "repeated-field", "offer"),
        (SENT | {"items": [SENT["items"][0]] * 51}, 422, "invalid-field", "items"),
        (SENT | {"items": []}, 422, "invalid-field", "items"),
        ({k: v for k, v in SENT.items() if k != "items"}, 422, "missing-field", "items"),
        (SENT | {"items": [{"offer": "card", "price": "x"}]}, 422, "invalid-field",
         "items[0].price"),
        (SENT | {"items": [SENT["items"][0], {"offer": "card"}]}, 422, "missing-field",
         "items[1].price"),
        (SENT | {"items": [SENT["items"][0], {"offer": "card", "price": 1.0, "income": 2.0}]}, 422,
         "unknown-field", "items[1].income"),
        (SENT | {"offer": "card"}, 422, "unknown-field", "offer"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: Any, status: int, name: str, field: str | None) -> None:
    with pytest.raises(Problem) as refused:
        _parse(body)
    assert (refused.value.status, refused.value.name) == (status, name)
    assert field is None or field in (refused.value.details.field or "")


def test_a_text_outside_of_a_closed_list_names_its_item() -> None:
    listed = _definition(
        **{"offer: {type: string, max_length: 40}": "offer: {type: string, values: [card, loan]}"}
    )
    assert len(_parse(SENT, listed).items) == 2
    other = SENT | {"items": [SENT["items"][0], {"offer": "fund", "price": 1.0}]}
    with pytest.raises(Problem) as refused:
        _parse(other, listed)
    assert refused.value.details.field == "items[1].offer"
