"""Who claims say that somebody is, what the file of roles may say, and which sign-ins count."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.observing.page.people import attempts, identity, roles
from mlplatform.observing.page.people.attempts import Attempts
from mlplatform.observing.page.people.identity import Person
from mlplatform.observing.page.people.sessions import NoSession, Session, Sessions
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.runtime.configuration.identity_provider import IdentityProvider
from mlplatform.runtime.errors import ConfigInvalid, Refused
from mlplatform.scoring.admission.clients import Client, parse_scope

FILE = Path("roles.yaml")
TOLD = IdentityProvider("https://login.bank.example", "page", FILE)
ROLES = roles.parse("groups: {a: ['fraud:view'], b: ['*:approve']}\npeople: {'7': ana}", FILE)
CLAIMS: dict[str, Any] = {
    "sub": "1",
    "preferred_username": "jo",
    "groups": ["a", "staff"],
    "exp": 2_000,
}


def person_of(**changes: Any) -> Person:
    return identity.person(CLAIMS | changes, TOLD, ROLES)


def test_a_person_has_the_scopes_of_all_groups_until_the_token_ends() -> None:
    found = person_of(groups=["a", "b", "staff"])
    assert found.client.scopes == set(map(parse_scope, ("fraud:view", "*:approve")))
    assert (found.client.name, found.client.until_s) == ("jo", 2_000.0)


def test_the_files_name_goes_before_the_providers() -> None:
    found = person_of(sub="7", preferred_username="a.smith", email="ana@bank.example")
    assert (found.client.name, found.is_mapped) == ("ana", True)
    assert found.identity == ProvenIdentity(
        issuer=TOLD.url, subject="7", known_as=("a.smith", "ana@bank.example")
    )


@pytest.mark.parametrize(
    "other",
    [("preferred_username", "ana"), ("email", "Ana@x.example"), ("nickname", "An\u0430")],
    ids=["the name", "an address", "a look-alike among other names"],
)
def test_a_name_that_the_file_gives_to_one_subject_is_no_other_subjects(
    other: tuple[str, str],
) -> None:
    with pytest.raises(
        Refused, match=r"gives the name ana to another subject.* Give subject 1 a name"
    ):
        person_of(**dict([other]))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"groups": ["staff"]}, "groups that have one: a, b. Ask for one"),
        ({"groups": []}, "groups that have one: a, b"),
        ({"groups": None}, "MLPLATFORM_SIGN_IN_GROUPS_CLAIM"),
        ({"groups": {"a": 1}}, "no claim groups that lists"),
        ({"groups": ["a", 1]}, "no claim groups that lists"),
        ({"groups": ["x"] * 2_001}, "lists 2001 groups; the most is 2000"),
        ({"sub": ""}, "names no subject"),
        ({"sub": "\u0430"}, "names no subject"),
        ({"sub": "1" * 256}, "names no subject"),
        ({"preferred_username": None}, "preferred_username is not there"),
        ({"preferred_username": "j\u043e"}, "a name here has letters from a to z"),
        ({"preferred_username": "oidc:jo"}, "a name here has letters from a to z"),
        ({"preferred_username": "jo@a@b"}, "gives subject 1 a name under people"),
    ],
)
def test_claims_that_name_nobody_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        person_of(**changes)


@given(st.dictionaries(st.sampled_from([*CLAIMS, "email", "name"]), st.from_type(object)))
def test_no_claims_but_a_mapped_group_give_a_scope(changes: dict[str, Any]) -> None:
    try:
        found = person_of(**(changes | {"exp": 2_000}))
    except Refused:
        return
    allowed = ROLES.groups["a"] | ROLES.groups["b"]
    assert found.client.scopes
    assert found.client.scopes <= allowed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("groups: {}", "1 to 500 groups"),
        ("people: {}", "keys groups and people"),
        ("groups: {a: ['fraud:view']}\nroles: {}", "keys groups and people"),
        ("groups: {a: fraud:view}", "groups.a is 'fraud:view'"),
        ("groups: {a: []}", r"groups.a is \[\]"),
        ("groups: {a: ['fraud:score']}", "wanted: a list of scopes of people"),
        ("groups: {a: ['*:*']}", "wanted: a list of scopes of people"),
        ("groups: {a: ['fraud:view']}\npeople: {'1': 'Ana B'}", "people.1 is 'Ana B'"),
        ("groups: {a: ['fraud:view']}\npeople: {'1': ana, '2': ana}", "'ana' for several"),
        ("groups: {a: ['fraud:view'], a: ['fraud:run']}", "twice"),
        ("groups: [", "YAML"),
    ],
)
def test_a_file_of_roles_with_a_mistake_is_refused_by_its_key(text: str, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        roles.parse(text, FILE)


def test_a_file_of_roles_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="MLPLATFORM_SIGN_IN_ROLES"):
        roles.read(tmp_path / "none.yaml")


def test_a_challenge_is_the_verifiers_digest() -> None:
    """Source: RFC 7636 appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    found = attempts.Attempt("c", "p", "n", verifier, "/", 0.0)
    assert found.challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    _, made = Attempts().begin("p", "/")
    assert len(base64.urlsafe_b64decode(made.verifier + "=")) == 32
    assert hashlib.sha256(made.verifier.encode()).digest() == base64.urlsafe_b64decode(
        made.challenge + "="
    )


def test_a_sign_in_counts_once_for_its_browser_and_peer_and_ends() -> None:
    now_s = [0.0]
    kept = Attempts(lambda: now_s[0])
    state, begun = kept.begin("uid 1", "/a")
    assert kept.take(state, begun.cookie, "uid 2") is None
    assert kept.take(state, "another", "uid 1") is None
    assert kept.take("another", begun.cookie, "uid 1") is None
    assert kept.take(state, begun.cookie, "uid 1") == begun
    assert kept.take(state, begun.cookie, "uid 1") is None
    state, begun = kept.begin("uid 1", "/a")
    now_s[0] += attempts.LASTS_S
    assert kept.take(state, begun.cookie, "uid 1") is None


def test_a_peer_that_begins_any_number_of_sign_ins_ends_only_its_own() -> None:
    kept = Attempts()
    state, begun = kept.begin("uid 1", "/")
    for _ in range(2 * attempts.MOST):
        kept.begin("uid 2", "/")
    assert kept.take(state, begun.cookie, "uid 1") == begun


def test_a_session_ends_with_the_token_whatever_happens_in_it() -> None:
    now_s = [0.0]
    kept = Sessions(lambda: now_s[0])
    client = Client("jo", frozenset(), "standard", None, until_s=100.0)
    proven = ProvenIdentity(issuer="https://login.bank.example", subject="1")
    cookie = kept.begin("jo", b"", "uid 1", Person(client, proven, is_mapped=False))
    now_s[0] = 99.0
    assert isinstance(kept.find(cookie, "uid 1"), Session)
    now_s[0] = 100.0
    found = kept.find(cookie, "uid 1")
    assert isinstance(found, NoSession)
    assert "token has expired" in found.why
