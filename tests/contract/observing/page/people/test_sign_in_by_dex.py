"""People sign in to a page process at Dex, a provider that nobody here has written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from mlplatform.rollouts.journal.transitions import Answered
from support.page_process import PageProcess
from support.page_visitor import Visitor
from support.people_world import PeopleWorld

pytestmark = [pytest.mark.slow, pytest.mark.dex]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PeopleWorld]:
    made = PeopleWorld(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def page(dex: Any, world: PeopleWorld, tmp_path: Path) -> Iterator[PageProcess]:
    """The page that Dex knows as its client, and Dex, new for it."""
    roles, secret = tmp_path / "roles.yaml", tmp_path / "client-secret"
    roles.write_text('groups: {authors: ["fraud:approve"]}\n')
    secret.write_text(dex.secret)
    secret.chmod(0o600)
    given = {
        "ISSUER": dex.url,
        "CLIENT_ID": "page",
        "ROLES": str(roles),
        "CLIENT_SECRET_FILE": str(secret),
        "NAME_CLAIM": "email",
    }
    environment = {f"MLPLATFORM_SIGN_IN_{name}": value for name, value in given.items()}
    made = PageProcess(world.home.home, port=dex.page_port, **environment)
    yield made
    made.close()


def through_dex(url: str, connector: str, page: str, **filled: str) -> str:
    """What Dex sends the browser back to, who chose a way to sign in there."""
    with httpx.Client() as browser:
        answer = browser.get(url)
        for _ in range(8):
            if answer.is_redirect:
                to = urljoin(str(answer.url), answer.headers["location"])
                if to.startswith(page):
                    return to
                answer = browser.get(to)
            elif f"/auth/{connector}?" in answer.text:
                [link] = re.findall(rf'href="([^"]*/auth/{connector}\?[^"]*)"', answer.text)
                answer = browser.get(urljoin(str(answer.url), unescape(link)))
            else:
                answer = browser.post(str(answer.url), data=filled)
    raise AssertionError(answer.text)


def begun(browser: Visitor) -> str:
    answer = browser.get("/sign-in/provider")
    assert answer.status_code == 303, answer.text
    location: str = answer.headers["location"]
    return location


def test_an_approval_names_the_subject_that_dex_proved(
    dex: Any, world: PeopleWorld, page: PageProcess
) -> None:
    kilgore, rollout = Visitor(page.url), world.ask()
    back = through_dex(begun(kilgore), "mock", page.url)
    assert kilgore.get(back).status_code == 200
    assert "Signed in as <b>kilgore@kilgore.trout</b>, approver" in kilgore.get("/").text
    assert kilgore.act(f"/rollouts/{rollout}/act/approve").status_code == 303
    given = world.home.rollouts.read(rollout)[-1]
    assert isinstance(given, Answered)
    assert given.identity is not None
    assert given.identity.issuer == dex.url
    assert given.identity.subject
    assert "Kilgore Trout" in given.identity.known_as
    assert kilgore.get(back).status_code == 403, "an answer is taken once"


def test_who_has_no_group_there_is_refused_and_a_dex_that_is_down_is_named(
    dex: Any, world: PeopleWorld, page: PageProcess
) -> None:
    somebody = Visitor(page.url)
    back = through_dex(
        begun(somebody), "local", page.url, login="somebody@bank.example", password="password"
    )
    answer = somebody.get(back)
    assert answer.status_code == 403
    assert "no claim groups" in answer.text
    dex.kill()
    down = somebody.get("/sign-in/provider")
    assert down.status_code == 503
    assert "A key still signs in" in down.text
    assert somebody.sign_in("bo", world.keys["bo"]).status_code == 303
