"""The page in a real browser: nothing is refused, nothing overflows, and axe finds nothing.

`MLPLATFORM_TEST_AXE` names axe-core's axe.min.js (`make test-page` gets one); pictures of each page
are left in the folder that `MLPLATFORM_TEST_PICTURES` names.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.observing.page.test_traffic import CHECKED_BODY

from demo import page as report
from demo.charts import Picture
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.operations.actions import interim_analyses, traffic
from mlplatform.operations.traffic import input_windows, projection
from mlplatform.rollouts.drift.incidents import IncidentFinding
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.journal.transitions import ApprovalAsked
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.records import (
    ProcessId,
    ProcessRecord,
    SupervisorRecord,
    write_processes,
    write_supervisor,
)
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS
from support import chromium, journal_steps, kept_windows
from support.chromium import AXE, PICTURES, Chromium, looked_at, violations
from support.home_world import HomeWorld
from support.identity_provider import identity_provider
from support.judged_rollout import JudgedRollout
from support.page_process import PageProcess
from support.people_world import PeopleWorld
from support.platform_process import wait
from support.ports import free_port
from support.prefect_standin import prefect_standin
from support.registered_versions import registered_versions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]
NEWEST_MS = SystemClock().wall_ms() - 2 * MINUTE_MS
PAGES = {
    "overview": "/",
    "model": "/models/fraud",
    "data": "/models/fraud/data",
    "source": "/models/fraud/source",
    "card": "/models/fraud/versions/2",
    "compare": "/models/fraud/compare?first=1&second=2",
    "review": "/models/fraud/review",
    "system": "/system",
    "rollouts": "/rollouts",
    "rollout": "/rollouts/fraud-v2-1",
    "incidents": "/incidents",
    "incident": "/incidents/fraud-drift-1",
    "decisions": "/decisions",
    "decision": "/decisions/t9",
    "why": "/decisions/t9?why=yes",
    "search": "/decisions?outcome=review&degraded=no",
    "wrong search": "/decisions?outcome=review&degraded=perhaps",
    "nothing": "/rollouts/none",
}
SHIFT = {"psi": 0.4, "psi_limit": 0.2, "distance": 1.0, "distance_limit": 0.15}
WINDOW = {
    "start_ms": 0,
    "end_ms": 86_400_000,
    "rows": 5000,
    "health": "UNHEALTHY",
    "reasons": ["amount moved"],
    "shifts": {"amount": {**SHIFT, "missing_share": 0.1, "drifted": True}},
    "alert_share": {"share": 0.09, "low": 0.08, "high": 0.1, "band": [0.0, 0.03], "outside": True},
}


def record(number: int) -> Entry:
    """A decision of the last day, with features and their times."""
    event_ms = NEWEST_MS - number * DAY_MS // 3000
    answered = Record(
        kind="decision", decision_id=f"t{number}", model="fraud", event_ms=event_ms,
        recorded_ms=event_ms, generation=1, arm="champion", answered_by="champion", unit=number,
        version=1, bundle="ab", score=0.01 + number % 90 / 100, degraded=number % 400 == 0,
        decision="review" if number % 40 == 0 else "approve", latency_us=3000 + number % 1500,
        payload={
            "request": {"amount": 12.5 + number},
            "features": {"customer_mean_1d": 9.25, "terminal_risk_7d": None},
            "feature_times": {"customer_stats": event_ms - 3 * HOUR_MS,
                              "terminal_stats": event_ms - HOUR_MS},
        },
    )  # fmt: skip
    return Entry(answered)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    world = HomeWorld(tmp_path_factory.mktemp("home") / "home")
    world.fill()
    made = JudgedRollout(analyses=5)
    fence = world.rollouts.acquire("fraud", "test", 600.0)
    for fact in made.facts:
        journal_steps.commit(world.rollouts, fact, fence)
    for history in made.histories:
        interim_analyses.keep(world.home.interim_analyses, "fraud", history)
    world.log.append("gateway-0", [record(number) for number in range(3000)])
    counted = projection.file_of(world.home.counted, "fraud")
    projection.advance(counted, world.log, "fraud", alerting=EARLIER.alerts, budget_s=120.0)
    for hours in range(0, 24, 4):
        at_ms = NEWEST_MS - hours * HOUR_MS
        ages = {"customer_stats": (1 + hours % 8) * HOUR_MS}
        projection.sample(counted, traffic.AGES, at_ms, ages)
        projection.sample(counted, traffic.CHECK, at_ms, CHECKED_BODY)
    input_windows.keep(world.home.measured, "fraud", kept_windows.history(31))
    incidents = SqliteIncidents(world.home.rollouts_db)
    found = IncidentFinding("fraud", "drift", 1, 1, 1, {"reasons": ["moved"], "windows": [WINDOW]})
    incidents.open(found, now_ms=1)
    asked = next(f for f in made.facts if isinstance(f, ApprovalAsked))
    PAGES["evidence"] = f"/evidence/{asked.evidence_digest}"
    world.write("run/prefect.token", "a token of this start")
    with registered_versions(world.home) as told, prefect_standin() as port:
        process = PageProcess(world.home, MLPLATFORM_PREFECT_PORT=str(port), **told)
        yield process
        process.close()
    world.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, page: PageProcess) -> Iterator[Chromium]:
    started = Chromium(tmp_path_factory.mktemp("chromium"))
    started.log_in(page.token)
    yield started
    started.close()


def test_every_page_is_drawn_as_it_was_meant(page: PageProcess, browser: Chromium) -> None:
    for name, path in PAGES.items():
        for width, scheme in itertools.product((1400, 1000, 390), ("light", "dark")):
            browser.prefer(scheme)
            browser.open(f"{page.url}{path}", width=width)
            assert browser.run("document.styleSheets.length") == 1, name
            assert browser.run("document.documentElement.scrollWidth") <= width, (name, width)
            refused = {"nothing": "404", "wrong search": "400"}.get(name, "no refusal")
            complaints = [c for c in browser.complaints() if refused not in c]
            assert complaints == [], name
            if PICTURES:
                browser.picture(Path(PICTURES) / f"{name}-{width}-{scheme}.png")


SIDES = """(() => {
  const wide = [...document.querySelectorAll('.wide')].filter(e => e.checkVisibility());
  return wide.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => {
    const box = e.getBoundingClientRect();
    return [box.left + scrollX, box.top + scrollY, box.width, box.height];
  });
})()"""
"""Places of the tables that are moved sideways."""


def shades(browser: Chromium, place: list[float], side: str) -> int:
    """The darkest grey of the outermost three pixels of a table's side, between its lines."""
    x, y, width, height = place
    at = x if side == "left" else x + width - 3
    clip = {"x": at, "y": y, "width": 3, "height": height, "scale": 1}
    told = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    image = Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("L")
    return int(np.median(np.asarray(image)))


