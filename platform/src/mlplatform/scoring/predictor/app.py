"""The predictor's answer to each path."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from mlplatform.runtime.http.connection import Answer
from mlplatform.runtime.http.messages import JSON, Line, Refusal, Reply, Request, line
from mlplatform.runtime.telemetry.context import trace_context
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.predictor import protocol
from mlplatform.scoring.predictor.batching import BatchScores
from mlplatform.scoring.predictor.metrics import CONTENT_TYPE
from mlplatform.scoring.predictor.protocol import HEADER_LENGTH, Inference, RequestRefused
from mlplatform.scoring.predictor.state import PLATFORM, PROTOCOL_VERSION, SERVER_NAME, ServedModel

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())
_BINARY: Final = line(b"content-type", b"application/octet-stream")
_METRICS: Final = line(b"content-type", CONTENT_TYPE)
_BEARER: Final = line(b"www-authenticate", b"Bearer")
_HEADER_LENGTH: Final = HEADER_LENGTH.lower().encode()


class RestApplication:
    """The protocol over HTTP, for one predictor."""

    def __init__(self, predictor: ServedModel) -> None:
        self._predictor = predictor
        self._infer_path = f"/v2/models/{predictor.name}/infer"

    def answer(self, request: Request) -> Answer:
        """The reply to a request; immediate if the body is complete and the model is fast."""
        try:
            if request.path == self._infer_path:
                return self._infer(request)
            return self._other(request)
        except RequestRefused as error:
            return _refused(error)

    def refusal(self, refused: Refusal) -> Reply:
        """The protocol's error object for a request that the connection refused."""
        return _refused(RequestRefused(refused.status, refused.detail, refused.retry_after_s))

    def on_ended(self, reason: str) -> None:
        """Does nothing: a predictor's callers are few, and known."""

    def _infer(self, request: Request) -> Answer:
        start_s = time.perf_counter()
        try:
            header_length = self._read_head(request)
            if not request.is_whole:
                return self._infer_later(request, header_length, start_s)
            model, queue = self._predictor.model_and_queue()
            inference = protocol.parse(
                _body(request), header_length, model.width, model.served.named
            )
            scored = queue.score_at_once(inference.rows)
            if scored is None:
                return self._score_later(request, inference, start_s)
            return self._scores(inference, scored, start_s)
        except RequestRefused as error:
            self._on_failure(request, error)
            raise

    async def _infer_later(
        self, request: Request, header_length: str | None, start_s: float
    ) -> Reply:
        """The reply to a request whose body is not complete yet."""
        try:
            await _arrival(request)
            model, _ = self._predictor.model_and_queue()
            inference = protocol.parse(
                _body(request), header_length, model.width, model.served.named
            )
        except RequestRefused as error:
            self._on_failure(request, error)
            return _refused(error)
        return await self._score_later(request, inference, start_s)

    async def _score_later(self, request: Request, inference: Inference, start_s: float) -> Reply:
        """The reply of a model that is too slow for the event loop."""
        try:
            _, queue = self._predictor.model_and_queue()
            return self._scores(inference, await queue.score(inference.rows), start_s)
        except RequestRefused as error:
            self._on_failure(request, error)
            return _refused(error)

    def _on_failure(self, request: Request, error: RequestRefused) -> None:
        """Count a failure, and log it with the caller's trace if the predictor caused it."""
        self._predictor.metrics.error("rest", error.status)
        if error.status >= 500:
            context = trace_context(request.headers)
            extra = {"trace_id": context.trace_id if context else None}
            log.warning("an inference request got no scores: %s", error, extra=extra)

    def _scores(self, inference: Inference, scored: BatchScores, start_s: float) -> Reply:
        model, _ = self._predictor.model_and_queue()
        body, head = protocol.inference_response(
            scored.scores,
            model=self._predictor.name,
            version=model.served.digest,
            request_id=inference.request_id,
            binary=inference.binary,
        )
        timing = line(
            b"server-timing",
            b"queue;dur=%.3f, compute;dur=%.3f" % (scored.queue_s * 1e3, scored.compute_s * 1e3),
        )
        self._predictor.metrics.rest_answered_s(time.perf_counter() - start_s)
        if head is None:
            return Reply(body, (JSON, timing))
        return Reply(body, (_BINARY, timing, line(_HEADER_LENGTH, b"%d" % head)))

    def _read_head(self, request: Request) -> str | None:
        """The length of the JSON before binary tensors; None if the header is absent.

        Raises:
            RequestRefused: 401 without the token, 405 for another method.
        """
        headers = request.headers
        self._predictor.check_token(headers.get(b"authorization"))
        request.admit()
        if request.method != "POST":
            raise RequestRefused(405, f"{request.path} takes POST, not {request.method}")
        length = headers.get(_HEADER_LENGTH)
        return None if length is None else length.decode("latin-1")

    def _other(self, request: Request) -> Answer:
        path, method = request.path, request.method
        if path != "/v2/health/live":
            self._predictor.check_token(request.headers.get(b"authorization"))
            request.admit()
        path = self._unversioned(path)
        if path == self._infer_path:
            return self._infer(request)
        answers: dict[str, Callable[[], Reply]] = {
            "/v2": self._server_metadata,
            "/v2/health/live": self._liveness,
            "/v2/health/ready": self._readiness,
            f"/v2/models/{self._predictor.name}": self._model_metadata,
            f"/v2/models/{self._predictor.name}/ready": self._readiness,
            "/metrics": lambda: Reply(self._predictor.metrics.text(), (_METRICS,)),
        }
        if path not in answers:
            raise RequestRefused(404, f"no path {path!r}")
        if method != "GET":
            raise RequestRefused(405, f"{path} takes GET, not {method}")
        return answers[path]()

    def _unversioned(self, path: str) -> str:
        """The path under the service's name and without `/versions/<version>`.

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
        return "/".join(("/v2/models", self._predictor.name, *rest))

    def _liveness(self) -> Reply:
        if not self._predictor.alive:
            raise self._predictor.not_ready()
        return Reply(protocol.encode({"live": True}))

    def _readiness(self) -> Reply:
        if not self._predictor.ready:
            raise self._predictor.not_ready()
        return Reply(protocol.encode({"name": self._predictor.name, "ready": True}))

    def _server_metadata(self) -> Reply:
        metadata = {
            "name": SERVER_NAME,
            "version": PROTOCOL_VERSION,
            "extensions": ["binary_tensor_data"],
        }
        return Reply(protocol.encode(metadata))

    def _model_metadata(self) -> Reply:
        model, _ = self._predictor.model_and_queue()
        score = {"name": protocol.OUTPUT, "datatype": protocol.DATATYPE}
        metadata = {
            "name": self._predictor.name,
            "versions": [model.served.digest],
            "platform": PLATFORM,
            "inputs": model.input_tensors,
            "outputs": [{**score, "shape": model.output_shape}],
            "properties": {
                "input_names": model.served.input_names,
                "accelerator": model.accelerator,
                "mode": model.mode,
                "event_loop_rows": model.inline_rows,
                "warm_up_us": {str(t.rows): round(t.call_s * 1e6, 1) for t in model.timings},
            },
        }
        return Reply(protocol.encode(metadata))


async def _arrival(request: Request) -> None:
    try:
        await request.body()
    except Refusal as refused:
        raise RequestRefused(refused.status, refused.detail) from refused


def _body(request: Request) -> bytes:
    try:
        return request.arrived_body()
    except Refusal as refused:
        raise RequestRefused(refused.status, refused.detail) from refused


def _refused(error: RequestRefused) -> Reply:
    headers: list[Line] = [JSON]
    if error.retry_after_s is not None:
        headers.append(line(b"retry-after", b"%d" % error.retry_after_s))
    if error.status == 401:
        headers.append(_BEARER)
    return Reply(protocol.error_body(str(error)), headers, error.status)
