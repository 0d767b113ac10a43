"""A candidate: a model, fitted here or given, made into a complete bundle."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.explainer import Explainer, make_explainer, score_gap
from mlplatform.learning.onnx.onnx_file import OnnxFile, ScoringSession
from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.learning.search.context import Context, fit_device, last_fit
from mlplatform.learning.search.dataset import Dataset
from mlplatform.learning.search.fit_results import Fitted
from mlplatform.learning.search.folds import search_folds
from mlplatform.learning.search.study import Study
from mlplatform.learning.training.calibration import (
    HeldOutSegments,
    SegmentPlaces,
    held_out_segments,
    learned_decision,
)
from mlplatform.learning.training.folder import (
    ModelFolder,
    Parameter,
    TrainingModule,
    call_fit,
    load_training,
    own_measure,
    parameters_of,
)
from mlplatform.learning.training.packages import import_problems
from mlplatform.learning.training.parts import Parts, folder_parts
from mlplatform.learning.training.small_model import fit_scorecard, small_model
from mlplatform.learning.training_sets.class_weights import recorded_weights, weighted
from mlplatform.learning.training_sets.dataset import LabelledRows, Matrix, TrainingSet
from mlplatform.learning.training_sets.shortage import CALIBRATE, LEARN, untrainable_reason
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.replay import Recent, predicted_band
from mlplatform.learning.validation.search_report import SearchReport
from mlplatform.model.bundle import (
    EXPLAINER_FILE,
    MODEL_FILE,
    AlertBand,
    Bundle,
    Golden,
    write_bundle,
)
from mlplatform.model.definition import REMAINDER, WIDE, ModelDefinition
from mlplatform.model.policies.calibration import score_map
from mlplatform.model.policies.classes import ClassChoice
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.model_server import model_server
from mlplatform.model.policies.search import OWN
from mlplatform.model.policies.small_model import SmallModel
from mlplatform.model.profile import Profile, column, profile
from mlplatform.model.rhythm import SCORE, Rhythm, rhythm
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.model.weights.data_files import DataFile
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

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

    `customers` is the share of customers on whose requests it was measured, and is to be judged. It
    is less than 1 only for a model that would take too long for all of them, and never so small
    that the gates would find too few positives among their requests. `parameters` are the fit's,
    `search` is what they were chosen from, `progress` what the fit logged. `baseline` are measures
    beside the folder's simpler model, which stands in them where a champion does in others.
    """

    folder: Path
    bundle: Bundle
    model: ScoringSession
    parity: Parity
    customers: float
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    search: SearchReport | None = None
    progress: tuple[str, ...] = ()
    baseline: tuple[Measure, ...] = ()


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
    data: tuple[DataFile, ...] = ()
    progress: tuple[str, ...] = ()


def train(
    folder: ModelFolder,
    dataset: TrainingSet,
    *,
    bundles: Path,
    seed: int,
    recent: Recent | None = None,
    studies: Path | None = None,
) -> Candidate:
    """Fit the model's own training on the dataset; returns a bundle under `bundles`/<digest>.

    Args:
        recent: requests from which the alert band is predicted; None means the held-out days.
        studies: folder in which a search stores its trials, so that the next run can continue after
            a crash; None: they are not stored.

    Raises:
        InputInvalid: there is too little data to learn, to calibrate or to predict a band, or all
            trials of a search failed.
        ConfigInvalid: a package is missing that the fit or the search needs.
    """
    dataset = dataset.by(dataset.vocabularies)
    definition, fitting = folder.definition, dataset.fitting.training_rows
    # the calibration is fitted last, but missing labels are found before anything is learned
    for source, days, use in (
        ("training set", fitting, LEARN),
        ("calibration slice", dataset.calibrating.training_rows, CALIBRATE),
    ):
        if problem := untrainable_reason(definition, days, use):
            raise InputInvalid(source, None, problem)
    parts = folder_parts(folder, dataset.vocabularies)
    _segments(definition, parts, dataset.calibrating)
    training = load_training(definition.name)
    search = run_search(folder, training, dataset, parts.names, seed=seed, studies=studies)
    chosen = None if search is None else search.best.parameters
    context = last_fit(
        chosen or {},
        len(parts.names),
        seed=seed,
        device=fit_device(definition.accelerator),
        budget_s=definition.training.deadline_s,
    )
    classes, policy = definition.classes, definition.training.class_weight
    learned = weighted(fitting, policy)
    fitted = call_fit(training, fit_dataset(learned, parts.names, classes), context)
    content = fitted.onnx()
    rows = parity_rows(dataset.holdout.matrix.columns(parts.names), seed)
    inputs, tensors = len(parts.names), parts.tensors
    model = OnnxFile(content, inputs=inputs, tensors=tensors, classes=len(classes))
    gap = score_gap(model.scores(rows), fitted.scores(rows))
    parity = Parity(gap, len(rows), "the fitted model")
    parameters = {**(chosen or {}), **recorded_weights(fitting, policy), **parameters_of(fitted)}
    made = ModelParts(
        content,
        model,
        parts,
        parity,
        TRAINED_HERE,
        parameters=parameters,
        search=search,
        progress=tuple(context.progress),
    )
    return build_candidate(made, definition, dataset, recent, bundles=bundles, seed=seed)


