"""What both clients share on the way to the wire: settings, headers, and how an attempt ends."""

from __future__ import annotations

import random
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, TypedDict

import httpx
import msgspec

from mlplatform_client.access import address, bearer, is_loopback, positive_s
from mlplatform_client.errors import CallFailed, refused, refused_as
from mlplatform_client.exchange import NoReply, Outcome, Reply
from mlplatform_client.steps import Retries
from mlplatform_client.version import __version__

JITTER: Final = random.SystemRandom()
"""Of the system: processes that were forked draw differently."""
UNREACHED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
FAILED: Final = (httpx.TransportError, httpx.InvalidURL, UnicodeError)
"""What an attempt ends with; but for the first, an address in an answer that can be none."""

OnRetry = Callable[[CallFailed, float], None]
"""Is told of each further attempt: why, and after how many seconds."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a client keeps to, whichever way it sends.

    Args:
        deadline_s: of a call with all its attempts, seconds, where the call names none.
        retries: how often and how soon a request is sent again.
        most_bytes: of one answer.
        connections: at once, at the most; further calls wait for one.
        verify: whether, or by which context, the certificate of the gateway is checked.
        on_retry: is told of each further attempt, in the thread or task of the call.
    """

    deadline_s: float = 10.0
    retries: Retries = Retries()
    most_bytes: int = 8 * 1024 * 1024
    connections: int = 20
    verify: ssl.SSLContext | bool = True
    on_retry: OnRetry | None = None

    def __post_init__(self) -> None:
        positive_s("client", "deadline_s", self.deadline_s)
        if self.most_bytes < 1:
            raise refused("client", "most_bytes", self.most_bytes, "1 or more")
        if self.connections < 1:
            raise refused("client", "connections", self.connections, "1 or more")


class HttpxArguments(TypedDict):
    """Of both classes of httpx."""

    base_url: str
    headers: dict[str, str]
    cookies: CookieJar
    verify: ssl.SSLContext | bool
    limits: httpx.Limits
    follow_redirects: bool
    trust_env: bool


def httpx_arguments(base_url: str, api_key: str, settings: Settings) -> HttpxArguments:
    """How httpx is set up. The key is in its headers alone, which httpx shows as `[secure]`.

    Raises:
        InputRefused: the address or the key can't be one.
    """
    return {
        "base_url": _reachable(address(base_url)),
        "headers": {
            "authorization": bearer(api_key),
            "accept": "application/json, application/problem+json",
            # as they are: what an answer unpacks to is bounded by nothing
            "accept-encoding": "identity",
            "user-agent": f"mlplatform-client/{__version__}",
        },
        # an answer leaves nothing behind that the next request would bear
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
        "verify": settings.verify,
        "limits": httpx.Limits(max_connections=settings.connections),
        # another address would get the key
        "follow_redirects": False,
        # what runs on this machine is behind no proxy
        "trust_env": not is_loopback(base_url),
    }


def _reachable(base_url: str) -> str:
    """The address, if its host has a name that can be looked up."""
    try:
        httpx.URL(base_url).host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        wanted = "an address like https://scoring.bank.example"
        raise refused("client", "base_url", base_url, wanted) from error
    return base_url


def check_open(call: str, *, is_closed: bool) -> None:
    """Raises InputRefused: the client was closed."""
    if is_closed:
        raise refused_as(call, "client", "closed", "an open one")


def own_key(key: str | None) -> str:
    """The idempotency key of a call: the application's, or a new one."""
    return secrets.token_hex(16) if key is None else key


def own_keys(keys: Sequence[str] | None, count: int) -> Sequence[str]:
    """Those of a batch of so many requests."""
    return [secrets.token_hex(16) for _ in range(count)] if keys is None else keys


class RemainingTimeouts(dict[str, float]):
    """The timeouts of one attempt, each what is left of it when httpx begins to wait.

    Args:
        until_s: when the attempt is over, on the monotonic clock.
    """

    def __init__(self, until_s: float) -> None:
        super().__init__()
        self._until_s = until_s

    def get(self, name: str, default: object = None) -> float:
        """Seconds, more than 0: a socket takes 0 for another mode."""
        return max(self._until_s - time.monotonic(), 0.001)


def no_reply(error: Exception) -> NoReply:
    """What one of `FAILED` says of the attempt."""
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, httpx.PoolTimeout):
        return NoReply("unreached", "no connection was free in time; `connections` allows more")
    if isinstance(error, UNREACHED):
        return NoReply("unreached", f"the gateway is not reached: {message}")
    if isinstance(error, httpx.TimeoutException):
        return late(message)
    if not isinstance(error, httpx.TransportError):
        return NoReply("broken", f"the answer can't be read: {message}")
    return NoReply("broken", f"the connection ended before the answer: {message}")


def late(message: str = "") -> NoReply:
    """The attempt that was given up."""
    return NoReply("late", f"no whole answer in time{': ' if message else ''}{message}")


@dataclass(slots=True)
class Body:
    """The bytes of one answer, up to a limit."""

    most_bytes: int
    content: bytearray

    def take(self, chunk: bytes) -> NoReply | None:
        """Add a chunk; what the attempt ends with where it is too much."""
        if len(self.content) + len(chunk) > self.most_bytes:
            return NoReply("oversized", f"the answer has more than {self.most_bytes} bytes")
        self.content += chunk
        return None

    def whole(self, response: httpx.Response) -> Outcome:
        """The outcome of an answer that is here already."""
        too_much = self.take(response.content)
        return too_much or self.reply(response.status_code, response.headers)

    def reply(self, status: int, headers: Mapping[str, str]) -> Reply:
        """The whole answer."""
        return Reply(status, {k.lower(): v for k, v in headers.items()}, bytes(self.content))


def body(most_bytes: int) -> Body:
    """An empty one."""
    return Body(most_bytes, bytearray())