CARDS = """(() => {
  document.querySelectorAll('details').forEach(d => { d.open = true });
  const seen = [...document.querySelectorAll('.wide')].filter(e => e.checkVisibility());
  const moved = seen.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText);
  const values = [...document.querySelectorAll('.rows tbody td')];
  const bare = values.filter(e => !e.dataset.head
    || getComputedStyle(e, '::before').content !== `"${e.dataset.head}: "`);
  const beyond = values.filter(e => e.getBoundingClientRect().right > innerWidth);
  return {moved, bare: bare.map(e => e.outerHTML), beyond: beyond.map(e => e.outerHTML),
          values: values.length};
})()"""
"""Opens what is folded away, and returns which tables are moved sideways, which values of cards
have no head before them, and which are cut off."""


def test_a_telephone_shows_each_row_of_a_table_as_a_card(
    page: PageProcess, browser: Chromium
) -> None:
    """Nothing is moved sideways, and each value says what it is."""
    found = 0
    for name, path in PAGES.items():
        browser.open(f"{page.url}{path}", width=390)
        told = browser.run(CARDS)
        assert (told["moved"], told["bare"], told["beyond"]) == ([], [], []), name
        found += told["values"]
    assert found > 500


def test_no_width_of_a_window_moves_anything_sideways(page: PageProcess, browser: Chromium) -> None:
    """No view is wider than its window, and no table than its place."""
    browser.prefer("light")
    beyond = []
    for name, path in PAGES.items():
        browser.open(f"{page.url}{path}")
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        for width in range(320, 1200, 20):
            browser.resize(width)
            is_wider = browser.run("document.documentElement.scrollWidth") > width
            if is_wider or browser.run(SIDES):
                beyond.append((name, width))
    assert not beyond, str(beyond)