def run_search(
    folder: ModelFolder,
    training: TrainingModule,
    dataset: TrainingSet,
    names: Sequence[str],
    *,
    seed: int,
    studies: Path | None,
) -> SearchReport | None:
    """Run the search that model.yaml declares on the days to fit; returns its report, or None if
    none is declared.

    Raises:
        ConfigInvalid: Optuna is not installed, or training.py has no `measure` and should.
        InputInvalid: a fold holds too little, or all trials failed.
    """
    definition = folder.definition
    if (policy := definition.training.search) is None:
        return None
    with import_problems("training.search"):
        # imports Optuna, which not every role has
        from mlplatform.learning.search.search import Scorer, Search, search

    def fit(rows: LabelledRows, context: Context) -> Scorer:
        learned = weighted(rows, definition.training.class_weight)
        return call_fit(training, fit_dataset(learned, names, definition.classes), context).scores

    plan = Search(
        policy=policy,
        definition=definition,
        folds=search_folds(definition, dataset, policy),
        names=names,
        fit=fit,
        seed=seed,
        own=own_measure(training) if policy.measure == OWN else None,
        device=fit_device(definition.accelerator),
    )
    declared = msgspec.to_builtins(policy)
    key = digest([dataset.digest, list(names), declared, seed, folder.digest])
    return search(plan, None if studies is None else Study(studies / key))


def fit_dataset(rows: LabelledRows, names: Sequence[str], classes: Sequence[str] = ()) -> Dataset:
    """Rows as a fit is given them: copies, because a fit may change its rows, and the next one and
    the gates would see that. There is no `weight` if all rows weigh 1.

    Args:
        names: the columns, in the order of the bundle's inputs.
        classes: names of the classes whose positions the labels are; empty for other models.
    """
    matrix, weight = rows.matrix, rows.weight
    return Dataset(
        x=matrix.columns(names).copy(),
        y=rows.y.copy(),
        weight=None if weight is None or bool((weight == 1).all()) else weight.copy(),
        inputs=tuple(names),
        words=matrix.words,
        unit=matrix.unit.copy(),
        event_ms=matrix.event_ms.copy(),
        classes=tuple(classes),
    )


def fit_rows(
    training: TrainingModule,
    rows: LabelledRows,
    names: Sequence[str],
    *,
    seed: int,
    classes: Sequence[str] = (),
) -> Fitted:
    """The model that a folder's training makes of rows, with their weights if they have any,
    outside of any search.

    Args:
        classes: names of the classes whose positions the labels are; empty for other models.

    Raises:
        ConfigInvalid: the training takes other arguments, or imports a package that is not
            installed here.
    """
    return call_fit(
        training, fit_dataset(rows, names, classes), last_fit({}, len(names), seed=seed)
    )


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
    """Input → its usual value for reasons: the median, or of a category the most frequent place;
    None for an input without values."""
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


def _reference(x: NDArray[np.float32], parts: Parts) -> dict[str, float | None]:
    """The `reference_values`; a text without a token is usual, whichever texts there are, and so is
    a number without remainders."""
    texts = {spec.name: None for spec in parts.inputs if spec.kind == "text"}
    exact = {spec.name: 0.0 for spec in parts.inputs if spec.kind == REMAINDER}
    return reference_values(x, parts.names, parts.vocabularies) | texts | exact


