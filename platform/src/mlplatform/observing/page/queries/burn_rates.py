"""Burn rates of error budgets, by Prometheus and the rules of this platform."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

import msgspec

from mlplatform.observing.slo.rules import BURN_OF_PERIOD
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.json_fetch import fetch
from mlplatform.runtime.units import MIB

TIMEOUT_S: Final = 1.0
MOST_BYTES: Final = 2 * MIB
KEPT_S: Final = 15.0
"""Seconds for which an answer, or its absence, is kept; rules are evaluated no more often."""

SpentShares = Mapping[tuple[str, str], float]
"""(service, objective) → the share of its budget that is spent; 1 is all of it."""


class _Series(msgspec.Struct):
    """Source: Prometheus' HTTP API, instant queries, a vector."""

    metric: dict[str, str]
    value: tuple[float, str]


class _Vector(msgspec.Struct):
    result: list[_Series]


class _Reply(msgspec.Struct):
    data: _Vector


class BurnRates:
    """The answers of one Prometheus, which is asked at most once in `KEPT_S`. Safe for threads.

    Args:
        url: address of Prometheus.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        asked = urlencode({"query": BURN_OF_PERIOD})
        self._url = f"{url.rstrip('/')}/api/v1/query?{asked}"
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_s = -math.inf
        self._known: SpentShares | Unavailable = {}

    def read(self) -> SpentShares:
        """The spent share of every budget that Prometheus knows.

        Raises:
            Unavailable: Prometheus gives no valid answer in time.
        """
        with self._lock:
            if self._clock() - self._asked_s > KEPT_S:
                self._known = self._ask()
                self._asked_s = self._clock()
            known = self._known
        if isinstance(known, Unavailable):
            raise known
        return known

    def _ask(self) -> SpentShares | Unavailable:
        try:
            return parse(fetch(self._url, timeout_s=TIMEOUT_S, most_bytes=MOST_BYTES))
        except Unavailable as error:
            return error


def parse(body: bytes) -> SpentShares:
    """The spent shares in Prometheus' answer. Only its form is trusted; a value that is not a
    number is left out.

    Raises:
        Unavailable: the answer has another form.
    """
    try:
        found = msgspec.json.decode(body, type=_Reply).data.result
        spent = {(s.metric["service"], s.metric["slo"]): float(s.value[1]) for s in found}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise Unavailable(f"Prometheus' burn rates can't be read: {error!r}") from error
    return {of: value for of, value in spent.items() if math.isfinite(value) and value >= 0}
