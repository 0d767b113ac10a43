"""The review page: who is asked about what, by which keys, and whose forms count."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from tests.support.class_model import class_definition

from mlplatform.observing.page.app import application
from mlplatform.observing.page.people.gate import Identities, PageAccess
from mlplatform.observing.page.people.sessions import Sessions
from mlplatform.observing.page.queries import sources
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.review import queue_rows
from mlplatform.operations import wiring
from mlplatform.operations.actions import last_results
from mlplatform.operations.actions import review as job
from mlplatform.operations.actions.last_results import Pass
from mlplatform.operations.review.queue import QueueCursor
from mlplatform.runtime.errors import InputInvalid, Refused
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.sign_ins import SignIns
from mlplatform.scoring.admission.clients import parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from support.page_visitor import hidden
from support.review_world import World, append, label, person

ORIGIN = "http://127.0.0.1:8090"
PATH = "/models/fraud/review"
SCOPES = {"ana": "fraud:review", "bo": "fraud:review", "vera": "fraud:view", "cy": "other:review"}


class Page:
    """The page of a home in this process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = SqliteAdmission(world.home.admission_db)
        self.keys = {name: self._key(name, scope) for name, scope in SCOPES.items()}
        self.identities = Identities(lambda: self.store, world.platform.clock.wall_ms)
        refusals, sign_ins = Refusals(world.home.audit), SignIns(world.home.audit)
        self.application = application(
            Sources(world.platform),
            token="the token",
            hosts=["127.0.0.1:8090"],
            links={},
            access=PageAccess(self.identities, Sessions(), refusals, "session", sign_ins),
        )

    def _key(self, name: str, scope: str) -> str:
        scopes = frozenset({parse_scope(scope)})
        made = create_key(self.store, name, scopes, priority="standard", limit=None, now_ms=1)
        return made[1]

    @asynccontextmanager
    async def browser(self, name: str) -> AsyncIterator[httpx.AsyncClient]:
        """A browser in which somebody has signed in."""
        transport = httpx.ASGITransport(app=cast(Any, self.application), client=("10.0.0.1", 1))
        headers = {"Accept": "text/html", "Origin": ORIGIN}
        given = {"name": name, "key": self.keys[name]}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as made:
            assert (await made.post("/sign-in", data=given)).status_code == 303
            yield made

    def close(self) -> None:
        self.identities.close()
        self.store.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "home")
    yield made
    made.log.close()


@pytest.fixture
def page(world: World) -> Iterator[Page]:
    made = Page(world)
    yield made
    made.close()


async def send(browser: httpx.AsyncClient, outcome: str, **more: str) -> httpx.Response:
    """Open the queue and answer what it asks."""
    text = (await browser.get(PATH)).text
    return await browser.post(PATH, data={**hidden(text, PATH), "outcome": outcome, **more})


