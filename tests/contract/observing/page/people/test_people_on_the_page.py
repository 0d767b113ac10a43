"""People on a page process: each role sees and does what it may, and all else is refused and kept.

What is done stands in the journal with the person's name, as by the command.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from html import unescape

import pytest

from mlplatform.rollouts.journal.transitions import Answered
from mlplatform.runtime.telemetry.refusals import Refusals
from support.page_process import TOKEN
from support.page_visitor import Visitor
from support.people_world import EVIDENCE
from support.people_world import PeopleWorld as World
from support.platform_process import wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("home") / "home")
    yield made
    made.close()


@pytest.fixture
def visitor(world: World) -> Iterator[Callable[[str], Visitor]]:
    """A browser in which somebody has signed in."""
    opened: list[Visitor] = []

    def made(name: str = "") -> Visitor:
        opened.append(Visitor(world.page.url))
        if name:
            answer = opened[-1].sign_in(name, world.keys[name])
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
        return opened[-1]

    yield made
    for one in opened:
        one.close()


@pytest.fixture
def rollout(world: World) -> Iterator[str]:
    made = world.ask()
    yield made
    world.end(made)


Visits = Callable[[str], Visitor]


def test_a_session_is_a_cookie_that_no_script_and_no_other_site_has(
    world: World, visitor: Visits
) -> None:
    somebody = visitor("")
    answer = somebody.sign_in("bo", world.keys["bo"])
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"mlplatform-page-{world.page.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert world.keys["bo"] not in cookie
    assert "Signed in as <b>bo</b>, approver" in somebody.get("/").text


def test_who_has_not_signed_in_is_led_to_the_form_and_back(visitor: Visits) -> None:
    somebody = visitor("")
    answer = somebody.get("/rollouts/fraud-v1-1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=/rollouts/fraud-v1-1"
    form = somebody.get(answer.headers["location"]).text
    assert 'name="next" value="/rollouts/fraud-v1-1"' in form
    led_away = somebody.get("/sign-in?next=//evil.example/").text
    assert 'name="next" value="/"' in led_away


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("vera", set()),
        ("otto", {"pause", "abort"}),
        ("eva", {"pause", "abort"}),
        ("bo", {"approve", "reject"}),
        ("ana", {"pause", "abort"}),
    ],
)
def test_each_role_sees_the_buttons_that_it_may_press(
    visitor: Visits, rollout: str, name: str, sees: set[str]
) -> None:
    assert visitor(name).buttons(f"/rollouts/{rollout}") == sees


def test_who_has_no_scope_on_a_model_sees_nothing_of_it(visitor: Visits, rollout: str) -> None:
    stranger, viewer = visitor("cy"), visitor("vera")
    paths = ("/models/fraud", f"/rollouts/{rollout}", "/models/fraud/versions/1")
    assert {stranger.get(path).status_code for path in paths} == {404}
    assert viewer.get(paths[0]).status_code == viewer.get(paths[1]).status_code == 200
    for path in ("/", "/rollouts", "/incidents", "/decisions"):
        text = stranger.get(path).text
        assert rollout not in text
        assert "/models/fraud" not in text
    assert rollout in viewer.get("/rollouts").text


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("vera", "approve"),
        ("vera", "pause"),
        ("otto", "approve"),
        ("eva", "reject"),
        ("bo", "abort"),
        ("cy", "approve"),
        ("ana", "approve"),
    ],
)
def test_a_forged_form_of_somebody_who_may_not_is_refused_and_kept(
    world: World, visitor: Visits, rollout: str, name: str, act: str
) -> None:
    somebody = visitor(name)
    path = f"/rollouts/{rollout}/act/{act}"
    token = somebody.get("/").text.partition('name="token" value="')[2].partition('"')[0]
    for answer in (
        somebody.get(path),
        somebody.post(path, {"token": token, "form": "made up", "seen": "x", "reason": "forged"}),
    ):
        assert answer.status_code == 403
        assert "You may not do this" in answer.text
    why = "ana made version" if name == "ana" else "has no scope fraud:"
    assert any(
        asked == f"{act} of {rollout}" and why in told for asked, told in world.refused(name)
    )
    assert world.state(rollout).answer is None
    assert world.state(rollout).ramping


def test_who_knows_the_pages_token_alone_looks_and_does_nothing(
    world: World, visitor: Visits, rollout: str
) -> None:
    somebody = visitor("")
    assert somebody.sign_in("anybody", TOKEN).status_code == 303
    assert "Signed in as <b>page token</b>, viewer" in somebody.get("/").text
    path = f"/rollouts/{rollout}/act/approve"
    assert somebody.get(path).status_code == 403
    program = somebody.client.get(path, auth=("anybody", TOKEN))
    assert program.status_code == 403
    assert world.refused("page token")


@pytest.mark.parametrize("answer", ["approve", "reject"])
def test_an_answer_stands_in_the_journal_under_the_name_of_who_signed_in(
    world: World, visitor: Visits, rollout: str, answer: str
) -> None:
    bo, path = visitor("bo"), f"/rollouts/{rollout}/act/{answer}"
    shown = bo.get(path).text
    asked = world.state(rollout).asked_digest
    assert f"<code>{asked}</code>" in shown
    assert "no more than planned" in shown
    done = bo.act(path, "gates read, one by one")
    assert (done.status_code, done.headers["location"]) == (303, f"/rollouts/{rollout}")
    given = world.home.rollouts.read(rollout)[-1]
    assert isinstance(given, Answered)
    assert (given.answer, given.approver, given.bound_to) == (answer, "bo", asked)
    assert given.reason == "gates read, one by one"
    assert given.proven_by.startswith("session of key ")
    assert f"Your answer, {answer}, stands in the journal" in bo.get(f"/rollouts/{rollout}").text
    assert "stands in the journal." not in bo.get(f"/rollouts/{rollout}").text, "said once"
    assert bo.buttons(f"/rollouts/{rollout}") == set()


def test_a_pause_an_end_and_the_switch_of_a_model_are_facts_of_the_journal(
    world: World, visitor: Visits, rollout: str
) -> None:
    otto, of = visitor("otto"), f"/rollouts/{rollout}"
    assert otto.act(f"{of}/act/pause").status_code == 303
    paused = world.state(rollout).paused
    assert paused is not None
    assert (paused.actor, paused.reason) == ("otto", "as the test says")
    assert otto.buttons(of) == {"resume", "abort"}
    assert otto.act(f"{of}/act/resume").status_code == 303
    assert world.state(rollout).paused is None
    assert otto.act("/models/fraud/act/kill").status_code == 303
    assert world.home.rollouts.routes("fraud").killed
    assert [c.actor for c in world.home.rollouts.controls("fraud")][-1] == "otto"
    assert otto.buttons("/models/fraud") == {"lift"}
    for path in ("/", "/models/fraud", "/models/fraud/act/lift"):
        told = re.sub(r"<[^>]+>", "", unescape(otto.get(path).text))
        assert re.search(r"switched off by otto (on |\()20\d\d-\d\d-\d\d \d\d:\d\d UTC", told), path
        assert '"as the test says"' in told, path
    held = re.sub(r"<[^>]+>", "", unescape(otto.get(of).text))
    assert "It takes no step on: fraud is switched off by otto" in held
    assert "mlplatform rollouts lift fraud" in held
    assert otto.act("/models/fraud/act/lift").status_code == 303
    assert "It takes no step on" not in otto.get(of).text
    assert not world.home.rollouts.routes("fraud").killed
    assert otto.act(f"{of}/act/abort").status_code == 303
    assert world.state(rollout).phase == "rolled_back"
    assert otto.buttons(of) == set()


def test_a_champion_is_rolled_back_to_the_one_before_it(world: World, visitor: Visits) -> None:
    world.version += 1
    otto, rollout = visitor("otto"), f"fraud-v{world.version}-1"
    world.home.rollouts.acquire("fraud", "test", 0.0, steal=True)  # nobody's lease stands after it
    before = world.home.rollouts.routes("fraud").champion
    world.home.promote(world.version)
    assert otto.buttons(f"/rollouts/{rollout}") == {"roll-back"}
    assert otto.buttons("/models/fraud") == {"roll-back", "kill"}
    assert visitor("bo").buttons(f"/rollouts/{rollout}") == set()
    assert "roll-back" not in visitor("bo").buttons("/models/fraud")
    asked = otto.get(f"/rollouts/{rollout}/act/roll-back")
    assert "version 1 answers again in place of this one" in asked.text
    done = otto.act(f"/rollouts/{rollout}/act/roll-back", "too many declines")
    assert done.status_code == 303
    state = world.state(rollout)
    assert (state.phase, state.reason) == ("rolled_back", "too many declines")
    assert world.home.rollouts.routes("fraud").champion == before
    assert "roll-back" not in otto.buttons("/models/fraud")
    late = otto.get(f"/rollouts/{rollout}/act/roll-back")
    assert late.status_code == 409
    assert "You can press nothing here; on the page of model fraud: " in html.unescape(late.text)
    assert "has given the answer" not in late.text, "it was carried out long ago"


def test_what_waits_is_told_at_the_top_with_who_may_answer_and_how(
    visitor: Visits, rollout: str
) -> None:
    text = visitor("vera").get("/").text
    top = text[: text.index("<h2>Models</h2>")]
    assert f'<a href="/rollouts/{rollout}">{rollout}</a> waits for an answer' in top
    assert "<dt>who may answer</dt><dd>bo, dora (not ana, who made it)</dd>" in top
    typed = re.sub(r"</?span[^>]*>", "", top)  # no option is broken at its hyphens
    assert f"mlplatform rollouts approve {rollout} --decision approve" in typed


@pytest.mark.parametrize("act", ["approve", "reject"])
@pytest.mark.parametrize(
    ("emergency", "told"),
    [
        ({}, "the version answers nobody, and its rollout ends"),
        ({"emergency": True, "opened_by": "eva"}, "the champion before it answers again"),
    ],
    ids=["ordinary", "emergency"],
)
def test_a_form_says_what_a_rejection_and_no_answer_do(
    world: World, visitor: Visits, emergency: dict[str, object], told: str, act: str
) -> None:
    made = world.ask({**EVIDENCE, **emergency})
    try:
        form = html.unescape(visitor("bo").get(f"/rollouts/{made}/act/{act}").text)
    finally:
        world.end(made)
    when = r"After a rejection, and without an answer until <[^<]* UTC</span>, ([^<]*)\.</p>"
    assert re.findall(when, form) == [told]


def test_a_form_without_the_sessions_token_or_of_another_session_is_refused(
    world: World, visitor: Visits, rollout: str
) -> None:
    bo, path = visitor("bo"), f"/rollouts/{rollout}/act/approve"
    other = visitor("bo")
    fields = bo.fields(path) | {"reason": "a forged form"}
    for forged in (
        {k: v for k, v in fields.items() if k != "token"},
        fields | {"token": "x"},
        fields | {"token": other.fields(path)["token"]},
    ):
        answer = bo.post(path, forged)
        assert answer.status_code == 403
        assert "not of this session" in answer.text
    assert other.post(path, fields).status_code == 403
    assert any("session" in why for _, why in world.refused("bo"))
    assert world.state(rollout).answer is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=["foreign", "null", "none", "another port", "same site alone"],
)
def test_a_form_that_no_page_of_this_server_sent_is_refused_and_kept(
    world: World, visitor: Visits, rollout: str, headers: dict[str, str]
) -> None:
    bo, path = visitor("bo"), f"/rollouts/{rollout}/act/approve"
    fields = bo.fields(path) | {"reason": "from elsewhere"}
    assert bo.post(path, fields, **headers).status_code == 403
    assert world.state(rollout).answer is None
    is_foreign = headers.get("Origin", "") != ""
    told = world.refused("unknown" if is_foreign else "bo")
    assert any("another site" in why or "not sent by a page" in why for _, why in told)
    assert bo.sign_in("bo", world.keys["bo"], **headers).status_code == 403


def test_a_form_counts_once_and_for_what_it_said_alone(
    world: World, visitor: Visits, rollout: str
) -> None:
    eva, of = visitor("eva"), f"/rollouts/{rollout}"
    fields = eva.fields(f"{of}/act/pause") | {"reason": "wait a moment"}
    assert eva.post(f"{of}/act/abort", fields).status_code == 403
    fields = eva.fields(f"{of}/act/pause") | {"reason": "wait a moment"}
    assert eva.post(f"{of}/act/pause", fields).status_code == 303
    assert eva.act(f"{of}/act/resume").status_code == 303
    again = eva.post(f"{of}/act/pause", fields)
    assert again.status_code == 409
    assert "sent before" in again.text
    assert ">wait a moment</textarea>" in again.text, "a new form has what was typed"
    assert world.state(rollout).paused is None
    told = [why for _, why in world.refused("eva")]
    assert any("sent before" in why for why in told)
    assert any("changed after the page made it" in why for why in told)


def test_an_answer_to_other_evidence_or_after_the_end_is_refused(
    world: World, visitor: Visits, rollout: str
) -> None:
    bo, path = visitor("bo"), f"/rollouts/{rollout}/act/approve"
    fields = bo.fields(path)
    forged = bo.post(path, fields | {"seen": "0" * 64, "reason": "other evidence"})
    assert forged.status_code == 403
    fields = bo.fields(path)
    assert visitor("eva").act(f"/rollouts/{rollout}/act/abort").status_code == 303
    late = bo.post(path, fields | {"reason": "it was read"})
    assert late.status_code == 409
    assert f"Rollout {rollout} is rolled_back" in late.text
    assert world.state(rollout).answer is None
    kept = Refusals(world.home.home.audit).since(0)
    assert any(r.door == "approval" and r.who == "bo" and rollout in r.asked for r in kept)


def test_what_resumes_or_switches_on_is_bound_to_what_was_shown(
    world: World, visitor: Visits, rollout: str
) -> None:
    eva, otto, of = visitor("eva"), visitor("otto"), f"/rollouts/{rollout}"
    assert eva.act(f"{of}/act/pause", "the analysts are away").status_code == 303
    fields = otto.fields(f"{of}/act/resume") | {"reason": "they are back"}
    assert eva.act(f"{of}/act/resume").status_code == 303
    assert eva.act(f"{of}/act/pause", "wrong training data").status_code == 303
    late = otto.post(f"{of}/act/resume", fields)
    assert late.status_code == 409
    assert f"the journal of {rollout} has changed since the form was shown" in late.text
    assert ">they are back</textarea>" in late.text, "what was typed is not lost"
    assert "wrong training data" in otto.get(of).text
    assert world.state(rollout).paused is not None
    assert any("has changed since" in why for _, why in world.refused("otto"))


def test_a_reason_that_is_too_short_does_nothing_and_asks_again(
    world: World, visitor: Visits, rollout: str
) -> None:
    eva, path = visitor("eva"), f"/rollouts/{rollout}/act/pause"
    answer = eva.act(path, "no")
    assert answer.status_code == 400
    assert "wanted: 5 to 500" in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert world.state(rollout).paused is None


def test_who_signs_out_is_out(visitor: Visits) -> None:
    bo = visitor("bo")
    token = bo.get("/").text.partition('name="token" value="')[2].partition('"')[0]
    kept = dict(bo.client.cookies)
    assert bo.post("/sign-out", {"token": "x"}).status_code == 403
    assert bo.get("/").status_code == 200
    answer = bo.post("/sign-out", {"token": token})
    assert "Max-Age=0" in answer.headers["set-cookie"]
    bo.client.cookies.update(kept)
    assert bo.get("/").status_code == 303


def test_a_revoked_key_ends_its_session(world: World, visitor: Visits, rollout: str) -> None:
    dora, path = visitor("dora"), f"/rollouts/{rollout}/act/approve"
    fields = dora.fields(path) | {"reason": "before it ends"}
    world.revoke("dora")
    wait(lambda: dora.get("/").status_code == 303, "the session ends")
    answer = dora.post(path, fields)
    assert answer.status_code == 401
    assert "before it ends" in answer.text
    assert world.state(rollout).answer is None
    assert "dora" not in dora.get("/sign-in").text
    assert dora.sign_in("dora", world.keys["dora"]).status_code == 401


def test_a_form_of_nobody_is_refused_and_kept(world: World, visitor: Visits, rollout: str) -> None:
    path = f"/rollouts/{rollout}/act/approve"
    answer = visitor("").post(path, {"reason": "let me in"})
    assert answer.status_code == 401
    assert (f"POST {path}", "nobody has signed in") in world.refused("unknown")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"reason=" + b"x" * 20_000, "application/x-www-form-urlencoded"),
        (b"reason=a&reason=b", "application/x-www-form-urlencoded"),
        (b"&" * 100 + b"a=b", "application/x-www-form-urlencoded"),
        (b"\xff=\xfe", "application/x-www-form-urlencoded"),
        (b'{"reason": "json"}', "application/json"),
        (b"reason=text", "text/plain"),
    ],
)
def test_what_is_no_form_of_this_page_is_refused(
    visitor: Visits, rollout: str, body: bytes, kind: str
) -> None:
    eva = visitor("eva")
    headers = {"Origin": eva.url, "Content-Type": kind}
    path = f"/rollouts/{rollout}/act/pause"
    assert eva.client.post(path, content=body, headers=headers).status_code == 400
