"""Orders of items, and what model.yaml may say about them."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import parse
from mlplatform.model.policies.ranking import ItemScore, in_order
from mlplatform.runtime.errors import ConfigInvalid

TEMPLATE = resources.files("mlplatform.commands.authoring").joinpath("templates/ranking/model.yaml")


@given(st.lists(st.tuples(st.sampled_from((0.1, 0.5)), st.sampled_from((0.0, 1.0))), max_size=9))
def test_scores_fall_and_equal_ones_stay_as_they_were_sent(
    pairs: list[tuple[float, float]],
) -> None:
    order = in_order([ItemScore(*pair) for pair in pairs])
    assert order.by == "score"
    assert sorted(order.places) == list(range(len(pairs)))
    found = [(-pairs[n][0], -pairs[n][1], n) for n in order.places]
    assert found == sorted(found)


@pytest.mark.parametrize("lacking", [ItemScore(None, None), ItemScore(float("nan"), 0.1)])
def test_where_an_item_has_no_score_all_stay_as_they_were_sent(lacking: ItemScore) -> None:
    order = in_order([ItemScore(0.1, 0.1), lacking, ItemScore(0.9, 0.9)])
    assert order == ("request", (0, 1, 2))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("items: [offer, price]", "items: [offer, prize]", "ranking.items"),
        ("items: [offer, price]", "items: [offer, offer]", "names that differ"),
        (
            "items: [offer, price]",
            "items: [customer_id, offer]",
            "that all items of a",
        ),
        ("assignment_unit: customer_id", "assignment_unit: request", "assignment_unit"),
        ("top: 3 ", "top: 51 ", "ranking.top"),
        ("most: 50 ", "most: 129 ", "ranking.most"),
        ("hides_outcome: []", "hides_outcome: [offer]", "decision.hides_outcome"),
        ("when_unrecordable: refuse", "when_unrecordable: answer_unlogged", "when_unrecordable"),
    ],
)
def test_what_does_not_go_with_an_order_is_refused_by_its_key(
    before: str, after: str, said: str
) -> None:
    text = TEMPLATE.read_text().replace("@NAME@", "next-offer")
    assert parse(text, "model.yaml").ranking is not None
    assert before in text
    with pytest.raises(ConfigInvalid) as refused:
        parse(text.replace(before, after), "model.yaml")
    assert said in str(refused.value)


@pytest.mark.parametrize("task", ["classes", "real"])
def test_only_one_score_puts_items_in_order(task: str) -> None:
    template = resources.files("mlplatform.commands.authoring").joinpath(f"templates/{task}")
    text = template.joinpath("model.yaml").read_text().replace("@NAME@", "next-offer")
    more = "\nranking: {items: [amount], most: 10, top: 3}\n"
    with pytest.raises(ConfigInvalid, match="ranking"):
        parse(text + more, "model.yaml")
