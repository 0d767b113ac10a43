"""FastAPI as its documentation writes it, on uvicorn with uvloop."""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Infer(BaseModel):
    inputs: list[Tensor]


class Output(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Answer(BaseModel):
    model_name: str
    outputs: list[Output]


options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["BENCH_ONNX"], options)
app = FastAPI()


@app.post("/v2/models/bench/infer")
async def infer(request: Infer) -> Answer:
    tensor = request.inputs[0]
    rows = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
    (scores,) = session.run(None, {"inputs": rows})
    values = scores.tolist()
    output = Output(name="scores", shape=[len(values)], datatype="FP32", data=values)
    return Answer(model_name="bench", outputs=[output])


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
