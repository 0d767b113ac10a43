"""Whether a folder's Python fits made-up rows, and its ONNX form gives the fitted model's scores.

These are the programs of `mlplatform check-model`, each in a process of its own. Rows lie within
the bounds of the request's fields, with holes. They say nothing about how good a model is.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.onnx.explainer import score_gap
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.search.context import Context, last_fit
from mlplatform.learning.search.dataset import Dataset
from mlplatform.learning.search.scores import checked_scores
from mlplatform.learning.training.candidate import parity_rows
from mlplatform.learning.training.folder import (
    BASELINE,
    TrainingModule,
    call_baseline,
    call_fit,
    has_baseline,
    load_folder,
    load_training,
    own_measure,
)
from mlplatform.learning.training.own_gates import try_own_gates, worded
from mlplatform.learning.training.packages import import_problems
from mlplatform.learning.training.retrain import SEED
from mlplatform.learning.training_sets.known_labels import Labels
from mlplatform.learning.training_sets.words import own_words
from mlplatform.model.definition import EVENT_TIME, ModelDefinition, RequestField
from mlplatform.model.features.views import FeatureView
from mlplatform.model.folder_code import load_module
from mlplatform.model.inputs import InputPlan
from mlplatform.model.policies.search import OWN
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.model.tensors.signature import Tensors
from mlplatform.model.tensors.vectors import spans
from mlplatform.runtime.errors import ConfigUnusable, InputInvalid, PlatformError
from mlplatform.runtime.units import DAY_MS

ROWS: Final = 4000
HOLES: Final = 0.05
HALF: Final = 0.5
OF_SOURCES: Final = ("COLUMNS", "examine_transactions")
WIDEST: Final = 1e6
"""Range of values of a field without bounds."""


def main() -> None:
    """Tries the model that the first argument names; an error is the last line of the output."""
    try:
        run(sys.argv[1])
    except PlatformError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def read_sources() -> None:
    """Imports the sources.py of the model that the first argument names, and checks the parts that
    commands read."""
    try:
        with import_problems("sources.py: import"):
            module = load_module(sys.argv[1], "sources")
    except PlatformError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if missing := [name for name in OF_SOURCES if not hasattr(module, name)]:
        sys.exit(f"it has no {' and no '.join(missing)}: `mlplatform history import` reads both")


def read_gates() -> None:
    """Runs the gates.py of the model that the first argument names on made-up rows."""
    try:
        folder = load_folder(sys.argv[1])
        x, _, words = rows(folder.definition, folder.views, SEED)
        inputs = {
            spec.name: worded(values, words.get(spec.name))
            for spec, values in zip(folder.definition.inputs, x.T, strict=True)
        }
        found = try_own_gates(folder.definition, inputs, SEED)
    except PlatformError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if found.wrong:
        sys.exit("\n".join(gate.reason for gate in found.wrong))


def run(model: str) -> None:
    """Raises unless the folder's fit gives a model that agrees with its ONNX form.

    Raises:
        ConfigInvalid: the folder is wrong, or imports a package that is not installed here.
        ModelRefused: the platform can't run the ONNX file.
        InputInvalid: scores are outside 0-1, are not numbers, or differ between the two forms.
    """
    folder = load_folder(model)
    x, y, words = rows(folder.definition, folder.views, SEED)
    training, classes = load_training(model), folder.definition.classes
    dataset = _dataset(folder.definition, (x, y), words)
    fitted = call_fit(training, dataset, _context(folder.definition, training, x))
    tried = parity_rows(x, SEED)
    of_fit = fitted.scores(tried)
    expected = checked_scores("training.py: scores", of_fit, len(tried), folder.definition)
    if has_baseline(training):
        again = _dataset(folder.definition, (x, y), words)
        simpler = call_baseline(training, again, last_fit({}, x.shape[1], seed=SEED))
        checked_scores(BASELINE, simpler.scores(tried), len(tried), folder.definition)
    names, signature = [i.name for i in folder.definition.inputs], folder.definition.signature
    tensors = None if signature is None else Tensors(signature, names, words, classes=len(classes))
    content: object = fitted.onnx()
    if not isinstance(content, bytes):
        returned = f"it gives {type(content).__name__}"
        raise ConfigUnusable("training.py: onnx", returned, "the bytes of an ONNX file")
    running = OnnxFile(content, inputs=x.shape[1], tensors=tensors, classes=len(classes))
    limit = folder.definition.gates.onnx_difference
    if gap := gap_problem(running.scores(tried), expected, tried, limit=limit):
        raise InputInvalid("training.py: onnx", None, f"of {_kind(fitted)} {gap}")


def gap_problem(
    found: NDArray[np.float64],
    expected: NDArray[np.float64],
    rows: NDArray[np.float32],
    *,
    limit: float,
) -> str:
    """The problem of an ONNX form's scores of rows beside the fitted model's; empty where they
    differ by the limit or less. It says whether rows without missing values agree."""
    gap = score_gap(found, expected)
    if gap <= limit:
        return ""
    difference = f"differs from the fitted model by {gap:.3g}"
    whole = ~np.isnan(rows).any(axis=1)
    if whole.any() and score_gap(found[whole], expected[whole]) <= limit:
        difference = f"{difference} where values are missing, and agrees where none is"
        hint = "; fill them within the model: make_pipeline(SimpleImputer(), …)"
    else:
        hint = ""
    return f"{difference}; wanted: {limit:g} or less (gates.onnx_difference){hint}"


def _kind(fitted: Any) -> str:
    return str(getattr(fitted, "kind", type(fitted).__name__))


def _dataset(
    definition: ModelDefinition, labelled: tuple[NDArray[np.float32], Labels], words: Vocabularies
) -> Dataset:
    """Copies of made-up rows and labels as a fit is given them, of two rows a unit, over a day."""
    (x, y), numbers = labelled, np.arange(len(labelled[1]), dtype=np.int64)
    return Dataset(
        x=x.copy(),
        y=y.copy(),
        weight=1.0 + (y > np.median(y)),
        inputs=tuple(i.name for i in definition.inputs),
        words=words,
        unit=numbers // 2,
        event_ms=numbers * DAY_MS // len(y),
        classes=definition.classes,
    )


def _context(
    definition: ModelDefinition, training: TrainingModule, x: NDArray[np.float32]
) -> Context:
    """The context of a fit of made-up rows; with the first trial's parameters, and rows for
    reports, if model.yaml declares a search.

    Raises:
        ConfigInvalid: Optuna is not installed, or there is no own measure.
    """
    policy = definition.training.search
    if policy is None:
        return last_fit({}, x.shape[1], seed=SEED)
    if policy.measure == OWN:
        own_measure(training)
    with import_problems("training.search"):
        # imports Optuna, which not every role has
        from mlplatform.learning.search.optuna import suggestion

    def judge(step: int, scores: NDArray[np.float64]) -> None:
        checked_scores("training.py: context.report", scores, len(x), definition)

    return Context(suggestion(policy, (), SEED).parameters, x.copy(), judge, seed=SEED)


def rows(
    definition: ModelDefinition, views: tuple[FeatureView, ...], seed: int
) -> tuple[NDArray[np.float32], Labels, Vocabularies]:
    """Made-up inputs within the fields' bounds, labels that depend on the first input, and the
    words of categories."""
    random = np.random.default_rng(seed)
    features = [*(n for v in views for n in v.feature_names), *(w.name for w in definition.windows)]
    columns: dict[str, pa.Array[Any]] = {
        EVENT_TIME: pa.array(random.integers(0, 30 * DAY_MS, ROWS), pa.timestamp("ms")),
        **{n: _column(f, random) for n, f in definition.request.items()},
        **{i.of: _texts(random) for i in definition.inputs if i.kind == "text" and i.of},
        **{n: pa.array(random.gamma(2.0, 1.0, ROWS)) for n in features},
    }
    table = pa.table(columns)
    words = own_words(definition, table)
    x = InputPlan(definition, views, vocabularies=words).matrix(table)
    first = np.argsort(np.argsort(x[:, 0])) / ROWS
    y: Labels = (random.random(ROWS) < 0.02 + 0.5 * first**4).astype(np.int8)
    if count := len(definition.classes):
        by_chance = random.integers(0, count, ROWS)
        y = np.where(random.random(ROWS) < HALF, by_chance, first * count).astype(np.int8)
    if (number := definition.decision.scale.number) is not None:
        least, most = number.ends(WIDEST)
        y = number.clamped_many(least + (most - least) * (first + 0.1 * random.random(ROWS)) / 2)
    holes = random.random(x.shape) < HOLES
    for _, places in spans([spec.name for spec in definition.inputs]):  # a vector is there or not
        holes[:, places] = holes[:, places.start][:, None]
    return np.where(holes, np.float32(np.nan), x), y, words


def _texts(random: np.random.Generator) -> pa.Array[Any]:
    """Texts of up to 12 words out of 50; some are empty."""
    made = random.integers(0, 50, (ROWS, 12))
    counts = random.integers(0, 13, ROWS)
    return pa.array([
        " ".join(f"word{number}" for number in row[:count])
        for row, count in zip(made.tolist(), counts.tolist(), strict=True)
    ])  # fmt: skip


def _column(field: RequestField, random: np.random.Generator) -> pa.Array[Any]:
    if field.type != "vector" or field.length is None:
        plain: pa.Array[Any] = pa.array(_values(field, random))
        return plain
    least = -1.0 if field.minimum is None else field.minimum
    most = max(least, 1.0) if field.maximum is None else field.maximum
    made = random.uniform(least, most, ROWS * field.length).astype(np.float32)
    offsets: Any = pa.array(np.arange(ROWS + 1, dtype=np.int32) * field.length, pa.int32())
    column: pa.Array[Any] = pa.ListArray.from_arrays(offsets, pa.array(made))
    return column


def _values(field: RequestField, random: np.random.Generator) -> NDArray[np.generic]:
    least = 0.0 if field.minimum is None else field.minimum
    most = max(least, WIDEST) if field.maximum is None else field.maximum
    match field.type:
        case "int64":  # bounds are float64, which rounds the largest int64 up
            ends = np.iinfo(np.int64)
            low, high = max(int(least), ends.min), min(int(most), ends.max)
            return random.integers(low, high, ROWS, endpoint=True)
        case "float64":
            return random.uniform(least, most, ROWS)
        case "bool":
            return random.random(ROWS) < 0.5
        case "string":
            made = [f"word {number}" for number in range(5)]
            return random.choice(np.array(field.values or made), ROWS)
        case "vector":
            raise AssertionError("a vector is a column of lists")
