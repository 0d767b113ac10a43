"""A candidate: a model, fitted here or given, made into a complete bundle."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined import ConfinedModel
from mlplatform.learning.onnx.explainer import Explainer, make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile, Scoring
from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.learning.search.context import FitContext, last_fit
from mlplatform.learning.search.folds import search_folds
from mlplatform.learning.search.study import Study
from mlplatform.learning.training.calibration import KnownScores, fit_calibration, fit_thresholds
from mlplatform.learning.training.folder import (
    Fitted,
    ModelFolder,
    Parameter,
    Training,
    load_training,
    own_measure,
    parameters_of,
)
from mlplatform.learning.training.packages import imports_told
from mlplatform.learning.training.parts import Parts, folder_parts
from mlplatform.learning.training.small_model import fit_scorecard, small_model
from mlplatform.learning.training_sets.dataset import Dataset, Labelled, Matrix
from mlplatform.learning.validation.replay import Recent, predicted_band
from mlplatform.learning.validation.search_report import SearchReport
from mlplatform.model.bundle import (
    EXPLAINER_FILE,
    MODEL_FILE,
    Bundle,
    Golden,
    SmallModel,
    write_bundle,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.decision_scale import CutOffs
from mlplatform.model.policies.search import OWN
from mlplatform.model.profile import Profile, column, profile
from mlplatform.model.rhythm import DAY_MS, SCORE, Rhythm, rhythm
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import InputInvalid

GOLDEN_ROWS = 32
GOLDEN_TOLERANCE = 1e-5
PARITY_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest gap between the scores of the ONNX file and of what it should equal."""

    difference: float
    rows: int
    against: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A written bundle that no gate has seen yet; `model` is its file, loaded, in this process only
    where it was fitted here.

    `customers` is the share of customers on whose requests it was measured, and is to be judged:
    less than 1 only for a model that would take too long for all of them, and never so few that
    the gates would find too few positives among their requests. `parameters` are the fit's,
    `search` is what they were chosen from.
    """

    folder: Path
    bundle: Bundle
    model: Scoring
    parity: Parity
    customers: float
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    search: SearchReport | None = None


@dataclass(frozen=True, slots=True)
class ModelParts:
    """A model, fitted here or given, with the parts of its bundle that no data taught."""

    content: bytes
    model: OnnxFile | ConfinedModel
    parts: Parts
    parity: Parity
    origin: str
    customers: float = 1.0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    search: SearchReport | None = None


def train(
    folder: ModelFolder,
    dataset: Dataset,
    *,
    bundles: Path,
    seed: int,
    recent: Recent | None = None,
    studies: Path | None = None,
) -> Candidate:
    """Fit the model's own training on the dataset; returns a bundle under `bundles`/<digest>.

    Args:
        recent: what the alert band is predicted from; the held-out days where it is None.
        studies: where a search keeps its trials, for a run that goes on after a killed one.

    Raises:
        InputInvalid: too little data to learn from, to calibrate, or to predict a band from; or all
            trials of a search failed.
        ConfigInvalid: a package is missing that the fit or the search needs.
    """
    dataset = dataset.by(dataset.vocabularies)
    definition, fitting = folder.definition, dataset.fitting.taught
    # the calibration is fitted last, but what it lacks is known before anything is learned
    for source, days, use in (
        ("training set", fitting, "learn from"),
        ("calibration slice", dataset.calibrating.taught, "calibrate with"),
    ):
        if not 0 < (positives := int(days.y.sum())) < len(days):
            problem = f"{positives} positives among {len(days)} requests to {use}"
            raise InputInvalid(source, None, problem)
    parts = folder_parts(folder, dataset.vocabularies)
    training = load_training(definition.name)
    search = searched(folder, training, dataset, parts.names, seed=seed, studies=studies)
    chosen = None if search is None else search.best.parameters
    context = None if chosen is None else last_fit(chosen, len(parts.names))
    fitted = fit_rows(training, fitting, parts.names, seed=seed, context=context)
    content = fitted.onnx()
    rows = parity_rows(dataset.holdout.matrix.columns(parts.names), seed)
    model = OnnxFile(content, inputs=len(parts.names), tensors=parts.tensors)
    gap = np.abs(model.scores(rows) - fitted.scores(rows))
    parity = Parity(float(gap.max()), len(rows), "the fitted model")
    parameters = {**(chosen or {}), **parameters_of(fitted)}
    made = ModelParts(
        content, model, parts, parity, TRAINED_HERE, parameters=parameters, search=search
    )
    return made_candidate(made, definition, dataset, recent, bundles=bundles, seed=seed)


def searched(
    folder: ModelFolder,
    training: Training,
    dataset: Dataset,
    names: Sequence[str],
    *,
    seed: int,
    studies: Path | None,
) -> SearchReport | None:
    """What the search that model.yaml declares came to on the days to fit; None where it declares
    none.

    Raises:
        ConfigInvalid: Optuna is not installed, or training.py has no `measure` and should.
        InputInvalid: a fold has one label alone, or all trials failed.
    """
    policy, mature = folder.definition.training.search, folder.definition.label.maturity_days
    if policy is None:
        return None
    with imports_told("training.search"):
        from mlplatform.learning.search.search import Scorer, Search, search

    def fit(rows: Labelled, context: FitContext) -> Scorer:
        return fit_rows(training, rows, names, seed=seed, context=context).scores

    asked = Search(
        policy=policy,
        folds=search_folds(dataset, policy, maturity_days=mature),
        names=names,
        fit=fit,
        seed=seed,
        own=own_measure(training) if policy.measure == OWN else None,
    )
    declared = msgspec.to_builtins(policy)
    key = digest([dataset.digest, list(names), declared, seed, folder.digest])
    return search(asked, None if studies is None else Study(studies / key))


def fit_rows(
    training: Training,
    rows: Labelled,
    names: Sequence[str],
    *,
    seed: int,
    context: FitContext | None = None,
) -> Fitted:
    """The model that a folder's training makes of rows, with their weights where they have some.

    Args:
        context: of a fit whose hyper-parameters are searched.

    Raises:
        ConfigInvalid: it imports a package that is not installed here.
    """
    x, y, weight = rows.matrix.columns(names), rows.y, rows.weight
    more: dict[str, Any] = {}
    if context is not None:  # what one fit changes in place, the next one would learn from
        x, y, weight = x.copy(), y.copy(), None if weight is None else weight.copy()
        more["context"] = context
    if weight is not None and not bool((weight == 1).all()):
        more["weight"] = weight
    with imports_told():
        return training.fit(x, y, seed=seed, **more)


def parity_rows(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Rows to compare scores on: some as they are, the same with holes, one that is all holes."""
    rng = np.random.default_rng(seed)
    some = x[np.sort(rng.permutation(len(x))[:PARITY_ROWS])]
    holes = np.where(rng.random(some.shape) < 0.2, np.float32(np.nan), some)
    mixed = np.empty((2 * len(some), x.shape[1]), np.float32)
    mixed[0::2], mixed[1::2] = some, holes
    return np.concatenate([np.full((1, x.shape[1]), np.nan, np.float32), mixed])


