"""The practical limit in Python: a bare ASGI function, msgspec and ONNX Runtime, nothing else."""

from __future__ import annotations

import os
import sys

import msgspec
import numpy as np
import onnxruntime as ort
import uvicorn


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Infer(msgspec.Struct):
    inputs: list[Tensor]


options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["BENCH_ONNX"], options)
decode = msgspec.json.Decoder(Infer).decode
encode = msgspec.json.Encoder().encode
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    if scope["type"] != "http":
        return
    message = await receive()
    tensor = decode(message["body"]).inputs[0]
    rows = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
    (scores,) = session.run(None, {"inputs": rows})
    values = scores.tolist()
    output = {"name": "scores", "shape": [len(values)], "datatype": "FP32", "data": values}
    body = encode({"model_name": "bench", "outputs": [output]})
    headers = [*HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
