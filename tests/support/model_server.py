"""A model server of somebody else's: KServe's own Python server with a pipeline of scikit-learn.

`python model_server.py --port N --name churn` serves the classifier from which the file of
`support.foreign_onnx` was exported, so that its scores are those of the file but not its doing. It
takes three tensors, a text, a float and a whole number, and gives two. Options make it lie.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program it is alone in its folder
    sys.path.insert(0, str(Path(__file__).parents[1]))


def served(options: argparse.Namespace) -> Any:
    """The model as KServe's server takes one."""
    import numpy as np
    import pandas as pd
    from kserve import InferOutput, InferRequest, InferResponse, Model

    from support.foreign_onnx import fitted

    class Pipeline(Model):
        def __init__(self) -> None:
            super().__init__(options.name)
            self.pipeline = fitted()
            self.ready = True

        async def get_input_types(self) -> list[dict[str, Any]]:
            kinds = {"channel": "BYTES", "amount": options.amount, "visits": "INT64"}
            return [{"name": n, "datatype": k, "shape": [-1, 1]} for n, k in kinds.items()]

        async def get_output_types(self) -> list[dict[str, Any]]:
            return [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
            ]

        async def predict(
            self, payload: InferRequest, headers: Any = None, response_headers: Any = None
        ) -> InferResponse:
            await asyncio.sleep(options.delay_s)
            if any(name.lower() == "authorization" for name in headers or {}):
                raise RuntimeError("a token of the platform came here")
            columns = {}
            for tensor in payload.inputs:
                values = tensor.as_numpy().ravel()
                if tensor.datatype == "BYTES":
                    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
                    columns[tensor.name] = np.array(texts, dtype=object)
                else:
                    columns[tensor.name] = values
            rows = pd.DataFrame(columns)[["channel", "amount", "visits"]]
            chances = self.pipeline.predict_proba(rows)
            chances[:, 1] += options.shift
            label = (chances[:, 1] > 0.5).astype(np.int64)
            outputs = [
                InferOutput("label", list(label.shape), "INT64", label.tolist()),
                InferOutput("probabilities", list(chances.shape), "FP32", chances.tolist()),
            ]
            wanted = {output.name for output in payload.request_outputs or ()}
            given = [o for o in outputs if o.name in wanted or not wanted]
            return InferResponse(payload.id or "", self.name, given)

    return Pipeline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="churn")
    parser.add_argument("--shift", type=float, default=0.0, help="added to each score")
    parser.add_argument("--delay-s", type=float, default=0.0, help="before each answer")
    parser.add_argument("--amount", default="FP32", help="datatype that it claims for the amount")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # KServe reads a command line of its own

    from kserve import ModelServer

    ModelServer(http_port=options.port, workers=1, enable_grpc=False).start([served(options)])


if __name__ == "__main__":
    main()
