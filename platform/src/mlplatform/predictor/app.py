"""What the predictor answers to each path: a raw ASGI application."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from mlplatform.predictor import protocol
from mlplatform.predictor.metrics import CONTENT_TYPE, Metrics
from mlplatform.predictor.model import Model
from mlplatform.predictor.protocol import HEADER_LENGTH, RequestRefused
from mlplatform.predictor.queue import RETRY_AFTER_S, ScoreQueue

MAX_BODY_BYTES: Final = 1024 * 1024
SERVER_NAME: Final = "mlplatform-predictor"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_BINARY: Final = (b"content-type", b"application/octet-stream")
_CLOSE: Final = (b"connection", b"close")
_HEADER_LENGTH: Final = HEADER_LENGTH.lower().encode()


class Predictor:
    """Serves one model under one name; not ready until `serve` gives it the model.

    Args:
        name: the service's name, as it stands in the paths.
        token: what callers must send as a bearer token; None asks for nothing.
    """

    def __init__(
        self, name: str, token: str | None = None, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.name = name
        self.draining = False
        self.metrics = Metrics(name)
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._max_body_bytes = max_body_bytes
        self._model: Model | None = None
        self._queue: ScoreQueue | None = None
        self._problem = "the model is being loaded"
        self._infer_path = f"/v2/models/{name}/infer"

    def serve(self, model: Model) -> None:
        """From now on ready, with this model."""
        self._model = model
        self._queue = ScoreQueue(model, self.metrics)
        self.metrics.ready.set(1)

    def fail(self, problem: str) -> None:
        """Never ready; says why to whoever asks."""
        self._problem = problem

    def drain(self) -> None:
        """Not ready any more; requests are still answered, and connections then closed."""
        self.draining = True
        self._problem = "shutting down"
        self.metrics.ready.set(0)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            self._admit(scope)
            if scope["path"] == self._infer_path:
                body, headers = await self._infer(scope, receive)
            else:
                body, headers = self._get(scope["path"], scope["method"])
            status = 200
        except RequestRefused as error:
            status, headers, body = error.status, [_JSON], protocol.error_body(str(error))
            if error.retry_after_s is not None:
                headers.append((b"retry-after", str(error.retry_after_s).encode()))
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
        headers.append((b"content-length", str(len(body)).encode()))
        if self.draining or status == 413:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _admit(self, scope: MutableMapping[str, Any]) -> None:
        if self._authorization is None or scope["path"] == "/v2/health/live":
            return
        for key, value in scope["headers"]:
            if key == b"authorization" and hmac.compare_digest(value, self._authorization):
                return
        raise RequestRefused(401, "the bearer token of this predictor is needed")

    async def _infer(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[bytes, Headers]:
        start = time.perf_counter()
        self.metrics.requests.inc()
        try:
            answer = await self._scores(scope, receive)
        except RequestRefused as error:
            self.metrics.error(error.status)
            raise
        self.metrics.latency.observe(time.perf_counter() - start)
        return answer

    async def _scores(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[bytes, Headers]:
        if scope["method"] != "POST":
            raise RequestRefused(405, f"{scope['path']} takes POST, not {scope['method']}")
        header_length = None
        for key, value in scope["headers"]:
            if key == _HEADER_LENGTH:
                header_length = value.decode("latin-1")
            elif key == b"content-length" and int(value) > self._max_body_bytes:
                raise self._too_large()
        body = await self._body(receive)
        if self._model is None or self._queue is None:
            raise RequestRefused(503, f"{self.name} is not ready: {self._problem}", RETRY_AFTER_S)
        request = protocol.parse(body, header_length, self._model.width)
        scores = await self._queue.score(request.rows)
        answer, head = protocol.answer(
            scores,
            model=self.name,
            version=self._model.served.digest,
            request_id=request.request_id,
            binary=request.binary,
        )
        if head is None:
            return answer, [_JSON]
        return answer, [_BINARY, (_HEADER_LENGTH, str(head).encode())]

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return self._within_limit(body)
        parts, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body_bytes:
                raise self._too_large()
        return b"".join(parts)

    def _within_limit(self, body: bytes) -> bytes:
        if len(body) > self._max_body_bytes:
            raise self._too_large()
        return body

    def _too_large(self) -> RequestRefused:
        return RequestRefused(413, f"the body is larger than {self._max_body_bytes} bytes")

    def _get(self, path: str, method: str) -> tuple[bytes, Headers]:
        if path.startswith("/v2/models/") and path.split("/")[3] != self.name:
            raise RequestRefused(404, f"no model {path.split('/')[3]!r}; there is {self.name!r}")
        answers: dict[str, Callable[[], tuple[bytes, Headers]]] = {
            "/v2": self._server_metadata,
            "/v2/health/live": lambda: (protocol.encode({"live": True}), [_JSON]),
            "/v2/health/ready": self._readiness,
            f"/v2/models/{self.name}": self._model_metadata,
            f"/v2/models/{self.name}/ready": self._readiness,
            "/metrics": lambda: (self.metrics.text(), [(b"content-type", CONTENT_TYPE)]),
        }
        if path not in answers:
            raise RequestRefused(404, f"no path {path!r}")
        if method != "GET":
            raise RequestRefused(405, f"{path} takes GET, not {method}")
        return answers[path]()

    def _readiness(self) -> tuple[bytes, Headers]:
        if self._model is None or self.draining:
            raise RequestRefused(503, self._problem, RETRY_AFTER_S)
        return protocol.encode({"name": self.name, "ready": True}), [_JSON]

    def _server_metadata(self) -> tuple[bytes, Headers]:
        metadata = {
            "name": SERVER_NAME,
            "version": "2",
            "extensions": ["binary_tensor_data"],
        }
        return protocol.encode(metadata), [_JSON]

    def _model_metadata(self) -> tuple[bytes, Headers]:
        if self._model is None:
            raise RequestRefused(503, f"{self.name} is not ready: {self._problem}", RETRY_AFTER_S)
        tensor = {"datatype": protocol.DATATYPE}
        metadata = {
            "name": self.name,
            "versions": [self._model.served.digest],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": protocol.INPUT, **tensor, "shape": [-1, self._model.width]}],
            "outputs": [{"name": protocol.OUTPUT, **tensor, "shape": [-1]}],
            "properties": {"input_names": self._model.served.input_names},
        }
        return protocol.encode(metadata), [_JSON]
