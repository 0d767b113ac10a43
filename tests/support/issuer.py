"""An OpenID Connect issuer on this machine: real keys, a real server for them, tokens by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mlplatform.runtime.configuration.issuer import Issuer

AUDIENCE = "scoring"


@lru_cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key for each name: making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk(kid: str, key: Any, **more: str) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        found = OKPAlgorithm.to_jwk(public, as_dict=True)
    return dict(found) | {"kid": kid, **more}


@dataclass
class LocalIssuer:
    """What it answers can be changed while it runs; `asked` counts requests by path."""

    url: str
    keys: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    @property
    def settings(self) -> Issuer:
        return Issuer(self.url, AUDIENCE, f"{self.url}/jwks")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name it."""
        names = ("ISSUER", self.url), ("AUDIENCE", AUDIENCE), ("JWKS_URL", f"{self.url}/jwks")
        return {f"MLPLATFORM_OIDC_{name}": value for name, value in names}

    def body(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.asked[path] = self.asked.get(path, 0) + 1
        if path in self.answers:
            return self.answers[path]
        if path == "/jwks":
            return 200, json.dumps({"keys": self.keys}).encode(), {}
        if path == "/.well-known/openid-configuration":
            document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
            return 200, json.dumps(document).encode(), {}
        return 404, b"", {}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Of a token that is in order; None leaves a claim out."""
        now_s = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "exp": now_s + 300,
            "iat": now_s,
            "client_id": "shop",
            "scope": "openid fraud:score fraud:read",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        key: Any = None,
        kid: str = "one",
        algorithm: str = "RS256",
        *,
        typ: Any = "at+jwt",
        **claims: Any,
    ) -> bytes:
        """Args: typ: None leaves it out."""
        key = rsa_key("one") if key is None else key
        headers = {"kid": kid, "typ": typ}
        return jwt.encode(self.claims(**claims), key, algorithm, headers=headers).encode()


@contextmanager
def local_issuer() -> Iterator[LocalIssuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = issuer.body(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = LocalIssuer(f"http://127.0.0.1:{server.server_port}", [jwk("one", rsa_key("one"))])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
