"""People sign in to a page process at an identity provider, and every wrong answer is refused.

The provider is one of ours over a real socket (`support.identity_provider`); `make test-servers`
does the same with Dex.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from mlplatform.observing.page.people import forms, roles
from mlplatform.observing.page.people.attempts import Attempts
from mlplatform.observing.page.people.identity import Person
from mlplatform.observing.page.people.provider import AuthorizationResponse, Provider
from mlplatform.observing.page.people.sessions import WRONG
from mlplatform.observing.page.process import accepted_hosts, cookie_of, provider_of
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.transitions import Answered
from mlplatform.runtime.configuration.identity_provider import IdentityProvider
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, Refused, Unavailable
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.admission.clients import parse_scope
from support.identity_provider import CLIENT, SECRET, TestProvider, identity_provider
from support.issuer import jwk, rsa_key
from support.page_process import PageProcess
from support.page_visitor import Visitor, hidden
from support.people_world import PeopleWorld
from support.platform_process import wait

pytestmark = pytest.mark.slow

ROLES = """\
groups:
  ml-approvers: ["fraud:approve"]
  operators: ["fraud:operate"]
people:
  sub-of-ana: ana
  sub-of-dora: dora
"""
JO = {"sub": "248289761001", "preferred_username": "Jo.Bloggs", "groups": ["ml-approvers", "staff"]}


class World(PeopleWorld):
    """A home with people, and a page that knows a provider."""

    def __init__(self, root: Path, provider: TestProvider) -> None:
        self.provider = provider
        super().__init__(root)
        self.page.close()
        self.told = provider.environment(root.parent, ROLES)
        self.page = PageProcess(self.home.home, **self.told)

    def sign_ins(self) -> list[dict[str, Any]]:
        lines = (self.home.home.audit / "sign-ins.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with identity_provider() as provider:
        made = World(tmp_path_factory.mktemp("home") / "home", provider)
        yield made
        made.close()


@pytest.fixture
def provider(world: World) -> Iterator[TestProvider]:
    """Jo signs in next, and all is as it should be; wrong sign-ins before do not count."""
    fresh = TestProvider(world.provider.url)
    for name in ("person", "changes", "sign", "keys", "discovery", "documents", "returns", "once"):
        setattr(world.provider, name, getattr(fresh, name))
    world.provider.person = dict(JO)
    return world.provider


@pytest.fixture
def visitor(world: World) -> Iterator[Callable[[], Visitor]]:
    opened: list[Visitor] = []

    def made() -> Visitor:
        opened.append(Visitor(world.page.url))
        return opened[-1]

    yield made
    for one in opened:
        one.close()


@pytest.fixture
def rollout(world: World) -> Iterator[str]:
    made = world.ask()
    yield made
    world.end(made)


def to_provider(browser: Visitor, wanted: str = "/") -> str:
    """Begin a sign-in; where the browser is sent."""
    answer = browser.get(f"/sign-in/provider?next={wanted}")
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def back_from(url: str) -> str:
    """What the provider sends the browser back to."""
    location: str = httpx.get(url).headers["location"]
    return location


def signed_in(browser: Visitor, wanted: str = "/") -> httpx.Response:
    """Sign in, there and back."""
    return browser.get(back_from(to_provider(browser, wanted)))


Visits = Callable[[], Visitor]


def test_who_signs_in_there_has_the_scopes_of_their_groups(
    world: World, provider: TestProvider, visitor: Visits
) -> None:
    jo = visitor()
    assert f"Sign in at {provider.url.removeprefix('http://')}" in jo.get("/sign-in").text
    answer = signed_in(jo, "/rollouts")
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/rollouts">' in answer.text
    cookies = answer.headers.get_list("set-cookie")
    assert any("SameSite=Strict" in c and "HttpOnly" in c for c in cookies)
    assert "Signed in as <b>jo.bloggs</b>, approver" in jo.get("/").text
    last = world.sign_ins()[-1]
    assert (last["what"], last["name"]) == ("in", "jo.bloggs")
    assert last["proof"] == f"subject {JO['sub']} of {provider.url}"


def test_the_journal_names_the_subject_that_the_provider_proved(
    world: World, provider: TestProvider, visitor: Visits, rollout: str
) -> None:
    jo = visitor()
    signed_in(jo)
    assert "bo (not ana, who made it); people of ml-approvers at" in jo.get("/").text.replace(
        "bo, dora", "bo"
    )
    done = jo.act(f"/rollouts/{rollout}/act/approve", "gates read, one by one")
    assert done.status_code == 303, done.text
    given = world.home.rollouts.read(rollout)[-1]
    assert isinstance(given, Answered)
    assert given.approver == "jo.bloggs"
    assert given.identity is not None
    assert (given.identity.issuer, given.identity.subject) == (provider.url, JO["sub"])
    assert given.proven_by == f"session of subject {JO['sub']} of {provider.url} on the page"


def test_a_code_for_prefects_form_carries_the_subject_into_the_journal(
    world: World, provider: TestProvider, visitor: Visits, rollout: str
) -> None:
    jo, path = visitor(), f"/rollouts/{rollout}/act/approve"
    signed_in(jo)
    given = jo.post(path, {**jo.fields(path), "as": "code"})
    assert given.status_code == 200, given.text
    code = given.text.partition('<code id="code">')[2].partition("<")[0]
    assert world.state(rollout).answer is None, "a code answers nothing by itself"
    platform = Platform(load({"MLPLATFORM_HOME": str(world.home.home.root)}))
    question, _ = job.question(platform, rollout, "approve")
    wrong_answer = dataclasses.replace(question, answer="reject")
    with pytest.raises(Refused, match="not given for this answer"):
        job.record_approval(platform, wrong_answer, code=code, reason="gates read")
    job.record_approval(platform, question, code=code, reason="gates read")
    answer = world.state(rollout).answer
    assert answer is not None
    assert answer.identity is not None
    assert (answer.identity.issuer, answer.identity.subject) == (provider.url, JO["sub"])
    assert answer.proven_by == f"code of subject {JO['sub']} of {provider.url}"


def test_what_people_stop_stands_in_the_journal_with_their_subject(
    world: World, provider: TestProvider, visitor: Visits, rollout: str
) -> None:
    otto, of = visitor(), f"/rollouts/{rollout}"
    provider.person = {"sub": "7", "preferred_username": "otto.b", "groups": ["operators"]}
    signed_in(otto)
    for act in ("pause", "resume", "abort"):
        assert otto.act(f"{of}/act/{act}").status_code == 303
    assert otto.act("/models/fraud/act/kill").status_code == 303
    assert otto.act("/models/fraud/act/lift").status_code == 303
    done = [
        *(f for f in world.home.rollouts.read(rollout) if f.actor == "otto.b"),
        *(f for f in world.home.rollouts.controls("fraud") if f.actor == "otto.b"),
    ]
    assert [type(f).__name__ for f in done] == [
        "Paused", "Resumed", "RolledBack", "Killed", "KillLifted",
    ]  # fmt: skip
    who = [(f.identity.issuer, f.identity.subject) for f in done if f.identity is not None]
    assert who == [(provider.url, "7")] * 5
    assert otto.get(f"{of}/act/approve").status_code == 403
    kept = [r for r in Refusals(world.home.home.audit).since(0) if r.who == "otto.b"]
    assert {r.proof for r in kept} == {f"subject 7 of {provider.url}"}


@pytest.mark.parametrize(
    "person",
    [
        {"sub": "sub-of-ana", "preferred_username": "a.smith"},
        {"sub": "sub-of-dora", "preferred_username": "dora", "email": "ana@bank.example"},
        {"sub": "sub-of-dora", "preferred_username": "dora", "name": "An\u0430"},
    ],
    ids=["mapped to the author's name", "with the author's address", "with a look-alike name"],
)
def test_an_author_approves_nothing_of_their_own_by_another_account(
    world: World, provider: TestProvider, visitor: Visits, rollout: str, person: dict[str, str]
) -> None:
    ana = visitor()
    provider.person = JO | person
    assert signed_in(ana).status_code == 200
    path = f"/rollouts/{rollout}"
    assert ana.buttons(path) == set()
    answer = ana.get(f"{path}/act/approve")
    assert answer.status_code == 403
    assert "made version" in answer.text
    assert world.state(rollout).answer is None


@pytest.mark.parametrize("name", ["bo", "B0", "bo@bank.example"])
def test_an_account_that_may_be_a_local_persons_signs_in_once_the_file_says_whose_it_is(
    world: World, provider: TestProvider, visitor: Visits, name: str
) -> None:
    provider.person = JO | {"preferred_username": name}
    browser = visitor()
    answer = signed_in(browser)
    assert answer.status_code == 403
    assert "bo has a key of this platform" in answer.text
    assert JO["sub"] in answer.text
    assert browser.get("/").status_code == 303, "nobody is signed in"


def wrong(**changes: Any) -> Callable[[TestProvider], None]:
    return lambda provider: provider.changes.update(changes)


def unsigned(provider: TestProvider) -> None:
    provider.sign = ("one", None, "none")


def symmetric(provider: TestProvider) -> None:
    provider.sign = ("one", "the public key, or any secret of 32 bytes", "HS256")


def stolen_name(provider: TestProvider) -> None:
    provider.sign = ("one", rsa_key("another"), "RS256")


def unknown_key(provider: TestProvider) -> None:
    provider.sign = ("two", rsa_key("another"), "RS256")


def says_no(provider: TestProvider) -> None:
    provider.returns = {"code": None, "error": "access_denied"}


REFUSALS = [
    pytest.param(wrong(nonce="another"), "its nonce is another one", id="nonce"),
    pytest.param(wrong(nonce=None), "is not accepted: it lacks a claim", id="no nonce"),
    pytest.param(wrong(aud="shop"), "is not accepted: it is for another client", id="audience"),
    pytest.param(wrong(aud=["page", "shop"]), "no azp", id="several audiences"),
    pytest.param(wrong(azp="shop"), "given to another client", id="authorized party"),
    pytest.param(
        wrong(iss="https://evil.example"), "is not accepted: it is of another issuer", id="issuer"
    ),
    pytest.param(wrong(exp=int(time.time()) - 60), "is not accepted: it has expired", id="expired"),
    pytest.param(
        wrong(iat=int(time.time()) + 86_400), "is not accepted: it is not valid yet", id="not yet"
    ),
    pytest.param(wrong(groups=None), "no claim groups", id="no groups"),
    pytest.param(wrong(groups=["staff"]), "one: ml-approvers, operators", id="unknown groups"),
    pytest.param(wrong(sub=None), "is not accepted: it lacks a claim", id="no subject"),
    pytest.param(wrong(preferred_username="Jo Bloggs"), "a name here has", id="no name"),
    pytest.param(unsigned, "is not accepted", id="alg none"),
    pytest.param(symmetric, "is not accepted: it is signed by an algorithm", id="alg HS256"),
    pytest.param(
        stolen_name, "is not accepted: its signature does not match", id="another's signature"
    ),
    pytest.param(unknown_key, "is not accepted: its key is not one of", id="unknown key"),
    pytest.param(says_no, "refused: access_denied", id="refused there"),
]


def asks(provider: TestProvider, secret: Path) -> Provider:
    told = IdentityProvider(provider.url, CLIENT, secret, client_secret_file=secret)
    return Provider(told, roles.parse(ROLES, secret), "http://127.0.0.1:8090")


def proven(page: Provider) -> Person:
    """Who the provider says has signed in, there and back."""
    state, attempt = Attempts().begin("somebody", "/")
    back = dict(parse_qsl(urlsplit(back_from(page.authorization_url(state, attempt))).query))
    assert back.pop("state") == state
    answer = AuthorizationResponse(back.get("code", ""), back.get("iss"), back.get("error", ""))
    return page.person(answer, attempt)


@pytest.fixture
def page(provider: TestProvider, tmp_path: Path) -> Provider:
    secret = tmp_path / "client-secret"
    secret.write_text(SECRET)
    return asks(provider, secret)


def test_a_token_in_order_names_a_person(page: Provider, provider: TestProvider) -> None:
    found = proven(page)
    assert found.client.name == "jo.bloggs"
    assert found.client.scopes == {parse_scope("fraud:approve")}
    assert 290 < found.client.until_s - time.time() <= 300


@pytest.mark.parametrize(("spoil", "why"), REFUSALS)
def test_every_wrong_answer_is_refused_with_why(
    page: Provider, provider: TestProvider, spoil: Callable[[TestProvider], None], why: str
) -> None:
    spoil(provider)
    with pytest.raises(Refused, match=why):
        proven(page)


def test_a_code_is_taken_once_and_by_whose_verifier_it_was_asked_for(
    page: Provider, provider: TestProvider
) -> None:
    state, attempt = Attempts().begin("somebody", "/")
    back = dict(parse_qsl(urlsplit(back_from(page.authorization_url(state, attempt))).query))
    answer = AuthorizationResponse(back["code"], back["iss"], "")
    _, other = Attempts().begin("somebody else", "/")
    provider.once = False
    with pytest.raises(Refused, match="invalid_grant"):
        page.person(answer, other)
    with pytest.raises(Refused, match="nonce"):
        page.person(answer, dataclasses.replace(other, verifier=attempt.verifier))
    provider.once = True
    assert page.person(answer, attempt).client.name == "jo.bloggs"
    with pytest.raises(Refused, match="invalid_grant"):
        page.person(answer, attempt)


def test_a_rotated_key_is_fetched_and_a_withdrawn_one_proves_nobody(
    page: Provider, provider: TestProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.observing.page.people.provider.MIN_REFRESH_S", 0.0)
    assert proven(page).client.name == "jo.bloggs"
    provider.keys = [jwk("two", rsa_key("another"))]
    provider.sign = ("two", rsa_key("another"), "RS256")
    assert proven(page).client.name == "jo.bloggs"
    provider.sign = ("one", rsa_key("one"), "RS256")
    with pytest.raises(Refused, match="is not accepted: its key is not one of"):
        proven(page)


DISCOVERY = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        (DISCOVERY, (500, b"", {}), "does not answer"),
        (DISCOVERY, (200, b"no json", {}), "there is no discovery document"),
        (DISCOVERY, (302, b"", {"location": "/elsewhere"}), "does not answer"),
        (DISCOVERY, (200, b" " * 300_000, {}), "more than"),
        ("/token", (500, b"", {}), "does not answer"),
        ("/token", (302, b"", {"location": "/elsewhere"}), "does not answer"),
        ("/token", (200, b"{}", {}), "without a token"),
        ("/token", (200, b" " * 300_000, {}), "more than"),
        ("/jwks", (200, b"{}", {}), "not a JWK Set"),
    ],
)
def test_what_a_provider_answers_is_bounded_and_of_itself(
    page: Provider, provider: TestProvider, path: str, answer: Any, why: str
) -> None:
    provider.documents[path] = answer
    with pytest.raises(Unavailable, match=why):
        proven(page)
    assert "/elsewhere" not in provider.asked


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"issuer": "https://evil.example"}, "is of https://evil.example"),
        ({"token_endpoint": "http://evil.example/token"}, "not an https URL"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "not an https URL"),
        ({"jwks_uri": "file:///etc/passwd"}, "not an https URL"),
        ({"code_challenge_methods_supported": ["plain"]}, "does not offer PKCE with S256"),
    ],
)
def test_a_discovery_document_that_leads_elsewhere_is_not_followed(
    page: Provider, provider: TestProvider, changes: dict[str, Any], why: str
) -> None:
    provider.discovery = changes
    with pytest.raises(Unavailable, match=why):
        proven(page)


@pytest.mark.parametrize("issuer", ["https://evil.example", None])
def test_an_answer_of_another_provider_is_refused(
    page: Provider, provider: TestProvider, issuer: str | None
) -> None:
    provider.returns = {"iss": issuer}
    with pytest.raises(Refused, match="its iss is another one"):
        proven(page)
    assert "/token" not in provider.asked[-2:]


@pytest.fixture
def own(world: World) -> Iterator[PageProcess]:
    """A page of its own for some refusals: ten of one peer make it wait."""
    made = PageProcess(world.home.home, **world.told)
    yield made
    made.close()


def test_what_was_not_begun_in_this_browser_is_refused_and_kept(
    world: World, provider: TestProvider, own: PageProcess
) -> None:
    jo, other = Visitor(own.url), Visitor(own.url)
    url = back_from(to_provider(jo))
    parts = urlsplit(url)
    state = dict(parse_qsl(parts.query))["state"]
    assert other.get(url).status_code == 403, "another browser has no cookie of it"
    to_provider(other)
    assert other.get(url).status_code == 403, "one that began its own has none either"
    assert jo.get(url.replace(state, "made-up")).status_code == 403
    assert jo.get(f"{url}&state={state}").status_code == 400
    assert jo.get("/").status_code == 303, "nobody is signed in"
    to_provider(jo)  # a second tab: the cookie is that of the last one
    assert jo.get(url).status_code == 403
    again = back_from(to_provider(jo))
    assert jo.get(again).status_code == 200
    assert jo.get(again).status_code == 403, "an answer is taken once"
    assert "Signed in as <b>jo.bloggs</b>" in jo.get("/").text
    asked = f"sign in at {provider.url.removeprefix('http://')}"
    assert any(what == asked and "not begun" in why for what, why in world.refused("unknown"))


def test_no_site_keeps_people_from_signing_in_by_leading_their_browsers_here(
    world: World, provider: TestProvider, own: PageProcess
) -> None:
    jo = Visitor(own.url)
    begun = back_from(to_provider(jo))
    for number in range(WRONG + 1):
        assert jo.get(f"/sign-in/return?state={number}&code=x").status_code == 403
    assert jo.get(begun).status_code == 200


def test_who_lacks_a_scope_is_told_of_groups_and_not_of_a_key(
    world: World, provider: TestProvider, visitor: Visits
) -> None:
    jo = visitor()
    signed_in(jo)
    told = jo.get("/models/fraud/act/kill").text
    assert f"No group of jo.bloggs at {provider.url} has scope fraud:operate or fraud:run" in told


def test_a_page_that_browsers_find_by_plain_http_takes_no_sign_in_of_a_provider(
    tmp_path: Path,
) -> None:
    roles_file = tmp_path / "roles.yaml"
    roles_file.write_text(ROLES)
    environment = {
        "MLPLATFORM_HOME": str(tmp_path),
        "MLPLATFORM_SIGN_IN_ISSUER": "https://login.bank.example",
        "MLPLATFORM_SIGN_IN_CLIENT_ID": "page",
        "MLPLATFORM_SIGN_IN_ROLES": str(roles_file),
    }
    for page in ("https://ml.bank.example", "http://127.0.0.1:8090", ""):
        assert provider_of(load({**environment, "MLPLATFORM_PAGE_URL": page})) is not None
    with pytest.raises(ConfigInvalid, match="MLPLATFORM_PAGE_URL"):
        provider_of(load({**environment, "MLPLATFORM_PAGE_URL": "http://page.mlplatform:8090"}))


def test_the_page_answers_to_the_name_that_browsers_make_small(tmp_path: Path) -> None:
    told = {"MLPLATFORM_HOME": str(tmp_path), "MLPLATFORM_PAGE_URL": "https://ML.Bank.example"}
    assert accepted_hosts(load(told)) == ["ml.bank.example"]


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("https://ml.bank.example", "__Host-mlplatform-page-8090"),
        ("http://page.mlplatform:8090", "mlplatform-page-8090"),
        ("", "mlplatform-page-8090"),
    ],
)
def test_by_https_no_other_host_of_the_domain_sets_a_cookie_of_the_page(
    tmp_path: Path, page: str, name: str
) -> None:
    told = {"MLPLATFORM_HOME": str(tmp_path), "MLPLATFORM_PAGE_URL": page}
    settings = load({variable: text for variable, text in told.items() if text})
    assert cookie_of(settings) == name
    line = forms.set_cookie(name, "a", secure=page.startswith("https"), lasts_s=1)
    assert line.startswith(f"{name}=a; ")
    parts = {part.strip().casefold() for part in line.split(";")}
    assert "path=/" in parts
    assert not any(part.startswith("domain=") for part in parts)
    assert ("secure" in parts) == name.startswith("__Host-"), "without it browsers drop the prefix"


def test_a_session_ends_with_the_token_and_where_its_account_is_not_alone_any_more(
    world: World, provider: TestProvider, own: PageProcess
) -> None:
    jo, kim = Visitor(own.url), Visitor(own.url)
    provider.changes = {"exp": int(time.time()) + 2}
    signed_in(jo)
    assert jo.get("/").status_code == 200
    wait(lambda: jo.get("/").status_code == 303, "the token ends, and the session with it")
    provider.person, provider.changes = JO | {"preferred_username": "kim"}, {}
    signed_in(kim)
    assert kim.get("/").status_code == 200
    world.key("kim", "fraud:view")
    wait(lambda: kim.get("/").status_code == 303, "a local kim is known, and the session ends")
    world.revoke("kim")


def test_who_signs_out_is_told_of_the_session_that_goes_on_there(
    world: World, provider: TestProvider, visitor: Visits
) -> None:
    jo = visitor()
    signed_in(jo)
    answer = jo.post("/sign-out", hidden(jo.get("/").text, "/sign-out"))
    assert answer.headers["location"] == "/sign-in?out=1"
    told = jo.get("/sign-in?out=1").text
    assert f"{provider.url}/logout?client_id=page" in told
    assert jo.get("/").status_code == 303
    assert [event["what"] for event in world.sign_ins()[-2:]] == ["in", "out"]


def test_a_provider_that_is_down_leaves_keys_and_says_so(
    world: World, provider: TestProvider, visitor: Visits
) -> None:
    somebody = visitor()
    provider.documents[DISCOVERY] = (503, b"", {})
    answer = somebody.get("/sign-in/provider")
    assert answer.status_code == 503
    assert "cannot be asked now" in answer.text
    assert "A key still signs in" in answer.text
    assert somebody.sign_in("bo", world.keys["bo"]).status_code == 303


def test_nobody_is_led_to_another_site(
    world: World, provider: TestProvider, visitor: Visits
) -> None:
    answer = signed_in(visitor(), "//evil.example/")
    assert 'content="0; url=/"' in answer.text
