"""Sessions end, forms are bounded, and roles see what they may: the rules behind the page."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.observing.page.app import application
from mlplatform.observing.page.people import acts, forms, sessions
from mlplatform.observing.page.people.actions import Subject, WrongForm, check_form
from mlplatform.observing.page.people.gate import Identities, PageAccess
from mlplatform.observing.page.people.reader import Reader
from mlplatform.observing.page.people.sessions import NoSession, Session, Sessions, WrongSignIns
from mlplatform.observing.page.people.waiting_rollouts import waiting_rollout
from mlplatform.observing.page.queries import sources
from mlplatform.observing.page.queries.search import SearchResult
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.state import EMERGENCY_CONFIRM_H, RolloutState, fold
from mlplatform.rollouts.journal.transitions import ApprovalAsked, Opened, Paused
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.sign_ins import SignIns
from mlplatform.scoring.admission.clients import Client, Key, parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from rollout_world import fraud, gate_report

HERE, ELSEWHERE = "uid 1000", "uid 1001"
ORIGIN = "http://127.0.0.1:8090"
FACTS: dict[str, Any] = {
    "rollout_id": "fraud-v2-1",
    "model": "fraud",
    "event_ms": 1,
    "wall_ms": 1,
    "actor": "ana",
    "reason": "a test",
}
OPENED = Opened(
    **FACTS,
    challenger=Arm(2, "b" * 64, "fraud-v2-b"),
    author="ana",
    alert_low=0.0,
    alert_high=0.05,
    bootstrap=False,
    approval="none",
    validation=gate_report("b" * 64),
)
ASKED = ApprovalAsked(**FACTS, evidence={"verdict": "HEALTHY"})
SERVED = Routes("fraud", 3, Arm(1, "a", "s"), None, None, None, "steady", 0.0)


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def session_of(found: Session | NoSession) -> Session:
    assert isinstance(found, Session), found
    return found


def client(*scopes: str) -> Client:
    return Client("bo", frozenset(map(parse_scope, scopes)), "standard", None)


def test_a_session_ends_without_requests_and_at_last_whatever_is_asked() -> None:
    clock = Clock()
    kept = Sessions(clock)
    idle, busy = kept.begin("bo", b"k", HERE), kept.begin("bo", b"k", HERE)
    for _ in range(int(sessions.LASTS_S / sessions.IDLE_S) * 2 - 1):
        clock.now += sessions.IDLE_S / 2
        session_of(kept.find(busy, HERE))
    found = kept.find(idle, HERE)
    assert isinstance(found, NoSession)
    assert (found.name, "minutes without a request" in found.why) == ("bo", True)
    clock.now += sessions.IDLE_S / 2
    found = kept.find(busy, HERE)
    assert isinstance(found, NoSession)
    assert "it lasts 12 hours" in found.why


def test_a_cookie_opens_nothing_for_another_user_of_the_machine() -> None:
    kept = Sessions(Clock())
    cookie = kept.begin("bo", b"k", HERE)
    stolen = kept.find(cookie, ELSEWHERE)
    assert isinstance(stolen, NoSession)
    assert (stolen.name, ELSEWHERE in stolen.why) == ("bo", True)
    assert session_of(kept.find(cookie, HERE)).name == "bo", "its owner goes on"
    assert isinstance(kept.find("made up", HERE), NoSession)


def test_sessions_are_bounded_for_a_person_and_in_all() -> None:
    clock = Clock()
    kept = Sessions(clock)
    first = kept.begin("bo", b"k", HERE)
    others = [kept.begin("bo", b"k", HERE) for _ in range(sessions.MOST_OF_ONE)]
    assert isinstance(kept.find(first, HERE), NoSession)
    assert all(isinstance(kept.find(cookie, HERE), Session) for cookie in others)
    for number in range(sessions.MOST):
        clock.now += 1
        newest = kept.begin(f"p{number}", b"k", HERE)
    assert all(isinstance(kept.find(cookie, HERE), NoSession) for cookie in others)
    session_of(kept.find(newest, HERE))


def test_a_form_is_taken_once_and_not_too_late() -> None:
    clock = Clock()
    kept = Sessions(clock)
    session = session_of(kept.find(kept.begin("bo", b"k", HERE), HERE))
    number = kept.offer(session, "pause", "fraud-v2-1", "fact 2")
    taken = kept.take(session, number)
    assert taken is not None
    assert (taken.act, taken.about, taken.seen) == ("pause", "fraud-v2-1", "fact 2")
    assert kept.take(session, number) is None
    late = kept.offer(session, "pause", "fraud-v2-1", "fact 2")
    clock.now += sessions.OFFER_S
    assert kept.take(session, late) is None
    for _ in range(3 * sessions.MOST_OFFERS):
        kept.offer(session, "pause", "fraud-v2-1", "fact 2")
    assert len(session.offers) == sessions.MOST_OFFERS


def test_wrong_sign_ins_of_one_peer_keep_no_other_waiting() -> None:
    clock = Clock()
    wrong = WrongSignIns(clock)
    for _ in range(sessions.WRONG):
        assert wrong.wait_s(ELSEWHERE) == 0
        wrong.count(ELSEWHERE)
    assert wrong.wait_s(ELSEWHERE) == sessions.WRONG_WITHIN_S
    assert wrong.wait_s(HERE) == 0
    clock.now += sessions.WRONG_WITHIN_S
    assert wrong.wait_s(ELSEWHERE) == 0


@given(st.binary(max_size=200))
def test_a_body_is_a_form_or_refused(body: bytes) -> None:
    try:
        found = forms.parsed(body)
    except InputInvalid:
        return
    assert all(isinstance(text, str) for pair in found.items() for text in pair)


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=50), max_size=forms.MOST_FIELDS))
def test_a_form_comes_back_as_it_was_filled_in(fields: dict[str, str]) -> None:
    assert forms.parsed(urlencode(fields).encode()) == fields


@given(st.one_of(st.text(), st.from_regex(r"[/\\:a-z.@?#%\t-]{0,12}", fullmatch=True)))
def test_signing_in_leads_to_no_other_server(wanted: str) -> None:
    led = urlsplit(urljoin(ORIGIN, forms.own_path(wanted)))
    assert f"{led.scheme}://{led.netloc}" == ORIGIN


def test_a_cookie_header_gives_one_value_of_the_name() -> None:
    assert forms.cookie([(b"cookie", b"a=1; own=x; b=2")], "own") == "x"
    assert forms.cookie([(b"cookie", b"own=x; own=y")], "own") == "", "which of them is ours?"
    assert forms.cookie([(b"cookie", b"other=x")], "own") == ""
    assert "Secure" in forms.set_cookie("own", "x", secure=True, lasts_s=60)


@pytest.mark.parametrize(
    ("scopes", "roles", "may"),
    [
        (["fraud:view"], ("viewer",), set()),
        (["fraud:operate"], ("operator",), {"pause", "kill"}),
        (["fraud:run"], ("engineer",), {"pause", "kill"}),
        (["fraud:approve"], ("approver",), {"approve"}),
        (["*:approve", "*:run"], ("approver", "engineer"), {"approve", "pause", "kill"}),
        (["other:approve", "other:run"], ("approver", "engineer"), set()),
        (["*:*"], ("viewer",), set()),
    ],
    ids=lambda given: ", ".join(sorted(map(str, given))),
)
def test_scopes_say_what_a_person_may_do(
    scopes: list[str], roles: tuple[str, ...], may: set[str]
) -> None:
    person = client(*scopes)
    assert acts.roles(person) == roles
    tried: tuple[acts.Act, ...] = ("approve", "pause", "kill")
    assert {act for act in tried if acts.may(person, act, "fraud")} == may
    assert acts.roles(None) == ("viewer",)
    assert not acts.may(None, "pause", "fraud")


def test_what_can_be_done_follows_from_the_journal() -> None:
    waits, routes = fold([OPENED, ASKED]), no_routes("fraud")
    assert acts.of_rollout(fold([OPENED]), routes) == ("pause", "abort")
    assert acts.of_rollout(waits, routes) == ("approve", "reject", "pause", "abort")
    assert "resume" in acts.of_rollout(fold([OPENED, Paused(**FACTS)]), routes)
    promoted = dataclasses.replace(waits, phase="promoted")
    assert acts.of_rollout(promoted, routes) == ()
    champion = dataclasses.replace(
        routes, champion=promoted.challenger, previous=Arm(1, "a", "fraud-v1-a")
    )
    assert acts.of_rollout(promoted, champion) == ("roll-back",)
    assert acts.of_model(routes, is_stopped=False) == ()
    assert acts.of_model(SERVED, is_stopped=True) == ("kill", "clear")
    assert acts.of_model(dataclasses.replace(SERVED, killed=True), is_stopped=False) == ("lift",)


def test_a_phase_is_told_as_people_say_it() -> None:
    told = [acts.phase_words(phase) for phase in ("shadow", "canary", "rolled_back", "promoted")]
    assert told == ["in shadow", "in canary", "rolled back", "promoted"]


def test_every_act_has_words() -> None:
    assert set(acts.WORDS) == {*acts.OF_ROLLOUT, *acts.OF_MODEL}


def keys(**of: str) -> list[Key]:
    return [
        Key(f"{n:08x}", f"{n:064x}", name, frozenset({parse_scope(scope)}), "standard", None, n)
        for n, (name, scope) in enumerate(of.items())
    ]


def test_what_waits_says_who_may_answer_and_until_when() -> None:
    some = keys(ana="fraud:approve", bo="fraud:approve", cy="other:approve", eva="fraud:run")
    state, policy = fold([OPENED, ASKED]), fraud().rollout
    found = waiting_rollout(state, policy, some, 2)
    assert found is not None
    assert (found.who, found.others) == (("bo",), 0), "ana made the version"
    assert found.rejected == "the version answers nobody, and its rollout ends"
    assert found.until_ms == 1 + policy.approval_deadline_h * 3_600_000
    assert waiting_rollout(fold([OPENED]), policy, some, 2) is None
    emergency = dataclasses.replace(state, emergency=True, phase="promoted", opened_by="bo")
    found = waiting_rollout(emergency, policy, some, 2)
    assert found is not None
    assert found.rejected == "the champion before it answers again"
    assert found.promoter == "bo", "who promoted it may not answer, and the page says so"
    assert found is not None
    assert (found.who, found.until_ms) == ((), 1 + EMERGENCY_CONFIRM_H * 3_600_000)


def subject(state: RolloutState, seen: str) -> Subject:
    return Subject(
        "rollouts", state.rollout_id, "fraud", ("approve",), lambda act: seen, "it waits", state
    )


def test_an_answer_to_evidence_that_changed_since_it_was_shown_is_refused() -> None:
    kept = Sessions(Clock())
    session = session_of(kept.find(kept.begin("bo", b"k", HERE), HERE))
    reader = Reader(session, client("fraud:approve"), "")
    state = fold([OPENED, ASKED])

    def answer(now: str) -> None:
        number = kept.offer(session, "approve", state.rollout_id, "a" * 64)
        form = {"token": session.form_token, "form": number, "seen": "a" * 64}
        check_form(kept, reader, subject(state, now), "approve", form, says_origin=True)

    answer("a" * 64)
    with pytest.raises(WrongForm, match="the evidence of fraud-v2-1 has changed since the form"):
        answer("b" * 64)


class Page:
    """The page in this process, on a clock of the test's, for peers by address."""

    def __init__(self, root: Path) -> None:
        settings = load({"MLPLATFORM_HOME": str(root)})
        settings.home.create()
        self.clock = Clock()
        self.store = SqliteAdmission(settings.home.admission_db)
        _, self.key = create_key(
            *(self.store, "bo", frozenset({parse_scope("fraud:approve")})),
            priority="standard",
            limit=None,
            now_ms=1,
        )
        self.refusals = Refusals(settings.home.audit)
        self.identities = Identities(lambda: self.store, lambda: int(self.clock.now * 1000))
        sign_ins, self.kept = SignIns(settings.home.audit), Sessions(self.clock)
        access = PageAccess(self.identities, self.kept, self.refusals, "session", sign_ins)
        self.application = application(
            Sources(Platform(settings)),
            token="the token",
            hosts=["127.0.0.1:8090"],
            links={},
            access=access,
        )

    def browser(self, address: str = "10.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=cast(Any, self.application), client=(address, 1))
        headers = {"Accept": "text/html", "Origin": ORIGIN}
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)

    def sign_in(self, browser: httpx.AsyncClient, key: str = "") -> Any:
        return browser.post("/sign-in", data={"name": "bo", "key": key or self.key})

    def refused(self, who: str) -> list[tuple[str, str]]:
        return [(r.asked, r.why) for r in self.refusals.since(0) if r.who == who]

    def close(self) -> None:
        self.identities.close()
        self.store.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page(tmp_path / "home")
    yield made
    made.close()


