"""Rows of inputs from several named tensors: those of a bundle's signature, or one for each input,
a vector being one of them.

A row stays float32 on the way to a graph. What arrives here as numbers, words or truth values is
put into its columns: a word by its place in the vocabulary, null and NaN as a missing value, and a
number of which a row has remainders with these.

Source: KServe, Open Inference Protocol v2, tensor data types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.model.tensors.categories import Places, Vocabularies, place, places
from mlplatform.model.tensors.remainders import remainder_places, remainders
from mlplatform.model.tensors.signature import DType, Signature
from mlplatform.model.tensors.tokens import words_of
from mlplatform.model.tensors.vectors import length_of, spans

MATRIX: Final = "inputs"
"""The name of the one tensor of all inputs, which gateways send."""
DATATYPES: Final[Mapping[DType, str]] = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "bool": "BOOL",
    "string": "BYTES",
}
NUMBERS: Final = ("FP32", "FP64", "INT64", "BOOL")
WHOLE_MOST: Final = 2**24
"""Largest whole number up to which float32, the type of a row, holds every whole number."""

_WHOLE: Final = range(-WHOLE_MOST, WHOLE_MOST + 1)
_INT64: Final = range(-(2**63), 2**63)

_NUMPY: Final = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "BOOL": "?"}
_Number = float | None
_Text = str | None
_Truth = bool | None
_Whole = int | None
_DECODERS: Final[Mapping[str, msgspec.json.Decoder[list[Any]]]] = {
    "FP32": msgspec.json.Decoder(list[_Number | list[_Number]]),
    "FP64": msgspec.json.Decoder(list[_Number | list[_Number]]),
    "INT64": msgspec.json.Decoder(list[_Whole | list[_Whole]]),
    "BOOL": msgspec.json.Decoder(list[_Truth | list[_Truth]]),
    "BYTES": msgspec.json.Decoder(list[_Text | list[_Text]]),
}


@dataclass(frozen=True, slots=True)
class SentTensor:
    """One tensor of a request.

    Args:
        values: the values in row-major order; None is a missing value.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Slot:
    """The columns for a tensor's values.

    Args:
        tails: allowed shapes, without the leading number of rows.
        words: for each column, word → position; None for a column of numbers.
    """

    datatypes: tuple[str, ...]
    tails: tuple[tuple[int, ...], ...]
    columns: tuple[int, ...]
    words: tuple[Places | None, ...]


class NamedTensors:
    """The tensors from which rows of a bundle's inputs can be made.

    A signature one of whose tensors bears the name of the matrix counts for nothing here.

    Args:
        names: names of the inputs, in the order of a row.
    """

    def __init__(
        self, names: Sequence[str], vocabularies: Vocabularies, signature: Signature | None
    ) -> None:
        self._width = len(names)
        self.signature = _usable(signature)
        by_input = {
            name: None if (words := words_of(name, vocabularies)) is None else places(words)
            for name in names
        }
        at = {name: column for column, name in enumerate(names)}
        inputs = spans(names)
        self._vectors = {name: span for name, span in inputs if length_of(names[span.start])}
        self._exact = {at[name]: places for name, places in remainder_places(names).items()}
        if self.signature is None:
            self._slots = {
                name: _vector_slot(span)
                if name in self._vectors
                else _slot(span.start, by_input[names[span.start]])
                for name, span in inputs
            }
        else:
            self._slots = {
                tensor.name: _Slot(
                    (DATATYPES[tensor.dtype],),
                    (tuple(size for size in tensor.shape if size != "n"),),
                    tuple(at[name] for name in tensor.of),
                    tuple(by_input[name] for name in tensor.of),
                )
                for tensor in self.signature.inputs
            }

    def describe(self) -> list[dict[str, Any]]:
        """The tensors in the protocol's metadata: those of the signature, or the matrix of all
        inputs."""
        if self.signature is None:
            return [{"name": MATRIX, "datatype": "FP32", "shape": [-1, self._width]}]
        return [
            {"name": name, "datatype": slot.datatypes[0], "shape": [-1, *slot.tails[0]]}
            for name, slot in self._slots.items()
        ]

    def check_names(self, names: Sequence[str]) -> None:
        """Check that tensors of these names make rows, before any of them is decoded.

        Raises:
            ValueError: a tensor is missing or unknown; the message names it.
        """
        if len(names) != len(self._slots) or set(names) != self._slots.keys():
            raise ValueError(self._other_names(set(names)))

    def rows(self, sent: Sequence[SentTensor]) -> NDArray[np.float32]:
        """The rows [n, inputs] that the tensors hold together.

        Raises:
            ValueError: a tensor is missing, unknown or wrong; the message names it.
        """
        self.check_names([tensor.name for tensor in sent])
        count = sent[0].shape[0] if sent[0].shape else 0
        columns: list[Sequence[float]] = [()] * self._width
        for tensor in sent:
            slot = self._slots[tensor.name]
            _check(tensor, slot, count)
            for place_in_row, (column, known) in enumerate(
                zip(slot.columns, slot.words, strict=True)
            ):
                values = tensor.values[place_in_row :: len(slot.columns)]
                exact = self._exact.get(column)
                columns[column] = _numbers(tensor, values, known, is_exact=exact is not None)
                if exact is not None:
                    pairs = [remainders(None if v is None or v != v else v) for v in values]
                    columns[exact[0]], columns[exact[1]] = zip(*pairs, strict=True)
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(np.array(columns, np.float64).T, np.float32)
        if np.isinf(rows).any():
            raise ValueError("a value is too large for FP32, in which rows are")
        return rows

    def check_whole(self, rows: NDArray[np.float32]) -> None:
        """Check that every row [n, inputs] has all numbers of a vector, or none of them.

        Raises:
            ValueError: a row lacks some numbers of a vector; the message names it.
        """
        for name, columns in self._vectors.items():
            missing = np.isnan(rows[:, columns])
            partly = missing.any(axis=1) & ~missing.all(axis=1)
            if partly.any():
                row = int(partly.argmax())
                index = int(missing[row].argmax())
                raise ValueError(
                    f"{name!r} lacks the number {index} in row {row}; wanted: all "
                    f"{missing.shape[1]} numbers of the vector, or none"
                )

    def _other_names(self, names: set[str]) -> str:
        wanted = ", ".join(self._slots)
        lacking = [name for name in self._slots if name not in names]
        strange = [name[:64] for name in nsmallest(16, names - self._slots.keys())]
        parts = (("lack", lacking), ("hold", strange))
        wrong = " and ".join(f"{verb} {which}" for verb, which in parts if which)
        wrong = wrong or "repeat a name"
        return (
            f"inputs {wrong}; the model takes one tensor, {MATRIX!r}, or all of these: {wanted}"
        )[:1000]


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> SentTensor:
    """A tensor whose values are JSON, flat or nested by row.

    Raises:
        ValueError: the values are of another kind than the datatype, or are nested otherwise than
            the shape says.
    """
    decoder = _DECODERS.get(datatype)
    if decoder is None:
        raise ValueError(f"{name!r} has datatype {datatype!r}; {', '.join(_DECODERS)}")
    try:
        values = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"{name!r} holds no {datatype}: {error}") from error
    nested = [row for row in values if isinstance(row, list)]
    if nested and (
        len(nested) != len(values)
        or len(shape) != 2
        or shape[0] != len(values)
        or any(len(row) != shape[1] for row in nested)
    ):
        raise ValueError(f"{name!r} is nested otherwise than its shape {list(shape)} says")
    return SentTensor(name, datatype, shape, [v for row in nested for v in row] or values)


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> SentTensor:
    """A tensor whose values are bytes, little-endian; a text has its length in 4 bytes before it.

    Raises:
        ValueError: the bytes are not values of the datatype.
    """
    if datatype == "BYTES":
        return SentTensor(name, datatype, shape, _texts(name, raw))
    if datatype not in _NUMPY:
        raise ValueError(f"{name!r} has datatype {datatype!r}; {', '.join(_DECODERS)}")
    kind = np.dtype(_NUMPY[datatype])
    if len(raw) % kind.itemsize:
        problem = f"{len(raw)} bytes, not {kind.itemsize} to a value"
        raise ValueError(f"{name!r} has {problem}")
    return SentTensor(name, datatype, shape, np.frombuffer(raw, kind).tolist())


