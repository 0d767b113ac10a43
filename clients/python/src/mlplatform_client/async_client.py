"""The client of programs with an event loop (asyncio): the same methods, to be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from mlplatform_client import calls, wire
from mlplatform_client.access import positive_s
from mlplatform_client.answers import (
    Answer,
    BatchResult,
    Explanation,
    LabelReceipt,
    PendingDecision,
    PushReceipt,
    Ranking,
    VoidReceipt,
)
from mlplatform_client.calls import PLAIN, Label, Request, Terms
from mlplatform_client.exchange import Call, Outcome, Result
from mlplatform_client.steps import Failure, Retry, next_step
from mlplatform_client.wire import JITTER, Settings

T = TypeVar("T")


class AsyncClient:
    """Asks one gateway, or several behind one address; belongs to one event loop.

    Every method returns within its deadline or raises a subclass of `CallFailed`. Requests are sent
    again where that is safe; scores always are, by an idempotency key that all attempts share.

    Args:
        base_url: of the gateway: `https://scoring.bank.example`.
        api_key: a key or a token of the issuer. It is shown nowhere.
        settings: deadline, retries and limits.
        transport: another way to the wire than httpx's own, for tests and proxies.

    Raises:
        InputRefused: an argument can't be right.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        settings: Settings | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings or Settings()
        arguments = wire.httpx_arguments(base_url, api_key, self._settings)
        self._http = httpx.AsyncClient(**arguments, transport=transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End its connections."""
        await self._http.aclose()

    async def score(
        self,
        model: str,
        request: Request,
        *,
        key: str | None = None,
        terms: Terms = PLAIN,
        deadline_s: float | None = None,
    ) -> Answer:
        """Decide one request now.

        Args:
            request: fields by name with `event_time`, or JSON as it is.
            key: an idempotency key, 1 to 255 printable characters; None: a new one.
            deadline_s: of all attempts, seconds; None: the client's.

        Raises:
            CallFailed: a subclass says what can be done about it.
        """
        return await self.carry_out(
            calls.score(model, request, wire.own_key(key), terms), deadline_s
        )

    async def rank(
        self,
        model: str,
        shared: Mapping[str, object],
        items: Sequence[Mapping[str, object]],
        *,
        key: str | None = None,
        terms: Terms = PLAIN,
        deadline_s: float | None = None,
    ) -> Ranking:
        """Put the items of one request in order, the best first.

        Args:
            shared: the fields that all items have in common, with `event_time`.
            items: for each item, the fields that it has of its own.
            key: an idempotency key, 1 to 255 printable characters; None: a new one.
            deadline_s: of all attempts, seconds; None: the client's.

        Raises:
            CallFailed: a subclass says what can be done about it.
        """
        call = calls.rank(model, shared, items, wire.own_key(key), terms)
        return await self.carry_out(call, deadline_s)

    async def score_batch(
        self,
        model: str,
        requests: Sequence[Mapping[str, object]],
        *,
        keys: Sequence[str] | None = None,
        terms: Terms = PLAIN,
        deadline_s: float | None = None,
    ) -> list[BatchResult]:
        """Decide 1 to 1000 requests, each by itself; results are in their order.

        Args:
            keys: an idempotency key for each; None: new ones. Give them to ask again later on.
            deadline_s: of all attempts, seconds; None: the client's.

        Raises:
            CallFailed: no item has a result. What kept one item from an answer is in its result.
        """
        own = wire.own_keys(keys, len(requests))
        return await self.carry_out(calls.score_batch(model, requests, own, terms), deadline_s)

    async def score_later(
        self,
        model: str,
        request: Request,
        *,
        key: str | None = None,
        terms: Terms = PLAIN,
        deadline_s: float | None = None,
    ) -> PendingDecision:
        """Leave a request to be decided later; `wait` gets the decision by the id.

        Raises:
            CallFailed: a subclass says what can be done about it.
        """
        return await self.carry_out(
            calls.score_later(model, request, wire.own_key(key), terms), deadline_s
        )

    async def decision(self, decision_id: str, *, deadline_s: float | None = None) -> Answer | None:
        """The decision on a request that was left for later; None while it is to come.

        Raises:
            CallFailed: NotFound for an id that this client was not told, or that is kept no longer.
        """
        return await self.carry_out(calls.decision(decision_id), deadline_s)

    async def wait(self, decision_id: str, *, deadline_s: float | None = None) -> Answer:
        """The decision on a request that was left for later, asked for until it is there.

        Raises:
            CallFailed: DeadlineExceeded while it is to come; NotFound as for `decision`.
        """
        return await self.carry_out(calls.waiting(decision_id), deadline_s)

    async def label(
        self, model: str, labels: Sequence[Label], *, deadline_s: float | None = None
    ) -> LabelReceipt:
        """Report how 1 to 1000 decisions turned out: all are taken, or none.

        Raises:
            CallFailed: InputRefused names the label that is wrong.
        """
        return await self.carry_out(calls.labels(model, labels), deadline_s)

    async def push(
        self,
        view: str,
        rows: Sequence[Mapping[str, object]],
        *,
        key: str | None = None,
        deadline_s: float | None = None,
    ) -> PushReceipt:
        """Give 1 to 1000 rows of an external view: all are taken, or none.

        Args:
            rows: of each the entity's key, the time since when its values hold, and every feature.
            key: an idempotency key, 1 to 255 printable characters; None: a new one.

        Raises:
            CallFailed: InputRefused names the row that is wrong.
        """
        return await self.carry_out(calls.push(view, rows, wire.own_key(key)), deadline_s)

    async def void(
        self, model: str, decision_id: str, reason: str, *, deadline_s: float | None = None
    ) -> VoidReceipt:
        """Take a decision back; the first reason given stays.

        Raises:
            CallFailed: NotFound for a decision of another client.
        """
        return await self.carry_out(calls.void(model, decision_id, reason), deadline_s)

    async def explain(
        self, model: str, decision_id: str, *, deadline_s: float | None = None
    ) -> Explanation:
        """Why a decision came out as it did, by its inputs. The key needs scope `explain`.

        Raises:
            CallFailed: NotFound for a decision of another client; NotExplained where nothing
                explains it.
        """
        return await self.carry_out(calls.explanation(model, decision_id), deadline_s)

    async def carry_out(self, call: Call[T], deadline_s: float | None = None) -> T:
        """Send a call's request as often as is right.

        Raises:
            CallFailed: it has no value in time.
        """
        wire.check_open(call.name, is_closed=self._http.is_closed)
        settings = self._settings
        allowed_s = settings.deadline_s if deadline_s is None else deadline_s
        until_s = time.monotonic() + positive_s(call.name, "deadline_s", allowed_s)
        attempt = 1
        while True:
            left_s = until_s - time.monotonic()
            outcome = await self._send(call, min(left_s, settings.retries.allowed_s(call)))
            step = next_step(
                call,
                outcome,
                attempt=attempt,
                left_s=until_s - time.monotonic(),
                jitter=JITTER.random(),
                wall_s=time.time(),
                retries=settings.retries,
            )
            match step:
                case Result(value):
                    return value
                case Failure(error):
                    raise error
                case Retry():
                    if step.error is not None and settings.on_retry is not None:
                        settings.on_retry(step.error, step.pause_s)
                    await asyncio.sleep(step.pause_s)
                    call, attempt = step.call, step.attempt

    async def _send(self, call: Call[T], allowed_s: float) -> Outcome:
        """The outcome of one attempt."""
        if allowed_s <= 0:
            return wire.late()
        body = wire.body(self._settings.most_bytes)
        try:
            async with (
                asyncio.timeout(allowed_s),
                self._http.stream(
                    call.method,
                    call.path,
                    headers=dict(call.headers),
                    content=call.body,
                    timeout=allowed_s,
                ) as response,
            ):
                if response.is_stream_consumed:  # by a transport that makes answers whole
                    return body.whole(response)
                async for chunk in response.aiter_raw():
                    if (ended := body.take(chunk)) is not None:
                        return ended
                return body.reply(response.status_code, response.headers)
        except TimeoutError:
            return wire.late()
        except wire.FAILED as error:
            return wire.no_reply(error)
