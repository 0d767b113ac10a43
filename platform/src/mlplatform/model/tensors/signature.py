"""Which tensors a model's ONNX graph takes and gives, where it is not one float32 matrix.

A row of inputs is float32 everywhere: in training, on the way to a predictor, in golden rows. What
is put together here is what the graph is asked with, next to the session that runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlplatform.model.tensors.categories import Vocabularies, indices

if TYPE_CHECKING:
    from mlplatform.model.bundle import Bundle
    from mlplatform.model.definition import InputSpec, RequestField

DType = Literal["float32", "float64", "int64", "bool", "string"]
TensorName = Annotated[str, Meta(min_length=1, max_length=256)]
Shape = Annotated[
    tuple[Literal["n"] | Annotated[int, Meta(ge=1, le=4096)], ...], Meta(min_length=1, max_length=2)
]
"""`[n]` or `[n, columns]`, n being the number of rows."""

ONNX_TYPES: Final[Mapping[DType, str]] = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
    "string": "tensor(string)",
}
MOST_EXACT: Final = 2**24
"""Up to here a float32 holds every whole number."""
_INT64: Final = 2.0**63 - 1024
"""The largest float64 that is an int64."""

Problem = tuple[str, object, str]
"""A key below the signature, its value, and what is wanted there."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class InputTensor(_Part, frozen=True):
    """One input of the graph, made of inputs of the model.

    Args:
        of: names of inputs, its columns in order.
        missing: what stands for a missing value; None: NaN in floats, 0, false, and an empty text.
            A category in integers is 0 where it is missing, whatever stands here.
        unknown: the text for an unknown category, where texts go in.
    """

    name: TensorName
    dtype: DType
    shape: Shape
    of: Annotated[tuple[str, ...], Meta(min_length=1)]
    missing: float | str | None = None
    unknown: str = ""


class OutputTensor(_Part, frozen=True):
    """One output of the graph."""

    name: TensorName
    dtype: DType
    shape: Shape


class ScoreOf(_Part, frozen=True):
    """Which output is the score; of one with columns, which of them, from 0."""

    output: TensorName
    column: Annotated[int, Meta(ge=0, le=4095)] | None = None


class Signature(_Part, frozen=True):
    """The tensors of a graph by name."""

    inputs: Annotated[tuple[InputTensor, ...], Meta(min_length=1, max_length=256)]
    outputs: Annotated[tuple[OutputTensor, ...], Meta(min_length=1, max_length=64)]
    score: ScoreOf