def _slot(column: int, words: Places | None) -> _Slot:
    kinds = NUMBERS if words is None else (*NUMBERS, "BYTES")
    return _Slot(kinds, ((), (1,)), (column,), (words,))


def _vector_slot(span: slice) -> _Slot:
    columns = tuple(range(span.start, span.stop))
    return _Slot(("FP32", "FP64"), ((len(columns),),), columns, (None,) * len(columns))


def _usable(signature: Signature | None) -> Signature | None:
    if signature is None or any(tensor.name == MATRIX for tensor in signature.inputs):
        return None
    return signature


def _check(tensor: SentTensor, slot: _Slot, count: int) -> None:
    name, tail = tensor.name, tuple(tensor.shape[1:])
    if tensor.datatype not in slot.datatypes:
        wanted = ", ".join(slot.datatypes)
        raise ValueError(f"{name!r} has datatype {tensor.datatype!r}; wanted: {wanted}")
    shape = list(tensor.shape)
    if count < 1 or not shape or shape[0] != count or tail not in slot.tails:
        wanted = " or ".join(str(["n", *map(str, one)]) for one in slot.tails).replace("'", "")
        detail = f"{name!r} has shape {shape}; wanted: {wanted}, n the same for all and at least 1"
        raise ValueError(detail)
    if len(tensor.values) != count * len(slot.columns):
        needed = count * len(slot.columns)
        detail = f"{name!r} holds {len(tensor.values)} values; shape {shape} needs {needed}"
        raise ValueError(detail)


def _numbers(
    tensor: SentTensor, values: Sequence[Any], known: Places | None, *, is_exact: bool
) -> list[float]:
    """One column of a row's numbers, with words as their places.

    Args:
        is_exact: whether a row has the numbers' remainders.
    """
    if tensor.datatype == "BYTES":
        assert known is not None  # texts are accepted only for inputs with words
        return [place(text, known) for text in values]
    if tensor.datatype == "INT64":
        most = _INT64 if is_exact else _WHOLE
        if any(value not in most for value in values if value is not None):
            beyond = "INT64" if is_exact else f"±{WHOLE_MOST}"
            raise ValueError(f"{tensor.name!r} has a whole number beyond {beyond}")
        if known is not None:  # place 0 is a missing word, as for graphs
            return [value or math.nan for value in values]
    return [math.nan if value is None else value for value in values]


def _texts(name: str, raw: memoryview) -> list[str]:
    found, at = [], 0
    while at < len(raw):
        size, begin = int.from_bytes(raw[at : at + 4], "little"), at + 4
        at = begin + size
        if begin > len(raw) or at > len(raw):
            raise ValueError(f"{name!r} ends within a text")
        try:
            found.append(str(raw[begin:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{name!r} holds bytes that are not UTF-8") from error
    return found
