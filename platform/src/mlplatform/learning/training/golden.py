"""The golden set of a ready ONNX file: rows, with the scores that they had where the file was
made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.model.definition import WORDED, InputSpec, ModelDefinition, word_inputs
from mlplatform.model.features.transforms import number
from mlplatform.model.folders import READY_FILE
from mlplatform.model.inputs import declared_words
from mlplatform.model.policies.calibration import ROUNDING, are_probabilities
from mlplatform.model.tensors.categories import place, places
from mlplatform.model.tensors.signature import Tensors
from mlplatform.model.tensors.tokens import Tokenizer, Tokens
from mlplatform.model.tensors.vectors import Vector, length_of
from mlplatform.model.weights.data_files import DataFile
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, InputInvalid
from mlplatform.runtime.units import MIB

GOLDEN_FILE: Final = "golden.json"
MOST_BYTES: Final = 16 * MIB
MOST_ROWS: Final = 10_000
ALONE_ROWS: Final = 64
"""Most golden rows that are scored alone too, as a request's row is."""
PROBABILITY: Final = (
    f"0 to 1, within {ROUNDING:g}: the score of a ready file is a probability; a model of numbers "
    "needs a training.py (task: real)"
)
WANTED: Final = 'a list of {"inputs": {name: value}, "score": 0.5}, one for each row'

