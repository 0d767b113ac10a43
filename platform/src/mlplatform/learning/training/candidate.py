"""A candidate: a model, fitted here or given, made into a complete bundle."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.features.dataset import Dataset, Labelled, Matrix
from mlplatform.learning.onnx.confined import ConfinedModel
from mlplatform.learning.onnx.explainer import Explainer, make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile, Scoring
from mlplatform.learning.training.calibration import KnownScores, fit_calibration, fit_thresholds
from mlplatform.learning.training.folder import Fitted, ModelFolder, Training, load_training
from mlplatform.learning.training.golden import GoldenSet
from mlplatform.learning.training.small_model import fit_scorecard, small_model
from mlplatform.learning.validation.gates import MINIMUM_POSITIVES
from mlplatform.learning.validation.replay import Recent, predicted_band
from mlplatform.model.bundle import (
    EXPLAINER_FILE,
    MODEL_FILE,
    Bundle,
    Golden,
    Reason,
    View,
    write_bundle,
)
from mlplatform.model.decision_scale import CutOffs
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.inputs import view_defaults
from mlplatform.model.profile import Profile, column, profile
from mlplatform.model.rhythm import DAY_MS, SCORE, Rhythm, rhythm
from mlplatform.model.rules import Rule
from mlplatform.model.tensors.categories import Vocabularies, declared
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.model.windows.declaration import Window
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import InputInvalid

GOLDEN_ROWS = 32
GOLDEN_TOLERANCE = 1e-5
PARITY_ROWS = 4096
ALONE_ROWS = 256
SCORING_BUDGET_S = 25.0
MOST_HALVINGS = 4
TRAINED_HERE = "trained here"
"""The origin of what a model's own folder fitted; what somebody brings never has it."""


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
    the gates would find too few positives among their requests.
    """

    folder: Path
    bundle: Bundle
    model: Scoring
    parity: Parity
    customers: float


@dataclass(frozen=True, slots=True)
class Made:
    """A model, and what of its bundle is not learned from the data.

    Args:
        folder: digest of the model folder that fitted it; empty for one that was brought.
    """

    content: bytes
    model: OnnxFile | ConfinedModel
    inputs: tuple[InputSpec, ...]
    views: tuple[View, ...]
    rules: tuple[Rule, ...]
    reasons: Mapping[str, Reason]
    parity: Parity
    origin: str
    customers: float = 1.0
    folder: str = ""
    vocabularies: Vocabularies = field(default_factory=dict)
    signature: Signature | None = None
    windows: tuple[Window, ...] = ()

    @property
    def names(self) -> list[str]:
        return [i.name for i in self.inputs]


def train(
    folder: ModelFolder, dataset: Dataset, *, bundles: Path, seed: int, recent: Recent | None = None
) -> Candidate:
    """Fit the model's own training on the dataset; returns a bundle under `bundles`/<digest>.

    Args:
        recent: what the alert band is predicted from; the held-out days where it is None.

    Raises:
        InputInvalid: too little data to learn from, to calibrate, or to predict a band from.
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
    names = [i.name for i in definition.inputs]
    fitted = fit_rows(load_training(definition.name), fitting, names, seed=seed)
    content = fitted.onnx()
    rows = parity_rows(dataset.holdout.matrix.columns(names), seed)
    model = OnnxFile(content, inputs=len(names), tensors=_tensors(definition, dataset))
    gap = np.abs(model.scores(rows) - fitted.scores(rows))
    made = Made(
        content=content,
        model=model,
        inputs=definition.inputs,
        views=_views(folder),
        rules=folder.rules,
        reasons=folder.reasons,
        parity=Parity(float(gap.max()), len(rows), "the fitted model"),
        origin=TRAINED_HERE,
        folder=folder.digest,
        vocabularies=dataset.vocabularies,
        signature=definition.signature,
        windows=_windows(folder),
    )
    return _candidate(made, definition, dataset, recent, bundles=bundles, seed=seed)


