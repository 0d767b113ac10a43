"""What the predictor answers to each path: a raw ASGI application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from mlplatform.predictor import protocol
from mlplatform.predictor.metrics import CONTENT_TYPE
from mlplatform.predictor.protocol import HEADER_LENGTH, RequestRefused
from mlplatform.predictor.state import PLATFORM, PROTOCOL_VERSION, SERVER_NAME, Predictor

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_BINARY: Final = (b"content-type", b"application/octet-stream")
_CLOSE: Final = (b"connection", b"close")
_HEADER_LENGTH: Final = HEADER_LENGTH.lower().encode()
_LONGEST_LENGTH: Final = 18
"""Digits of a content length that is still read as a number."""


class RestApplication:
    """The protocol over HTTP, for one predictor."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._max_body_bytes = predictor.max_body_bytes
        self._infer_path = f"/v2/models/{predictor.name}/infer"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        status = 200
        try:
            if scope["path"] == self._infer_path:
                body, headers = await self._infer(scope, receive)
            else:
                body, headers = await self._other(scope, receive)
        except RequestRefused as error:
            status, headers, body = error.status, [_JSON], protocol.error_body(str(error))
            if error.retry_after_s is not None:
                headers.append((b"retry-after", str(error.retry_after_s).encode()))
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
        headers.append((b"content-length", str(len(body)).encode()))
        if self._predictor.draining or status == 413:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _infer(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[bytes, Headers]:
        start_s = time.perf_counter()
        metrics = self._predictor.metrics
        try:
            answer = await self._scores(scope, receive)
        except RequestRefused as error:
            metrics.error("rest", error.status)
            raise
        metrics.rest_answered_s(time.perf_counter() - start_s)
        return answer

    async def _scores(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[bytes, Headers]:
        header_length = self._read_headers(scope)
        if scope["method"] != "POST":
            raise RequestRefused(405, f"{scope['path']} takes POST, not {scope['method']}")
        body = await self._body(receive)
        model, queue = self._predictor.served()
        request = protocol.parse(body, header_length, model.width)
        scored = await queue.score(request.rows)
        answer, head = protocol.answer(
            scored.scores,
            model=self._predictor.name,
            version=model.served.digest,
            request_id=request.request_id,
            binary=request.binary,
        )
        timing = b"queue;dur=%.3f, compute;dur=%.3f" % (
            scored.queue_s * 1e3,
            scored.compute_s * 1e3,
        )
        if head is None:
            return answer, [_JSON, (b"server-timing", timing)]
        length = (_HEADER_LENGTH, str(head).encode())
        return answer, [_BINARY, (b"server-timing", timing), length]

    def _read_headers(self, scope: MutableMapping[str, Any]) -> str | None:
        """The length of the JSON before binary tensors, where it is given.

        Raises:
            RequestRefused: 401 without the token, 413 for a body that says it is too large.
        """
        header_length = authorization = None
        for key, value in scope["headers"]:
            if key == b"authorization":
                authorization = value
            elif key == _HEADER_LENGTH:
                header_length = value.decode("latin-1")
            elif key == b"content-length" and (
                len(value) > _LONGEST_LENGTH or int(value) > self._max_body_bytes
            ):
                raise self._too_large()
        self._predictor.check_token(authorization)
        return header_length

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

    async def _other(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[bytes, Headers]:
        path, method = scope["path"], scope["method"]
        if path != "/v2/health/live":
            self._read_headers(scope)
        path = self._unversioned(path)
        if path == self._infer_path:
            return await self._infer(scope, receive)
        answers: dict[str, Callable[[], tuple[bytes, Headers]]] = {
            "/v2": self._server_metadata,
            "/v2/health/live": lambda: (protocol.encode({"live": True}), [_JSON]),
            "/v2/health/ready": self._readiness,
            f"/v2/models/{self._predictor.name}": self._model_metadata,
            f"/v2/models/{self._predictor.name}/ready": self._readiness,
            "/metrics": lambda: (
                self._predictor.metrics.text(),
                [(b"content-type", CONTENT_TYPE)],
            ),
        }
        if path not in answers:
            raise RequestRefused(404, f"no path {path!r}")
        if method != "GET":
            raise RequestRefused(405, f"{path} takes GET, not {method}")
        return answers[path]()

    def _unversioned(self, path: str) -> str:
        """The path without `/versions/<version>`, once model and version are those served here.

        Raises:
            RequestRefused: 404 for another model or version.
        """
        if not path.startswith("/v2/models/"):
            return path
        _, _, _, name, *rest = path.split("/")
        version = ""
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        self._predictor.check_name(name, version)
        return "/".join(("/v2/models", name, *rest))

    def _readiness(self) -> tuple[bytes, Headers]:
        if not self._predictor.ready:
            raise self._predictor.not_ready()
        return protocol.encode({"name": self._predictor.name, "ready": True}), [_JSON]

    def _server_metadata(self) -> tuple[bytes, Headers]:
        metadata = {
            "name": SERVER_NAME,
            "version": PROTOCOL_VERSION,
            "extensions": ["binary_tensor_data"],
        }
        return protocol.encode(metadata), [_JSON]

    def _model_metadata(self) -> tuple[bytes, Headers]:
        model, _ = self._predictor.served()
        tensor = {"datatype": protocol.DATATYPE}
        metadata = {
            "name": self._predictor.name,
            "versions": [model.served.digest],
            "platform": PLATFORM,
            "inputs": [{"name": protocol.INPUT, **tensor, "shape": [-1, model.width]}],
            "outputs": [{"name": protocol.OUTPUT, **tensor, "shape": [-1]}],
            "properties": {
                "input_names": model.served.input_names,
                "accelerator": model.accelerator,
                "mode": model.mode,
                "event_loop_rows": model.inline_rows,
                "warm_up_us": {str(t.rows): round(t.call_s * 1e6, 1) for t in model.timings},
            },
        }
        return protocol.encode(metadata), [_JSON]
