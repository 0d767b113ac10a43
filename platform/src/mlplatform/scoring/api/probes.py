"""Endpoints about the gateway itself: alive, ready, metrics, and the documents of its API."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from mlplatform.runtime.http.messages import Reply, line
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.prometheus import (
    CONTENT_TYPE,
    OPENMETRICS_TYPE,
    wants_openmetrics,
)
from mlplatform.scoring.api.http import Endpoint, Request, reading
from mlplatform.scoring.api.reference.page import Page, pages
from mlplatform.scoring.arms.freshness import Freshness
from mlplatform.scoring.request.metrics import Metrics, RoutedArm
from mlplatform.scoring.request.scoring import Scoring

_encode = msgspec.json.Encoder().encode
_TEXT: Final = line(b"content-type", CONTENT_TYPE)
_OPENMETRICS: Final = line(b"content-type", OPENMETRICS_TYPE)
_OWN_PAGE: Final = (
    line(b"cache-control", b"no-store"),
    line(b"referrer-policy", b"no-referrer"),
    line(b"x-content-type-options", b"nosniff"),
    line(b"x-frame-options", b"DENY"),
    line(b"cross-origin-resource-policy", b"same-origin"),
    line(b"cross-origin-opener-policy", b"same-origin"),
)


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """Requests are answered; `detail` says what is wrong nevertheless."""

    status: str
    detail: str = ""


class Health:
    """Whether this process can do its work.

    Args:
        is_alive: returns whether answers can still be recorded; if not, the process must be
            restarted.
        is_ready: returns whether routes were read at least once.
        complaints: returns problems of a process that still answers requests.
    """

    def __init__(
        self,
        is_alive: Callable[[], bool],
        is_ready: Callable[[], bool],
        complaints: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._is_alive = is_alive
        self._is_ready = is_ready
        self.complaints = complaints

    def check_alive(self) -> None:
        """Raises Problem 503 if nothing can be recorded any more."""
        if not self._is_alive():
            detail = "nothing can be recorded any more: this process must be restarted"
            raise Problem(503, "log-stopped", detail)

    def check_ready(self) -> None:
        """Raises Problem 503 if the process is not alive or has no routes yet."""
        self.check_alive()
        if not self._is_ready():
            raise Problem(503, "not-ready", "routes are not read yet", retry_after_s=1)


def endpoints(
    health: Health, metrics: Metrics, models: Mapping[str, Scoring], documents: Mapping[str, bytes]
) -> dict[str, Endpoint]:
    """Path → its endpoint.

    Args:
        documents: path → OpenAPI document. Each one also has a page, with `.html` instead of
            `.json`.
    """

    def alive() -> bytes:
        health.check_alive()
        return b'{"status":"alive"}'

    def ready() -> bytes:
        health.check_ready()
        return _encode(Ready("ready", "; ".join(health.complaints())))

    async def exposition(request: Request) -> Reply:
        if wants_openmetrics(request.headers.get(b"accept", b"")):
            return Reply(metrics.open_text(_arms(models), _fresh(models)), [_OPENMETRICS])
        return Reply(metrics.text(_arms(models), _fresh(models)), [_TEXT])

    def document(content: bytes) -> Endpoint:
        return reading("openapi", lambda: content, is_open=True)

    return {
        "/healthz": reading("health", alive, is_open=True),
        "/readyz": reading("ready", ready, is_open=True),
        "/metrics": Endpoint("metrics", ("GET", "HEAD"), exposition, scope="metrics"),
        **{path: document(content) for path, content in documents.items()},
        **{path: _endpoint_of(page) for path, page in pages(documents).items()},
    }


def _endpoint_of(page: Page) -> Endpoint:
    """The endpoint of a page for people, which only their own browser caches."""
    found = reading("reference", lambda: page.html, b"text/html; charset=utf-8", is_open=True)
    policy = line(b"content-security-policy", page.policy)
    return dataclasses.replace(found, headers=(policy, *_OWN_PAGE))


def _fresh(models: Mapping[str, Scoring]) -> Mapping[str, Freshness]:
    return {name: scoring.freshness for name, scoring in models.items()}


def _arms(models: Mapping[str, Scoring]) -> Iterable[RoutedArm]:
    for name, scoring in models.items():
        for service, target in scoring.live.current.targets.items():
            yield RoutedArm(name, service, target.breaker.state, target.stopped is not None)
