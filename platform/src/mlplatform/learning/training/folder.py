"""The parts of a model's folder for training: definition, views, rules, reasons, and the fit
itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.search.scores import OwnMeasure
from mlplatform.learning.training.golden import GOLDEN_FILE, GoldenSet, golden_set
from mlplatform.learning.training.packages import import_problems
from mlplatform.learning.training_sets.known_labels import Labels
from mlplatform.model.bundle import Reason, parse_reasons
from mlplatform.model.definition import WIDE, WORDED, ModelDefinition, declared_names
from mlplatform.model.features.purposes import DeclaredViews
from mlplatform.model.features.views import FILE as VIEWS_FILE
from mlplatform.model.features.views import (
    FeatureView,
    check_rendered,
    load_views,
    read_file,
)
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import (
    check_shared_views,
    folder_digest,
    is_ready,
    load_definition,
    model_folder,
)
from mlplatform.model.rules import Rule, parse_rules
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

Parameter = str | int | float | bool | None

FIT: Final = "training.py: fit"
BASELINE: Final = "training.py: baseline"
PARTS: Final = ("scores", "onnx")
"""Methods of a fitted model."""
MOST_PARAMETERS: Final = 200
MOST_CHARACTERS: Final = 500
MOST_WHOLE: Final = 2**63


class ScoringModel(Protocol):
    """A model that scores rows, as of `FittedModel`."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]: ...


class FittedModel(Protocol):
    """A fitted model and its ONNX form, which must agree."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score of 0-1 a row; of classes their probabilities [n, classes]; of a model of
        numbers one number a row. NaN inputs are missing values."""
        ...

    def onnx(self) -> bytes:
        """Input "inputs" float32 [n, F], output "scores" float32 [n], of classes [n, classes]; the
        same bytes every time."""
        ...


@runtime_checkable
class ParametrisedModel(Protocol):
    """A fitted model with hyper-parameters, which MLflow shows of its run."""

    @property
    def parameters(self) -> Mapping[str, Any]: ...


def parameters_of(fitted: FittedModel) -> dict[str, Parameter]:
    """The hyper-parameters of a fitted model, the first `MOST_PARAMETERS` by name, as text if they
    are neither a number nor a text; empty for a model without any."""
    reported = fitted.parameters if isinstance(fitted, ParametrisedModel) else {}
    plain = {
        str(name)[:MOST_CHARACTERS]: _plain(reported[name]) for name in sorted(reported, key=str)
    }
    return dict(list(plain.items())[:MOST_PARAMETERS])


def _plain(value: Any) -> Parameter:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < MOST_WHOLE:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return str(value)[:MOST_CHARACTERS]


class TrainingModule(Protocol):
    """The module `training.py` of a model's folder."""

    def fit(
        self,
        x: NDArray[np.float32],
        y: Labels,
        *,
        seed: int,
        weight: NDArray[np.float64] | None = None,
    ) -> FittedModel:
        """Learn from rows by inputs and labels 0 or 1; the same rows and seed give the same model.

        Args:
            weight: weight of each row; None means that all rows weigh 1. A request that exploration
                let through weighs more, because it stands for stopped requests that are not among
                the rows.

        Of a model of classes labels are places among them, from 0, and it is given `classes` too,
        their names in that order; of a model of numbers labels are float64. A `fit` that has a
        parameter `context` is given a `FitContext`; where model.yaml has `training.search`, it must
        have one, and the module has `measure(y, scores)`, where the search's measure is `own`. The
        module may have a function `baseline` of the same arguments but `context`, which gives a
        simpler model: each version is measured beside it.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder, read and checked.

    Args:
        digest: digest of the folder's whole content (`model.folders.folder_digest`).
        golden: the golden set of a ready ONNX file; None for a folder that is trained.
    """

    definition: ModelDefinition
    views: tuple[FeatureView, ...]
    rules: tuple[Rule, ...]
    reasons: Mapping[str, Reason]
    digest: str
    golden: GoldenSet | None = None


def load_folder(name: str) -> ModelFolder:
    """The folder of a model of this installation.

    Raises:
        NotFound: there is no such model.
        ConfigInvalid: a file of the folder is wrong, or another folder does not let the model use a
            view as it would; the message names the file, or both folders, and the key.
    """
    path = model_folder(name)
    folder = read_folder(load_definition(name), path)
    if folder.views:
        check_shared_views(DeclaredViews(name, read_file(path).purposes, folder.views))
    return folder


def read_folder(definition: ModelDefinition, folder: Path) -> ModelFolder:
    """The model folder at this path.

    Raises:
        ConfigInvalid: a file does not fit the definition; the message names the file and the key.
    """
    name = definition.name
    check_rendered(folder)
    numbers = [i.name for i in definition.inputs if i.kind not in (*WORDED, *WIDE)]
    rules, reasons = _text(folder / "rules.yaml"), _text(folder / "reasons.yaml")
    return ModelFolder(
        definition=definition,
        views=_unprotected(load_views(folder), definition),
        rules=parse_rules(
            rules,
            source=f"{name}/rules.yaml",
            inputs=numbers,
            decisions=definition.decision.outcomes,
            protected=definition.protected,
        ),
        reasons=parse_reasons(
            reasons, source=f"{name}/reasons.yaml", inputs=declared_names(definition.inputs)
        ),
        digest=folder_digest(folder),
        golden=golden_set(folder / GOLDEN_FILE, definition) if is_ready(folder) else None,
    )


