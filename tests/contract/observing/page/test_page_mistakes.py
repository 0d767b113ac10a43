"""Typical mistakes on the page: each message names key, value, what is wanted and a way out."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import httpx
import pytest

from support.page_visitor import Visitor
from support.people_world import PeopleWorld

pytestmark = pytest.mark.slow
LIST = "Back to the list of decisions"
FORM = "What you typed is still in the form."
OVERVIEW = "Back to the overview"
LOOKED_AT = [
    ("/decisions?outcome=Maybe", 400, ("Decided is 'Maybe'; wanted: the name of a", FORM)),
    ("/decisions?from_ms=28.11.2026", 400, ("From (UTC) is '28.11.2026'", "like 2026-11-28T09:30")),
    ("/decisions?degraded=1", 400, ("Degraded is '1'; wanted: yes or no", FORM)),
    ("/decisions?version=x1", 400, ("Version is 'x1'; wanted: the number of a version", FORM)),
    ("/decisions?to_ms=5&from_ms=5", 400, ("Before is 1970-01-01 00:00 UTC", "after From", FORM)),
    ("/decisions?until=5", 400, ("no field 'until'; wanted: one of model, unit, from_ms", FORM)),
    ("/decisions/d99", 404, ("no decision d99", "searches by customer and time", LIST)),
    ("/rollouts/fraud-v9-1", 404, ("no rollout 'fraud-v9-1'", "Back to the list of rollouts")),
    ("/rollouts?from=x", 404, ("from is 'x'; wanted: a whole number up to 1,000,000",)),
    ("/incidents/none", 404, ("no incident 'none'", "Back to the list of incidents")),
    ("/models/froud", 404, ("no model 'froud'", OVERVIEW)),
    ("/models/fraud/versions/x", 404, ("no version 'x'; wanted: a number", OVERVIEW)),
    ("/?period=year", 404, ("period is 'year'; wanted: one of day, week, month", OVERVIEW)),
    ("/rollouts/{rollout}/act/aprove", 404, ("act is 'aprove'; wanted: one of approve, reject",)),
    ("/rollouts/{rollout}/act/resume", 403, ("no scope fraud:operate or fraud:run", "an operator")),
    ("/rollouts/{rollout}/act/roll-back", 403, ('engineer of fraud may press "Roll back"',)),
]  # fmt: skip
SIGNED = [
    ("ok", ("'ok' has 2 characters; wanted: 5 to 500",)),
    ("x" * 501, ("has 501 characters; wanted: 5 to 500",)),
    ("read\x00 all", ("holds U+0000, a control character",)),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeopleWorld]:
    made = PeopleWorld(tmp_path_factory.mktemp("home") / "home")
    yield made
    made.close()


@pytest.fixture(scope="module")
def rollout(world: PeopleWorld) -> str:
    return world.ask()


@pytest.fixture
def bo(world: PeopleWorld) -> Iterator[Visitor]:
    made = Visitor(world.page.url)
    made.sign_in("bo", world.keys["bo"])
    yield made
    made.close()


def told(answer: httpx.Response) -> str:
    """The text of a page, without its case at the beginning of a sentence."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", answer.text.partition("<main")[2]))
    return re.sub(r"\s+", " ", text).replace("Act is", "act is").replace("The key", "the key")


@pytest.mark.parametrize(("path", "status", "said"), LOOKED_AT, ids=[m[0] for m in LOOKED_AT])
def test_a_link_that_leads_nowhere_says_what_is_wanted(
    bo: Visitor, rollout: str, path: str, status: int, said: tuple[str, ...]
) -> None:
    answer = bo.get(path.format(rollout=rollout))
    assert answer.status_code == status
    for part in said:
        assert part in told(answer)


@pytest.mark.parametrize(("reason", "said"), SIGNED, ids=["short", "long", "control character"])
def test_a_reason_that_is_none_says_what_is_wanted(
    bo: Visitor, world: PeopleWorld, rollout: str, reason: str, said: tuple[str, ...]
) -> None:
    answer = bo.act(f"/rollouts/{rollout}/act/approve", reason)
    assert answer.status_code == 400
    for part in ("Nothing was done: the reason", *said):
        assert part in told(answer)
    assert world.state(rollout).answer is None


@pytest.mark.parametrize(("name", "key"), [("bo", "nope"), ("bob", "nope"), ("", "")])
def test_a_wrong_sign_in_says_where_the_names_are(world: PeopleWorld, name: str, key: str) -> None:
    visitor = Visitor(world.page.url)
    answer = visitor.sign_in(name, key)
    assert answer.status_code == 401
    assert "<code>mlplatform keys list</code> shows the names" in answer.text
    visitor.close()


def test_what_was_answered_is_not_answered_again(bo: Visitor, world: PeopleWorld) -> None:
    """Last: nobody asks about the rollout of the others after it."""
    rollout = f"fraud-v{world.version}-1"
    path = f"/rollouts/{rollout}/act/approve"
    fields = {**bo.fields(path), "reason": "the gates are read"}
    assert bo.post(path, fields).status_code == 303
    again, late = bo.post(path, fields), bo.get(path)
    assert (again.status_code, late.status_code) == (409, 409)
    assert "sent before, or is too old: send a new one" in told(again)
    assert "the gates are read" in told(again), "what was typed is not lost"
    assert f"Rollout {rollout} is awaiting approval, and bo has given the answer approve, so" in (
        told(late)
    )
    assert 'so "Approve" is not possible now. You can press ' in told(late)
