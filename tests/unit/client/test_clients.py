"""Both clients over a transport of the test: keys, deadlines, limits, and the secret."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.unit.client.test_client_calls import ANSWER, KEY, PAYMENT

from mlplatform_client import (
    AnswerNotUnderstood,
    AsyncClient,
    CallFailed,
    Client,
    DeadlineExceeded,
    InputRefused,
    Retries,
    Settings,
    Terms,
    Unavailable,
)

SECRET = "mlp_0123456789abcdef"
URL = "https://scoring.bank.example"
QUICK = Settings(deadline_s=5.0, retries=Retries(first_s=0.001, longest_s=0.002))
Handler = Callable[[httpx.Request], httpx.Response]
ScoreFunction = Callable[[Handler, Settings], Any]


def answered(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=ANSWER)


def by_threads(handler: Handler, settings: Settings) -> Any:
    with Client(URL, SECRET, settings, transport=httpx.MockTransport(handler)) as client:
        return client.score("fraud", PAYMENT)


def by_asyncio(handler: Handler, settings: Settings) -> Any:
    async def score() -> Any:
        transport = httpx.MockTransport(handler)
        async with AsyncClient(URL, SECRET, settings, transport=transport) as client:
            return await client.score("fraud", PAYMENT)

    return asyncio.run(score())


both = pytest.mark.parametrize("score", [by_threads, by_asyncio])


@both
def test_all_attempts_of_a_call_are_one_request(score: ScoreFunction) -> None:
    seen: list[tuple[str, bytes]] = []
    told: list[CallFailed] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["idempotency-key"], request.content))
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert request.headers["accept-encoding"] == "identity"
        if len(seen) == 1:
            raise httpx.ReadError("reset by peer")
        return httpx.Response(503) if len(seen) == 2 else answered(request)

    settings = Settings(retries=QUICK.retries, on_retry=lambda error, _: told.append(error))
    assert score(handler, settings).decision == "review"
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert len(seen[0][0]) == 32
    assert [type(error) for error in told] == [Unavailable, Unavailable]
    first = seen[0][0]
    seen.clear()
    score(handler, settings)
    assert seen[0][0] != first


@both
def test_a_deadline_is_that_of_all_attempts(score: ScoreFunction) -> None:
    settings = Settings(deadline_s=0.2, retries=Retries(attempts=1000, first_s=0.01))

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    began_s = time.monotonic()
    with pytest.raises((Unavailable, DeadlineExceeded)) as failed:  # it may end within an attempt
        score(broken, settings)
    assert time.monotonic() - began_s < 10, "a thousand attempts with their pauses take far longer"
    assert 1 < failed.value.attempts < 1000
    assert failed.value.key is not None


@both
def test_a_redirect_is_not_followed(score: ScoreFunction) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.example/"})

    with pytest.raises(AnswerNotUnderstood):
        score(handler, QUICK)
    assert seen == ["scoring.bank.example"]


@both
@pytest.mark.parametrize("place", ["mailto:x", "http://xn--a/", "http://[::1", "\x01"])
def test_a_place_that_can_be_none_is_an_error_of_this_library(
    score: ScoreFunction, place: str
) -> None:
    with pytest.raises(CallFailed):
        score(lambda _: httpx.Response(302, headers={"location": place}), QUICK)


@both
def test_no_cookie_is_kept(score: ScoreFunction) -> None:
    seen: list[httpx.Headers] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        cookies = [("set-cookie", "a=b"), (b"set-cookie", b"\xff=\xff")]
        return httpx.Response(503, headers=cookies) if len(seen) == 1 else answered(request)

    assert score(handler, QUICK).decision == "review"
    assert ["cookie" in headers for headers in seen] == [False, False]


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that does not end."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s

    def __iter__(self) -> Iterator[bytes]:
        while True:
            time.sleep(self._pause_s)
            yield b" " * 1000

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(self._pause_s)
            yield b" " * 1000


@both
def test_an_answer_without_end_is_given_up_at_the_limit(score: ScoreFunction) -> None:
    settings = Settings(most_bytes=100_000)
    with pytest.raises(AnswerNotUnderstood, match="more than 100000 bytes"):
        score(lambda _: httpx.Response(200, stream=Endless()), settings)


@both
def test_an_answer_that_drips_is_given_up_in_time(score: ScoreFunction) -> None:
    settings = Settings(deadline_s=0.2)
    began_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        score(lambda _: httpx.Response(200, stream=Endless(0.02)), settings)
    assert time.monotonic() - began_s < 10, "the whole answer would take minutes"


class Slow(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer that takes a moment."""

    def __iter__(self) -> Iterator[bytes]:
        time.sleep(0.05)
        yield json.dumps(ANSWER).encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)
        yield json.dumps(ANSWER).encode()