async def test_a_form_of_a_session_that_has_ended_does_nothing_and_is_kept(page: Page) -> None:
    async with page.browser() as browser:
        assert (await page.sign_in(browser)).status_code == 303
        assert (await browser.get("/rollouts")).status_code == 200
        page.clock.now += sessions.IDLE_S
        answer = await browser.post("/models/fraud/act/kill", data={"reason": "too late"})
        assert answer.status_code == 401
        assert "Your session has ended. Nothing of your last request was done." in answer.text
    why = f"its session ended: {sessions.IDLE_S / 60:.0f} minutes without a request"
    assert ("POST /models/fraud/act/kill", why) in page.refused("bo")


@pytest.mark.parametrize(
    ("path", "sent", "wanted"),
    [
        ("/models/fraud/act/kill", {"reason": "it <b>alerts</b>"}, "/models/fraud/act/kill"),
        (
            "/models/fraud/review",
            {"note": "it <b>alerts</b>", "about": "d 1&x", "outcome": "fraud"},
            "/models/fraud/review?look=d+1%26x",
        ),
    ],
)
async def test_what_was_typed_when_a_session_ended_is_in_its_form_again(
    page: Page, path: str, sent: dict[str, str], wanted: str
) -> None:
    """Signed out in another tab, so there is no cookie either; nothing acts by itself."""
    async with page.browser() as browser:
        answer = await browser.post(path, data=sent)
        assert answer.status_code == 401
        assert "Your session has ended" in answer.text
        assert "<pre>it &lt;b&gt;alerts&lt;/b&gt;</pre>" in answer.text
        assert f'name="next" value="{escape(wanted)}"' in answer.text
        again = {"name": "bo", "next": wanted, "typed": sent.get("reason", sent.get("note", ""))}
        wrong = await browser.post("/sign-in", data={**again, "key": "no key"})
        assert "<pre>it &lt;b&gt;alerts&lt;/b&gt;</pre>" in wrong.text
        signed_in = await browser.post("/sign-in", data={**again, "key": page.key})
        assert signed_in.headers["location"] == wanted
        own = page.kept.find(browser.cookies["session"], "10.0.0.1")
        assert session_of(own).take_draft(path) == "it <b>alerts</b>"
        assert session_of(own).take_draft(path) == ""


