"""Tokens of an OpenID Connect issuer: whom they prove, and why they are not accepted."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from mlplatform.runtime.configuration.issuer import Issuer
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission import jwks as jwks_module
from mlplatform.scoring.admission import tokens as tokens_module
from mlplatform.scoring.admission.clients import Client, Scope
from mlplatform.scoring.admission.jwks import IssuerKeys, fetch_json
from mlplatform.scoring.admission.tokens import REFUSALS, IssuerTokens, KeysAndTokens
from support.issuer import LocalIssuer, jwk, local_issuer, rsa_key
from support.scoring_world import ScoringWorld, payment, wait_for


@dataclass
class World:
    """Tokens of a real issuer; `refused` has the reasons in order."""

    issuer: LocalIssuer
    keys: IssuerKeys
    tokens: IssuerTokens
    refused: list[str] = field(default_factory=list)

    def client(self, token: bytes) -> Client | None:
        return self.tokens.client(token, hashlib.sha256(token).digest())

    def why(self, token: bytes) -> str:
        """Why a token was not accepted."""
        assert self.client(token) is None
        assert self.refused[-1] in REFUSALS
        return self.refused[-1]


def world_over(given: LocalIssuer, **changes: Any) -> World:
    keys = IssuerKeys(given.settings, lambda succeeded: None, **changes)
    refused: list[str] = []
    return World(given, keys, IssuerTokens(given.settings, keys, refused.append), refused)


@pytest.fixture
def world() -> Iterator[World]:
    with local_issuer() as given:
        made = world_over(given)
        made.keys.refresh()
        yield made


def encoded(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> bytes:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def test_a_token_proves_its_client_with_the_scopes_that_mean_something_here(world: World) -> None:
    exp = int(time.time()) + 100
    client = world.client(world.issuer.token(exp=exp))
    assert client is not None
    assert client.name == "oidc:shop"
    assert client.scopes == {Scope("fraud", "score"), Scope("fraud", "read")}
    assert client.until_s == exp + 30
    assert world.refused == []


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa_key("one"), "RS256"),
        (rsa_key("one"), "PS512"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_every_asymmetric_kind_of_key_verifies(world: World, key: Any, algorithm: str) -> None:
    world.issuer.keys = [jwk("k", key)]
    world.keys.refresh()
    assert world.client(world.issuer.token(key, "k", algorithm)) is not None


def test_scopes_may_be_a_list_and_other_claims_may_name_the_client() -> None:
    with local_issuer() as given:
        settings = replace(given.settings, client_claim="azp", scopes_claim="permissions")
        keys = IssuerKeys(settings, lambda succeeded: None)
        keys.refresh()
        tokens = IssuerTokens(settings, keys, lambda why: None)
        token = given.token(azp="till", permissions=["fraud:score", 7, "a b:score", "fraud:fly"])
        client = tokens.client(token, b"digest")
        assert client is not None
        assert (client.name, client.scopes) == ("oidc:till", {Scope("fraud", "score")})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"nbf": int(time.time()) + 86_400}, "not-yet"),
        ({"iat": int(time.time()) + 86_400}, "not-yet"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["another", "third"]}, "audience"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"exp": None}, "claims"),
        ({"aud": None}, "claims"),
        ({"iss": None}, "claims"),
        ({"exp": float("inf")}, "malformed"),
        ({"exp": 10**400}, "invalid"),
        ({"exp": "soon"}, "malformed"),
        ({"client_id": None}, "client-name"),
        ({"client_id": "a/b"}, "client-name"),
        ({"client_id": "oidc:shop"}, "client-name"),
        ({"client_id": "ann@example.org"}, "client-name"),
        ({"client_id": ["shop"]}, "client-name"),
    ],
)
def test_a_signed_token_with_a_wrong_claim_proves_nobody(
    world: World, changes: dict[str, Any], why: str
) -> None:
    assert world.why(world.issuer.token(**changes)) == why


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", None])
def test_an_access_token_says_so_or_says_nothing(world: World, typ: str | None) -> None:
    assert world.client(world.issuer.token(typ=typ)) is not None


@pytest.mark.parametrize(
    "typ", ["logout+jwt", "dpop+jwt", "secevent+jwt", "application/logout+jwt", "JOSE", 7, ["JWT"]]
)
def test_another_kind_of_token_with_the_same_signature_proves_nobody(
    world: World, typ: Any
) -> None:
    """What an issuer signs to log somebody out has the same key, and may have the same claims."""
    assert world.why(world.issuer.token(typ=typ)) == "kind"


def test_an_audience_among_others_is_ours(world: World) -> None:
    assert world.client(world.issuer.token(aud=["another", "scoring"])) is not None


def test_clocks_may_differ_by_the_leeway(world: World) -> None:
    now_s = int(time.time())
    assert world.client(world.issuer.token(exp=now_s - 10, nbf=now_s + 10)) is not None


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
def test_a_token_without_a_signature_proves_nobody(world: World, name: str) -> None:
    claims = world.issuer.claims()
    assert world.why(encoded({"alg": name, "kid": "one"}, claims)) == "algorithm"
    assert world.why(encoded({"alg": name}, claims)) == "unknown-key"


def test_a_token_signed_with_the_public_key_as_a_shared_secret_proves_nobody(world: World) -> None:
    public = rsa_key("one").public_key()
    for form in (serialization.Encoding.PEM, serialization.Encoding.DER):
        secret = public.public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo)
        body = encoded({"alg": "HS256", "kid": "one"}, world.issuer.claims()).rstrip(b".")
        signature = hmac.new(secret, body, hashlib.sha256).digest()
        token = body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
        assert world.why(token) == "algorithm"


def test_a_shared_secret_in_the_key_set_is_no_key(world: World) -> None:
    secret = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
    world.issuer.keys = [{"kty": "oct", "kid": "k", "k": secret, "alg": "HS256"}]
    world.keys.refresh()
    assert world.why(world.issuer.token(b"s" * 32, "k", "HS256")) == "unknown-key"


@pytest.mark.parametrize(
    "entry",
    [
        jwk("k", rsa_key("one"), use="enc"),
        jwk("k", rsa_key("short", 1024)),
        jwk("k", rsa_key("one"), alg="ES256"),
        {"kty": "RSA", "kid": "k", "n": "AQ", "e": "!"},
        {"kty": "EC", "kid": "k", "crv": "P-256", "x": "AQ", "y": "AQ"},
        {"kty": "RSA", "kid": 7},
        "no key",
    ],
)
def test_a_key_that_is_not_for_this_is_passed_over_and_its_neighbour_counts(
    world: World, entry: Any
) -> None:
    world.issuer.keys = [entry, jwk("one", rsa_key("one"))]
    world.keys.refresh()
    assert list(world.keys.current) == ["one"]
    assert world.client(world.issuer.token()) is not None


def test_a_key_with_a_named_algorithm_verifies_no_other(world: World) -> None:
    world.issuer.keys = [jwk("one", rsa_key("one"), alg="RS256")]
    world.keys.refresh()
    assert world.client(world.issuer.token()) is not None
    assert world.why(world.issuer.token(algorithm="RS512")) == "algorithm"


def test_another_key_under_a_known_name_proves_nobody(world: World) -> None:
    assert world.why(world.issuer.token(rsa_key("other"))) == "signature"


def test_a_changed_claim_breaks_the_signature(world: World) -> None:
    head, _, signature = world.issuer.token().split(b".")
    claims = json.dumps(world.issuer.claims(scope="*:*")).encode()
    body = base64.urlsafe_b64encode(claims).rstrip(b"=")
    assert world.why(b".".join((head, body, signature))) == "signature"


def test_keys_that_a_token_brings_along_or_points_to_are_not_looked_at(world: World) -> None:
    own = rsa_key("other")
    header = {"alg": "RS256", "kid": "evil", "jku": f"{world.issuer.url}/evil"}
    header |= {"jwk": jwk("evil", own), "x5u": f"{world.issuer.url}/evil"}
    assert world.why(encoded(header, world.issuer.claims(), b"s" * 256)) == "unknown-key"
    assert "/evil" not in world.issuer.asked


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (b"..", "malformed"),
        (b"a.b.c", "malformed"),
        (b"\xff.\xff.\xff", "malformed"),
        (base64.urlsafe_b64encode(b"[" * 6000).rstrip(b"=") + b".e30.AA", "malformed"),
        (base64.urlsafe_b64encode(b"[" * 3000).rstrip(b"=") + b".e30.AA", "malformed"),
        (encoded([], {}), "malformed"),  # type: ignore[arg-type]
        (encoded({"alg": "RS256", "kid": {"a": 1}}, {}), "malformed"),
        (encoded({"alg": "RS256", "kid": "one", "crit": ["x"]}, {}), "invalid"),
        (b"a" * 8190 + b".b.c", "too-long"),
    ],
)
def test_what_is_no_token_proves_nobody_and_raises_nothing(
    world: World, token: bytes, why: str
) -> None:
    if why == "malformed":
        assert world.why(token) in ("malformed", "too-long", "unknown-key")
    else:
        assert world.why(token) in (why, "malformed", "claims")


def test_a_secret_that_looks_like_no_token_costs_nothing(world: World) -> None:
    assert world.client(b"mlp_secret") is None
    assert world.refused == []


def test_a_verified_token_is_kept_until_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = int(time.time()) + 5
    token = world.issuer.token(exp=exp)
    first = world.client(token)
    assert first is not None
    assert world.client(token) is first
    monkeypatch.setattr(tokens_module.time, "time", lambda: exp + 31.0)
    assert world.why(token) == "expired"


def test_kept_tokens_are_bounded_and_refused_ones_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "MAX_KEPT", 3)
    good = [world.issuer.token(jti=str(number)) for number in range(5)]
    for token in [*good, world.issuer.token(aud="another")]:
        world.client(token)
    assert len(world.tokens._verified) == 3
    assert all(world.client(token) is not None for token in good)


def test_a_withdrawn_key_ends_the_tokens_that_it_signed(world: World) -> None:
    token = world.issuer.token()
    assert world.client(token) is not None
    world.issuer.keys = [jwk("two", rsa_key("other"))]
    world.keys.refresh()
    assert world.why(token) == "unknown-key"
    assert world.client(world.issuer.token(rsa_key("other"), "two")) is not None


def test_keys_stay_while_the_issuer_is_down_and_a_kept_token_goes_on(world: World) -> None:
    for answer in [(500, b"", {}), (200, b"<html>", {}), (200, b'{"keys": 1}', {})]:
        world.issuer.answers["/jwks"] = answer
        with pytest.raises(Unavailable):
            world.keys.refresh()
        assert world.client(world.issuer.token(jti=str(answer))) is not None


def test_keys_are_not_taken_from_where_a_redirect_points_nor_without_bound(world: World) -> None:
    other = json.dumps({"keys": [jwk("evil", rsa_key("other"))]}).encode()
    world.issuer.answers["/evil"] = (200, other, {})
    world.issuer.answers["/jwks"] = (302, b"", {"location": f"{world.issuer.url}/evil"})
    with pytest.raises(Unavailable):
        world.keys.refresh()
    assert "/evil" not in world.issuer.asked
    world.issuer.answers["/jwks"] = (200, b'{"keys":[' + b" " * 300_000 + b"]}", {})
    with pytest.raises(Unavailable, match="more than"):
        world.keys.refresh()
    assert list(world.keys.current) == ["one"]


@contextlib.contextmanager
def dripping(head: bytes, drop: bytes, every_s: float) -> Iterator[str]:
    """A server that answers without end, a little at a time."""

    def drip() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(head)
                while not is_over.wait(every_s):
                    connection.sendall(drop)

    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/jwks"
        finally:
            is_over.set()
            thread.join(10)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        pytest.param(OK + b"content-length: 1000\r\n\r\n", b" ", id="in its body"),
        pytest.param(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="in chunks"),
        pytest.param(OK + b"a: ", b"b", id="in its head"),
    ],
)
def test_an_answer_that_drips_is_given_up_once_its_time_is_over(
    head: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read gets a byte in time; all of them together do not."""
    monkeypatch.setattr(jwks_module, "FETCH_S", 0.5)
    with dripping(head, drop, every_s=0.05) as url:
        start_s = time.monotonic()
        with pytest.raises(Unavailable, match=r"longer than 0\.5 s|timed out"):
            fetch_json(url)
        assert 0.4 < time.monotonic() - start_s < 10


