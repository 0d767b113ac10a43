"""The tensors that a model's ONNX graph takes and gives, if it is not one float32 matrix.

A row of inputs is float32 everywhere: in training, on the way to a predictor, in golden rows. Only
here, next to the session that runs the graph, the graph's own tensors are made. An int64 or float64
tensor takes an input with its remainders, where a row has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlplatform.model.tensors.categories import Vocabularies, indices
from mlplatform.model.tensors.remainders import numbers, remainder_places, whole_numbers
from mlplatform.model.tensors.tokens import words_of

DType = Literal["float32", "float64", "int64", "bool", "string"]
TensorName = Annotated[str, Meta(min_length=1, max_length=256)]
Shape = Annotated[
    tuple[Literal["n"] | Annotated[int, Meta(ge=1, le=4096)], ...], Meta(min_length=1, max_length=2)
]
"""Shape `[n]` or `[n, columns]`, where n is the number of rows."""

ONNX_TYPES: Final[Mapping[DType, str]] = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
    "string": "tensor(string)",
}
_INT64: Final = 2.0**63 - 1024
"""The largest float64 that is an int64."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a signature. Unknown and missing keys are errors."""


class InputTensor(_Part, frozen=True):
    """One input of the graph, made of inputs of the model.

    Args:
        name: name of the tensor in the graph.
        dtype: type of its elements.
        shape: `[n]` or `[n, columns]`, where n is the number of rows.
        of: names of the inputs that are its columns, in order.
        missing: the value that replaces a missing one; None means NaN in floats, 0 in integers,
            false, and an empty text. A missing category in integers is always 0.
        unknown: the text that replaces an unknown category, if the tensor holds texts.
    """

    name: TensorName
    dtype: DType
    shape: Shape
    of: Annotated[tuple[str, ...], Meta(min_length=1)]
    missing: float | str | None = None
    unknown: str = ""


class OutputTensor(_Part, frozen=True):
    """One output of the graph.

    Args:
        name: name of the tensor in the graph.
        dtype: type of its elements.
        shape: `[n]` or `[n, columns]`, where n is the number of rows.
    """

    name: TensorName
    dtype: DType
    shape: Shape


class ScoreOutput(_Part, frozen=True):
    """The output that is the score, and its column.

    Args:
        output: name of the output that is the score.
        column: its column, from 0; None: the output has no columns, or all are probabilities, in
            the order of the classes.
    """

    output: TensorName
    column: Annotated[int, Meta(ge=0, le=4095)] | None = None


class Signature(_Part, frozen=True):
    """The tensors of a graph by name.

    Args:
        inputs: the tensors that the graph takes.
        outputs: the tensors that the graph gives.
        score: which of them is the score.
    """

    inputs: Annotated[tuple[InputTensor, ...], Meta(min_length=1, max_length=256)]
    outputs: Annotated[tuple[OutputTensor, ...], Meta(min_length=1, max_length=64)]
    score: ScoreOutput


class Tensors:
    """The conversion of rows to a graph's tensors, and of its output to scores.

    Args:
        names: names of the inputs, in the order of a row.
        classes: number of columns of the score output, if they are probabilities of classes; 0: one
            score for each row.
    """

    def __init__(
        self,
        signature: Signature,
        names: Sequence[str],
        vocabularies: Vocabularies,
        *,
        classes: int = 0,
    ) -> None:
        self.signature = signature
        self._classes = classes
        self.names = tuple(names)
        self.vocabularies = {name: tuple(words) for name, words in vocabularies.items()}
        self.output = signature.score.output
        self._column = signature.score.column
        self._columns = {
            t.name: [self.names.index(name) for name in t.of] for t in signature.inputs
        }
        self._words = {
            t.name: [words_of(name, self.vocabularies) for name in t.of] for t in signature.inputs
        }
        exact = remainder_places(self.names)
        self._exact = {
            t.name: [[self.names.index(n), *exact[n]] if n in exact else [] for n in t.of]
            for t in signature.inputs
            if t.dtype in ("int64", "float64") and exact.keys() & {*t.of}
        }

    def feeds(self, rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The graph's inputs for rows [n, inputs]."""
        return {t.name: self._tensor(t, rows) for t in self.signature.inputs}

    def scores(self, output: NDArray[Any], rows: int) -> NDArray[Any]:
        """One score a row, or probabilities for each row, from the output that holds them.

        Raises:
            ValueError: the output has another shape than was declared.
        """
        if self._classes:
            if output.shape != (rows, self._classes):
                raise ValueError(f"{rows} rows gave {self.output} of shape {list(output.shape)}")
            return output
        wanted = 1 if self._column is None else 2
        if output.ndim != wanted or len(output) != rows:
            raise ValueError(f"{rows} rows gave {self.output} of shape {list(output.shape)}")
        if self._column is None:
            return output
        if self._column >= output.shape[1]:
            raise ValueError(f"{self.output} has {output.shape[1]} columns")
        column: NDArray[Any] = output[:, self._column]
        return column

    def _tensor(self, tensor: InputTensor, rows: NDArray[np.float32]) -> NDArray[Any]:
        places, words = self._columns[tensor.name], self._words[tensor.name]
        if tensor.name in self._exact:
            columns = [
                _exact_values(tensor, rows[:, parts]) if parts else _values(tensor, rows[:, at], of)
                for parts, at, of in zip(self._exact[tensor.name], places, words, strict=True)
            ]
            return columns[0] if len(tensor.shape) == 1 else np.stack(columns, axis=1)
        if len(tensor.shape) == 1:
            return _values(tensor, rows[:, places[0]], words[0])
        if all(one is words[0] for one in words):
            return _values(tensor, rows[:, places], words[0])
        columns = [
            _values(tensor, rows[:, place], known)
            for place, known in zip(places, words, strict=True)
        ]
        return np.stack(columns, axis=1)


def _values(
    tensor: InputTensor, column: NDArray[np.float32], words: Sequence[str] | None
) -> NDArray[Any]:
    """The values of one or several columns of one vocabulary, or of numbers, each by itself."""
    if words is not None and tensor.dtype in ("int64", "string"):
        places = indices(column, len(words))
        if tensor.dtype == "int64":
            return places
        nothing = tensor.missing if isinstance(tensor.missing, str) else ""
        return np.array([nothing, tensor.unknown, *words], dtype=object)[places]
    missing = np.isnan(column)
    match tensor.dtype:
        case "float32" | "float64":
            values = column.astype(tensor.dtype)
            return values if tensor.missing is None else np.where(missing, _number(tensor), values)
        case "int64":
            whole = np.where(missing, _number(tensor), column.astype(np.float64))
            return np.clip(whole, -_INT64, _INT64).astype(np.int64)
        case _:
            return np.where(missing, bool(_number(tensor)), column != 0)


def _exact_values(tensor: InputTensor, parts: NDArray[np.float32]) -> NDArray[Any]:
    """The values of one input with its remainders."""
    if tensor.dtype == "int64":
        return whole_numbers(parts, int(_number(tensor)))
    values = numbers(parts)
    if tensor.missing is None:
        return values
    return np.where(np.isnan(values), _number(tensor), values)


def _number(tensor: InputTensor) -> Any:
    value = tensor.missing if isinstance(tensor.missing, (int, float)) else 0.0
    return np.float32(value) if tensor.dtype == "float32" else np.float64(value)