async def test_another_sites_form_brings_no_text_and_leads_nowhere(page: Page) -> None:
    async with page.browser() as browser:
        sent = {"reason": "not mine"}
        headers = {"Origin": "http://evil.example"}
        other = await browser.post("/models/fraud/act/kill", data=sent, headers=headers)
        assert "not mine" not in other.text
        crossed = {"Sec-Fetch-Site": "cross-site"}
        other = await browser.post("/models/fraud/act/kill", data=sent, headers=crossed)
        assert "not mine" not in other.text
        led_away = await browser.post("//evil.example/act", data=sent)
        assert "evil.example" not in led_away.text
        assert 'name="next" value="/"' in (await browser.post("/session-ended", data=sent)).text


async def test_a_stolen_cookie_opens_nothing_elsewhere(page: Page) -> None:
    async with page.browser() as browser, page.browser("10.0.0.2") as thief:
        await page.sign_in(browser)
        thief.cookies.update(browser.cookies)
        assert (await thief.get("/")).status_code == 303
        answer = await thief.post("/models/fraud/act/kill", data={"reason": "stolen"})
        assert answer.status_code == 401
        assert (await browser.get("/")).status_code == 200
    (told,) = page.refused("bo")
    why = "the session of this cookie began at 10.0.0.1, not at 10.0.0.2"
    assert told == ("POST /models/fraud/act/kill", why)