def fit_rows(training: Training, rows: Labelled, names: Sequence[str], *, seed: int) -> Fitted:
    """The model that a folder's training makes of rows, with their weights where they have some."""
    x = rows.matrix.columns(names)
    if rows.weight is None or bool((rows.weight == 1).all()):
        return training.fit(x, rows.y, seed=seed)
    return training.fit(x, rows.y, seed=seed, weight=rows.weight)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a model that was brought takes from a bundle, or from its own folder."""

    inputs: tuple[InputSpec, ...]
    views: tuple[View, ...]
    rules: tuple[Rule, ...]
    reasons: Mapping[str, Reason]
    vocabularies: Vocabularies
    signature: Signature | None
    windows: tuple[Window, ...]
    golden: GoldenSet | None = None
    folder: str = ""

    @property
    def tensors(self) -> Tensors | None:
        if self.signature is None:
            return None
        return Tensors(self.signature, [i.name for i in self.inputs], self.vocabularies)


def _taken(base: Bundle | ModelFolder) -> _Taken:
    if isinstance(base, Bundle):
        return _Taken(
            inputs=base.inputs,
            views=base.views,
            rules=base.rules,
            reasons=base.reasons,
            vocabularies=base.vocabularies,
            signature=base.signature,
            windows=base.windows,
        )
    return _Taken(
        inputs=base.definition.inputs,
        views=_views(base),
        rules=base.rules,
        reasons=base.reasons,
        vocabularies=declared(base.definition),
        signature=base.definition.signature,
        windows=_windows(base),
        golden=base.golden,
        folder=base.digest,
    )


def candidate_from_onnx(
    content: bytes,
    base: Bundle | ModelFolder,
    definition: ModelDefinition,
    dataset: Dataset,
    *,
    bundles: Path,
    origin: str,
    seed: int,
    recent: Recent | None = None,
) -> Candidate:
    """Make a bundle of a model that was made elsewhere, with the inputs of a base bundle, or of its
    own folder.

    Calibration, thresholds, golden rows, profile and band are measured anew on the dataset, for a
    slow model on a share of its customers; inputs, views, rules and reasons are the base's. The
    model must take "inputs" float32 [n, F] and give "scores" float32 [n] of 0-1, or have the base's
    signature. There is no fitted model to compare it with, so parity is measured between rows
    scored alone and together, and with a folder's golden set.

    Args:
        origin: where the model is from, for the record.

    It is run in a confined process alone, which ends with the candidate's model.

    Raises:
        ModelRefused: not such a model, or one beyond what a model from outside may hold or take.
        InputInvalid: too little data.
    """
    taken = _taken(base)
    model = ConfinedModel(content, inputs=len(taken.inputs), tensors=taken.tensors)
    try:
        return _brought(
            model,
            content,
            taken,
            definition,
            dataset,
            recent,
            bundles=bundles,
            origin=origin,
            seed=seed,
        )
    except BaseException:
        model.close()
        raise


def _brought(
    model: ConfinedModel,
    content: bytes,
    taken: _Taken,
    definition: ModelDefinition,
    dataset: Dataset,
    recent: Recent | None,
    *,
    bundles: Path,
    origin: str,
    seed: int,
) -> Candidate:
    names = [i.name for i in taken.inputs]
    own = dataset.holdout.matrix.by(taken.vocabularies).columns(names)
    x = parity_rows(own, seed)[:ALONE_ROWS]
    rows = len(dataset.holdout) + (len(recent.matrix) if recent else 0)
    alone = np.concatenate([model.scores(x[i : i + 1]) for i in range(len(x))])
    parity = Parity(float(np.abs(model.scores(x) - alone).max()), len(x), "rows scored alone")
    if (golden := taken.golden) is not None:
        gap = max(parity.difference, golden.difference(model))
        rows_of_both = parity.rows + len(golden.rows)
        parity = Parity(gap, rows_of_both, "rows scored alone, and the golden set")
    made = Made(
        content=content,
        model=model,
        inputs=taken.inputs,
        views=taken.views,
        rules=taken.rules,
        reasons=taken.reasons,
        parity=parity,
        origin=origin,
        windows=taken.windows,
        customers=_affordable(_expected_s(model, x, rows), dataset),
        vocabularies=taken.vocabularies,
        signature=taken.signature,
        folder=taken.folder,
    )
    return _candidate(made, definition, dataset, recent, bundles=bundles, seed=seed)


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


def _candidate(
    made: Made,
    definition: ModelDefinition,
    dataset: Dataset,
    recent: Recent | None,
    *,
    bundles: Path,
    seed: int,
) -> Candidate:
    dataset, model = dataset.by(made.vocabularies), made.model
    recent = None if recent is None else recent.by(made.vocabularies)
    holdout = dataset.holdout.share(made.customers)
    x = holdout.matrix.columns(made.names)
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
    background = fitting.matrix.columns(made.names)
    card = fit_scorecard(background, fitting.y, made.names, definition.training.small_model)
    replayed = (recent or Recent(dataset.holdout.matrix, "held-out days")).share(made.customers)
    recent_scores = calibration.many(model.scores(replayed.matrix.columns(made.names)))
    explainer = _explainer(made, background, parity_rows(x, seed))
    seen = _profile(definition, holdout.matrix, scores, cut_offs.alerting(scores), made)
    rhythms = _input_rhythms(seen, dataset.rows.matrix)
    if isinstance(model, OnnxFile):  # one that was brought may take too long for so many rows
        rhythms |= _score_rhythm(calibration.many(model.scores(background)), fitting.matrix)
    bundle = Bundle(
        model=definition.name,
        inputs=made.inputs,
        calibration=calibration,
        thresholds=thresholds,
        reasons=dict(made.reasons),
        rules=made.rules,
        reference=reference_values(background, made.names, made.vocabularies),
        golden=_golden(model, golden_rows(x, raw)),
        views=made.views,
        profile=seen,
        alert_band=predicted_band(
            cut_offs.alerting(recent_scores), replayed, factor=definition.gates.alert_band_factor
        ),
        data=dataset.data_window(),
        seed=seed,
        origin=made.origin,
        folder=made.folder,
        files=_files(made, explainer),
        attribution=explainer.attribution,
        small_model=small_model(
            card,
            card.scores(days.matrix.columns(made.names), made.names),
            days.y,
            definition.decision,
            every=card.scores(x[first], made.names),
        ),
        rhythms=rhythms or None,
        scale=scale,
        vocabularies={name: tuple(words) for name, words in made.vocabularies.items()},
        signature=made.signature,
        windows=made.windows,
    )
    folder = bundles / bundle.digest
    write_bundle(bundle, made.content, folder, explainer.content)
    return Candidate(folder, bundle, model, made.parity, made.customers)


def _files(made: Made, explainer: Explainer) -> dict[str, str]:
    files = {MODEL_FILE: digest(made.content)}
    if explainer.content is not None:
        files[EXPLAINER_FILE] = digest(explainer.content)
    return files


def _tensors(definition: ModelDefinition, dataset: Dataset) -> Tensors | None:
    if definition.signature is None:
        return None
    names = [i.name for i in definition.inputs]
    return Tensors(definition.signature, names, dataset.vocabularies)


def _explainer(made: Made, background: NDArray[np.float32], rows: NDArray[np.float32]) -> Explainer:
    match made.model:
        case ConfinedModel() as model:
            return model.explained(background, rows)
        case model:
            return make_explainer(made.content, model, background=background, rows=rows)


def _expected_s(model: Scoring, x: NDArray[np.float32], rows: int) -> float:
    """How long the model will take for so many rows, from what it takes for a few."""
    return model.seconds(x) / len(x) * rows


def _affordable(expected_s: float, dataset: Dataset) -> float:
    """The share of customers whose rows can be scored in time, halved until they can."""
    share = 1.0
    for _ in range(MOST_HALVINGS):
        if expected_s * share <= SCORING_BUDGET_S or not _enough(dataset, share / 2):
            break
        share /= 2
    return share


def _enough(dataset: Dataset, share: float) -> bool:
    parts = (dataset.calibrating, dataset.judging)
    return all(int(part.known.share(share).y.sum()) >= MINIMUM_POSITIVES for part in parts)


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
    made: Made,
) -> Profile:
    """The held-out days, which no model was fitted on: drift's inputs, scores and alerts."""
    watched = [name for name in definition.drift.inputs if name in rows.names]
    words = {name: len(known) for name, known in made.vocabularies.items()}
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


def _windows(folder: ModelFolder) -> tuple[Window, ...]:
    """The windows that the model's inputs read, directly or through a ratio."""
    read = {name for i in folder.definition.inputs for name in (i.name, i.to)}
    return tuple(w for w in folder.definition.windows if w.name in read)


def _views(folder: ModelFolder) -> tuple[View, ...]:
    """The views that the model's inputs read, directly or through a ratio."""
    specs = folder.definition.inputs
    read = {name for i in specs for name in (i.name, i.to)}
    return tuple(
        View(name=v.name, ttl_ms=v.ttl_ms, defaults=view_defaults([v]))
        for v in folder.views
        if read.intersection(v.feature_names)
    )
