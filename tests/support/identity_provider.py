"""An OpenID Connect provider on this machine: real keys over a real socket, and any wrong answer.

It asks nobody for a password: who signs in is what `person` says. Codes are taken once, by the
client that they were given to, with its secret and the verifier of its PKCE challenge.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import jwt

from support.issuer import jwk, rsa_key

CLIENT, SECRET = "page", "s3cret of the page"


@dataclass
class CodeGrant:
    """What a code stands for."""

    redirect_uri: str
    challenge: str
    nonce: str


@dataclass
class TestProvider:
    """What it says can be changed while it runs.

    Args:
        person: claims of who signs in next; None leaves one out.
        changes: claims that replace what a token should have.
        sign: key id, key and algorithm of tokens.
        documents: answers by path that replace its own: status, body, headers.
        once: codes are taken once.
        returns: parameters that replace those of its redirect back; None leaves one out.
    """

    __test__ = False

    url: str
    person: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    sign: tuple[str, Any, str] = field(default_factory=lambda: ("one", rsa_key("one"), "RS256"))
    keys: list[dict[str, Any]] = field(default_factory=lambda: [jwk("one", rsa_key("one"))])
    discovery: dict[str, Any] = field(default_factory=dict)
    documents: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    returns: dict[str, str | None] = field(default_factory=dict)
    once: bool = True
    asked: list[str] = field(default_factory=list)
    _codes: dict[str, CodeGrant] = field(default_factory=dict)

    def environment(self, folder: Path, roles: str) -> dict[str, str]:
        """The variables that name it, and the files that they name, in a folder."""
        file, secret = folder / "roles.yaml", folder / "client-secret"
        file.write_text(roles)
        secret.write_text(SECRET)
        secret.chmod(0o600)
        names = {
            "ISSUER": self.url,
            "CLIENT_ID": CLIENT,
            "ROLES": str(file),
            "CLIENT_SECRET_FILE": str(secret),
        }
        return {f"MLPLATFORM_SIGN_IN_{name}": value for name, value in names.items()}

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "end_session_endpoint": f"{self.url}/logout",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        } | self.discovery

    def authorize(self, asked: dict[str, str]) -> str:
        """Where a browser is sent that asks for a code."""
        assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        given = CodeGrant(asked["redirect_uri"], asked["code_challenge"], asked["nonce"])
        self._codes[code] = given
        back: dict[str, str | None] = {"code": code, "state": asked["state"], "iss": self.url}
        back |= self.returns
        kept = {name: value for name, value in back.items() if value is not None}
        return f"{asked['redirect_uri']}?{urlencode(kept)}"

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        if tuple(map(unquote_plus, pair.split(":"))) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        code = form["code"]
        given = self._codes.pop(code, None) if self.once else self._codes.get(code)
        hashed = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
        if given is None or (given.redirect_uri, given.challenge) != (
            form["redirect_uri"],
            challenge,
        ):
            return 400, {"error": "invalid_grant", "error_description": "no such code"}
        return 200, {"id_token": self.token(given.nonce), "token_type": "Bearer"}

    def token(self, nonce: str) -> str:
        kid, key, algorithm = self.sign
        now_s = int(time.time())
        claims = {
            **{"iss": self.url, "aud": CLIENT, "exp": now_s + 300, "iat": now_s, "nonce": nonce},
            **self.person,
            **self.changes,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, key, algorithm, headers={"kid": kid})

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path in self.documents:
            return self.documents[path]
        if path == "/.well-known/openid-configuration":
            return 200, json.dumps(self.metadata()).encode(), {}
        if path == "/jwks":
            return 200, json.dumps({"keys": self.keys}).encode(), {}
        return 404, b"", {}


@contextmanager
def identity_provider(host: str = "127.0.0.1") -> Iterator[TestProvider]:
    """One that runs.

    Args:
        host: `localhost`: to a browser, another site than a page of 127.0.0.1.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.asked.append(parts.path)
            if parts.path == "/authorize":
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._say(303, b"", {"location": provider.authorize(asked)})
            else:
                self._say(*provider.answer(parts.path))

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            if self.path in provider.documents:
                self._say(*provider.documents[self.path])
                return
            form = {name: values[0] for name, values in parse_qs(body).items()}
            status, said = provider.redeem(form, self.headers.get("authorization", ""))
            self._say(status, json.dumps(said).encode(), {})

        def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = TestProvider(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
