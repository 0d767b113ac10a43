"""`grpc.reflection`: the gateway's services and messages, for clients without its .proto files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import grpc

from mlplatform.scoring.api.grpc_calls import Answer, Call, parsed
from mlplatform.scoring.protos import health_pb2, open_inference_pb2, scoring_pb2
from mlplatform.scoring.protos import reflection_pb2 as pb

SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""The two names of one protocol; clients from before 2023 know only the second."""
_FILES: Final = (
    scoring_pb2.DESCRIPTOR,
    open_inference_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    pb.DESCRIPTOR,
)
"""Descriptors of the .proto files. None imports another file, so each is complete."""
_BY_NAME: Final[dict[str, bytes]] = {file.name: file.serialized_pb for file in _FILES}


def answers(services: Collection[str]) -> dict[str, Answer]:
    """Method → the function that answers each message of its stream, for keys that may score or
    read.

    Args:
        services: names of this listener's services.
    """
    listed = sorted({*services, *SERVICES})

    async def info(request: bytes, call: Call) -> pb.ServerReflectionResponse:
        await call.admit(None, "read")
        return reflection_response(parsed(pb.ServerReflectionRequest, request), listed)

    return {"ServerReflectionInfo": info}


def reflection_response(
    request: pb.ServerReflectionRequest, services: Collection[str]
) -> pb.ServerReflectionResponse:
    """Answers what is known of a file, a symbol or the services; an error where nothing is."""
    response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
    match request.WhichOneof("message_request"):
        case "list_services":
            for name in services:
                response.list_services_response.service.add(name=name)
        case "file_by_filename" if request.file_by_filename in _BY_NAME:
            content = _BY_NAME[request.file_by_filename]
            response.file_descriptor_response.file_descriptor_proto.append(content)
        case "file_containing_symbol" if request.file_containing_symbol in _BY_SYMBOL:
            content = _BY_SYMBOL[request.file_containing_symbol]
            response.file_descriptor_response.file_descriptor_proto.append(content)
        case None:
            _refuse(response, grpc.StatusCode.INVALID_ARGUMENT, "the message asks for nothing")
        case _:
            _refuse(response, grpc.StatusCode.NOT_FOUND, "this server has nothing of that name")
    return response


def _refuse(response: pb.ServerReflectionResponse, code: grpc.StatusCode, why: str) -> None:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = why


def _symbols(file: Any) -> Iterator[str]:
    """Full names of everything that a file declares."""
    yield from (enum.full_name for enum in file.enum_types_by_name.values())
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        yield message.full_name
        yield from (field.full_name for field in message.fields)
        yield from (enum.full_name for enum in message.enum_types)
        waiting += message.nested_types


_BY_SYMBOL: Final[dict[str, bytes]] = {
    symbol: file.serialized_pb for file in _FILES for symbol in _symbols(file)
} | {SERVICES[1]: pb.DESCRIPTOR.serialized_pb}
