"""Files of other exporters are scored by their own tensors; what does not fit is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.support.foreign_onnx import CHANNELS, skl2onnx_classifier

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.runtime.errors import InputInvalid
from mlplatform.scoring.predictor.model import scorer

NAMES = ("amount", "channel", "visits")
PLAIN = {
    "inputs": [
        {"name": "channel", "dtype": "string", "shape": ["n", 1], "of": ["channel"]},
        {"name": "amount", "dtype": "float32", "shape": ["n", 1], "of": ["amount"], "missing": 3e3},
        {"name": "visits", "dtype": "int64", "shape": ["n", 1], "of": ["visits"]},
    ],
    "outputs": [
        {"name": "label", "dtype": "int64", "shape": ["n"]},
        {"name": "probabilities", "dtype": "float32", "shape": ["n", 2]},
    ],
    "score": {"output": "probabilities", "column": 1},
}
ROWS = np.array([[3000, 2, 1], [3000, 4, 1], [3000, 1, 1], [np.nan] * 3], np.float32)


def tensors(**changed: object) -> Tensors:
    return Tensors(msgspec.convert(PLAIN | changed, Signature), NAMES, {"channel": CHANNELS})


def test_a_file_of_skl2onnx_is_scored_alike_here_confined_and_in_a_predictor(tmp_path) -> None:
    content = skl2onnx_classifier()
    here = OnnxFile(content, inputs=3, tensors=tensors())
    expected = here.scores(ROWS)
    assert expected[1] > 5 * expected[0]
    confined = ConfinedModel(content, inputs=3, tensors=tensors())
    np.testing.assert_array_equal(confined.scores(ROWS), expected)
    confined.close()
    (tmp_path / "model.onnx").write_bytes(content)
    served = scorer(tmp_path / "model.onnx", tensors=tensors())(ROWS)
    assert served.dtype == np.float32
    np.testing.assert_array_equal(served, expected.astype(np.float32))
    assert "tensors" in make_explainer(content, here, background=ROWS, rows=ROWS).attribution.why


def of_input(number: int, **changed: object) -> dict[str, object]:
    inputs = [dict(t) for t in PLAIN["inputs"]]
    inputs[number] |= changed
    return {"inputs": inputs}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (of_input(2, dtype="float32"), r"takes 'visits' as tensor\(int64\).*says float32"),
        (of_input(1, shape=["n"]), r"takes 'amount' as .*\[n, 1\].*says float32 \[n\]"),
        (of_input(1, name="sum"), "takes 'amount', which the signature lacks"),
        ({"score": {"output": "p", "column": 1}}, "gives no 'p' as the signature says"),
        ({"outputs": [{**PLAIN["outputs"][1], "shape": ["n", 3]}]}, r"\[n, 2\].*\[n, 3\]"),
    ],
    ids=["another dtype", "another shape", "another input", "no such output", "more columns"],
)
def test_a_signature_that_the_graph_does_not_have_is_refused(
    changed: dict[str, object], told: str
) -> None:
    if "score" in changed:
        changed = {**changed, "outputs": [{**PLAIN["outputs"][1], "name": "p"}]}
    with pytest.raises(InputInvalid, match=told):
        OnnxFile(skl2onnx_classifier(), inputs=3, tensors=tensors(**changed))


def altered(change: str) -> bytes:
    model = onnx.load_from_string(skl2onnx_classifier())
    graph = model.graph
    match change:
        case "loop":
            graph.node.append(helper.make_node("NonZero", ["amount"], ["x"]))
        case "external":
            tensor = graph.initializer.add()
            tensor.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0]))
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../../etc/passwd")
        case "huge":
            tensor = graph.initializer.add(name="w", data_type=TensorProto.FLOAT)
            tensor.dims.extend([1 << 30, 1 << 10])
        case "texts":
            graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [1], ["x" * 5000]))
        case "fewer texts":
            tensor = graph.initializer.add(name="w", data_type=TensorProto.STRING)
            tensor.dims.extend([1 << 40])
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("loop", "operator 'NonZero' is not on the list"),
        ("external", "lies in another file"),
        ("huge", "bytes of tensors; the limit"),
        ("texts", "bytes of a text; the limit"),
        ("fewer texts", "does not hold the texts that it declares"),
    ],
)
def test_a_file_beyond_the_limits_is_refused_with_the_reason(change: str, told: str) -> None:
    with pytest.raises(ModelRefused, match=told):
        ConfinedModel(altered(change), inputs=3, tensors=tensors())


def test_maps_instead_of_a_tensor_are_refused_with_the_way_out() -> None:
    with pytest.raises(ModelRefused, match="not a tensor"):
        ConfinedModel(skl2onnx_classifier(zipmap=True), inputs=3, tensors=tensors())


def test_a_score_that_is_no_number_is_refused() -> None:
    unfilled = of_input(1, missing=None)
    model = ConfinedModel(skl2onnx_classifier(), inputs=3, tensors=tensors(**unfilled))
    with pytest.raises(ModelRefused, match="wanted: a finite number"):
        model.scores(ROWS)
    model.close()
