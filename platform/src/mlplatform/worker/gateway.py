"""Asks the gateway to score items, again and again where that can help."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from mlplatform.errors import Refused, Unavailable
from mlplatform.worker.messages import Answered, Item, Poison

TIMEOUT_S = 30.0
ITEM_TIMEOUT_MS = 2_000
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 5.0
RETRIED = frozenset((409, 429, 500, 502, 503, 504))
Outcome = Answered | Poison


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
    """Scores through `score:batch`; one connection a thread.

    Args:
        api_key: read for each connection, so that a new one needs no restart.
        retried: told of every wait, by its reason.
    """

    def __init__(
        self, url: str, model: str, api_key: Callable[[], str], retried: Callable[[str], None]
    ) -> None:
        self._host = urlsplit(url).netloc
        self._path = f"/api/v1/models/{model}/score:batch"
        self._api_key = api_key
        self._retried = retried
        self._local = threading.local()
        self._decoder = msgspec.json.Decoder(_Results)

    def score(self, items: Sequence[Item], stopping: threading.Event) -> list[Outcome]:
        """One outcome an item, in any order.

        Raises:
            Refused: the gateway does not know this worker's key, or it may not score the model.
            Unavailable: told to stop before the gateway had answered every item.
        """
        outcomes: list[Outcome] = []
        left, delay_s = list(items), FIRST_DELAY_S
        while left:
            left, reason = self._attempt(left, outcomes)
            if left:
                self._retried(reason)
                if stopping.wait(delay_s):
                    raise Unavailable(f"told to stop while {len(left)} items wait: {reason}")
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        return outcomes

    def _attempt(self, items: list[Item], outcomes: list[Outcome]) -> tuple[list[Item], str]:
        """Adds what is settled to the outcomes; the items to ask for again, and why."""
        body = b'{"requests":[' + b",".join(i.body for i in items) + b"]}"
        try:
            status, answer = self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            return items, type(error).__name__
        if status in (401, 403):
            raise Refused(f"the gateway answers this worker {status}: {answer[:300]!r}")
        if status != 200:
            return items, f"status-{status}"
        again, reason = [], ""
        for item, result in zip(items, self._decoder.decode(answer).results, strict=True):
            problem = result.problem
            if result.answer:
                outcomes.append(Answered(item, bytes(result.answer)))
            elif problem is None or problem.status in RETRIED:
                again.append(item)
                reason = "no-result" if problem is None else problem.type.rpartition(":")[2]
            else:
                name = problem.type.rpartition(":")[2]
                outcomes.append(Poison(item.message, name, problem.detail))
        return again, reason

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
            self._local.connection = connection
        headers = {
            "Authorization": f"Bearer {self._api_key()}",
            "Content-Type": "application/json",
            "X-Request-Timeout-Ms": str(ITEM_TIMEOUT_MS),
        }
        connection.request("POST", self._path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
