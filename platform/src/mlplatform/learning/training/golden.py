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
from mlplatform.learning.onnx.explainer import row_gaps, score_gap
from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.model.definition import (
    WORDED,
    InputSpec,
    ModelDefinition,
    by_declared,
    word_inputs,
)
from mlplatform.model.features.transforms import number
from mlplatform.model.folders import READY_FILE
from mlplatform.model.inputs import declared_words
from mlplatform.model.policies.calibration import ROUNDING, are_probabilities
from mlplatform.model.tensors.categories import place, places
from mlplatform.model.tensors.remainders import remainder_places, remainders
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
PROBABILITY: Final = f"0 to 1, within {ROUNDING:g}: it is a probability (task: {{task}})"
FINITE: Final = "a finite number"
WANTED: Final = 'a list of {"inputs": {name: value}, "score": 0.5}, one for each row'

Value = int | float | bool | str | list[float] | None
Reader = Callable[[str, Value], Sequence[float]]
"""Function from the key, for error messages, and a value to its numbers in a row."""


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Rows by inputs, NaN where a value is missing, and the score that each must have: [n], or of
    classes their probabilities [n, classes]."""

    rows: NDArray[np.float32]
    scores: NDArray[np.float64]

    def difference(self, model: ScoringSession) -> float:
        """The largest gap between a model's scores and the expected ones.

        Raises:
            ModelRefused: the model fails on a row, or gives a score that is not a number.
        """
        return score_gap(model.scores(self.rows), self.scores)


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: dict[str, Value]
    score: float | list[float]


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
    count, scores = len(definition.classes), []
    for n, row in enumerate(found):
        key = f"{source}: {n}.score"
        if isinstance(row.score, list) != bool(count) or np.size(row.score) != max(1, count):
            wanted = f"a list of {count} probabilities, one for each class" if count else "a number"
            raise ConfigInvalid(key, row.score, wanted)
        if wanted := _unmet(np.array(row.score), definition):
            raise ConfigInvalid(key, row.score, wanted)
        scores.append(row.score)
    return GoldenSet(np.array(rows, np.float32), np.array(scores, np.float64))


def _unmet(score: NDArray[np.float64], definition: ModelDefinition) -> str:
    """The condition that a row's score, or its probabilities, fails; empty if there is none."""
    if definition.task == "real":
        return "" if np.isfinite(score).all() else FINITE
    return "" if are_probabilities(score) else PROBABILITY.format(task=definition.task)


def _readers(definition: ModelDefinition) -> dict[str, Reader]:
    """Declared input of model.yaml → function from a value to numbers of a row."""
    words = declared_words(definition)
    if lacking := [name for name in word_inputs(definition.inputs) if not words.get(name)]:
        wanted = f"the words of {', '.join(lacking)}: a ready model learns none"
        raise ConfigInvalid("model.yaml: vocabularies", definition.vocabularies, wanted)
    exact = remainder_places([spec.name for spec in definition.inputs])
    return {
        name: _reader(spec, words.get(name, ()), is_exact=name in exact)
        for name, spec in by_declared(definition.inputs).items()
    }


def _row(key: str, inputs: Mapping[str, Value], read: Mapping[str, Reader]) -> list[float]:
    if set(inputs) != set(read):
        wanted = "a value, or null, for each of " + ", ".join(read)
        raise ConfigInvalid(key, sorted(inputs), wanted)
    return [number for name in read for number in read[name](f"{key}.{name}", inputs[name])]


def _reader(spec: InputSpec, words: Sequence[str], *, is_exact: bool) -> Reader:
    """
    Args:
        is_exact: whether a row has the remainders of the input's numbers.
    """
    known, tokenizer, length = places(words), None, length_of(spec.name)
    vector = Vector(spec.declared, length)
    if isinstance(spec.tokens, Tokens):
        tokenizer = Tokenizer(spec.tokens, words)

    def of_number(key: str, value: Value) -> Sequence[float]:
        if isinstance(value, str | list):
            raise ConfigInvalid(key, value, "a number")
        return [number(value), *(remainders(value) if is_exact else ())]

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
    names, classes = [i.name for i in definition.inputs], len(definition.classes)
    tensors = None
    if definition.signature is not None:
        words = declared_words(definition)
        tensors = Tensors(definition.signature, names, words, classes=classes)
    model = ConfinedModel(content, inputs=len(names), tensors=tensors, data=data, classes=classes)
    try:
        _check_scores(model, golden, definition)
        (nothing,) = model.scores(np.full((1, len(names)), np.nan, np.float32))
        if wanted := _unmet(nothing, definition):
            problem = f"a row without any value scores {_shown(nothing)}; wanted: {wanted}"
            raise InputInvalid(READY_FILE, None, problem)
    except ModelRefused as error:
        hint = "where a missing value is the reason, signature.inputs.N.missing stands for it"
        raise ModelRefused(f"{error.problem}; {hint}") from error
    finally:
        model.close()


def _check_scores(model: ConfinedModel, golden: GoldenSet, definition: ModelDefinition) -> None:
    found, limit = model.scores(golden.rows), definition.gates.onnx_difference
    for row, score in enumerate(found):
        if wanted := _unmet(score, definition):
            problem = f"row {row} scores {_shown(score)}; wanted: {wanted}"
            raise InputInvalid(GOLDEN_FILE, None, problem)
    gaps = row_gaps(found, golden.scores)
    row = int(gaps.argmax())
    if gaps[row] > limit:
        other = f"row {row} scores {_shown(found[row])}, expected is {_shown(golden.scores[row])}"
        within = f"wanted: within {limit:g} (gates.onnx_difference)"
        raise InputInvalid(GOLDEN_FILE, None, f"{other}; {within}")
    few = slice(0, ALONE_ROWS)
    single = [model.scores(golden.rows[row : row + 1]) for row in range(len(found[few]))]
    alone = np.concatenate(single)
    gaps = row_gaps(alone, found[few])
    row = int(gaps.argmax())
    if gaps[row] > limit:
        mixed = (
            f"row {row} scores {_shown(alone[row])} alone and {_shown(found[row])} beside others"
        )
        why = f"within {limit:g} (gates.onnx_difference), so that no operator mixes rows"
        raise InputInvalid(GOLDEN_FILE, None, f"{mixed}; wanted: {why}")


def _shown(score: NDArray[np.float64]) -> str:
    """A score, or the probabilities of a row, in a message."""
    return " ".join(f"{part:.6g}" for part in np.atleast_1d(score))
