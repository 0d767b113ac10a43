"""Changed copies of files: bytes at random, and values of a parsed model where they hurt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from google.protobuf.message import DecodeError
from onnx import ModelProto

from mlplatform.learning.onnx.onnx_limits import OPERATORS

NUMBERS = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**62, -(2**31), -(2**62))
INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 9 + b"\x01", b"\x00" * 8, b"PAR1")


def changed_bytes(content: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to four changes: a bit, a run, a cut, a doubled or a foreign part."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(7):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                some = rng.choice(INTERESTING)
                found[at : at + len(some)] = some
            case 2:
                del found[at : at + rng.randint(1, 64)]
            case 3:
                found[at:at] = found[at : at + rng.randint(1, 256)]
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                found[at : at + 64] = other[start : start + rng.randint(1, 256)]
            case 5:
                found[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 16)))
            case _ if rng.random() < 0.2:
                del found[at:]
    return bytes(found)


def changed_model(content: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A model with some of its values changed, where its bytes are still one; else its bytes."""
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return changed_bytes(content, others, rng)
    for _ in range(rng.randint(1, 3)):
        rng.choice(_CHANGES)(model, rng)
    return bytes(model.SerializeToString())


def _operator(model: ModelProto, rng: Random) -> None:
    if model.graph.node:
        domain = rng.choice(sorted(OPERATORS))
        node = rng.choice(model.graph.node)
        node.domain, node.op_type = domain, rng.choice(sorted(OPERATORS[domain]))


def _wiring(model: ModelProto, rng: Random) -> None:
    nodes = [n for n in model.graph.node if n.input]
    names = [name for n in model.graph.node for name in (*n.input, *n.output)]
    if nodes:
        node = rng.choice(nodes)
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _dimension(model: ModelProto, rng: Random) -> None:
    tensors = [t for t in model.graph.initializer if t.dims]
    if tensors:
        tensor = rng.choice(tensors)
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)


def _data(model: ModelProto, rng: Random) -> None:
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        tensor.raw_data = bytes(rng.randrange(256) for _ in tensor.raw_data)


def _kind(model: ModelProto, rng: Random) -> None:
    if model.graph.initializer:
        rng.choice(model.graph.initializer).data_type = rng.randrange(24)


def _attribute(model: ModelProto, rng: Random) -> None:
    attributes = [a for n in model.graph.node for a in n.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    attribute.i = rng.choice(NUMBERS)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    if attribute.floats and rng.random() < 0.5:
        attribute.floats[rng.randrange(len(attribute.floats))] = rng.choice((0.0, 1e38, -1e38))
    if attribute.ints and rng.random() < 0.2:
        del attribute.ints[rng.randrange(len(attribute.ints)) :]


def _shape(model: ModelProto, rng: Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    dims = [d for v in values for d in v.type.tensor_type.shape.dim]
    if dims:
        rng.choice(dims).dim_value = rng.choice(NUMBERS)


def _copies(model: ModelProto, rng: Random) -> None:
    if model.graph.node:
        node = rng.choice(model.graph.node)
        for _ in range(rng.choice((1, 10, 6000))):
            model.graph.node.append(node)


def _version(model: ModelProto, rng: Random) -> None:
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((*range(1, 25), *NUMBERS))


_CHANGES: Sequence[Callable[[ModelProto, Random], None]] = (
    *(_operator, _wiring, _dimension, _data, _kind, _attribute, _shape, _copies, _version),
)