def test_an_answer_is_bounded_with_its_head_and_what_a_coding_adds() -> None:
    chunk = b"1;" + b"x" * 32_000 + b"\r\n \r\n"
    with (
        dripping(OK + b"transfer-encoding: chunked\r\n\r\n", chunk, every_s=0.001) as url,
        pytest.raises(Unavailable, match="more than"),
    ):
        fetch_json(url)


def test_of_an_answers_own_words_little_is_repeated() -> None:
    head = b"HTTP/1.1 500 " + b"x" * 40_000 + b"\r\n\r\n"
    with dripping(head, b" ", every_s=0.05) as url, pytest.raises(Unavailable) as raised:
        fetch_json(url)
    assert len(str(raised.value)) < 400


def test_before_the_first_keys_a_caller_is_told_to_come_back() -> None:
    with local_issuer() as given:
        world = world_over(given)
        with pytest.raises(Problem) as caught:
            world.client(given.token())
        assert (caught.value.status, caught.value.name) == (503, "issuer-keys-awaited")
        assert given.asked == {}


def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    with local_issuer() as given:
        world = world_over(given, min_refresh_s=0.05)
        world.keys.start()
        try:
            wait_for(lambda: world.keys.current)
            given.keys.append(jwk("two", rsa_key("other")))
            token = given.token(rsa_key("other"), "two")

            def proven() -> bool:
                try:
                    return world.client(token) is not None
                except Problem:
                    return False

            wait_for(proven)
        finally:
            world.keys.stop()