async def test_a_request_without_a_session_is_not_of_who_asked_before_it(page: Page) -> None:
    """A server runs requests of one connection, which a proxy shares, in one context at times."""
    async with page.browser() as browser, page.browser() as other:
        await page.sign_in(browser)
        assert "Signed in as <b>bo</b>" in (await browser.get("/rollouts")).text
        assert "Signed in as" not in (await other.get("/sign-in")).text
        program = await other.get("/rollouts", auth=("anybody", "the token"))
        assert program.status_code == 200
        assert "Signed in as" not in program.text


async def test_wrong_sign_ins_are_kept_without_a_key_and_soon_wait(page: Page) -> None:
    async with page.browser() as browser, page.browser("10.0.0.2") as other:
        for number in range(sessions.WRONG):
            assert (await page.sign_in(browser, f"mlp_wrong{number}")).status_code == 401
        refused = await page.sign_in(browser)
        assert refused.status_code == 429
        assert "Too many sign-ins were wrong. Wait" in refused.text
        assert (await page.sign_in(other)).status_code == 303
        swapped = await other.post("/sign-in", data={"name": page.key, "key": "bo"})
        assert swapped.status_code == 401
    kept = page.refused("unknown")
    assert ("sign in as bo", "nobody has this name and key") in kept
    assert not [asked for asked, why in kept if "mlp_" in asked + why]


