"""What a worker counts, and the listener that shows it to who has the token."""

from __future__ import annotations

import hmac
import threading
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mlplatform.telemetry import signals
from mlplatform.telemetry.prometheus import Registry
from mlplatform.worker.messages import Answered, Poison


class Metrics:
    """All metrics of one worker process."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.registry = Registry()
        self._messages = self.registry.counter(signals.WORKER_MESSAGES)
        self._given_up = self.registry.counter(signals.WORKER_GIVEN_UP)
        self._retries = self.registry.counter(signals.WORKER_RETRIES)
        self._lag = self.registry.gauge(signals.WORKER_LAG).labels(model)
        self._in_work = self.registry.gauge(signals.WORKER_IN_WORK).labels(model)
        self._batch = self.registry.histogram(signals.WORKER_BATCH).labels(model)

    def committed(self, outcomes: Sequence[Answered | Poison], seconds: float) -> None:
        self._batch.observe(seconds)
        tally = Tally("scored" if isinstance(o, Answered) else "dead_letter" for o in outcomes)
        for outcome, count in tally.items():
            self._messages.labels(self._model, outcome).inc(count)

    def given_up(self, reason: str) -> None:
        self._given_up.labels(self._model, reason).inc()

    def retried(self, reason: str) -> None:
        self._retries.labels(self._model, reason).inc()

    def lag(self, messages: int) -> None:
        self._lag.set(messages)

    @contextmanager
    def in_work(self, messages: int) -> Iterator[None]:
        self._in_work.set(messages)
        try:
            yield
        finally:
            self._in_work.set(0)


def listen(metrics: Metrics, token: str) -> int:
    """Serve /healthz to anybody and /metrics to who has the token, on loopback; the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.path == "/healthz":
                self._reply(200, b"ok")
            elif self.path != "/metrics":
                self._reply(404, b"")
            elif hmac.compare_digest(given.encode(), token.encode()):
                self._reply(200, metrics.registry.text())
            else:
                self._reply(401, b"")

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    port: int = server.server_address[1]
    return port
