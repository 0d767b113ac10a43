"""The predictor over gRPC: the Open Inference Protocol's `GRPCInferenceService`.

Source: Open Inference Protocol, gRPC; the messages are in platform/protos.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from mlplatform.model.tensors.named_tensors import NamedTensors, SentTensor, from_bytes
from mlplatform.runtime.http.grpc_connections import MAX_CONNECTIONS, GrpcConnections
from mlplatform.scoring.predictor.batching import BatchScores
from mlplatform.scoring.predictor.model import Model
from mlplatform.scoring.predictor.protocol import (
    DATATYPE,
    INPUT,
    OUTPUT,
    Floats,
    RequestRefused,
    check_tensor,
    is_matrix,
    rows_of_several,
    shaped,
)
from mlplatform.scoring.predictor.state import PLATFORM, PROTOCOL_VERSION, SERVER_NAME, ServedModel
from mlplatform.scoring.protos import open_inference_pb2 as pb

SERVICE: Final = "inference.GRPCInferenceService"
MESSAGE_OVERHEAD_BYTES: Final = 4096
MAX_STREAMS: Final = 256
"""Most calls of one connection at a time; its client holds further ones back."""

HANDSHAKE_MS: Final = 10_000
IDLE_MS: Final = 75_000
_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[bytes], Awaitable[Message]]


class InferenceService:
    """The protocol over gRPC, for one predictor.

    Requests come as bytes and are parsed here: gRPC itself would answer a message that can't be
    parsed with INTERNAL, as if that were the server's fault.

    Args:
        admit: called with the peer of each call that has the token.
    """

    def __init__(self, predictor: ServedModel, admit: Callable[[str], None]) -> None:
        self._predictor = predictor
        self._admit = admit

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Every method of the service."""
        answers: dict[str, Answer] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                method: grpc.unary_unary_rpc_method_handler(
                    self._guarded(answer, is_open=method == "ServerLive"),
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for method, answer in answers.items()
            },
        )

    def _guarded(self, answer: Answer, *, is_open: bool) -> Callable[[bytes, Context], Any]:
        async def call(request: bytes, context: Context) -> Message:
            try:
                if not is_open:
                    self._predictor.check_token(_authorization(context))
                    self._admit(context.peer())
                return await answer(request)
            except RequestRefused as error:
                code, trailers = _CODES[error.status], []
                if error.retry_after_s is not None:
                    trailers.append(("retry-after", str(error.retry_after_s)))
                    if error.status == 503 and self._predictor.ready:
                        code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await context.abort(code, str(error), tuple(trailers))

        return call

    async def _server_live(self, request: bytes) -> pb.ServerLiveResponse:
        _parsed(pb.ServerLiveRequest, request)
        return pb.ServerLiveResponse(live=self._predictor.alive)

    async def _server_ready(self, request: bytes) -> pb.ServerReadyResponse:
        _parsed(pb.ServerReadyRequest, request)
        return pb.ServerReadyResponse(ready=self._predictor.ready)

    async def _model_ready(self, request: bytes) -> pb.ModelReadyResponse:
        message = _parsed(pb.ModelReadyRequest, request)
        self._predictor.check_name(message.name, message.version)
        return pb.ModelReadyResponse(ready=self._predictor.ready)

    async def _server_metadata(self, request: bytes) -> pb.ServerMetadataResponse:
        _parsed(pb.ServerMetadataRequest, request)
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=PROTOCOL_VERSION)

    async def _model_metadata(self, request: bytes) -> pb.ModelMetadataResponse:
        message = _parsed(pb.ModelMetadataRequest, request)
        self._predictor.check_name(message.name, message.version)
        model, _ = self._predictor.model_and_queue()
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=self._predictor.name,
            versions=[model.served.digest],
            platform=PLATFORM,
            inputs=[tensor(**described) for described in model.input_tensors],
            outputs=[tensor(name=OUTPUT, datatype=DATATYPE, shape=[-1])],
        )

    async def _model_infer(self, request: bytes) -> pb.ModelInferResponse:
        start_s = time.perf_counter()
        metrics = self._predictor.metrics
        try:
            answer = await self._scores(request)
        except RequestRefused as error:
            metrics.error("grpc", error.status)
            raise
        metrics.grpc_answered_s(time.perf_counter() - start_s)
        return answer

    async def _scores(self, request: bytes) -> pb.ModelInferResponse:
        message = _parsed(pb.ModelInferRequest, request)
        self._predictor.check_name(message.model_name, message.model_version)
        model, queue = self._predictor.model_and_queue()
        rows = rows_of(message, model.width, model.served.named)
        scored = await queue.score(rows)
        return self._answer(message, model, scored)

    def _answer(
        self, message: pb.ModelInferRequest, model: Model, scored: BatchScores
    ) -> pb.ModelInferResponse:
        """The response with scores in the form of the request's values: raw bytes for raw bytes."""
        answer = pb.ModelInferResponse(
            model_name=self._predictor.name, model_version=model.served.digest, id=message.id
        )
        answer.parameters["queue_us"].int64_param = round(scored.queue_s * 1e6)
        answer.parameters["compute_us"].int64_param = round(scored.compute_s * 1e6)
        output = answer.outputs.add(name=OUTPUT, datatype=DATATYPE, shape=list(scored.scores.shape))
        if message.raw_input_contents:
            answer.raw_output_contents.append(scored.scores.astype("<f4", copy=False).tobytes())
        else:
            output.contents.fp32_contents.extend(scored.scores.ravel().tolist())
        return answer