def test_a_flood_of_unknown_keys_makes_few_fetches_and_each_is_answered_at_once() -> None:
    with local_issuer() as given:
        world = world_over(given, min_refresh_s=0.2)
        world.keys.start()
        try:
            wait_for(lambda: world.keys.current)
            start_s, count = time.monotonic(), 0
            while time.monotonic() - start_s < 1.0:
                count += 1
                token = encoded({"alg": "RS256", "kid": f"k{count}"}, {}, b"s")
                with contextlib.suppress(Problem):
                    assert world.client(token) is None
            took_s = time.monotonic() - start_s
        finally:
            world.keys.stop()
        assert count > 200
        assert 1 < given.asked["/jwks"] <= 2 + took_s / 0.2
        assert world.client(given.token()) is not None


def test_discovery_says_where_the_keys_are_and_another_issuers_document_counts_not() -> None:
    with local_issuer() as given:
        settings = replace(given.settings, jwks_url="")
        keys = IssuerKeys(settings, lambda succeeded: None)
        keys.refresh()
        assert list(keys.current) == ["one"]
        path = "/.well-known/openid-configuration"
        for document in (
            {"issuer": "https://elsewhere.example", "jwks_uri": f"{given.url}/jwks"},
            {"issuer": given.url, "jwks_uri": "http://keys.example/jwks"},
            {"issuer": given.url},
        ):
            given.answers[path] = (200, json.dumps(document).encode(), {})
            with pytest.raises(Unavailable):
                keys.refresh()


