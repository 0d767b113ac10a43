"""ONNX files as other people's exporters write them: named tensors, texts, several outputs."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("web", "shop", "phone")


def odds(
    amount: NDArray[np.float64], visits: NDArray[np.int64], channel: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Of a bad outcome: by phone, for much, after few visits."""
    return -4.0 + 2.5 * (channel == "phone") + 0.0004 * amount - 0.3 * visits


@functools.cache
def skl2onnx_classifier(zipmap: bool = False) -> bytes:
    """A logistic regression over a one-hot text, a scaled amount and whole visits: inputs `channel`
    string, `amount` float and `visits` int64, each [n, 1]; outputs `label` and `probabilities`."""
    import pandas as pd
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
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
    model = make_pipeline(columns, LogisticRegression()).fit(rows, label)
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
