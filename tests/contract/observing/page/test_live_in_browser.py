"""Views refresh in a real browser, and what a person types, opens or signs stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.rollouts.journal.transitions import Paused, Resumed, Transition
from mlplatform.runtime.clock import SystemClock
from support import chromium, journal_steps
from support.chromium import Chromium, looked_at
from support.people_world import PeopleWorld
from support.platform_process import wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]
ASK_NOW = "document.dispatchEvent(new Event('visibilitychange'))"
"""What a browser says of a tab that is shown again: it is refreshed at once."""
TOLD = "document.querySelector('.live .told').innerText"


@pytest.fixture
def people(tmp_path: Path) -> Iterator[PeopleWorld]:
    made = PeopleWorld(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def person(tmp_path: Path, people: PeopleWorld) -> Iterator[Chromium]:
    """A browser in which bo, an approver, has signed in."""
    started = Chromium(tmp_path)
    started.open(f"{people.page.url}/sign-in")
    started.fill("#name", "bo")
    started.fill("#key", people.keys["bo"])
    started.click(".form button")
    yield started
    started.close()


def refresh_until(browser: Chromium, condition: str) -> None:
    def holds() -> bool:
        browser.run(ASK_NOW)
        return bool(browser.run(condition))

    wait(holds, condition)


def commit(people: PeopleWorld, *facts: Transition) -> None:
    fence = people.home.rollouts.acquire("fraud", "otto", 10.0, steal=True)
    assert fence is not None
    for fact in facts:
        journal_steps.commit(people.home.rollouts, fact, fence)
    people.home.rollouts.release(fence)


def facts_of(rollout: str) -> dict[str, Any]:
    now_ms = SystemClock().wall_ms()
    who = {"actor": "otto", "reason": "for monday"}
    return {"rollout_id": rollout, "model": "fraud", "event_ms": now_ms, "wall_ms": now_ms, **who}


def test_a_view_shows_the_new_state_and_keeps_what_is_open_and_focused(
    people: PeopleWorld, person: Chromium
) -> None:
    rollout = people.ask()
    person.open(f"{people.page.url}/rollouts/{rollout}")
    person.run("window.before = true; document.querySelector('details').open = true; 0")
    person.run("document.querySelector('details summary').focus()")
    commit(people, Paused(**facts_of(rollout)))
    refresh_until(person, "document.body.innerText.includes('paused by otto')")
    assert person.run("window.before"), "the page was not loaded again"
    assert person.run("document.querySelector('details').open")
    assert person.run("document.activeElement.tagName") == "SUMMARY"
    assert person.run("document.querySelector('.live').innerText.includes('As of')")
    looked_at(person, "rollout-refreshed")


def test_the_overview_tells_of_a_rollout_that_begins_to_wait(
    people: PeopleWorld, person: Chromium
) -> None:
    person.open(f"{people.page.url}/")
    assert not person.run("document.body.innerText.includes('waits for an answer')")
    rollout = people.ask()
    waits = f"document.body.innerText.includes('{rollout} waits for an answer')"
    refresh_until(person, waits)
    looked_at(person, "overview-refreshed")


def test_a_form_whose_subject_changed_says_so_and_sends_nothing(
    people: PeopleWorld, person: Chromium
) -> None:
    rollout = people.ask()
    commit(people, Paused(**facts_of(rollout)))
    person.run("document.querySelector('.reader button').click()")
    wait(lambda: person.run("!!document.querySelector('#name')"), "signed out")
    person.fill("#name", "eva")
    person.fill("#key", people.keys["eva"])
    person.click(".form button")
    person.open(f"{people.page.url}/rollouts/{rollout}/act/resume")
    person.fill("#reason", "the gates are read")
    commit(people, Resumed(**facts_of(rollout)), Paused(**facts_of(rollout)))
    refresh_until(person, "!!document.querySelector('.changed')")
    assert person.run("document.activeElement.id") == "reason", "the focus stays"
    assert person.run("document.querySelector('#reason').value") == "the gates are read"
    looked_at(person, "subject-has-changed")
    person.run("document.querySelector('button.act').click()")
    assert people.state(rollout).paused is not None, "nothing was sent"
    person.click(".changed button")
    assert not person.run("!!document.querySelector('.changed')")
    assert person.run("document.querySelector('#reason').value") == "the gates are read"
    person.click("button.act")
    assert people.state(rollout).paused is None


def test_an_approval_that_ended_leaves_what_was_shown_and_takes_no_answer(
    people: PeopleWorld, person: Chromium
) -> None:
    rollout = people.ask()
    person.open(f"{people.page.url}/rollouts/{rollout}/act/approve")
    person.fill("#reason", "the gates are read")
    shown = person.run("document.querySelector('#asked').innerText")
    people.end(rollout)
    refresh_until(person, "!!document.querySelector('.changed')")
    left = person.run("document.querySelector('#asked').innerText")
    assert "counts no more" in left
    assert [line for line in shown.splitlines() if line not in left] == []
    person.run("document.querySelector('button.act').click()")
    assert people.state(rollout).answer is None
    assert people.refused("bo") == [], "nothing was sent"
    person.click(".changed button")
    assert "is not possible now" in person.run("document.body.innerText")


def test_a_server_that_is_away_is_told_and_a_pause_asks_nothing(
    people: PeopleWorld, person: Chromium
) -> None:
    person.open(f"{people.page.url}/system")
    person.run("document.querySelector('.live button').click()")
    people.page.process.terminate()
    people.page.process.wait(30)
    person.run(ASK_NOW)
    assert person.run(TOLD) == ""
    assert person.run("document.querySelector('.live button').innerText") == "Go on refreshing"
    person.run("document.querySelector('.live button').click()")
    wait(lambda: "cannot be reached" in person.run(TOLD), "the page tells")
    assert person.run("document.querySelector('.told').getAttribute('role')") == "status"