def test_a_table_that_goes_on_beyond_a_narrow_windows_edge_shows_it(
    page: PageProcess, browser: Chromium
) -> None:
    """At its left there is nothing more at first; moved to its end, there is nothing more right.

    The tables are made wider than the page makes any.
    """
    browser.prefer("light")
    found = 0
    for name in ("decisions", "decision", "incident", "data", "review"):
        browser.open(f"{page.url}{PAGES[name]}", width=1000)
        browser.run(
            "document.querySelectorAll('.wide table').forEach(e => { e.style.width = '2000px' })"
        )
        for place in browser.run(SIDES):
            found += 1
            assert shades(browser, place, "left") > 250 > shades(browser, place, "right"), name
        browser.run("document.querySelectorAll('.wide').forEach(e => { e.scrollLeft = 9999 })")
        for place in browser.run(SIDES):
            assert shades(browser, place, "right") > 250 > shades(browser, place, "left"), name
    assert found >= 2


@pytest.mark.skipif(not AXE, reason="MLPLATFORM_TEST_AXE does not say where axe-core is")
def test_axe_finds_nothing(page: PageProcess, browser: Chromium, tmp_path: Path) -> None:
    written = tmp_path / "report.html"
    picture = Picture("Traffic", "By version.", "<svg viewBox='0 0 9 9'><text>v1</text></svg>")
    told = {
        "closed": False,
        "problems": ["2 requests lost"],
        "source": "generated payments",
        "wall_s": 1.0,
        "totals": {"requests": 10},
        "champions": [],
        "rollouts": [],
    }
    html = report.render(told, timeline=[("a", "b", "c")], pictures=[picture], notes=["a note"])
    written.write_text(html)
    urls = {name: f"{page.url}{path}" for name, path in PAGES.items()}
    everywhere = {**urls, "report": written.as_uri()}
    for (name, url), scheme in itertools.product(everywhere.items(), ("light", "dark")):
        browser.prefer(scheme)
        browser.open(url, width=390)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert violations(browser) == [], (name, scheme)


def test_the_overview_shows_an_absent_prefect_as_a_note(browser: Chromium, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.prefect_token.write_text("a token of this start")
    running = ProcessId.of(os.getpid())
    assert running is not None
    write_supervisor(home, SupervisorRecord(running, "ready"))
    write_processes(home, [ProcessRecord("prefect", "ready", "", 0, running)])
    page = PageProcess(home, MLPLATFORM_PREFECT_PORT=str(free_port()))

    def is_noted() -> bool:
        browser.open(f"{page.url}/")
        return bool(browser.run("document.body.innerText.includes('ready to answer, but prefect')"))

    try:
        wait(is_noted, "the page has asked Prefect")
        looked_at(browser, "overview-without-prefect")
        noted = browser.run("document.querySelector('p.away').innerText")
        assert browser.run("document.querySelectorAll('.bad').length") == 0
    finally:
        page.close()
    assert "no answer to this page: " in noted
    assert "do not need it" in noted


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeopleWorld]:
    made = PeopleWorld(tmp_path_factory.mktemp("people") / "home")
    yield made
    made.close()


@pytest.fixture
def rollout(people: PeopleWorld) -> Iterator[str]:
    made = people.ask()
    yield made
    people.end(made)


