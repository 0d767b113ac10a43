"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api.grpc_calls import Answer, Call, model_of, parsed
from mlplatform.scoring.api.inference_api import SERVER, metadata
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.predictor.grpc_server import rows_of
from mlplatform.scoring.predictor.protocol import (
    DATATYPE,
    OUTPUT,
    RequestRefused,
    check_callers_rows,
)
from mlplatform.scoring.protos import open_inference_pb2 as pb
from mlplatform.scoring.request.raw_calls import PARAMETER, infer, problem_of, target_of
from mlplatform.scoring.request.scoring import Scoring


def answers(models: Mapping[str, Scoring], health: Health) -> dict[str, Answer]:
    """Method → the function that answers it."""

    async def server_live(request: bytes, call: Call) -> pb.ServerLiveResponse:
        health.check_alive()
        return pb.ServerLiveResponse(live=True)

    async def server_ready(request: bytes, call: Call) -> pb.ServerReadyResponse:
        try:
            health.check_ready()
        except Problem:
            return pb.ServerReadyResponse(ready=False)
        return pb.ServerReadyResponse(ready=True)

    async def server_metadata(request: bytes, call: Call) -> pb.ServerMetadataResponse:
        await call.admit(None, "read")
        return pb.ServerMetadataResponse(name=str(SERVER["name"]), version=str(SERVER["version"]))

    async def model_ready(request: bytes, call: Call) -> pb.ModelReadyResponse:
        message = parsed(pb.ModelReadyRequest, request)
        await call.admit(message.name, "read")
        scoring = model_of(models, message.name)
        if message.version:
            target_of(scoring, message.version)
        return pb.ModelReadyResponse(ready=scoring.live.current.champion is not None)

    async def model_metadata(request: bytes, call: Call) -> pb.ModelMetadataResponse:
        message = parsed(pb.ModelMetadataRequest, request)
        await call.admit(message.name, "read")
        found: dict[str, Any] = metadata(model_of(models, message.name), message.version or None)
        return pb.ModelMetadataResponse(**found)

    async def model_infer(request: bytes, call: Call) -> pb.ModelInferResponse:
        message = parsed(pb.ModelInferRequest, request)
        admitted = await call.admit(message.model_name, "score")
        scoring = model_of(models, message.model_name)
        caller = call.caller(scoring, admitted.client, version=message.model_version)
        try:
            target = target_of(scoring, caller.version)
            rows = rows_of(message, len(target.plan.names), target.named)
            check_callers_rows(rows, target.named)
        except RequestRefused as error:
            raise problem_of(error) from error
        call.gate.charge(admitted, len(rows) - 1)
        inferred_rows = await infer(scoring, rows, _assignment_key(message), caller)
        answer = pb.ModelInferResponse(
            model_name=message.model_name, model_version=inferred_rows.version, id=message.id
        )
        shape = list(inferred_rows.scores.shape)
        output = answer.outputs.add(name=OUTPUT, datatype=DATATYPE, shape=shape)
        if message.raw_input_contents:
            answer.raw_output_contents.append(
                inferred_rows.scores.astype("<f4", copy=False).tobytes()
            )
        else:
            output.contents.fp32_contents.extend(inferred_rows.scores.ravel().tolist())
        return answer

    return {
        "ServerLive": server_live,
        "ServerReady": server_ready,
        "ServerMetadata": server_metadata,
        "ModelReady": model_ready,
        "ModelMetadata": model_metadata,
        "ModelInfer": model_infer,
    }


def _assignment_key(message: pb.ModelInferRequest) -> Any | None:
    if PARAMETER not in message.parameters:
        return None
    value = message.parameters[PARAMETER]
    kind = value.WhichOneof("parameter_choice")
    return None if kind is None else getattr(value, kind)