def build_candidate(
    made: ModelParts,
    definition: ModelDefinition,
    dataset: TrainingSet,
    recent: Recent | None,
    *,
    bundles: Path,
    seed: int,
) -> Candidate:
    """Measure on the dataset what the bundle says of the model, and write it under `bundles`.

    Raises:
        InputInvalid: too little data to calibrate, or to predict a band from.
    """
    parts, factor = made.parts, definition.gates.alert_band_factor
    dataset, model = dataset.by(parts.vocabularies), made.model
    recent = None if recent is None else recent.by(parts.vocabularies)
    holdout = dataset.holdout.share(made.customers)
    x = holdout.matrix.columns(parts.names)
    first = slice(0, holdout.before(dataset.window.gates_from_ms))
    every = holdout.rows(first)
    taught, days = _taught(every), every.training_rows
    segments = _segments(definition, parts, every)
    raw = model.scores(x)
    labels = days.y, days.weight
    learned = learned_decision(definition.decision, raw[first], taught, labels, segments)
    decider = learned.decider
    calibrated = score_map(definition.decision.scale, learned.calibration).many
    scores = calibrated(raw)
    fitted = dataset.fitting.training_rows
    background = fitted.matrix.columns(parts.names)
    replayed = (recent or Recent(dataset.holdout.matrix, "held-out days")).share(made.customers)
    explainer = _explainer(made, background, parity_rows(x, seed))
    alerts, sure = decider.alerting(scores, x), decider.certainty(scores)
    profile = _profile(definition, holdout.matrix, sure, alerts, parts.vocabularies)
    rhythms = _input_rhythms(profile, dataset.rows.matrix)
    if isinstance(model, OnnxFile):  # a file that was brought may take too long for that many rows
        of_fit = decider.certainty(calibrated(model.scores(background)))
        rhythms |= _score_rhythm(of_fit, fitted.matrix)
    bundle = Bundle(
        model=definition.name,
        inputs=parts.inputs,
        calibration=learned.calibration,
        thresholds=learned.thresholds.whole,
        reasons=dict(parts.reasons),
        rules=parts.rules,
        reference=_reference(background, parts),
        golden=_golden(model, golden_rows(x, decider.certainty(raw))),
        views=parts.views,
        profile=profile,
        alert_band=_band(made, decider, calibrated, replayed, factor),
        data=dataset.data_window(),
        seed=seed,
        origin=made.origin,
        folder=parts.folder,
        files=_files(made, explainer),
        attribution=explainer.attribution,
        small_model=_small_model(definition, parts, fitted, days, (x[first], segments.places)),
        rhythms=rhythms or None,
        scale=definition.decision.scale,
        vocabularies={name: tuple(words) for name, words in parts.vocabularies.items()},
        signature=parts.signature,
        windows=parts.windows,
        server=model_server(definition.serving, definition.gates.onnx_difference),
        segment_thresholds=segments.thresholds(learned.thresholds, days.y),
    )
    folder = bundles / bundle.digest
    write_bundle(bundle, made.content, folder, explainer.content, made.data)
    facts = (made.parity, made.customers, made.parameters, made.search, made.progress)
    return Candidate(folder, bundle, model, *facts)


def _band(
    made: ModelParts,
    decider: CutOffs | ClassChoice,
    calibrated: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    recent: Recent,
    factor: float,
) -> AlertBand:
    x = recent.matrix.columns(made.parts.names)
    alerts = decider.alerting(calibrated(made.model.scores(x)), x)
    return predicted_band(alerts, recent, factor=factor)


def _segments(definition: ModelDefinition, parts: Parts, days: LabelledRows) -> HeldOutSegments:
    x = days.matrix.columns(parts.names)
    y, taught = days.training_rows.y, _taught(days)
    return held_out_segments(definition, parts.names, parts.vocabularies, x, taught, y)


def _taught(days: LabelledRows) -> NDArray[np.bool_]:
    """Whether each row teaches."""
    return np.ones(len(days), bool) if days.weight is None else days.weight > 0


def _small_model(
    definition: ModelDefinition,
    parts: Parts,
    fitting: LabelledRows,
    days: LabelledRows,
    every: tuple[NDArray[np.float32], SegmentPlaces],
) -> SmallModel | None:
    """The scorecard; None for classes and numbers. Places of tokens and single numbers of vectors
    say nothing in bins, so it reads them only where there is nothing else."""
    if definition.task != "binary":
        return None
    names = parts.names
    binned = [i.name for i in parts.inputs if i.kind not in WIDE] or names
    learned_from = fitting.matrix.columns(binned)
    card = fit_scorecard(learned_from, fitting.y, binned, definition.training.small_model)
    scores = card.scores(days.matrix.columns(names), names)
    x, places = every
    own = card.scores(x, names)
    return small_model(card, scores, days.y, definition.decision, every=own, places=places)


def _files(made: ModelParts, explainer: Explainer) -> dict[str, str]:
    files = {MODEL_FILE: digest(made.content), **{file.name: file.sha256 for file in made.data}}
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


def _golden(model: ScoringSession, rows: NDArray[np.float32]) -> Golden:
    scores = model.scores(rows)
    return Golden(
        rows=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in rows),
        scores=tuple(tuple(s) if isinstance(s, list) else s for s in scores.tolist()),
        tolerance=GOLDEN_TOLERANCE * max(1.0, float(np.abs(scores).max())),
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


def _input_rhythms(profile: Profile, rows: Matrix) -> dict[str, Rhythm]:
    """How the inputs change over the week, from all days of the training set, fitted on or not."""
    days = rows.event_ms // DAY_MS
    values = rows.columns(list(profile.inputs))
    found = {
        name: rhythm(column, values[:, i], days)
        for i, (name, column) in enumerate(profile.inputs.items())
    }
    return {name: r for name, r in found.items() if r is not None}


def _score_rhythm(scores: NDArray[np.float64], fitted: Matrix) -> dict[str, Rhythm]:
    """The rhythm of the scores by day. The model was fitted on these days and is surer on them than
    later, so they are compared only with each other."""
    days = fitted.event_ms // DAY_MS
    found = rhythm(column(scores, SCORE), scores, days, by_weekday=False)
    return {} if found is None else {SCORE: found}