def golden_rows(x: NDArray[np.float32], raw: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows over the whole range of scores, half of them among the highest 5 %; one all missing."""
    order = np.argsort(raw, kind="stable")
    half = (GOLDEN_ROWS - 1) // 2
    top = len(order) - max(1, len(order) // 20)
    spread = np.linspace(0, top - 1, half).astype(int)
    high = np.linspace(top, len(order) - 1, GOLDEN_ROWS - 1 - half).astype(int)
    chosen = x[order[np.concatenate([spread, high])]]
    return np.concatenate([np.full((1, x.shape[1]), np.nan, np.float32), chosen])


def reference_values(
    x: NDArray[np.float32], names: Sequence[str], categories: Container[str] = ()
) -> dict[str, float | None]:
    """What "usual" means in reasons: the median of each input, of a category the most frequent
    place; None for one without values."""
    found: dict[str, float | None] = {}
    for name, held in zip(names, x.T, strict=True):
        values = held[np.isfinite(held)]
        if not len(values):
            found[name] = None
        elif name in categories:
            found[name] = float(np.bincount(values.astype(np.int64)).argmax())
        else:
            found[name] = float(np.median(values))
    return found


def made_candidate(
    made: ModelParts,
    definition: ModelDefinition,
    dataset: Dataset,
    recent: Recent | None,
    *,
    bundles: Path,
    seed: int,
) -> Candidate:
    """Measure on the dataset what the bundle says of the model, and write it under `bundles`.

    Raises:
        InputInvalid: too little data to calibrate, or to predict a band from.
    """
    parts = made.parts
    dataset, model = dataset.by(parts.vocabularies), made.model
    recent = None if recent is None else recent.by(parts.vocabularies)
    holdout = dataset.holdout.share(made.customers)
    x = holdout.matrix.columns(parts.names)
    raw = model.scores(x)
    first = slice(0, holdout.before(dataset.window.gates_from_ms))
    days = holdout.rows(first)
    taught = slice(None) if days.weight is None else days.weight > 0
    days = days.taught
    calibration = fit_calibration(raw[first][taught], days.y, days.weight)
    scores, scale = calibration.many(raw), definition.decision.scale
    known = KnownScores(scores[first][taught], days.y, days.weight)
    thresholds = fit_thresholds(definition.decision, scores[first], known)
    cut_offs = CutOffs(scale, thresholds)
    fitting = dataset.fitting.taught
    background = fitting.matrix.columns(parts.names)
    replayed = (recent or Recent(dataset.holdout.matrix, "held-out days")).share(made.customers)
    recent_scores = calibration.many(model.scores(replayed.matrix.columns(parts.names)))
    explainer = _explainer(made, background, parity_rows(x, seed))
    alerts = cut_offs.alerting(scores)
    seen = _profile(definition, holdout.matrix, scores, alerts, parts.vocabularies)
    rhythms = _input_rhythms(seen, dataset.rows.matrix)
    if isinstance(model, OnnxFile):  # a file that was brought may take too long for that many rows
        rhythms |= _score_rhythm(calibration.many(model.scores(background)), fitting.matrix)
    bundle = Bundle(
        model=definition.name,
        inputs=parts.inputs,
        calibration=calibration,
        thresholds=thresholds,
        reasons=dict(parts.reasons),
        rules=parts.rules,
        reference=reference_values(background, parts.names, parts.vocabularies),
        golden=_golden(model, golden_rows(x, raw)),
        views=parts.views,
        profile=seen,
        alert_band=predicted_band(
            cut_offs.alerting(recent_scores), replayed, factor=definition.gates.alert_band_factor
        ),
        data=dataset.data_window(),
        seed=seed,
        origin=made.origin,
        folder=parts.folder,
        files=_files(made, explainer),
        attribution=explainer.attribution,
        small_model=_small_model(definition, parts.names, fitting, days, every=x[first]),
        rhythms=rhythms or None,
        scale=scale,
        vocabularies={name: tuple(words) for name, words in parts.vocabularies.items()},
        signature=parts.signature,
        windows=parts.windows,
    )
    folder = bundles / bundle.digest
    write_bundle(bundle, made.content, folder, explainer.content)
    told = (made.parity, made.customers, made.parameters, made.search)
    return Candidate(folder, bundle, model, *told)


def _small_model(
    definition: ModelDefinition,
    names: Sequence[str],
    fitting: Labelled,
    days: Labelled,
    *,
    every: NDArray[np.float32],
) -> SmallModel:
    learned_from = fitting.matrix.columns(names)
    card = fit_scorecard(learned_from, fitting.y, names, definition.training.small_model)
    scores = card.scores(days.matrix.columns(names), names)
    return small_model(card, scores, days.y, definition.decision, every=card.scores(every, names))


def _files(made: ModelParts, explainer: Explainer) -> dict[str, str]:
    files = {MODEL_FILE: digest(made.content)}
    if explainer.content is not None:
        files[EXPLAINER_FILE] = digest(explainer.content)
    return files


def _explainer(
    made: ModelParts, background: NDArray[np.float32], rows: NDArray[np.float32]
) -> Explainer:
    match made.model:
        case ConfinedModel() as model:
            return model.explained(background, rows)
        case model:
            return make_explainer(made.content, model, background=background, rows=rows)


def _golden(model: Scoring, rows: NDArray[np.float32]) -> Golden:
    return Golden(
        rows=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in rows),
        scores=tuple(model.scores(rows).tolist()),
        tolerance=GOLDEN_TOLERANCE,
    )


def _profile(
    definition: ModelDefinition,
    rows: Matrix,
    scores: NDArray[np.float64],
    alerts: NDArray[np.bool_],
    vocabularies: Vocabularies,
) -> Profile:
    """The held-out days, which no model was fitted on: drift's inputs, scores and alerts."""
    watched = [name for name in definition.drift.inputs if name in rows.names]
    words = {name: len(known) for name, known in vocabularies.items()}
    return profile(rows.columns(watched), watched, scores, alerts, rows.unit, words)


def _input_rhythms(seen: Profile, rows: Matrix) -> dict[str, Rhythm]:
    """How the inputs change over the week, from all days of the training set, fitted on or not."""
    days = rows.event_ms // DAY_MS
    values = rows.columns(list(seen.inputs))
    found = {
        name: rhythm(column, values[:, i], days)
        for i, (name, column) in enumerate(seen.inputs.items())
    }
    return {name: r for name, r in found.items() if r is not None}


def _score_rhythm(scores: NDArray[np.float64], fitted: Matrix) -> dict[str, Rhythm]:
    """How much the scores of one day differ from those of others: days that the model was fitted
    on, where it is surer than later, so they are compared with each other alone."""
    days = fitted.event_ms // DAY_MS
    found = rhythm(column(scores, SCORE), scores, days, by_weekday=False)
    return {} if found is None else {SCORE: found}