Value = float | bool | str | list[float] | None
Reader = Callable[[str, Value], Sequence[float]]
"""Function from the key, for error messages, and a value to its numbers in a row."""


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Rows by inputs, NaN where a value is missing, and the score that each must have."""

    rows: NDArray[np.float32]
    scores: NDArray[np.float64]

    def difference(self, model: ScoringSession) -> float:
        """The largest gap between a model's scores and the expected ones.

        Raises:
            ModelRefused: the model fails on a row, or gives a score that is not a number.
        """
        return float(np.abs(model.scores(self.rows) - self.scores).max())


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: dict[str, Value]
    score: float


def golden_set(file: Path, definition: ModelDefinition) -> GoldenSet:
    """The golden set in a file.

    Raises:
        ConfigInvalid: the file holds no golden set, or a row does not fit the model's inputs; the
            message names the row, from 0.
    """
    source = f"{file.parent.name}/{file.name}"
    try:
        if file.stat().st_size > MOST_BYTES:
            problem = f"it has {file.stat().st_size} bytes"
            raise ConfigUnusable(source, problem, f"{MOST_BYTES} or fewer")
        found = msgspec.json.decode(file.read_bytes(), type=tuple[_Row, ...])
    except (OSError, *NOT_JSON) as error:
        raise ConfigUnusable(source, str(error), WANTED) from error
    if not 0 < len(found) <= MOST_ROWS:
        wanted = f"1 to {MOST_ROWS} rows with the scores that they had where the model was made"
        raise ConfigUnusable(source, f"it has {len(found)} rows", wanted)
    read = _readers(definition)
    rows = [_row(f"{source}: {n}.inputs", row.inputs, read) for n, row in enumerate(found)]
    scores = np.array([row.score for row in found])
    for n, score in enumerate(scores):
        if not are_probabilities(score):
            raise ConfigInvalid(f"{source}: {n}.score", float(score), PROBABILITY)
    return GoldenSet(np.array(rows, np.float32), scores)


def _readers(definition: ModelDefinition) -> dict[str, Reader]:
    """Declared input of model.yaml → function from a value to numbers of a row."""
    words = declared_words(definition)
    if lacking := [name for name in word_inputs(definition.inputs) if not words.get(name)]:
        wanted = f"the words of {', '.join(lacking)}: a ready model learns none"
        raise ConfigInvalid("model.yaml: vocabularies", definition.vocabularies, wanted)
    declared = {spec.declared: spec for spec in definition.inputs}
    return {name: _reader(spec, words.get(name, ())) for name, spec in declared.items()}


def _row(key: str, inputs: Mapping[str, Value], read: Mapping[str, Reader]) -> list[float]:
    if set(inputs) != set(read):
        wanted = "a value, or null, for each of " + ", ".join(read)
        raise ConfigInvalid(key, sorted(inputs), wanted)
    return [number for name in read for number in read[name](f"{key}.{name}", inputs[name])]


def _reader(spec: InputSpec, words: Sequence[str]) -> Reader:
    known, tokenizer, length = places(words), None, length_of(spec.name)
    vector = Vector(spec.declared, length)
    if isinstance(spec.tokens, Tokens):
        tokenizer = Tokenizer(spec.tokens, words)

    def of_number(key: str, value: Value) -> Sequence[float]:
        if isinstance(value, str | list):
            raise ConfigInvalid(key, value, "a number")
        return [number(value)]

    def of_vector(key: str, value: Value) -> Sequence[float]:
        if value is not None and (not isinstance(value, list) or len(value) != length):
            raise ConfigUnusable(key, "it is no such list", f"a list of {length} numbers")
        return vector.places(value)

    def of_text(key: str, value: Value) -> Sequence[float]:
        if value is not None and not isinstance(value, str):
            raise ConfigInvalid(key, value, "a text")
        return [place(value, known)] if tokenizer is None else tokenizer.places(value)

    if spec.kind == "vector":
        return of_vector
    return of_text if spec.kind in WORDED else of_number


def check_ready(
    content: bytes, definition: ModelDefinition, golden: GoldenSet, data: Sequence[DataFile] = ()
) -> None:
    """Raises unless the platform can run a ready file, and the file scores its golden set as
    expected.

    Args:
        data: files with weights of the model, beside it.

    Raises:
        ModelRefused: the file exceeds the limits, has other tensors, or gives a score that is not a
            number.
        InputInvalid: the score of a row is no probability, differs from the expected one, or
            depends on the rows beside it.
    """
    names = [i.name for i in definition.inputs]
    tensors = None
    if definition.signature is not None:
        tensors = Tensors(definition.signature, names, declared_words(definition))
    model = ConfinedModel(content, inputs=len(names), tensors=tensors, data=data)
    try:
        _check_scores(model, golden, definition.gates.onnx_difference)
        nothing = model.scores(np.full((1, len(names)), np.nan, np.float32))
        if not are_probabilities(nothing):
            problem = f"a row without any value scores {nothing[0]:.6g}; wanted: {PROBABILITY}"
            raise InputInvalid(READY_FILE, None, problem)
    except ModelRefused as error:
        hint = "where a missing value is the reason, signature.inputs.N.missing stands for it"
        raise ModelRefused(f"{error.problem}; {hint}") from error
    finally:
        model.close()


def _check_scores(model: ConfinedModel, golden: GoldenSet, limit: float) -> None:
    found = model.scores(golden.rows)
    for row, score in enumerate(found):
        if not are_probabilities(score):
            problem = f"row {row} scores {score:.6g}; wanted: {PROBABILITY}"
            raise InputInvalid(GOLDEN_FILE, None, problem)
    within = f"wanted: within {limit:g} (gates.onnx_difference)"
    gap = np.abs(found - golden.scores)
    row = int(gap.argmax())
    if gap[row] > limit:
        difference = f"row {row} scores {found[row]:.6g}, expected is {golden.scores[row]:.6g}"
        raise InputInvalid(GOLDEN_FILE, None, f"{difference}; {within}")
    for row in range(min(len(found), ALONE_ROWS)):
        (alone,) = model.scores(golden.rows[row : row + 1])
        if abs(alone - found[row]) > limit:
            difference = f"row {row} scores {alone:.6g} alone and {found[row]:.6g} among the others"
            raise InputInvalid(
                GOLDEN_FILE, None, f"{difference}; {within}: no operator may mix rows"
            )