def rows_of(request: pb.ModelInferRequest, width: int, named: NamedTensors | None = None) -> Floats:
    """The rows [n, width] in a request.

    Args:
        named: the tensors that may be sent instead of the one with all inputs; None: only that one.

    Raises:
        RequestRefused: 400; the message says what is wrong.
    """
    several = not is_matrix([tensor.name for tensor in request.inputs], named)
    for output in request.outputs:
        if output.name != OUTPUT:
            raise RequestRefused(400, f"no output {output.name!r}; the model gives {OUTPUT!r}")
    if several:
        assert named is not None
        return rows_of_several(lambda: _tensors_of(request), named)
    [tensor] = request.inputs
    check_tensor(tensor.name, tensor.datatype, tensor.shape, width)
    if request.raw_input_contents:
        return shaped(_from_bytes(request.raw_input_contents, tensor), tensor.shape)
    values: Floats = np.array(tensor.contents.fp32_contents, dtype=np.float32)
    return shaped(values, tensor.shape)


def _from_bytes(raw: Sequence[bytes], tensor: pb.ModelInferRequest.InferInputTensor) -> Floats:
    if tensor.HasField("contents"):
        raise RequestRefused(400, f"{INPUT!r} has both contents and raw_input_contents")
    if len(raw) != 1 or len(raw[0]) % 4:
        sizes = [len(part) for part in raw]
        raise RequestRefused(
            400, f"raw_input_contents has parts of {sizes} bytes; wanted one, of 4 to a value"
        )
    return np.frombuffer(raw[0], dtype="<f4")


_CONTENTS: Final = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
}


def _tensors_of(request: pb.ModelInferRequest) -> list[SentTensor]:
    """Several tensors as they were sent: all as raw contents, or all as typed ones."""
    raw = request.raw_input_contents
    if raw:
        if len(raw) != len(request.inputs) or any(t.HasField("contents") for t in request.inputs):
            raise ValueError(f"{len(raw)} raw_input_contents; wanted: one for each input")
        return [
            from_bytes(tensor.name, tensor.datatype, tensor.shape, memoryview(part))
            for tensor, part in zip(request.inputs, raw, strict=True)
        ]
    return [_typed(tensor) for tensor in request.inputs]


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> SentTensor:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        known = ", ".join(_CONTENTS)
        raise ValueError(f"{tensor.name!r} has datatype {tensor.datatype!r}; {known}")
    values: Sequence[Any] = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        values = [str(text, "utf-8") for text in values]  # ValueError if not UTF-8
    return SentTensor(tensor.name, tensor.datatype, tensor.shape, values)


def options(max_message_bytes: int, *, shares_port: bool = False) -> tuple[tuple[str, int], ...]:
    """Limits for callers of a listener; gRPC itself limits only the size of a message."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.so_reuseport", int(shares_port)),
    )


def server(
    predictor: ServedModel, connections: GrpcConnections, *, shares_port: bool = False
) -> grpc.aio.Server:
    """A gRPC server for the predictor, without a port yet.

    Args:
        connections: admits callers that have the token.
        shares_port: whether to share the port with the socket by which a supervisor reserves it.
            Two servers on one port would share its calls unnoticed.
    """
    size = predictor.max_body_bytes + MESSAGE_OVERHEAD_BYTES
    made = grpc.aio.server(options=options(size, shares_port=shares_port))
    made.add_generic_rpc_handlers((InferenceService(predictor, connections.admit).handlers(),))
    return made


def _parsed(kind: type[M], request: bytes) -> M:
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise RequestRefused(400, f"the request is not a {kind.__name__}") from error


def _authorization(context: Context) -> bytes | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, bytes) else value.encode()
    return None
