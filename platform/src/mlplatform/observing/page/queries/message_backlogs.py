"""Messages that wait for a model's worker: requests to score later, and values of features."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlencode

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.json_fetch import fetch
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.units import MIB

TIMEOUT_S: Final = 0.5
MOST_BYTES: Final = MIB
AT_ONCE: Final = 8
"""Workers that are asked at the same time."""
NAMES: Final = (signals.WORKER_LAG.name, signals.STREAM_LAG.name)
QUERY: Final = f'{{__name__=~"{"|".join(NAMES)}"}}'

MessageBacklogs = Mapping[tuple[str, str], int]
"""(model, view) → messages that wait; an empty view stands for requests to score."""

_TEXT: Final = "text/plain; version=0.0.4"
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,256}")


class _Address(msgspec.Struct):
    port: int


class _Series(msgspec.Struct):
    """Source: Prometheus' HTTP API, instant queries, a vector."""

    metric: dict[str, str]
    value: tuple[float, str]


class _Vector(msgspec.Struct):
    result: list[_Series]


class _Reply(msgspec.Struct):
    data: _Vector


def of_worker(home: Home, model: str) -> MessageBacklogs:
    """The messages that wait for a worker process of this machine, by its own metrics.

    Raises:
        Unavailable: the worker does not run here, or does not answer in time.
    """
    token, address = home.worker_token, home.run / "workers" / f"{model}.json"
    try:
        port = msgspec.json.decode(address.read_bytes(), type=_Address).port
        secret = token.read_text().strip()
    except (OSError, *NOT_JSON) as error:
        raise Unavailable(f"worker-{model} does not run: `mlplatform status` shows why") from error
    if not _TOKEN.fullmatch(secret):
        raise Unavailable(f"{token} holds no token: `mlplatform up` writes it")
    headers = {"accept": _TEXT, "authorization": f"Bearer {secret}"}
    url = f"http://127.0.0.1:{port}/metrics"
    return parse_text(fetch(url, headers, timeout_s=TIMEOUT_S, most_bytes=MOST_BYTES))


def of_workers(home: Home, models: Sequence[str]) -> dict[str, MessageBacklogs | str]:
    """Model → the messages that wait for its worker process of this machine, or a sentence on why
    they are not known. Workers are asked at the same time: if several do not answer, that takes as
    long as one."""

    def asked(model: str) -> MessageBacklogs | str:
        try:
            return of_worker(home, model)
        except Unavailable as error:
            return str(error)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(models, pool.map(asked, models), strict=True))


def of_prometheus(url: str) -> MessageBacklogs:
    """The messages that wait for every worker, by Prometheus.

    Raises:
        Unavailable: Prometheus gives no valid answer in time.
    """
    asked = f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': QUERY})}"
    return parse_vector(fetch(asked, timeout_s=TIMEOUT_S, most_bytes=MOST_BYTES))


def parse_text(body: bytes) -> MessageBacklogs:
    """The backlogs in a process's metrics.

    Raises:
        Unavailable: the metrics have another form.
    """
    try:
        families = list(text_string_to_metric_families(body.decode()))
    except (ValueError, KeyError, IndexError) as error:
        raise Unavailable(f"the worker's metrics can't be read: {error!r}") from error
    return _sums((one.name, one.labels, one.value) for found in families for one in found.samples)


def parse_vector(body: bytes) -> MessageBacklogs:
    """The backlogs in Prometheus' answer. Only its form is trusted.

    Raises:
        Unavailable: the answer has another form.
    """
    try:
        found = msgspec.json.decode(body, type=_Reply).data.result
        return _sums((s.metric.get("__name__", ""), s.metric, float(s.value[1])) for s in found)
    except (*NOT_JSON, ValueError) as error:
        raise Unavailable(f"Prometheus' backlogs can't be read: {error!r}") from error


def _sums(samples: Iterable[tuple[str, Mapping[str, str], float]]) -> MessageBacklogs:
    """The sum over workers and partitions; what is no count is left out."""
    found: Counter[tuple[str, str]] = Counter()
    for name, labels, value in samples:
        if name in NAMES and math.isfinite(value) and value >= 0:
            view = labels.get("view", "") if name == signals.STREAM_LAG.name else ""
            found[labels.get("model", ""), view] += round(value)
    return found