@pytest.fixture
def person(tmp_path: Path, people: PeopleWorld) -> Iterator[Chromium]:
    """A browser that knows no token, and runs no script of any page."""
    started = Chromium(tmp_path)
    yield started
    started.close()


@pytest.mark.parametrize("answer", ["approve", "reject"])
def test_a_person_signs_in_reads_the_evidence_and_answers(
    people: PeopleWorld, person: Chromium, rollout: str, answer: str
) -> None:
    person.open(f"{people.page.url}/rollouts/{rollout}")
    assert person.run("location.pathname") == "/sign-in", "led to the form first"
    looked_at(person, "sign-in")
    person.fill("#name", "bo")
    person.fill("#key", people.keys["bo"])
    person.click(".form button")
    assert person.run("location.pathname") == f"/rollouts/{rollout}"
    looked_at(person, "rollout-that-waits")
    person.click(f"a.act.{answer}")
    looked_at(person, f"confirm-{answer}")
    assert person.run("document.body.innerText.includes('no more than planned')")
    told = person.run("document.body.innerText")
    assert "After a rejection, and without an answer until" in told
    assert "UTC, the version answers nobody, and its rollout ends." in told
    person.fill("#reason", "the gates are read")
    person.click("button.act")
    assert person.run("location.pathname") == f"/rollouts/{rollout}"
    assert "stands in the journal" in person.run(
        "document.querySelector('.verdict[role=status]').innerText"
    )
    given = people.state(rollout).answer
    assert given is not None
    assert (given.answer, given.approver, given.reason) == (answer, "bo", "the gates are read")
    looked_at(person, f"answered-{answer}")
    person.click(".reader button")
    assert person.run("location.pathname") == "/sign-in"
    person.open(f"{people.page.url}/rollouts/{rollout}")
    assert person.run("location.pathname") == "/sign-in", "signed out"


def test_who_may_not_is_shown_no_button_and_told_why(
    people: PeopleWorld, person: Chromium, rollout: str
) -> None:
    person.open(f"{people.page.url}/sign-in")
    person.fill("#name", "vera")
    person.fill("#key", people.keys["vera"])
    person.click(".form button")
    person.open(f"{people.page.url}/rollouts/{rollout}")
    assert person.run("document.querySelectorAll('a.act').length") == 0
    looked_at(person, "rollout-of-a-viewer")
    person.open(f"{people.page.url}/rollouts/{rollout}/act/approve")
    assert "has no scope fraud:approve" in person.run("document.body.innerText")
    assert people.state(rollout).answer is None


def test_a_person_signs_in_at_the_banks_provider_and_approves(
    people: PeopleWorld, person: Chromium, rollout: str, tmp_path: Path
) -> None:
    """The provider is another site: the browser holds back cookies of `SameSite=Strict`."""
    with identity_provider("localhost") as provider:
        provider.person = {"sub": "7", "preferred_username": "jo", "groups": ["approvers"]}
        told = provider.environment(tmp_path, "groups: {approvers: ['fraud:approve']}")
        page = PageProcess(people.home.home, **told)
        try:
            person.open(f"{page.url}/rollouts/{rollout}")
            looked_at(person, "sign-in-with-provider")
            person.click("a.act")
            path = f"/rollouts/{rollout}"
            wait(lambda: person.run("location.pathname") == path, "the browser is led back")
            assert "Signed in as jo, approver" in person.run("document.body.innerText")
            person.click("a.act.approve")
            person.fill("#reason", "the gates are read")
            person.click("button.act")
            given = people.state(rollout).answer
            assert given is not None
            assert (given.approver, given.identity and given.identity.subject) == ("jo", "7")
            person.click(".reader button")
            assert "end it there" in person.run("document.body.innerText")
            looked_at(person, "signed-out-of-provider")
            person.open(f"{page.url}/rollouts/{rollout}")
            assert person.run("location.pathname") == "/sign-in", "signed out"
        finally:
            page.close()
