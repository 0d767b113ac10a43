"""The review queue narrowed and in other orders, and the way from an answer to its correction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.observing.page.review.test_review_page import PATH, Page

from mlplatform.observing.page.review import selection_form
from mlplatform.operations.actions import review as job
from mlplatform.runtime.errors import InputInvalid
from mlplatform.scoring.request.decision_ids import new_decision_id
from rollout_world import fraud
from support.page_visitor import hidden
from support.review_world import World, append, decision

ROWS = {"d1": (0.9, 10.0, "AMOUNT"), "d2": (0.2, 500.0, "OLD_RULE"), "d3": (0.5, 80.0, "AMOUNT")}

IDS: dict[str, str] = {}
"""Name in this file → id of the decision."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "home")
    now_ms = made.platform.clock.wall_ms()
    IDS.clear()
    for number, (name, (score, amount, reason)) in enumerate(ROWS.items()):
        made_id = new_decision_id("fraud", "shop", now_ms, made.platform.pseudonym_key())
        IDS[name] = made_id
        found = decision(made_id, now_ms + number, "decline" if name == "d2" else "review")
        payload = {"request": {"amount": amount, "terminal_id": 7}, "reasons": [reason]}
        found = msgspec.structs.replace(found, score=score, payload=payload)
        append(made.log, "gateway-0", found)
    job.advance(made.platform, "fraud")
    yield made
    made.log.close()


@pytest.fixture
def page(world: World) -> Iterator[Page]:
    made = Page(world)
    yield made
    made.close()


def listed(text: str) -> list[str]:
    table = text[text.index("<h2>The queue</h2>") :]
    names = {made_id: name for name, made_id in IDS.items()}
    found = re.findall(r"<code>([^<]+)</code></a></th>", table)
    return [names[one] for one in found]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", ["d1", "d2", "d3"]),
        ("?sort=newest", ["d3", "d2", "d1"]),
        ("?sort=highest+score", ["d1", "d3", "d2"]),
        ("?sort=lowest+score", ["d2", "d3", "d1"]),
        ("?sort=largest", ["d2", "d3", "d1"]),
        ("?decided=decline", ["d2"]),
        ("?reason=AMOUNT", ["d1", "d3"]),
        ("?from_score=0.3&to_score=0.6", ["d3"]),
        ("?from_value=50", ["d2", "d3"]),
        ("?reason=AMOUNT&sort=smallest&to_value=9", []),
    ],
)
async def test_a_queue_is_narrowed_and_ordered(page: Page, query: str, wanted: list[str]) -> None:
    async with page.browser("ana") as browser:
        text = (await browser.get(PATH + query)).text
    assert listed(text) == wanted
    assert "3 decisions of the last 30 days wait" in text


def test_pages_of_each_order_follow_one_another(world: World) -> None:
    for sort in selection_form.orders(fraud()):
        wanted = selection_form.selection({"sort": sort}, fraud())
        whole = [row.decision_id for row in job.review_queue(world.platform, "fraud", 9, None,
                                                              wanted).rows]  # fmt: skip
        found, after = [], None
        while True:
            part = job.review_queue(world.platform, "fraud", 1, after, wanted)
            found += [row.decision_id for row in part.rows]
            after = part.newer
            if after is None:
                break
        assert found == whole, sort
        assert len(found) == len(ROWS)


async def test_the_form_offers_reasons_of_the_queue_and_keeps_the_filter_after_an_answer(
    page: Page,
) -> None:
    async with page.browser("ana") as browser:
        text = (await browser.get(PATH)).text
        assert 'value="OLD_RULE"' in text, "a reason that no folder has any more"
        sent = await browser.post(PATH, data={"filter": "yes", "reason": "AMOUNT", "to_score": " "})
        where = sent.headers["location"]
        assert (sent.status_code, where) == (303, f"{PATH}?reason=AMOUNT")
        fields = hidden((await browser.get(where)).text, where)
        assert fields["about"] == IDS["d1"]
        done = await browser.post(where, data={**fields, "outcome": "fraud"})
        assert done.headers["location"] == where
        text = (await browser.get(where)).text
        assert hidden(text, where)["about"] == IDS["d3"], "the next one of the filter"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("sort", "best", "Sort is &#39;best&#39;; wanted: one of oldest"),
        ("decided", "approve", "Decided is &#39;approve&#39;"),
        ("from_score", "many", "Score from is &#39;many&#39;; wanted: a number"),
        ("from_value", "nan", "amount from is &#39;nan&#39;"),
    ],
)
async def test_a_filter_that_cannot_be_read_is_shown_again(
    page: Page, field: str, value: str, told: str
) -> None:
    async with page.browser("ana") as browser:
        answer = await browser.get(PATH, params={field: value})
    assert (answer.status_code, told in answer.text) == (400, True), answer.text
    assert listed(answer.text) == ["d1", "d2", "d3"]


def test_bounds_in_the_wrong_order_are_named() -> None:
    with pytest.raises(InputInvalid, match=r"Score from is 0.9, above Score to, 0.1"):
        selection_form.selection({"from_score": "0.9", "to_score": "0.1"}, fraud())


async def test_an_answered_decision_leads_to_its_correction(page: Page, world: World) -> None:
    async with page.browser("ana") as browser:
        assert "Say how it turned out" in (await browser.get(f"/decisions/{IDS['d1']}")).text
        fields = hidden((await browser.get(PATH)).text, PATH)
        await browser.post(PATH, data={**fields, "outcome": "fraud"})
        link = f'href="{PATH}?look=' + IDS["d1"] + '"'
        assert f"{link}>look at the answer, or correct it" in (await browser.get(PATH)).text
        assert f"{link}>Correct the label" in (await browser.get(f"/decisions/{IDS['d1']}")).text
        assert "Correct it to: not fraud" in (await browser.get(f"{PATH}?look={IDS['d1']}")).text
    async with page.browser("vera") as browser:
        assert "Correct the label" not in (await browser.get(f"/decisions/{IDS['d1']}")).text