def test_an_attempt_lasts_as_long_as_the_gateway_was_given() -> None:
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, headers={"content-type": "application/json"}, stream=Slow())

    brief = Settings(retries=Retries(attempts=1, attempt_s=0.01))
    slow, transport = Terms(within_ms=100), httpx.MockTransport(handler)
    with Client(URL, SECRET, brief, transport=transport) as client:
        assert client.score("fraud", PAYMENT, terms=slow).decision == "review"

    async def score() -> Any:
        async with AsyncClient(URL, SECRET, brief, transport=transport) as client:
            return await client.score("fraud", PAYMENT, terms=slow)

    assert asyncio.run(score()).decision == "review"
    assert len(sent) == 2


@both
def test_the_key_is_in_no_text(score: ScoreFunction, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset by peer", request=request)

    with pytest.raises(Unavailable) as failed:
        score(handler, QUICK)
    client = Client(URL, SECRET)
    texts = [str(failed.value), repr(failed.value), repr(failed.value.facts), repr(client)]
    texts += [caplog.text, repr(vars(client)), repr(client._http.headers)]
    assert SECRET not in "".join(texts)
    assert repr(client) == "Client('https://scoring.bank.example')"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://x", SECRET),
        ("scoring.bank.example", SECRET),
        ("https://", SECRET),
        ("https://x:99999", SECRET),
        ("https://[x", SECRET),
        ("https://ana:pass-word@x", SECRET),
        ("https://x/?a=b", SECRET),
        ("https://x/?", SECRET),
        ("https://x/#", SECRET),
        ("https://x\r\ny", SECRET),
        ("https://x..y", SECRET),
        ("https://.", SECRET),
        ("https://xn--a", SECRET),
        ("https://1.2.3.999", SECRET),
        (f"https://{'x' * 64}.example", SECRET),
        (f"https://x/{'y' * 70_000}", SECRET),
        (URL, ""),
        (URL, f"{SECRET}\r\nx: y"),
        (URL, f"{SECRET}é"),
        (URL, None),
        (None, SECRET),
    ],
)
def test_an_address_or_a_key_that_can_be_none_is_refused_without_its_secret(
    url: Any, key: Any
) -> None:
    with pytest.raises(InputRefused) as refused:
        Client(url, key)
    assert SECRET not in str(refused.value)
    assert "pass-word" not in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Settings(deadline_s=0.0),
        lambda: Settings(most_bytes=0),
        lambda: Settings(connections=0),
        lambda: Client(URL, SECRET).score("fraud", PAYMENT, deadline_s=-1.0),
        lambda: Client(URL, SECRET).score("fraud", PAYMENT, deadline_s="1"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputRefused):
        make()


def test_a_client_that_was_closed_refuses_by_a_type_of_its_own() -> None:
    with Client(URL, SECRET) as client:
        pass
    with pytest.raises(InputRefused, match="client is closed"):
        client.score("fraud", PAYMENT)


async def test_a_task_that_is_cancelled_ends_at_once() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Endless(0.01))

    transport = httpx.MockTransport(handler)
    async with AsyncClient(URL, SECRET, transport=transport) as client:
        asked: Awaitable[Any] = client.score("fraud", PAYMENT, key=KEY)
        task = asyncio.ensure_future(asked)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type[object]) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("__")}

    assert methods(Client) == methods(AsyncClient)
    assert json.dumps(sorted(m for m in methods(Client) if m[0] != "_")) == (
        '["carry_out", "close", "decision", "explain", "label", "push", "rank", "score", '
        '"score_batch", "score_later", "void", "wait"]'
    )
