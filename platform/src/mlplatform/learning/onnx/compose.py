"""Several fitted models as one, in one ONNX graph: their weighted mean, or models whose scores a
second one takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.ensembles import IR_VERSION
from mlplatform.learning.onnx.onnx_file import session
from mlplatform.learning.onnx.sklearn import GRAPH, OPSET
from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME
from mlplatform.runtime.errors import ConfigUnusable

MOST_MODELS: Final = 20
LARGEST_GAP: Final = 1e-5
"""Most by which the ONNX form of a first stage may differ from the fitted model."""
STAGE: Final = "stage"
_KEY: Final = "training.py: compose"


class Part(Protocol):
    """A fitted model and its ONNX form, as `fitted` of an exporter gives it: "inputs" float32
    [n, F] → "scores" float32 [n], or [n, classes]."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]: ...

    def onnx(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class MeanModel:
    """The weighted mean of the scores of several models of one kind."""

    models: tuple[Part, ...]
    weights: tuple[float, ...]

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One score a row [n], or probabilities [n, classes]."""
        pairs = zip(self.models, self.weights, strict=True)
        total: NDArray[np.float64] = np.sum([w * model.scores(x) for model, w in pairs], axis=0)
        return total

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Hyper-parameters of all models, by the model's place and name."""
        return _parameters(self.models)

    def onnx(self) -> bytes:
        """The models as one graph, whose last steps multiply by the weights and add up, in the
        order of the models."""
        graph = _Graph()
        total = ""
        for place, (model, weight) in enumerate(zip(self.models, self.weights, strict=True)):
            scores = graph.add(model.onnx(), f"m{place}_", INPUT_NAME)
            graph.constant(f"weight{place}", np.float32(weight))
            weighted = graph.node("Mul", [scores, f"weight{place}"], f"weighted{place}")
            total = graph.node("Add", [total, weighted], f"sum{place}") if total else weighted
        graph.node("Identity", [total], OUTPUT_NAME)
        return graph.content()


@dataclass(frozen=True, slots=True)
class StackedModel:
    """A model that takes the scores of others.

    Args:
        first: the models of the first stage, whose inputs are those of the whole.
        second: the model of the second stage; its inputs are `stage_scores`.
    """

    first: tuple[Part, ...]
    second: Part

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The second model's scores of the first ones' ONNX scores."""
        return self.second.scores(stage_scores(self.first, x))

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Hyper-parameters of all models, by the model's place and name; the second stage is the
        last one."""
        return _parameters((*self.first, self.second))

    def onnx(self) -> bytes:
        """All models as one graph."""
        graph = _Graph()
        columns = []
        for place, model in enumerate(self.first):
            scores = graph.add(model.onnx(), f"m{place}_", INPUT_NAME)
            if graph.ranks[scores] == 1:
                graph.constant("second_axis", np.array([1], np.int64))
                scores = graph.node("Unsqueeze", [scores, "second_axis"], f"column{place}")
            columns.append(scores)
        graph.node("Concat", columns, STAGE, axis=1)
        scores = graph.add(self.second.onnx(), "second_", STAGE)
        graph.node("Identity", [scores], OUTPUT_NAME)
        return graph.content()


def mean(models: Sequence[Part], weights: Sequence[float] | None = None) -> MeanModel:
    """The mean of several fitted models' scores: of probabilities, of numbers, or of each class.

    Args:
        models: 2 to 20 models of one kind, which take the same rows.
        weights: one positive number for each model; the mean divides by their sum. None: the same
            for all.

    Raises:
        ConfigInvalid: the number of models or the weights are not allowed.
    """
    _check_count(models, 2)
    counts = np.ones(len(models)) if weights is None else np.asarray(weights, np.float64)
    if counts.shape != (len(models),) or not np.all((counts > 0) & np.isfinite(counts)):
        wanted = f"{len(models)} positive numbers, one for each model"
        raise ConfigUnusable(f"{_KEY}: weights", f"they are {list(weights or ())}", wanted)
    return MeanModel(tuple(models), tuple((counts / counts.sum()).tolist()))


def stacked(first: Sequence[Part], second: Part) -> StackedModel:
    """A model of two stages. Fit the second one to `stage_scores` of rows that the first ones were
    not fitted to: they score their own rows better than those that come later.

    Raises:
        ConfigInvalid: the number of models is not allowed.
    """
    _check_count(first, 1)
    return StackedModel(tuple(first), second)


def stage_scores(first: Sequence[Part], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inputs of a second stage, float32 [n, k]: for each model one column, or one for each
    class. They are the scores of the ONNX forms, so the second stage learns from what it is given
    in service, to the bit.

    Raises:
        ConfigInvalid: an ONNX form differs from its fitted model by more than 1e-5.
    """
    columns = []
    for place, model in enumerate(first):
        (scores,) = _session(model.onnx()).run([OUTPUT_NAME], {INPUT_NAME: x})
        expected = model.scores(x)
        allowed = LARGEST_GAP * np.maximum(1.0, np.abs(expected))
        if len(x) and not np.all(np.abs(scores - expected) <= allowed):
            problem = f"its scores in ONNX differ by {np.abs(scores - expected).max():.3g}"
            raise ConfigUnusable(f"{_KEY}: model {place}", problem, f"{LARGEST_GAP:g} or less")
        columns.append(scores if scores.ndim == 2 else scores[:, None])
    return np.concatenate(columns, axis=1).astype(np.float32)


@functools.lru_cache(maxsize=MOST_MODELS)
def _session(content: bytes) -> Any:
    return session(content)


def _parameters(models: Sequence[Part]) -> dict[str, Any]:
    return {
        f"{place}.{name}": value
        for place, model in enumerate(models)
        for name, value in getattr(model, "parameters", {}).items()
    }


def _check_count(models: Sequence[Part], least: int) -> None:
    if not least <= len(models) <= MOST_MODELS:
        raise ConfigUnusable(_KEY, f"{len(models)} models", f"{least} to {MOST_MODELS} models")


class _Graph:
    """A graph that grows by whole models, each with a prefix before its names, and by nodes.

    Attributes:
        ranks: output of an added model → its number of dimensions.
    """

    def __init__(self) -> None:
        from onnx import helper  # commands start without onnx

        self._helper = helper
        self._nodes: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._inputs: Any = None
        self._output: Any = None
        self.ranks: dict[str, int] = {}

    def add(self, content: bytes, prefix: str, taken: str) -> str:
        """Add a model that takes the tensor of that name; returns the name of its scores."""
        import onnx.compose

        model = onnx.load_from_string(content)
        inputs = [value.name for value in model.graph.input]
        if inputs != [INPUT_NAME]:
            taken_by = f"a model takes {', '.join(inputs)}"
            raise ConfigUnusable(_KEY, taken_by, "models of whole rows, without a signature")
        for found in model.opset_import:  # lower where a part has none of the later operators
            most = OPSET.get(found.domain, 0)
            if found.version > most:
                problem = f"a model is of opset {found.version} of {found.domain or 'ai.onnx'!r}"
                raise ConfigUnusable(_KEY, problem, f"{most} or less")
        if self._inputs is None:
            self._inputs = model.graph.input[0]
        self._output = model.graph.output[0]
        self.ranks[f"{prefix}{OUTPUT_NAME}"] = len(self._output.type.tensor_type.shape.dim)
        prefixed = onnx.compose.add_prefix(model, prefix).graph
        for node in prefixed.node:
            for place, name in enumerate(node.input):
                if name == f"{prefix}{INPUT_NAME}":
                    node.input[place] = taken
        self._nodes += prefixed.node
        self._tensors |= {tensor.name: tensor for tensor in prefixed.initializer}
        return f"{prefix}{OUTPUT_NAME}"

    def node(self, operator: str, inputs: Sequence[str], output: str, **more: Any) -> str:
        self._nodes.append(self._helper.make_node(operator, inputs, [output], output, **more))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> None:
        from onnx import numpy_helper

        self._tensors[name] = numpy_helper.from_array(np.asarray(value), name)

    def content(self) -> bytes:
        """The file; the last added model's scores say of which shape the whole one's are."""
        graph = self._helper.make_graph(
            self._nodes, GRAPH, [self._inputs], [self._output], list(self._tensors.values())
        )
        opset = [self._helper.make_opsetid(domain, version) for domain, version in OPSET.items()]
        model = self._helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        exported: bytes = model.SerializeToString(deterministic=True)
        return exported
