"""Whether a folder's Python fits made-up rows, and its ONNX form scores as the fitted model does.

The programs of `mlplatform check-model`, each in a process of its own. Rows lie within the bounds
of the request's fields, with holes; nothing is said about how good a model is.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.search.context import FitContext
from mlplatform.learning.training.candidate import parity_rows
from mlplatform.learning.training.folder import (
    Training,
    load_folder,
    load_training,
    own_measure,
)
from mlplatform.learning.training.own_gates import try_own_gates
from mlplatform.learning.training.packages import imports_told
from mlplatform.learning.training.retrain import SEED
from mlplatform.learning.training_sets.dataset import own_words
from mlplatform.model.definition import EVENT_TIME, ModelDefinition, RequestField
from mlplatform.model.features.views import FeatureView
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.model.inputs import InputPlan
from mlplatform.model.policies.search import OWN, SearchPolicy
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.model.tensors.signature import Tensors
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, PlatformError

ROWS: Final = 4000
HOLES: Final = 0.05
OF_SOURCES: Final = ("COLUMNS", "examine_transactions")
WIDEST: Final = 1e6
"""Of a field without bounds."""


def main() -> None:
    """Tries the model that the first argument names; what is wrong is the last of the output."""
    try:
        run(sys.argv[1])
    except PlatformError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def read_sources() -> None:
    """Imports the sources.py of the model that the first argument names, and looks for what a
    command reads of it."""
    try:
        module = load_module(sys.argv[1], "sources")
    except PlatformError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if missing := [name for name in OF_SOURCES if not hasattr(module, name)]:
        sys.exit(f"it has no {' and no '.join(missing)}: `mlplatform history import` reads both")


def read_gates() -> None:
    """Runs the gates.py of the model that the first argument names on made-up rows."""
    try:
        found = try_own_gates(load_definition(sys.argv[1]), SEED)
    except PlatformError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if found.wrong:
        sys.exit("\n".join(gate.reason for gate in found.wrong))


def run(model: str) -> None:
    """Raises unless the folder's fit gives a model that agrees with its ONNX form.

    Raises:
        ConfigInvalid: the folder is wrong, or imports a package that is not installed here.
        ModelRefused: the ONNX file is none that the platform runs.
        InputInvalid: scores are outside 0-1, or differ between the two forms.
    """
    folder = load_folder(model)
    x, y, words = rows(folder.definition, folder.views, SEED)
    training = load_training(model)
    more = _context(folder.definition.training.search, training, x)
    with imports_told():
        fitted = training.fit(x, y, seed=SEED, weight=1.0 + y.astype(np.float64), **more)
    tried = parity_rows(x, SEED)
    expected = np.asarray(fitted.scores(tried), np.float64)
    if expected.shape != (len(tried),) or not np.all((expected >= 0) & (expected <= 1)):
        problem = f"scores of shape {expected.shape}; wanted: {len(tried)} numbers of 0 to 1"
        raise InputInvalid("training.py: scores", None, problem)
    names, signature = [i.name for i in folder.definition.inputs], folder.definition.signature
    tensors = None if signature is None else Tensors(signature, names, words)
    running = OnnxFile(fitted.onnx(), inputs=x.shape[1], tensors=tensors)
    gap = float(np.abs(running.scores(tried) - expected).max())
    limit = folder.definition.gates.onnx_difference
    if not gap <= limit:
        problem = f"differs from the fitted model by {gap:.3g}; wanted: {limit:g} or less"
        raise InputInvalid("training.py: onnx", None, f"{problem} (gates.onnx_difference)")


def _context(
    policy: SearchPolicy | None, training: Training, x: NDArray[np.float32]
) -> dict[str, Any]:
    """What a fit is given besides where model.yaml declares a search: the first trial's parameters,
    and rows to report on.

    Raises:
        ConfigInvalid: Optuna is not installed, `fit` takes no context, or there is no own measure.
    """
    if policy is None:
        return {}
    if "context" not in inspect.signature(training.fit).parameters:
        wanted = "fit(x, y, *, seed, weight=None, context): model.yaml has training.search"
        raise ConfigInvalid("training.py: fit", "without context", wanted)
    if policy.measure == OWN:
        own_measure(training)
    with imports_told("training.search"):
        from mlplatform.learning.search.optuna import suggestion

    def judge(step: int, scores: NDArray[np.float64]) -> None:
        if scores.shape != (len(x),):
            problem = f"scores of shape {scores.shape}; wanted: {len(x)} numbers of 0 to 1"
            raise InputInvalid("training.py: context.report", None, problem)

    return {"context": FitContext(suggestion(policy, (), SEED).parameters, x, judge)}


def rows(
    definition: ModelDefinition, views: tuple[FeatureView, ...], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int8], Vocabularies]:
    """Made-up inputs within the fields' bounds, labels that depend on the first of them, and the
    words of their categories."""
    random = np.random.default_rng(seed)
    features = [*(n for v in views for n in v.feature_names), *(w.name for w in definition.windows)]
    columns: dict[str, pa.Array[Any]] = {
        EVENT_TIME: pa.array(random.integers(0, 30 * 86_400_000, ROWS), pa.timestamp("ms")),
        **{n: pa.array(_values(f, random)) for n, f in definition.request.items()},
        **{n: pa.array(random.gamma(2.0, 1.0, ROWS)) for n in features},
    }
    table = pa.table(columns)
    words = own_words(definition, table, definition.training.vocabulary)
    x = InputPlan(definition, views, vocabularies=words).matrix(table)
    first = np.argsort(np.argsort(x[:, 0])) / ROWS
    y = (random.random(ROWS) < 0.02 + 0.5 * first**4).astype(np.int8)
    return np.where(random.random(x.shape) < HOLES, np.float32(np.nan), x), y, words


def _values(field: RequestField, random: np.random.Generator) -> NDArray[np.generic]:
    least = 0.0 if field.minimum is None else field.minimum
    most = max(least, WIDEST) if field.maximum is None else field.maximum
    match field.type:
        case "int64":
            return random.integers(int(least), int(most) + 1, ROWS)
        case "float64":
            return random.uniform(least, most, ROWS)
        case "bool":
            return random.random(ROWS) < 0.5
        case "string":
            made = [f"word {number}" for number in range(5)]
            return random.choice(np.array(field.values or made), ROWS)
