"""The stock chain's front: a KServe transformer that reads Feast by its SDK, asks the predictor
behind it, and writes a JSON line for each decision."""

from __future__ import annotations

import json
import os
import time

from feast import FeatureStore
from kserve import InferInput, InferRequest, Model, ModelServer

FEATURES = os.environ["BENCH_FEATURES"].split(",")
RATIOS = os.environ["BENCH_RATIOS"].split(",")
"""The features that the amount is divided by."""
THRESHOLDS = json.loads(os.environ["BENCH_THRESHOLDS"])


class Transformer(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.store = FeatureStore(repo_path=os.environ["BENCH_FEAST"])
        self.log = open(os.environ["BENCH_LOG"], "a", buffering=1)  # noqa: SIM115 -- for its life
        self.ready = True

    async def preprocess(self, payload, headers=None):  # type: ignore[no-untyped-def]
        keys = {"customer_id": payload["customer_id"], "terminal_id": payload["terminal_id"]}
        online = self.store.get_online_features(features=FEATURES, entity_rows=[keys]).to_dict()
        stored = [online[name.split(":")[1]][0] for name in FEATURES]
        amount, moment = payload["amount"], time.gmtime(payload["event_time"] / 1000)
        derived = [
            float(moment.tm_hour),
            float(moment.tm_wday >= 5),
            float(moment.tm_hour < 6),
        ]
        by = [online[name][0] for name in RATIOS]
        ratios = [amount / value if value else float("nan") for value in by]
        row = [amount, *derived, *stored, *ratios]
        values = [float("nan") if value is None else float(value) for value in row]
        tensor = InferInput("inputs", [1, len(values)], "FP32", data=values)
        return InferRequest(model_name=self.name, infer_inputs=[tensor])

    async def postprocess(self, result, headers=None, response_headers=None):  # type: ignore[no-untyped-def]
        score = float(result.outputs[0].data[0])
        review, decline = THRESHOLDS
        decision = "decline" if score >= decline else "review" if score >= review else "approve"
        answer = {"decision": decision, "score": score}
        self.log.write(json.dumps({"at": time.time(), **answer}) + "\n")
        return answer


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["BENCH_PORT"]), workers=1, enable_grpc=False).start(
        [Transformer("bench")]
    )
