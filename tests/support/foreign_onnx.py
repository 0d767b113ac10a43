"""ONNX files as other people's exporters write them: named tensors, texts, several outputs."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CHANNELS = ("web", "shop", "phone")


def odds(
    amount: NDArray[np.float64], visits: NDArray[np.int64], channel: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Of a bad outcome: by phone, for much, after few visits."""
    return -4.0 + 2.5 * (channel == "phone") + 0.0004 * amount - 0.3 * visits


@functools.cache
def fitted() -> Any:
    """The classifier of scikit-learn that the file is made of."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(11)
    rows = pd.DataFrame(
        {
            "channel": random.choice(np.array(CHANNELS), 2000),
            "amount": random.lognormal(8, 0.8, 2000),
            "visits": random.integers(0, 10, 2000),
        }
    )
    chance = odds(
        rows.amount.to_numpy(), rows.visits.to_numpy(), rows.channel.to_numpy().astype(str)
    )
    label = (random.random(2000) < 1 / (1 + np.exp(-chance))).astype(np.int64)
    columns = ColumnTransformer(
        [
            ("channel", OneHotEncoder(handle_unknown="ignore"), ["channel"]),
            ("amount", StandardScaler(), ["amount"]),
            ("visits", "passthrough", ["visits"]),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(rows, label)


@functools.cache
def skl2onnx_classifier(zipmap: bool = False) -> bytes:
    """Its file as skl2onnx writes it: a logistic regression over a one-hot text, a scaled amount
    and whole visits. Inputs `channel` string, `amount` float and `visits` int64, each [n, 1];
    outputs `label` and `probabilities`."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    model = fitted()
    content: bytes = to_onnx(
        model,
        initial_types=[
            ("channel", StringTensorType([None, 1])),
            ("amount", FloatTensorType([None, 1])),
            ("visits", Int64TensorType([None, 1])),
        ],
        options={id(model): {"zipmap": zipmap}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    ).SerializeToString()
    return content


@functools.cache
def forest() -> tuple[bytes, NDArray[np.float32], NDArray[np.float64]]:
    """A forest of ten trees as skl2onnx writes it, with rows and scikit-learn's scores. Its sum of
    ten float32 tenths is one step above 1."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import RandomForestClassifier

    rows = np.random.default_rng(0).random((300, 2)).astype(np.float32)
    labels = (rows[:, 0] > 0.5).astype(np.int64)
    model = RandomForestClassifier(10, random_state=1, max_depth=3).fit(rows, labels)
    content: bytes = to_onnx(
        model,
        initial_types=[("rows", FloatTensorType([None, 2]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    ).SerializeToString()
    return content, rows, model.predict_proba(rows)[:, 1]


def softmax(classes: int) -> bytes:
    """A graph `rows` float32 [n, classes] → `probabilities` [n, classes]."""
    from onnx import TensorProto, helper

    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, classes])
        for name in ("rows", "probabilities")
    ]
    node = helper.make_node("Softmax", ["rows"], ["probabilities"], axis=1)
    made = helper.make_graph([node], "given", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def mean() -> bytes:
    """A graph `rows` float32 [n, 3] → `scores` [n]."""
    from onnx import TensorProto, helper

    taken = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])
    node = helper.make_node("ReduceMean", ["rows"], ["scores"], axes=[1], keepdims=0)
    made = helper.make_graph([node], "given", [taken], [given])
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def golden_rows() -> list[dict[str, Any]]:
    """A golden set as its maker writes it: scikit-learn's own scores, also of an unknown text."""
    import pandas as pd

    rows = pd.DataFrame(
        [(c, a, v) for c in (*CHANNELS, "letter") for a, v in ((500.0, 9), (4000.0, 1))],
        columns=["channel", "amount", "visits"],
    )
    scores = fitted().predict_proba(rows)[:, 1]
    plain = json.loads(rows.to_json(orient="records"))
    return [
        {"inputs": row, "score": float(score)} for row, score in zip(plain, scores, strict=True)
    ]


def ready_folder(root: Path, name: str) -> Path:
    """The folder of the file, as a person completes what the template writes."""
    from mlplatform.commands.authoring.new_model import write_ready

    (root / "given.onnx").write_bytes(skl2onnx_classifier())
    write_ready(root / name, name, root / "given.onnx")
    file = root / name / "model.yaml"
    file.write_text(
        file.read_text()
        .replace("channel: []", f"channel: [{', '.join(CHANNELS)}]")
        .replace("inputs: [amount, visits]", "inputs: [amount, channel]")
    )
    (root / name / "golden.json").write_text(json.dumps(golden_rows()))
    return root / name


def requests(until_ms: int, *, days: int, per_day: int) -> pa.Table:
    """A history of requests whose outcomes are what the model was fitted to."""
    random = np.random.default_rng(5)
    count, day_us = days * per_day, 86_400_000_000
    event_us = np.sort(random.integers(until_ms * 1000 - days * day_us, until_ms * 1000, count))
    channel = random.choice(np.array(CHANNELS), count)
    amount, visits = random.lognormal(8, 0.8, count), random.integers(0, 10, count)
    chance = odds(amount, visits, channel)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 2_000, count),
            "channel": channel,
            "amount": amount,
            "visits": visits,
            "label": (random.random(count) < 1 / (1 + np.exp(-chance))).astype(np.int8),
            "label_time": pa.array(
                np.minimum(event_us + day_us, until_ms * 1000), pa.timestamp("us")
            ),
        }
    )
