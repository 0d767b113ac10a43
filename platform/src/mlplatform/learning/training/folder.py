"""The parts of a model's folder for training: definition, views, rules, reasons, and the fit
itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

from mlplatform.learning.search.context import Context
from mlplatform.learning.search.dataset import Dataset
from mlplatform.learning.search.fit_results import Fitted, ScoringModel
from mlplatform.learning.search.scores import OwnMeasure
from mlplatform.learning.training.golden import GOLDEN_FILE, GoldenSet, golden_set
from mlplatform.learning.training.packages import import_problems
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
from mlplatform.model.rules import Reason, Rule, parse_reasons, parse_rules
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

Parameter = str | int | float | bool | None

FIT: Final = "training.py: fit"
BASELINE: Final = "training.py: baseline"
ARGUMENTS: Final = (
    "(dataset, context): x, y, weight and classes are attributes of the dataset, seed is one of the"
    " context (docs/adding-a-model.md)"
)
RULES_FILE: Final = "rules.yaml"
REASONS_FILE: Final = "reasons.yaml"
PARTS: Final = ("scores", "onnx")
"""Methods of a fitted model."""
MOST_PARAMETERS: Final = 200
MOST_CHARACTERS: Final = 500
MOST_WHOLE: Final = 2**63


@runtime_checkable
class ParametrisedModel(Protocol):
    """A fitted model with hyper-parameters, which MLflow shows of its run."""

    @property
    def parameters(self) -> Mapping[str, Any]: ...


def parameters_of(fitted: Fitted) -> dict[str, Parameter]:
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

    def fit(self, dataset: Dataset, context: Context) -> Fitted:
        """Learn from labelled rows; the same rows and seed give the same model.

        A module has `measure(y, scores)` too, where the measure of `training.search` is `own`. It
        may have `baseline(dataset, context)`, which gives a simpler model: each version is measured
        beside it.
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
    names = names_of(definition)
    return ModelFolder(
        definition=definition,
        views=read_views(definition, folder),
        rules=read_rules(folder, names),
        reasons=read_reasons(folder, names),
        digest=folder_digest(folder),
        golden=golden_set(folder / GOLDEN_FILE, definition) if is_ready(folder) else None,
    )


@dataclass(frozen=True, slots=True)
class DeclaredNames:
    """The names of model.yaml that rules.yaml and reasons.yaml use; None for those that are not
    known.

    Args:
        numbers: the inputs that are numbers.
        inputs: all inputs.
        outcomes: what the model decides.
        protected: request fields that nothing may decide by.
    """

    numbers: Sequence[str] | None = None
    inputs: Sequence[str] | None = None
    outcomes: Sequence[str] | None = None
    protected: Sequence[str] = ()


def names_of(definition: ModelDefinition) -> DeclaredNames:
    """The names of a whole definition."""
    return DeclaredNames(
        [i.name for i in definition.inputs if i.kind not in (*WORDED, *WIDE)],
        declared_names(definition.inputs),
        definition.decision.outcomes,
        definition.protected,
    )


def read_rules(folder: Path, names: DeclaredNames) -> tuple[Rule, ...]:
    """The rules of a folder.

    Raises:
        ConfigInvalid: the file is wrong; the message names each error with its line.
    """
    return parse_rules(
        _text(folder / RULES_FILE),
        source=f"{folder.name}/{RULES_FILE}",
        inputs=names.numbers,
        decisions=names.outcomes,
        protected=names.protected,
    )


def read_reasons(folder: Path, names: DeclaredNames) -> Mapping[str, Reason]:
    """The reasons of a folder, by input.

    Raises:
        ConfigInvalid: the file is wrong; the message names each error with its line.
    """
    text = _text(folder / REASONS_FILE)
    return parse_reasons(text, source=f"{folder.name}/{REASONS_FILE}", inputs=names.inputs)


def read_views(definition: ModelDefinition, folder: Path) -> tuple[FeatureView, ...]:
    """The feature views of a folder.

    Raises:
        ConfigInvalid: `features.json` is wrong or out of date, or a view reads what it may not.
    """
    check_rendered(folder)
    return _unprotected(load_views(folder), definition)


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


def call_fit(training: TrainingModule, dataset: Dataset, context: Context) -> Fitted:
    """The model that `fit` gives for rows and their context.

    Raises:
        ConfigInvalid: `fit` takes other arguments, imports a package that is not installed here, or
            gives something that is no fitted model.
    """
    _check_takes(training.fit, FIT, "fit")
    with import_problems():
        fitted: Any = training.fit(dataset=dataset, context=context)
    if lacking := [name for name in PARTS if not callable(getattr(fitted, name, None))]:
        problem = f"it gives {type(fitted).__name__}, which has no {' and no '.join(lacking)}"
        wanted = "a model with scores(x) and onnx(), as `fitted` of mlplatform.authoring gives it"
        raise ConfigUnusable(FIT, problem, wanted)
    return cast(Fitted, fitted)


def has_baseline(training: TrainingModule) -> bool:
    """Whether a module has a function `baseline`."""
    return callable(getattr(training, "baseline", None))


def call_baseline(training: TrainingModule, dataset: Dataset, context: Context) -> ScoringModel:
    """The simpler model that `baseline` gives for the rows that a fit learns from.

    Raises:
        ConfigInvalid: `baseline` takes other arguments, imports a package that is not installed
            here, or gives something without `scores`.
    """
    simpler: Any = training.baseline  # type: ignore[attr-defined]  # a module may have it
    _check_takes(simpler, BASELINE, "baseline")
    with import_problems():
        found: Any = simpler(dataset=dataset, context=context)
    if not callable(getattr(found, "scores", None)):
        problem = f"it gives {type(found).__name__}, which has no scores"
        raise ConfigUnusable(BASELINE, problem, "a model with scores(x), as of `fit`")
    return cast(ScoringModel, found)


def _check_takes(function: Callable[..., Any], key: str, name: str) -> None:
    """Raises ConfigUnusable unless the folder's function takes a data set and its context."""
    signature = inspect.signature(function)
    try:
        signature.bind(dataset=None, context=None)
    except TypeError as error:
        raise ConfigUnusable(key, f"it is {name}{signature}", f"{name}{ARGUMENTS}") from error


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
        raise ConfigUnusable(FIT, "there is no such function", f"a function fit{ARGUMENTS}")
    return cast(TrainingModule, module)