def test_a_key_is_asked_before_a_token(world: World) -> None:
    known = Client("shop", frozenset(), "critical", None)

    class Keys:
        def client(self, secret: bytes, digest: bytes) -> Client | None:
            return known if secret == b"mlp_a" else None

    both = KeysAndTokens(Keys(), world.tokens)
    assert both.client(b"mlp_a", b"") is known
    assert both.client(b"mlp_b", b"") is None
    proven = both.client(world.issuer.token(), b"d")
    assert proven is not None
    assert proven.name == "oidc:shop"


SET = {"MLPLATFORM_OIDC_ISSUER": "https://id.example", "MLPLATFORM_OIDC_AUDIENCE": "scoring"}


def test_without_variables_no_token_is_taken_and_settings_read_back() -> None:
    assert load({}).oidc is None
    assert load(dict.fromkeys(SET, "")).oidc is None
    found = load(SET).oidc
    assert found == Issuer("https://id.example", "scoring")
    assert load(load(SET).environment()).oidc == found


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ISSUER", ""),
        ("ISSUER", "http://id.example"),
        ("ISSUER", "https://"),
        ("ISSUER", "https://user@id.example"),
        ("ISSUER", "file:///etc/passwd"),
        ("AUDIENCE", " "),
        ("JWKS_URL", "http://id.example/jwks"),
        ("CLIENT_CLAIM", "a b"),
        ("SCOPES_CLAIM", "ä"),
    ],
)
def test_a_setting_that_cannot_be_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load({**SET, f"MLPLATFORM_OIDC_{variable}": value})
    assert caught.value.key == f"MLPLATFORM_OIDC_{variable}"


def test_a_running_gateway_takes_keys_and_tokens_and_counts_what_it_refuses(tmp_path: Path) -> None:
    with local_issuer() as given:
        world = ScoringWorld(tmp_path)
        try:
            world.promote(world.deploy(1))
            world.start_gateway(**given.environment)
            url = f"{world.url}/api/v1/models/fraud/score"

            def status(token: bytes) -> int:
                headers = {"Authorization": f"Bearer {token.decode()}"}
                return httpx.post(url, json=payment(), headers=headers).status_code

            wait_for(lambda: status(given.token()) == 200)
            assert httpx.post(url, json=payment(), headers=world.headers).status_code == 200
            assert status(given.token(scope="fraud:read")) == 403
            assert status(given.token(aud="another")) == 401
            assert status(encoded({"alg": "none", "kid": "one"}, given.claims())) == 401
            names = Counter(row["payload"]["client"] for row in world.records("decision"))
            assert names == {"oidc:shop": 1, "default": 1}
            text = httpx.get(f"{world.url}/metrics", headers=world.headers).text
            for line in (
                'mlplatform_gateway_tokens_refused_total{reason="audience"} 1.0',
                'mlplatform_gateway_tokens_refused_total{reason="algorithm"} 1.0',
                'mlplatform_gateway_issuer_key_fetches_total{outcome="fetched"} 1.0',
            ):
                assert line in text
        finally:
            world.close()
