"""What of a model from outside is refused before it is run."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from mlplatform.learning.onnx import onnx_limits
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.learning.onnx.onnx_work import _small_trees
from support import hostile_models as made
from support.onnx_bundles import sigmoid_model


def test_a_model_within_the_limits_is_told_by_its_facts():
    facts = onnx_limits.check(made.harmless())
    assert (facts.nodes, facts.tensors, facts.tensor_bytes) == (2, 1, 8)


@pytest.mark.parametrize(
    "content", [pytest.param(sigmoid_model(heaviness=2), id="products"),
                pytest.param(_small_trees(), id="trees")]
)  # fmt: skip
def test_models_of_the_platforms_own_making_are_within_them(content):
    onnx_limits.check(onnx_limits.parsed(content))


def with_attribute(attribute: AttributeProto) -> ModelProto:
    model = made.harmless()
    model.graph.node[1].attribute.append(attribute)
    return model


def with_tensor(tensor: TensorProto) -> ModelProto:
    model = made.harmless()
    model.graph.initializer.append(tensor)
    return model


def with_sparse() -> ModelProto:
    model = made.harmless()
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    where = numpy_helper.from_array(np.zeros(1, np.int64), "where")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [10**12]))
    return model


def with_function() -> ModelProto:
    model = made.harmless()
    opsets = [helper.make_opsetid("", 17)]
    node = helper.make_node("Sigmoid", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], opsets))
    return model


def with_domain() -> ModelProto:
    model = made.harmless()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def with_custom_operator() -> ModelProto:
    model = made.harmless()
    model.graph.node.append(helper.make_node("PyOp", ["sum"], ["other"], domain="own"))
    return model


def with_long_name() -> ModelProto:
    model = made.harmless()
    model.graph.node[0].name = "n" * 2000
    return model


def with_many_nodes() -> ModelProto:
    model = made.harmless()
    for _ in range(onnx_limits.MOST_NODES):
        model.graph.node.append(helper.make_node("Neg", ["sum"], [""]))
    return model


def with_sequence() -> ModelProto:
    model = made.harmless()
    model.graph.value_info.append(
        helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, [1])
    )
    return model


def with_training() -> ModelProto:
    model = made.harmless()
    model.training_info.add()
    return model


GRAPH = made.endless_loop().graph.node[1].attribute[0]
LIE = TensorProto(name="lie", data_type=TensorProto.FLOAT, dims=[10**6], raw_data=b"1234")
HUGE = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
NEGATIVE = TensorProto(name="less", data_type=TensorProto.FLOAT, dims=[-1])
PAIRS = helper.make_tensor("pairs", TensorProto.COMPLEX64, [1], [1j])
IN_CONSTANT = helper.make_attribute("value", made.external("far", "var/secrets/api.key"))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        pytest.param(made.reading("var/secrets/api.key"), "lies in another file", id="a tensor"),
        pytest.param(with_attribute(IN_CONSTANT), "lies in another file", id="an attribute's"),
        pytest.param(made.large_constant(), "operator 'ConstantOfShape'", id="a size as a number"),
        pytest.param(made.endless_loop(), "operator 'Loop'", id="a loop"),
        pytest.param(with_attribute(GRAPH), "graph within a node", id="a graph within"),
        pytest.param(with_custom_operator(), "operator 'own.PyOp'", id="an operator of its own"),
        pytest.param(with_domain(), "domain 'com.microsoft'", id="a domain of its own"),
        pytest.param(with_function(), "functions", id="functions"),
        pytest.param(with_training(), "training", id="training"),
        pytest.param(with_sparse(), "sparse", id="a sparse tensor, large once it is dense"),
        pytest.param(with_sequence(), "not a tensor", id="a sequence"),
        pytest.param(with_tensor(LIE), "declares 4000000 bytes and holds 4", id="a lie"),
        pytest.param(with_tensor(HUGE), "bytes of tensors; the limit", id="a huge tensor"),
        pytest.param(with_tensor(NEGATIVE), "below zero", id="a size below zero"),
        pytest.param(with_tensor(PAIRS), "no plain numbers", id="complex numbers"),
        pytest.param(with_long_name(), "bytes of a name; the limit is 1024", id="a long name"),
        pytest.param(with_many_nodes(), "5002 nodes; the limit is 5000", id="many nodes"),
    ],
)
def test_what_is_beyond_them_is_refused_by_name(model, why):
    with pytest.raises(ModelRefused, match=why):
        onnx_limits.check(model)


def test_bytes_that_are_no_model_are_refused_without_a_byte_of_them():
    with pytest.raises(ModelRefused) as caught:
        onnx_limits.parsed(b"mlp_SECRETSECRETSECRET")
    assert "SECRET" not in str(caught.value)


def test_messages_within_messages_end_somewhere():
    """A graph in an attribute in a node in a graph, so deep that a parser without limit ends."""
    content = b""
    for _ in range(20_000):
        for field in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            size = len(content)
            varint = bytearray()
            while size > 127:
                varint.append(size & 127 | 128)
                size >>= 7
            content = bytes([field << 3 | 2]) + bytes(varint) + bytes([size]) + content
        if len(content) > 200_000:
            break
    with pytest.raises(ModelRefused):
        onnx_limits.check(onnx_limits.parsed(b"\x3a" + content))
