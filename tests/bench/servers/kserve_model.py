"""KServe's ModelServer with an ONNX model, its documented switches for speed set."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_ONNX"], options)
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):  # type: ignore[no-untyped-def]
        request: InferRequest = payload
        rows = request.inputs[0].as_numpy().astype(np.float32)
        (scores,) = self.session.run(None, {"inputs": rows})
        output = InferOutput("scores", list(scores.shape), "FP32", scores.tolist())
        return InferResponse(request.id or "", self.name, [output])


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["BENCH_PORT"]), workers=1, enable_grpc=False).start(
        [OnnxModel("bench")]
    )