def _unprotected(
    views: tuple[FeatureView, ...], definition: ModelDefinition
) -> tuple[FeatureView, ...]:
    """The views. Raises if one reads a protected field, or labels that are classes or numbers.

    Raises:
        ConfigInvalid: a feature does so; the message names it.
    """
    for view in views:
        for feature in view.fields:
            own = feature.name if view.external is not None else None
            read = {view.join_key, feature.column, own} & {*definition.protected}
            if definition.task != "binary" and feature.aggregate == "label_share":
                key = f"{definition.name}/{VIEWS_FILE}: feature {feature.name}"
                wanted = "an aggregate of a column: only labels of 0 and 1 have a share"
                raise ConfigInvalid(key, feature.aggregate, wanted)
            if read:
                key = f"{definition.name}/{VIEWS_FILE}: feature {feature.name}"
                wanted = "a column that is not `protected` in model.yaml"
                raise ConfigInvalid(key, ", ".join(sorted(map(str, read))), wanted)
    return views


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        wanted = "a text file of the model's folder (docs/adding-a-model.md)"
        raise ConfigUnusable(f"{file.parent.name}/{file.name}", str(error), wanted) from error


def check_takes_classes(training: TrainingModule) -> None:
    """Raises unless `fit` of a model of classes takes the names of classes.

    Raises:
        ConfigInvalid: `fit` has no parameter `classes`.
    """
    if "classes" not in inspect.signature(training.fit).parameters:
        wanted = "fit(x, y, *, seed, weight=None, classes): model.yaml has `task: classes`"
        raise ConfigUnusable(FIT, "it takes no `classes`", wanted)


def takes_context(training: TrainingModule) -> bool:
    """Whether `fit` has a parameter `context`."""
    return "context" in inspect.signature(training.fit).parameters


def check_takes_context(training: TrainingModule) -> None:
    """Raises unless `fit` of a model with a search takes its context.

    Raises:
        ConfigInvalid: `fit` has no parameter `context`.
    """
    if not takes_context(training):
        wanted = "fit(x, y, *, seed, weight=None, context): model.yaml has training.search"
        raise ConfigUnusable(FIT, "it takes no `context`", wanted)


def fit_arguments(
    weight: NDArray[np.float64] | None, classes: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """The arguments of `fit` and `baseline` beside rows and labels: no `classes` of other models,
    and no `weight` where all rows weigh 1."""
    more: dict[str, Any] = {"seed": seed}
    if classes:
        more["classes"] = tuple(classes)
    if weight is not None and not bool((weight == 1).all()):
        more["weight"] = weight
    return more


def call_fit(
    training: TrainingModule, x: NDArray[np.float32], y: Labels, arguments: Mapping[str, Any]
) -> FittedModel:
    """The model that `fit` gives for rows, labels and these arguments by name.

    Raises:
        ConfigInvalid: `fit` takes other arguments, imports a package that is not installed here, or
            gives something that is no fitted model.
    """
    _check_takes(training.fit, FIT, "fit", (x, y), arguments)
    with import_problems():
        fitted: Any = cast(Any, training.fit)(x, y, **arguments)
    if lacking := [name for name in PARTS if not callable(getattr(fitted, name, None))]:
        problem = f"it gives {type(fitted).__name__}, which has no {' and no '.join(lacking)}"
        wanted = "a model with scores(x) and onnx(), as `fitted` of learning/onnx gives it"
        raise ConfigUnusable(FIT, problem, wanted)
    return cast(FittedModel, fitted)


def call_baseline(
    training: TrainingModule, x: NDArray[np.float32], y: Labels, arguments: Mapping[str, Any]
) -> ScoringModel | None:
    """The simpler model that `baseline` gives for copies of the rows that a fit learns from; None
    if the module has no such function.

    Raises:
        ConfigInvalid: `baseline` takes other arguments, imports a package that is not installed
            here, or gives something without `scores`.
    """
    simpler: Any = getattr(training, "baseline", None)
    if not callable(simpler):
        return None
    _check_takes(simpler, BASELINE, "baseline", (x, y), arguments)
    with import_problems():
        found: Any = simpler(x.copy(), y.copy(), **arguments)
    if not callable(getattr(found, "scores", None)):
        problem = f"it gives {type(found).__name__}, which has no scores"
        raise ConfigUnusable(BASELINE, problem, "a model with scores(x), as of `fit`")
    return cast(ScoringModel, found)


def _check_takes(
    function: Callable[..., Any],
    key: str,
    name: str,
    rows: tuple[NDArray[np.float32], Labels],
    arguments: Mapping[str, Any],
) -> None:
    """Raises ConfigUnusable unless the folder's function takes rows, labels and these arguments."""
    signature = inspect.signature(function)
    try:
        signature.bind(*rows, **arguments)
    except TypeError as error:
        more = "".join(f", {one}" for one in arguments if one not in ("seed", "weight"))
        usual = f"{name}(x, y, *, seed, weight=None{more})"
        raise ConfigUnusable(key, f"it is {name}{signature}: {error}", usual) from error


def own_measure(training: TrainingModule) -> OwnMeasure:
    """The function `measure(y, scores)` of a training module; larger values are better.

    Raises:
        ConfigInvalid: the module has no such function.
    """
    found = getattr(training, "measure", None)
    if not callable(found):
        wanted = "a function measure(y, scores): training.search.measure is own"
        raise ConfigInvalid("training.py: measure", found, wanted)
    return cast("OwnMeasure", found)


def load_training(name: str) -> TrainingModule:
    """The training module of a model; importing it may take seconds.

    Raises:
        ConfigInvalid: the module imports a package that is not installed here, or has no `fit`.
    """
    with import_problems():
        module = load_module(name, "training")
    if not callable(getattr(module, "fit", None)):
        wanted = "a function fit(x, y, *, seed, weight=None)"
        raise ConfigUnusable(FIT, "there is no such function", wanted)
    return cast(TrainingModule, module)
