"""Posts to receivers by HTTPS, each within a few seconds, whatever the answer."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

import httpx

from mlplatform.observing.events.addresses import refusal
from mlplatform.observing.events.messages import Message, message
from mlplatform.observing.events.receivers import Receiver
from mlplatform.observing.events.retries import retry_after_s
from mlplatform.rollouts.events.event import CloudEvent
from mlplatform.runtime.configuration.kinds import names_loopback
from mlplatform.runtime.errors import ConfigInvalid

SEND_S: Final = 10.0
"""Longest time of an attempt in seconds, from the look-up of the name to the head of the answer."""
MOST_ADDRESSES: Final = 4
MOST_ERROR: Final = 200
"""Most characters of an error's text, part of which may come from the receiver."""
GONE: Final = 410
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class DeliverySuccess:
    """The receiver answered 2xx."""


@dataclass(frozen=True, slots=True)
class DeliveryFailure:
    """The delivery failed; `asked_s` is after how many seconds the receiver wants to be asked
    again."""

    why: str
    asked_s: float | None = None


@dataclass(frozen=True, slots=True)
class GoneReceiver:
    """The receiver answered 410, and wants no more events."""

    why: str = "answered 410 Gone: it takes no more events"


Outcome = DeliverySuccess | DeliveryFailure | GoneReceiver


class Sender(Protocol):
    """The way in which events reach a receiver."""

    async def send(self, receiver: Receiver, event: CloudEvent) -> Outcome:
        """Attempt one delivery. The event may have reached the receiver even if a failure is
        returned."""
        ...


class HttpSender:
    """`Sender` over httpx: one connection for each attempt, no redirect, proxy or cookie.

    A name is looked up once, and the connection goes to an address that was checked. Only the head
    of an answer is read.

    Args:
        send_s: seconds for one whole attempt.
    """

    def __init__(self, send_s: float = SEND_S) -> None:
        self._send_s = send_s
        self._contexts: dict[str, ssl.SSLContext] = {}
        for name in ("httpx", "httpcore"):  # they log urls, and Slack's is a secret
            logging.getLogger(name).setLevel(logging.WARNING)

    async def send(self, receiver: Receiver, event: CloudEvent) -> Outcome:
        try:
            made = message(receiver, event, int(time.time()))
            url = urlsplit(receiver.address())
            async with asyncio.timeout(self._send_s):
                return await self._post(receiver, url, made)
        except TimeoutError:
            return DeliveryFailure(f"no answer within {self._send_s:g} s")
        except (httpx.InvalidURL, UnicodeError):
            return DeliveryFailure("its url can't be asked")  # its error may hold the url
        except (httpx.HTTPError, OSError) as error:
            return DeliveryFailure(f"{type(error).__name__}: {str(error)[:MOST_ERROR]}")
        except ConfigInvalid as error:
            return DeliveryFailure(str(error))

    async def _post(self, receiver: Receiver, url: SplitResult, made: Message) -> Outcome:
        found = await _addresses(url)
        for place, address in enumerate(found, start=1):
            try:
                return await self._ask(receiver, url, address, made)
            except httpx.ConnectError:  # nothing was sent yet
                if place == len(found):
                    raise
        return DeliveryFailure("its name has no address")

    async def _ask(
        self, receiver: Receiver, url: SplitResult, address: str, made: Message
    ) -> Outcome:
        host = f"[{address}]" if ":" in address else address
        pinned = url._replace(netloc=f"{host}:{_port(url)}").geturl()
        async with (
            httpx.AsyncClient(
                verify=self._context(receiver), trust_env=False, timeout=self._send_s
            ) as client,
            client.stream(
                "POST",
                pinned,
                content=made.body,
                headers={**made.headers, "host": url.netloc, "connection": "close"},
                extensions={"sni_hostname": url.hostname},
                follow_redirects=False,
            ) as answer,
        ):
            return outcome(answer.status_code, answer.headers.get("retry-after", ""), time.time())

    def _context(self, receiver: Receiver) -> ssl.SSLContext:
        if receiver.name not in self._contexts:
            authority = None if receiver.authority is None else str(receiver.authority)
            context = ssl.create_default_context(cafile=authority)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._contexts[receiver.name] = context
        return self._contexts[receiver.name]


def outcome(status: int, retry_after: str, now_s: float) -> Outcome:
    """The outcome of an attempt, by the answer."""
    if 200 <= status < 300:
        return DeliverySuccess()
    if status == GONE:
        return GoneReceiver()
    if 300 <= status < 400:
        return DeliveryFailure(f"answered {status}: redirects are not followed")
    return DeliveryFailure(f"answered {status}", retry_after_s(retry_after, now_s))


async def _addresses(url: SplitResult) -> list[str]:
    """The addresses of the receiver's host to which events may be sent.

    Raises:
        ConfigInvalid: events may be sent to none of the host's addresses.
    """
    host = url.hostname or ""
    looked_up = await asyncio.get_running_loop().getaddrinfo(
        host, _port(url), type=socket.SOCK_STREAM
    )
    every = list(dict.fromkeys(str(found[4][0]) for found in looked_up))
    refusals = {one: refusal(one, loopback=names_loopback(host)) for one in every}
    allowed = [one for one, why in refusals.items() if not why]
    if not allowed and refusals:
        raise ConfigInvalid("its address", next(iter(refusals)), next(iter(refusals.values())))
    return allowed[:MOST_ADDRESSES]


def _port(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme]
