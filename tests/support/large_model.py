"""An ONNX file whose weights lie in a file beside it, of any size, written without holding it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

DATA: Final = "weights.bin"
COLUMNS: Final = ("amount", "visits")
WIDTH: Final = 2048
ITEM_BYTES: Final = 4


def outside(
    name: str, dims: list[int], *, at: int, location: str = DATA, **entries: str
) -> TensorProto:
    """A float32 tensor in a data file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    length = int(np.prod(dims)) * ITEM_BYTES
    places = {"location": location, "offset": str(at), "length": str(length)}
    for key, value in (places | entries).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def write_large(
    folder: Path, *, table_rows: int, layers: int, width: int = WIDTH, bias: float = 0.0
) -> ModelProto:
    """Write `model.onnx` and `weights.bin`: a table that a row looks itself up in by its visits
    (Gather), and square layers (MatMul); returns the model.

    The logistic of what a row's amount and visits say, whatever the random weights add: they are
    small, so that the file can be judged by a history of `foreign_onnx`.
    """
    rng, places = np.random.default_rng(3), [0]
    with (folder / DATA).open("wb") as file:
        for rows in (table_rows, *[width] * layers):
            for start in range(0, rows, 1024):
                block = rng.random((min(1024, rows - start), width), np.float32)
                file.write(((block - np.float32(0.5)) * np.float32(3 / width**0.5)).tobytes())
            places.append(places[-1] + rows * width * ITEM_BYTES)
    tensors = [outside("table", [table_rows, width], at=0)]
    tensors += [outside(f"w{i}", [width, width], at=places[i + 1]) for i in range(layers)]
    model = graph(tensors, layers, width=width, bias=bias, table_rows=table_rows)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return model


def graph(
    tensors: list[TensorProto], layers: int, *, width: int, bias: float, table_rows: int
) -> ModelProto:
    nodes = [
        helper.make_node("Mul", ["visits", "stride"], ["place"]),
        helper.make_node("Mod", ["place", "rows"], ["entry"]),
        helper.make_node("Gather", ["table", "entry"], ["m0"], axis=0),
    ]
    for i in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"m{i}", f"w{i}"], [f"a{i}"]),
            helper.make_node("Tanh", [f"a{i}"], [f"m{i + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"m{layers}"], ["noise"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["visits"], ["often"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["amount", "by_amount"], ["much"]),
        helper.make_node("Mul", ["often", "by_visits"], ["seldom"]),
        helper.make_node("Sum", ["much", "seldom", "bias", "noise"], ["odds"]),
        helper.make_node("Sigmoid", ["odds"], ["score"]),
    ]
    constants: dict[str, Any] = {
        **{"stride": np.int64(7919), "rows": np.int64(table_rows)},
        **{"by_amount": np.float32(0.0004), "by_visits": np.float32(-0.3)},
        "bias": np.float32(-3.0 + bias),
    }
    made = helper.make_graph(
        nodes,
        "large",
        [
            helper.make_tensor_value_info("amount", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("visits", TensorProto.INT64, [None]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])],
        [*tensors, *(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def golden(folder: Path) -> list[dict[str, Any]]:
    """A golden set as its maker writes it: by ONNX Runtime over the files where they are."""
    import onnxruntime

    running = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    amount, visits = np.array([500.0, 4000.0, 9000.0], np.float32), np.array([9, 1, 0])
    (scores,) = running.run(["score"], {"amount": amount, "visits": visits})
    rows = zip(amount.tolist(), visits.tolist(), scores.tolist(), strict=True)
    return [{"inputs": {"amount": a, "visits": v}, "score": s} for a, v, s in rows]
