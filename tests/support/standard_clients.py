"""The standard clients, unmodified, asking a predictor; run as a program.

Each runs in a process of its own: the KServe SDK and tritonclient register the same protobuf
names, so no process can hold both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Target:
    """Where a predictor listens, and what it is asked."""

    authority: str
    grpc_url: str
    model: str
    headers: dict[str, str]
    rows: list[list[float]]

    @property
    def array(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array(self.rows, dtype=np.float32)


def kserve_rest(target: Target, binary: bool) -> dict[str, Any]:
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    async def ask() -> dict[str, Any]:
        base = f"http://{target.authority}"
        tensor = InferInput("inputs", list(target.array.shape), "FP32")
        tensor.set_data_from_numpy(target.array, binary_data=binary)
        outputs = [RequestedOutput("scores", parameters={"binary_data": binary})]
        request = InferRequest(target.model, [tensor], "a-request", request_outputs=outputs)
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            headers = dict(target.headers)
            answer = await client.infer(base, request, model_name=target.model, headers=headers)
            return {
                "live": await client.is_server_live(base, headers=target.headers),
                "ready": await client.is_server_ready(base, headers=target.headers),
                "model_ready": await client.is_model_ready(
                    base, target.model, headers=target.headers
                ),
                "id": answer.id,
                "model": answer.model_name,
                "scores": answer.outputs[0].as_numpy().tolist(),
            }

    return asyncio.run(ask())


def kserve_grpc(target: Target, binary: bool) -> dict[str, Any]:
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask() -> dict[str, Any]:
        tensor = InferInput("inputs", list(target.array.shape), "FP32")
        tensor.set_data_from_numpy(target.array, binary_data=binary)
        request = InferRequest(target.model, [tensor], "a-request")
        headers = [(key.lower(), value) for key, value in target.headers.items()]
        async with InferenceGRPCClient(target.grpc_url) as client:
            answer = await client.infer(request, headers=headers)
            return {
                "live": await client.is_server_live(headers=headers),
                "ready": await client.is_server_ready(headers=headers),
                "model_ready": await client.is_model_ready(target.model, headers=headers),
                "id": answer.id,
                "model": answer.model_name,
                "scores": answer.outputs[0].as_numpy().tolist(),
            }

    return asyncio.run(ask())


def triton_http(target: Target, binary: bool) -> dict[str, Any]:
    from tritonclient import http

    return _triton(http.InferenceServerClient(target.authority), http, target, binary)


def triton_grpc(target: Target, binary: bool) -> dict[str, Any]:
    from tritonclient import grpc

    headers = {key.lower(): value for key, value in target.headers.items()}
    lower = Target(target.authority, target.grpc_url, target.model, headers, target.rows)
    return _triton(grpc.InferenceServerClient(target.grpc_url), grpc, lower, binary)


def _triton(client: Any, library: Any, target: Target, binary: bool) -> dict[str, Any]:
    tensor = library.InferInput("inputs", list(target.array.shape), "FP32")
    output = library.InferRequestedOutput("scores")
    if library.__name__.endswith("http"):
        tensor.set_data_from_numpy(target.array, binary_data=binary)
        output = library.InferRequestedOutput("scores", binary_data=binary)
    else:
        tensor.set_data_from_numpy(target.array)
    asked: dict[str, Any] = {"headers": target.headers}
    answer = client.infer(target.model, [tensor], outputs=[output], request_id="a-request", **asked)
    head = answer.get_response()
    metadata = client.get_model_metadata(target.model, **asked)
    get = metadata.get if isinstance(metadata, dict) else lambda key: getattr(metadata, key)
    found = {
        "live": client.is_server_live(**asked),
        "ready": client.is_server_ready(**asked),
        "model_ready": client.is_model_ready(target.model, **asked),
        "id": head["id"] if isinstance(head, dict) else head.id,
        "model": get("name"),
        "scores": answer.as_numpy("scores").tolist(),
    }
    client.close()
    return found


CLIENTS: dict[str, Callable[[Target, bool], dict[str, Any]]] = {
    "kserve-rest": kserve_rest,
    "kserve-grpc": kserve_grpc,
    "triton-http": triton_http,
    "triton-grpc": triton_grpc,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("target", type=lambda text: Target(**json.loads(text)))
    parser.add_argument("--binary", action="store_true")
    options = parser.parse_args()
    print(json.dumps(CLIENTS[options.client](options.target, options.binary)))


if __name__ == "__main__":
    main()