async def test_nobody_is_asked_about_decisions_of_classes(
    page: Page, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.decide("small")
    for reader in (wiring, sources):
        monkeypatch.setattr(reader, "load_definition", lambda name: class_definition())
    with pytest.raises(Refused, match="of fraud are not reviewed: reviewers answer yes or no"):
        world.say(name, person("ana"))
    async with page.browser("ana") as browser:
        text = (await browser.get(PATH)).text
    assert "Decisions of fraud are not reviewed" in text
    assert "for a person" not in text
    async with page.browser("vera") as browser:
        assert "keys create" not in (await browser.get(PATH)).text


async def test_what_the_queue_has_not_read_is_said_with_the_time_of_the_last_pass(
    page: Page, world: World
) -> None:
    async def lead() -> str:
        async with page.browser("ana") as browser:
            text = (await browser.get(PATH)).text
        return re.sub(r"<[^>]+>", "", text.partition("<h1>")[2].partition("<h2>The queue")[0])

    world.decide()
    world.decide()
    told = await lead()
    assert "0 decisions of the last 30 days wait for a person" in told
    assert "This queue has not yet read 2 records of the log" in told
    assert "none has run yet" in told
    last_results.keep(world.home.measured, "fraud", Pass(1_796_115_240_000))
    world.waiting()
    told = await lead()
    assert "More decisions may wait" not in told
    assert "As of the last pass, which ended at 2026-12-01 08:54:00 UTC" in told
    world.decide()
    told = await lead()
    assert "2 decisions of the last 30 days wait for a person" in told
    assert "has not yet read 1 record of the log" in told
    assert "the last one ended at 2026-12-01 08:54:00 UTC" in told


async def test_an_analyst_answers_one_decision_after_the_other(page: Page, world: World) -> None:
    names = [world.decide("decline"), world.decide(), world.decide()]
    world.waiting()
    async with page.browser("ana") as browser:
        first = (await browser.get(PATH)).text
        assert "Signed in as <b>ana</b>, analyst" in first
        assert "3 decisions of the last 30 days wait for a person" in first
        assert "each was decided review or decline and has no label." in first
        assert 'accesskey="1"' in first
        assert 'accesskey="0"' in first
        assert "Amount of the payment" in first, "reasons in an analyst's words"
        assert "12.5" in first
        assert "customer id" not in first, "model.yaml does not let it be shown"
        for name, outcome in zip(names, ("fraud", "not-fraud", "1"), strict=True):
            answer = await send(browser, outcome, note="looked at")
            assert (answer.status_code, answer.headers["location"]) == (303, PATH)
            told = (await browser.get(PATH)).text
            assert f"{name} is labelled: {'not ' if outcome == 'not-fraud' else ''}fraud." in told
        assert "No decision waits for your answer." in told
    assert world.labels() == dict(zip(names, (1, 0, 1), strict=True))
    assert all(held["client"] == "ana" for name in names for held in world.held(name))


async def test_two_people_answer_where_two_are_asked(
    page: Page, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    world.waiting()
    async with page.browser("ana") as ana, page.browser("bo") as bo:
        stale = hidden((await bo.get(PATH)).text, PATH)
        await send(ana, "fraud", note="<b>seen</b> before")
        told = (await ana.get(PATH)).text
        assert "Another person has to confirm it." in told
        assert "No decision waits for your answer." in told
        again = (await ana.get(f"{PATH}?look={name}")).text
        assert "another person has to say the same" in again
        assert 'name="outcome"' not in again
        late = await bo.post(PATH, data={**stale, "outcome": "not-fraud"})
        assert late.status_code == 409
        assert "since this decision was shown" in late.text
        asked = (await bo.get(PATH)).text
        assert "&lt;b&gt;seen&lt;/b&gt; before" in asked
        await send(bo, "fraud")
        assert "as ana said before" in (await bo.get(PATH)).text
        history = (await bo.get(f"/decisions/{name}")).text
        assert "says ana, no label yet" in history
        assert "label 1: fraud, says bo" in history
    assert world.labels() == {name: 1}


async def test_who_is_contradicted_may_say_something_else(
    page: Page, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    world.waiting()
    async with page.browser("ana") as ana, page.browser("bo") as bo:
        await send(ana, "fraud")
        await send(bo, "not-fraud")
        path = f"{PATH}?look={name}"
        again = (await ana.get(path)).text
        assert "bo says" in again
        answer = await ana.post(PATH, data={**hidden(again, PATH), "outcome": "not-fraud"})
        assert answer.status_code == 303
    assert world.labels() == {name: 0}


async def test_a_word_of_when_two_were_asked_holds_nobody_up_where_one_is_enough(
    page: Page, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.decide()
    world.waiting()
    with monkeypatch.context() as two:
        world.ask_two(two)
        await asyncio.to_thread(world.say, name, person("ana"))
    async with page.browser("ana") as ana:
        assert "another person has to say the same" not in (await ana.get(PATH)).text
        assert (await send(ana, "fraud")).status_code == 303
    assert world.labels() == {name: 1}


@pytest.mark.parametrize("name", ["vera", "cy"])
async def test_who_has_no_scope_sees_no_form_and_a_forged_one_is_refused_and_kept(
    page: Page, world: World, name: str
) -> None:
    of = world.decide()
    world.waiting()
    async with page.browser(name) as browser:
        text = (await browser.get(f"{PATH}?look={of}")).text
        assert of in text
        assert 'name="outcome"' not in text
        token = hidden(text, "/sign-out")["token"]
        forged = {"token": token, "form": "x", "seen": "opinions 0", "about": of, "outcome": "1"}
        answer = await browser.post(PATH, data=forged)
        assert answer.status_code == 403
        assert "has no scope fraud:review" in answer.text
    why = f"the key of {name} has no scope fraud:review: an analyst of fraud may answer"
    assert world.refused(name) == [why]
    assert world.labels() == {}


async def test_a_form_counts_once_of_its_session_and_about_its_decision(
    page: Page, world: World
) -> None:
    first, second = world.decide(), world.decide()
    world.waiting()
    async with page.browser("ana") as ana, page.browser("bo") as bo:
        form = {**hidden((await ana.get(PATH)).text, PATH), "outcome": "fraud"}
        others = hidden((await bo.get(PATH)).text, PATH)
        wrong = [
            ({**form, "token": others["token"]}, 403),
            ({**form, "form": others["form"]}, 409),
            ({**form, "about": second}, 403),
        ]
        for fields, status in wrong:
            assert (await ana.post(PATH, data=fields)).status_code == status
        form = {**hidden((await ana.get(PATH)).text, PATH), "outcome": "fraud"}
        elsewhere = {"Origin": "http://evil.example"}
        assert (await ana.post(PATH, data=form, headers=elsewhere)).status_code == 403
        assert world.labels() == {}
        assert (await ana.post(PATH, data={**form, "form": "x", "note": "the bank"})).text.count(
            'value="the bank"'
        ) == 1, "a new form has what was typed"
        assert (await ana.post(PATH, data=form)).status_code == 303
        assert (await ana.post(PATH, data=form)).status_code == 409
    assert world.labels() == {first: 1}


async def test_a_wrong_answer_is_told_beside_its_form_and_records_nothing(
    page: Page, world: World
) -> None:
    world.decide()
    world.waiting()
    async with page.browser("ana") as browser:
        for fields, why in (
            ({"outcome": "maybe"}, "wanted: fraud, not-fraud, 1, 0"),
            ({"outcome": "fraud", "note": "y" * 501}, "wanted: 0 to 500"),
            ({"outcome": "fraud", "note": "a\u202eb"}, "an invisible character"),
        ):
            answer = await send(browser, **fields)
            assert answer.status_code == 400
            assert "Nothing was recorded" in answer.text
            assert why in answer.text
            assert 'name="outcome"' in answer.text, "another try is at hand"
        assert (await browser.post(PATH, content=b"{}")).status_code == 400
    assert world.labels() == {}


async def test_what_was_labelled_meanwhile_is_told_and_leaves_the_queue(
    page: Page, world: World
) -> None:
    name = world.decide()
    world.waiting()
    async with page.browser("ana") as ana, page.browser("bo") as bo:
        form = {**hidden((await ana.get(PATH)).text, PATH), "outcome": "fraud"}
        await send(bo, "not-fraud")
        late = await ana.post(PATH, data=form)
        assert late.status_code == 409
        assert "has a label by now" in late.text
        assert "Is this label wrong?" in (await ana.get(f"{PATH}?look={name}")).text
    assert world.labels() == {name: 0}


async def test_a_label_that_was_a_slip_is_corrected(page: Page, world: World) -> None:
    name = world.decide()
    await asyncio.to_thread(world.say, name, person("ana"), 1)
    look = f"{PATH}?look={name}"
    async with page.browser("bo") as bo:
        found = await bo.post(PATH, data={"look": f" {name} "})
        assert (found.status_code, found.headers["location"]) == (303, look)
        text = (await bo.get(look)).text
        assert "ana has labelled it" in text
        assert "Correct it to: not fraud" in text
        assert "Correct it to: fraud" not in text, "it is that already"
        form = {**hidden(text, PATH), "outcome": "not-fraud"}
        short = await bo.post(PATH, data={**form, "note": "x"})
        assert (short.status_code, "wanted: 5 to 500" in short.text) == (400, True)
        form = {**hidden(short.text, PATH), "outcome": "not-fraud", "note": "the wrong key"}
        changed = await bo.post(PATH, data={**form, "act": "review"})
        assert changed.status_code == 403, "a form of one act is none of another"
        form |= hidden((await bo.get(look)).text, PATH)
        assert (await bo.post(PATH, data=form)).status_code == 303
        assert f"{name} is labelled: not fraud." in (await bo.get(PATH)).text
    assert world.labels() == {name: 0}
    async with page.browser("vera") as vera:
        text = (await vera.get(look)).text
        assert "bo has labelled it" in text
        assert "Correct it to" not in text


async def test_a_correction_that_waits_is_listed_and_a_second_person_confirms_or_keeps_it(
    page: Page, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_two(monkeypatch)
    first, second = world.decide(), world.decide()
    world.waiting()
    for name in (first, second):
        for who in ("ana", "cy"):
            await asyncio.to_thread(world.say, name, person(who), 1)
        said = {"note": "the wrong <b>key</b>", "corrects": True}
        await asyncio.to_thread(partial(world.say, name, person("ana"), 0, **said))
    async with page.browser("vera") as vera:
        text = (await vera.get(PATH)).text
        assert "Corrections that wait for a second person" in text
        assert "ana: the wrong &lt;b&gt;key&lt;/b&gt;" in text
        assert "Confirm or keep" not in text
        assert "an analyst answers" in text
    async with page.browser("ana") as ana:
        text = (await ana.get(PATH)).text
        assert text.count("You have answered") == 2
        text = (await ana.get(f"{PATH}?look={first}")).text
        assert "Correct it to" not in text, "nobody confirms their own"
        assert "Keep it: fraud" in text, "who asked may take it back"
    async with page.browser("bo") as bo:
        assert "2 labels wait for a second person" in (await bo.get("/")).text
        assert (await bo.get(PATH)).text.count("Confirm or keep") == 2
        for name, word, told in (
            (first, "not-fraud", f"{first} is labelled: not fraud, as ana said before."),
            (second, "fraud", f"the label of {second} is right: fraud. Somebody else asks for"),
        ):
            text = (await bo.get(f"{PATH}?look={name}")).text
            assert "Somebody asks to correct this label" in text
            assert "Correct it to: not fraud" in text
            form = {**hidden(text, PATH), "outcome": word, "note": "I have looked"}
            assert (await bo.post(PATH, data=form)).status_code == 303
            text = (await bo.get(PATH)).text
            assert told in text
        assert "Confirm or keep" not in text
        assert "bo says that the label is right: I have looked" in text
    assert world.labels() == {first: 0, second: 1}


async def test_what_has_no_label_of_an_analyst_is_told(page: Page, world: World) -> None:
    name = world.decide()
    append(world.log, "gateway-0", label(name, world.platform.clock.wall_ms()))
    async with page.browser("ana") as ana:
        text = (await ana.get(f"{PATH}?look={name}")).text
        assert "is of shop: the application corrects it" in text
        assert "Correct it to" not in text
        assert "no decision" in (await ana.get(f"{PATH}?look=nothing")).text


async def test_pages_of_a_long_queue_follow_each_other(
    page: Page, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.observing.page.review.views.ROWS", 2)
    names = [world.decide() for _ in range(5)]
    world.waiting()
    found: list[str] = []
    async with page.browser("vera") as browser:
        path: str | None = PATH
        while path is not None:
            text = (await browser.get(path)).text
            found += re.findall(r"\?look=([0-9a-f]+)", text)
            newer = re.search(rf'href="({PATH}\?after=[^"]*)"', text)
            path = None if newer is None else newer[1]
        assert (await browser.get(f"{PATH}?after=x")).status_code == 400
        assert (await browser.get("/models/none/review")).status_code == 404
    assert found == names


async def test_a_later_page_does_not_say_that_nothing_waits(page: Page, world: World) -> None:
    name = world.decide()
    world.waiting()
    async with page.browser("ana") as browser:
        text = (await browser.get(f"{PATH}?after=1:d")).text
    assert name in text
    assert "No decision waits for your answer." not in text


async def test_a_version_too_long_to_be_a_number_is_not_found(page: Page) -> None:
    async with page.browser("vera") as browser:
        for version in ("9" * 5000, "0", "\N{SUPERSCRIPT TWO}"):
            found = await browser.get(f"/models/fraud/versions/{version}")
            assert found.status_code == 404


def test_a_link_of_the_queue_comes_back() -> None:
    at = QueueCursor(12.0, "d:1")
    assert queue_rows.place(queue_rows.link(at)) == at
    assert queue_rows.place("") is None
    for text in ("x", "1", "--1:d", "1e5e5:d", "1:" + "d" * 65, "1:a b", "1:"):
        with pytest.raises(InputInvalid):
            queue_rows.place(text)


def test_what_became_of_an_answer_is_told(world: World) -> None:
    definition = world.platform.definition("fraud")
    done = job.ReviewResult("d1", "fraud", 0, False, differs=True)
    assert "one more person has to look at it" in queue_rows.result_sentence(done, definition)