async def test_an_applications_key_is_told_apart_from_a_wrong_one(page: Page) -> None:
    _, key = create_key(
        *(page.store, "shop", frozenset({parse_scope("fraud:score")})),
        priority="standard",
        limit=None,
        now_ms=2,
    )
    for secret, told in ((key, "it has no scope of a person"), ("mlp_x", "Nobody has this name")):
        async with page.browser() as browser:
            answer = await browser.post("/sign-in", data={"name": "shop", "key": secret})
            assert (answer.status_code, told in answer.text) == (401, True)


async def test_a_key_that_expires_ends_its_session(page: Page) -> None:
    until_ms = int((page.clock.now + 60) * 1000)
    _, key = create_key(
        *(page.store, "bo", frozenset({parse_scope("fraud:approve")})),
        priority="standard",
        limit=None,
        now_ms=2,
        expires_ms=until_ms,
    )
    async with page.browser() as browser:
        assert (await page.sign_in(browser, key)).status_code == 303
        assert (await browser.get("/")).status_code == 200
        page.clock.now += 61
        assert (await browser.get("/")).headers["location"].endswith("&ended=1")
        assert (await page.sign_in(browser, key)).status_code == 401


THREADS = 40
"""That answer requests: as many as AnyIO has."""


class NoMarks:
    """A log of which nothing is known."""

    def watermarks(self) -> list[Any]:
        return []

    def read(self, query: Any) -> Any:
        raise AssertionError("nobody reads it")


@pytest.mark.parametrize(
    ("path", "goes_on"), [("/decisions", sources.MOST_SEARCHES), ("/decisions/d1?why=yes", 1)]
)
async def test_long_searches_and_explanations_keep_nobody_from_the_page(
    page: Page, monkeypatch: pytest.MonkeyPatch, path: str, goes_on: int
) -> None:
    ends = threading.Event()

    def long(*_: object, **__: object) -> Any:
        ends.wait(30)
        return SearchResult(()) if path == "/decisions" else []

    monkeypatch.setattr(Sources, "_log", lambda self: NoMarks())
    monkeypatch.setattr(Sources, "decision", lambda self, name: [])
    monkeypatch.setattr(sources, "search", long)
    monkeypatch.setattr(sources, "logged_records", lambda log, name: [])
    monkeypatch.setattr("mlplatform.scoring.request.explain.explain_records", long)
    async with page.browser() as browser:
        await page.sign_in(browser)
        asked = [asyncio.create_task(browser.get(path)) for _ in range(THREADS + 5)]
        try:
            async with asyncio.timeout(10):
                while sum(task.done() for task in asked) < len(asked) - goes_on:
                    await asyncio.sleep(0.01)
                assert (await browser.get("/rollouts")).status_code == 200
        finally:
            ends.set()
            answers = await asyncio.gather(*asked)
    busy = [answer for answer in answers if "other searches go on: ask again" in answer.text]
    assert len(busy) == (len(asked) - goes_on if path == "/decisions" else 0)
