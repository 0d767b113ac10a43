"""Calls of the gateway to score items, repeated where that can help."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.runtime.telemetry.spans import new_span_id
from mlplatform.scoring.worker.messages import Item, Poison, ScoreReply
from mlplatform.scoring.worker.spans import BatchSpan, CallOutcome, outcome

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
ITEM_TIMEOUT_MS = 2_000
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 5.0
LONGEST_OBEYED_S = 30.0
"""Longest Retry-After in seconds that is obeyed: a gateway that asks for more may be back, or
another one may answer."""
RETRIED = frozenset((409, 429, 500, 502, 503, 504))
Outcome = ScoreReply | Poison


class _Problem(msgspec.Struct):
    type: str = ""
    status: int = 500
    detail: str = ""


class _Result(msgspec.Struct):
    answer: msgspec.Raw = msgspec.Raw()
    problem: _Problem | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


class GatewayScorer:
    """Scores through `score:batch` and `score:accepted`; one connection a thread.

    Args:
        api_key: returns the API key; called for each connection, so that a new key needs no
            restart.
        retried: called before each wait, with its reason.
    """

    def __init__(
        self, url: str, model: str, api_key: Callable[[], str], retried: Callable[[str], None]
    ) -> None:
        self._host = urlsplit(url).netloc
        self._root = f"/api/v1/models/{model}"
        self._api_key = api_key
        self._retried = retried
        self._local = threading.local()
        self._decoder = msgspec.json.Decoder(_Results)

    def score(
        self, items: Sequence[Item], stopping: threading.Event, batch: BatchSpan
    ) -> list[Outcome]:
        """Score the items. Returns one outcome for each, in any order.

        Args:
            items: items of which either all were accepted by a gateway earlier, or none.
            batch: the batch of the items, which records every call.

        Raises:
            Refused: the gateway does not know this worker's key, or it may not score the model.
            Unavailable: `stopping` was set before the gateway had answered every item.
        """
        outcomes: list[Outcome] = []
        left, delay_s = list(items), FIRST_DELAY_S
        while left:
            left, reason, asked_s = self._attempt(left, outcomes, batch)
            if left:
                self._retried(reason)
                if delay_s == FIRST_DELAY_S:
                    log.warning("%d items wait for the gateway: %s", len(left), reason)
                if stopping.wait(max(delay_s, asked_s)):
                    raise Unavailable(f"asked to stop while {len(left)} items wait: {reason}")
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        return outcomes

    def _attempt(
        self, items: list[Item], outcomes: list[Outcome], batch: BatchSpan
    ) -> tuple[list[Item], str, float]:
        """Ask once, and add settled items to the outcomes. Returns the items to ask for again, why,
        and after how many seconds."""
        body = b'{"requests":[' + b",".join(i.body for i in items) + b"]}"
        try:
            status, answer, asked_s = self._called(items, body, batch)
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            return items, type(error).__name__, 0.0
        if status in (401, 403):
            raise Refused(f"the gateway answers this worker {status}: {answer[:300]!r}")
        if status == http.client.REQUEST_ENTITY_TOO_LARGE:
            return self._by_halves(items, outcomes, batch)
        if status != http.client.OK:
            return items, f"status-{status}", asked_s
        again, reason = [], ""
        for item, result in zip(items, self._decoder.decode(answer).results, strict=True):
            problem = result.problem
            if result.answer:
                outcomes.append(ScoreReply(item, bytes(result.answer)))
            elif problem is None or problem.status in RETRIED:
                again.append(item)
                reason = "no-result" if problem is None else problem.type.rpartition(":")[2]
            else:
                name = problem.type.rpartition(":")[2]
                outcomes.append(Poison(item.message, name, problem.detail))
        return again, reason, 0.0

    def _by_halves(
        self, items: list[Item], outcomes: list[Outcome], batch: BatchSpan
    ) -> tuple[list[Item], str, float]:
        if len(items) == 1:
            outcomes.append(Poison(items[0].message, "too-large", "more than a gateway takes"))
            return [], "", 0.0
        middle = len(items) // 2
        first, reason, first_s = self._attempt(items[:middle], outcomes, batch)
        second, other, second_s = self._attempt(items[middle:], outcomes, batch)
        return first + second, reason or other, max(first_s, second_s)

    def _called(
        self, items: Sequence[Item], body: bytes, batch: BatchSpan
    ) -> tuple[int, bytes, float]:
        """The `_post`, with a span."""
        began_s, span_id, result = time.monotonic(), new_span_id(), CallOutcome(error="no-answer")
        try:
            response, answer = self._post(items[0].is_accepted, body, batch.call(span_id))
            result = outcome(response.status, response.headers["traceparent"])
        finally:
            batch.record_call(span_id, (began_s, time.monotonic()), len(items), result)
        return response.status, answer, _retry_after_s(response.headers["Retry-After"])

    def _post(
        self, is_accepted: bool, body: bytes, traceparent: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
            self._local.connection = connection
        headers = {
            "Authorization": f"Bearer {self._api_key()}",
            "Content-Type": "application/json",
            "X-Request-Timeout-Ms": str(ITEM_TIMEOUT_MS),
            "traceparent": traceparent,
        }
        way = "accepted" if is_accepted else "batch"
        connection.request("POST", f"{self._root}/score:{way}", body, headers)
        response = connection.getresponse()
        return response, response.read()


def _retry_after_s(header: str | None) -> float:
    if header is None or not (header.isascii() and header.isdigit()):
        return 0.0
    return min(float(header[:9]), LONGEST_OBEYED_S)
