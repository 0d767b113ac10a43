"""ONNX files that others' exporters wrote are taken by the template; bad ones leave nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tests.support import hostile_models as hostile
from tests.support import other_exporters
from tests.support.foreign_onnx import skl2onnx_classifier

from mlplatform.commands.authoring.check_model import problems
from mlplatform.commands.authoring.new_model import write_ready
from mlplatform.runtime.errors import InputInvalid


def xgboost_file(folder: Path) -> Path:
    (folder / "sent.onnx").write_bytes(other_exporters.onnxmltools_xgboost().SerializeToString())
    return folder / "sent.onnx"


def golden(columns: list[str], rows: NDArray[np.float32], scores: NDArray[np.float64]) -> str:
    inputs = (dict(zip(columns, row, strict=True)) for row in rows.tolist())
    made = zip(inputs, scores.tolist(), strict=True)
    return json.dumps([{"inputs": values, "score": score} for values, score in made])


@pytest.mark.parametrize(
    ("sent", "columns", "scores", "files"),
    [
        pytest.param(
            xgboost_file,
            ["input_0", "input_1"],
            other_exporters.xgboost_scores,
            {"model.onnx"},
            id="onnxmltools' of XGBoost: a label and probabilities",
        ),
        pytest.param(
            other_exporters.torch_export,
            ["x_0", "x_1"],
            other_exporters.torch_scores,
            {"model.onnx", other_exporters.TORCH_DATA},
            id="PyTorch's: a column, and weights in another file",
        ),
    ],
)
def test_it_scores_as_its_maker_says(
    tmp_path: Path,
    sent: Callable[[Path], Path],
    columns: list[str],
    scores: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    files: set[str],
) -> None:
    (tmp_path / "sent").mkdir()
    folder = tmp_path / "given"
    assert files <= set(write_ready(folder, "given", sent(tmp_path / "sent")))
    expected = scores(other_exporters.ROWS)
    (folder / "golden.json").write_text(golden(columns, other_exporters.ROWS, expected))
    assert list(problems(folder)) == []
    (folder / "golden.json").write_text(golden(columns, other_exporters.ROWS, 1 - expected))
    assert ["expected is" in problem for problem in problems(folder)] == [True]


def with_node(operator: str, domain: str = "", **fields: object) -> ModelProto:
    """A harmless model whose score goes through one more node."""
    made = hostile.model([helper.make_node(operator, ["sum"], ["scores"], domain=domain)], {})
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    return made


def huge_tensor() -> ModelProto:
    """4 TB by its dimensions, of four bytes."""
    made = hostile.harmless()
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[2**20, 2**20])
    tensor.raw_data = b"\0\0\0\0"
    made.graph.initializer.append(tensor)
    return made


def cycle() -> ModelProto:
    nodes = [
        helper.make_node("Add", ["sum", "back"], ["there"]),
        helper.make_node("Neg", ["there"], ["back"]),
        helper.make_node("Sigmoid", ["there"], ["scores"]),
    ]
    return hostile.model(nodes, {})


def branch() -> ModelProto:
    """A graph within a node."""
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [None])
    body = helper.make_graph([helper.make_node("Neg", ["sum"], ["o"])], "one", [], [out])
    node = helper.make_node("If", ["yes"], ["scores"], then_branch=body, else_branch=body)
    return hostile.model([node], {"yes": np.array(True)})


def function() -> ModelProto:
    """A function that calls itself."""
    made = with_node("Again", "own")
    node = helper.make_node("Again", ["a"], ["b"], domain="own")
    opsets = [helper.make_opsetid("own", 1)]
    made.functions.append(helper.make_function("own", "Again", ["a"], ["b"], [node], opsets))
    return made


def many_nodes() -> ModelProto:
    nodes = [helper.make_node("Neg", ["sum"], [f"n{i}"]) for i in range(5_001)]
    return hostile.model([*nodes, helper.make_node("Sigmoid", ["sum"], ["scores"])], {})


def sparse() -> ModelProto:
    made = hostile.harmless()
    values = numpy_helper.from_array(np.array([1.0], np.float32), "s")
    places = numpy_helper.from_array(np.array([2**40], np.int64))
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**41]))
    return made


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"\x08\x07nonsense", "not ONNX", id="no ONNX"),
        pytest.param(skl2onnx_classifier(zipmap=True), "zipmap", id="maps in place of tensors"),
        pytest.param(with_node("Inverse", "com.microsoft"), "com.microsoft", id="another domain"),
        pytest.param(with_node("Erfinv"), "Erfinv", id="an operator that there is not"),
        pytest.param(with_node("NonZero"), "NonZero", id="an operator that is not run here"),
        pytest.param(huge_tensor(), "declares|limit", id="a huge tensor in four bytes"),
        pytest.param(sparse(), "sparse", id="a huge sparse tensor"),
        pytest.param(hostile.large_constant(), "ConstantOfShape", id="a size out of a number"),
        pytest.param(hostile.endless_loop(), "Loop", id="a loop of 2^62 rounds"),
        pytest.param(branch(), "If", id="a graph in a node"),
        pytest.param(cycle(), "cycle|sorted|acyclic|not.*output", id="nodes in a circle"),
        pytest.param(function(), "functions", id="a function that calls itself"),
        pytest.param(many_nodes(), "5003 nodes", id="too many nodes"),
        pytest.param(hostile.reading("/etc/passwd"), "another file", id="another file's bytes"),
    ],
)
def test_a_bad_file_is_refused_and_nothing_is_written(
    tmp_path: Path, content: bytes | ModelProto, why: str
) -> None:
    data = content if isinstance(content, bytes) else content.SerializeToString()
    (tmp_path / "sent.onnx").write_bytes(data)
    with pytest.raises(InputInvalid, match=why):
        write_ready(tmp_path / "given", "given", tmp_path / "sent.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["sent.onnx"]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        pytest.param(
            hostile.not_a_number(), "wanted: a finite number", id=("a score that is no number")
        ),
        pytest.param(hostile.doubling(), "MiB of memory", id="a shape that doubles 34 times"),
    ],
)
def test_what_shows_when_it_runs_is_told_by_check_model(
    tmp_path: Path, model: ModelProto, why: str
) -> None:
    (tmp_path / "sent.onnx").write_bytes(model.SerializeToString())
    folder = tmp_path / "given"
    write_ready(folder, "given", tmp_path / "sent.onnx")
    names = [f"inputs_{i}" for i in range(hostile.WIDTH)]
    rows = np.full((2, hostile.WIDTH), -1.0, np.float32)
    (folder / "golden.json").write_text(golden(names, rows, np.array([0.5, 0.5])))
    (problem,) = problems(folder)
    assert why in problem
