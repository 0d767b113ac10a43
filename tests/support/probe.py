"""Asking a loopback server over and over, until it is up."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

_CLIENT = httpx.Client(
    verify=False,  # no TLS on loopback, and reading certificates takes 30 ms of CPU a client
    timeout=2.0,
    limits=httpx.Limits(max_keepalive_connections=0),
)


def status_of(url: str, headers: Mapping[str, str] | None = None) -> int:
    """What a GET is answered with; 0 when nobody answers."""
    try:
        return _CLIENT.get(url, headers=headers).status_code
    except httpx.TransportError:
        return 0