class Tensors:
    """Rows of a bundle's inputs as its graph takes them, and what it gives as scores.

    Args:
        names: of the inputs, in the order of rows.
    """

    def __init__(
        self, signature: Signature, names: Sequence[str], vocabularies: Vocabularies
    ) -> None:
        self.signature = signature
        self.names = tuple(names)
        self.vocabularies = {name: tuple(words) for name, words in vocabularies.items()}
        self.output = signature.score.output
        self._column = signature.score.column
        self._columns = {
            t.name: [self.names.index(name) for name in t.of] for t in signature.inputs
        }

    @classmethod
    def of(cls, bundle: Bundle) -> Tensors | None:
        """Those of a bundle; None for one whose graph takes the rows as they are."""
        if bundle.signature is None:
            return None
        return cls(bundle.signature, bundle.input_names, bundle.vocabularies)

    def feeds(self, rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The graph's inputs for rows [n, inputs]."""
        return {t.name: self._tensor(t, rows) for t in self.signature.inputs}

    def scores(self, output: NDArray[Any], rows: int) -> NDArray[Any]:
        """One score a row, of the output that holds them.

        Raises:
            ValueError: it has another shape than was declared.
        """
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
        places = self._columns[tensor.name]
        columns = [
            _values(tensor, rows[:, place], self.vocabularies.get(name))
            for place, name in zip(places, tensor.of, strict=True)
        ]
        return columns[0] if len(tensor.shape) == 1 else np.stack(columns, axis=1)


def signature_problems(
    signature: Signature, inputs: Sequence[InputSpec], fields: Mapping[str, RequestField]
) -> Iterator[Problem]:
    """What in a signature does not fit the model's inputs, or itself.

    Args:
        fields: of the request; none where only inputs are known.
    """
    specs = {spec.name: spec for spec in inputs}
    used = [name for tensor in signature.inputs for name in tensor.of]
    if unused := [name for name in specs if name not in used]:
        yield "inputs", unused, "a tensor for each input of the model"
    both: tuple[tuple[str, Sequence[InputTensor | OutputTensor]], ...]
    both = ("inputs", signature.inputs), ("outputs", signature.outputs)
    for kind, tensors in both:
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            yield kind, names, "tensors whose names differ"
        for number, shape in enumerate(tensor.shape for tensor in tensors):
            if shape[0] != "n" or "n" in shape[1:]:
                yield f"{kind}.{number}.shape", list(shape), "[n] or [n, columns]"
    for number, taken in enumerate(signature.inputs):
        for key, value, wanted in _of_input(taken, specs, fields):
            yield f"inputs.{number}.{key}", value, wanted
    yield from _of_score(signature)


def _of_input(
    tensor: InputTensor, specs: Mapping[str, InputSpec], fields: Mapping[str, RequestField]
) -> Iterator[Problem]:
    if unknown := [name for name in tensor.of if name not in specs]:
        yield "of", unknown, "one of " + ", ".join(specs)
        return
    columns = [len(tensor.of)] if len(tensor.shape) == 2 else []
    if list(tensor.shape[1:]) != columns or len(tensor.of) > 1 > len(columns):
        yield "shape", list(tensor.shape), f"[n, {len(tensor.of)}]: a column for each of `of`"
    kinds = {name: specs[name].kind for name in tensor.of}
    numbers = [name for name, kind in kinds.items() if kind != "category"]
    if tensor.dtype == "string" and numbers:
        yield "of", numbers, "categories: texts are made of their words"
    if tensor.dtype == "bool" and len(numbers) < len(kinds):
        yield "dtype", tensor.dtype, "int64 or string, of a category"
    is_text = isinstance(tensor.missing, str)
    if tensor.missing is not None and is_text != (tensor.dtype == "string"):
        yield "missing", tensor.missing, f"a value of dtype {tensor.dtype}"
    if tensor.dtype == "int64":
        for name in numbers:
            field = fields.get(specs[name].of or "") if kinds[name] == "field" else None
            if field is not None and field.type == "int64" and not _is_exact(field):
                wanted = f"a field with minimum and maximum within {MOST_EXACT}: rows are float32"
                yield "of", name, wanted


def _of_score(signature: Signature) -> Iterator[Problem]:
    score = signature.score
    output = next((o for o in signature.outputs if o.name == score.output), None)
    if output is None:
        yield "score.output", score.output, "one of " + ", ".join(o.name for o in signature.outputs)
    elif output.dtype not in ("float32", "float64"):
        yield "score.output", score.output, "an output of dtype float32 or float64"
    elif len(output.shape) == 1 and score.column is not None:
        yield "score.column", score.column, "nothing: the output has no columns"
    elif len(output.shape) == 2 and not _is_below(score.column, output.shape[1]):
        yield "score.column", score.column, f"a column of shape {list(output.shape)}, from 0"


def _is_below(column: int | None, columns: int | str) -> bool:
    return column is not None and isinstance(columns, int) and column < columns


def _is_exact(field: RequestField) -> bool:
    bounds = (field.minimum, field.maximum)
    return all(bound is not None and abs(bound) <= MOST_EXACT for bound in bounds)


def _values(
    tensor: InputTensor, column: NDArray[np.float32], words: Sequence[str] | None
) -> NDArray[Any]:
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


def _number(tensor: InputTensor) -> Any:
    value = tensor.missing if isinstance(tensor.missing, (int, float)) else 0.0
    return np.float32(value) if tensor.dtype == "float32" else np.float64(value)
