"""Refreshes: an unchanged view is not sent again, and no refresh counts as an act of a person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.unit.observing.page.review.test_review_page import PATH, Page

from mlplatform.observing.page.people import sessions
from mlplatform.observing.page.people.sessions import NoSession, Sessions
from support.page_visitor import hidden
from support.review_world import World

REFRESH = {"Mlplatform-Refresh": "1"}


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


async def refreshed(browser: httpx.AsyncClient, tag: str = "") -> httpx.Response:
    return await browser.get(PATH, headers={**REFRESH, "If-None-Match": tag} if tag else REFRESH)


async def test_a_view_that_has_not_changed_is_not_sent_again(page: Page, world: World) -> None:
    world.decide()
    world.waiting()
    async with page.browser("ana") as browser:
        first = await refreshed(browser)
        again = await refreshed(browser, first.headers["ETag"])
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
        world.decide()
        world.waiting()
        changed = await refreshed(browser, first.headers["ETag"])
    assert (changed.status_code, changed.headers["ETag"] != first.headers["ETag"]) == (200, True)
    assert "2 decisions of the last 30 days wait" in changed.text


async def test_a_person_s_own_request_is_answered_whole(page: Page) -> None:
    async with page.browser("ana") as browser:
        answer = await browser.get(PATH, headers={"If-None-Match": "*"})
    assert (answer.status_code, "ETag" in answer.headers) == (200, False)


async def test_a_refresh_uses_up_no_form_and_no_notice(page: Page, world: World) -> None:
    name, _ = world.decide(), world.decide()
    world.waiting()
    async with page.browser("ana") as browser:
        fields = hidden((await browser.get(PATH)).text, PATH)
        for _ in range(sessions.MOST_OFFERS + 1):
            await refreshed(browser)
        sent = await browser.post(PATH, data={**fields, "outcome": "fraud"})
        assert sent.status_code == 303, "the form that was open still counts"
        said = f"{name} is labelled"
        assert said not in (await refreshed(browser)).text
        assert said in (await browser.get(PATH)).text, "the person is told, and not the script"


async def test_a_refresh_without_a_session_is_refused_without_a_question(page: Page) -> None:
    async with page.browser("ana") as browser:
        browser.cookies.clear()
        answer = await refreshed(browser)
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (401, False)


def test_refreshes_alone_do_not_keep_a_session() -> None:
    now = [1_000_000.0]
    kept = Sessions(lambda: now[0])
    cookie = kept.begin("bo", b"k", "here")
    now[0] += sessions.IDLE_S - 1
    assert not isinstance(kept.find(cookie, "here", is_used=False), NoSession)
    now[0] += 1
    assert isinstance(kept.find(cookie, "here"), NoSession)
