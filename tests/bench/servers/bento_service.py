"""BentoML's service with an ONNX model."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1, traffic={"timeout": 30})
class Bench:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_ONNX"], options)

    @bentoml.api(route="/infer")
    async def infer(self, rows: list[list[float]]) -> list[float]:
        (scores,) = self.session.run(None, {"inputs": np.array(rows, dtype=np.float32)})
        return [float(score) for score in scores]
