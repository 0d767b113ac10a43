"""The model of `support.foreign_onnx` in MLServer: its runtime port, with ONNX Runtime.

It imports only what MLServer's environment has (`requirements/bench-mlserver.txt`).
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self.session = onnxruntime.InferenceSession(os.environ["MODEL_FILE"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {}
        for tensor in payload.inputs:
            if tensor.datatype == "BYTES":
                feeds[tensor.name] = np.array(StringCodec.decode_input(tensor), dtype=object)
            else:
                feeds[tensor.name] = NumpyCodec.decode_input(tensor)
            feeds[tensor.name] = feeds[tensor.name].reshape(tensor.shape)
        label, chances = self.session.run(["label", "probabilities"], feeds)
        outputs = [
            NumpyCodec.encode_output("label", label),
            NumpyCodec.encode_output("probabilities", chances),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
