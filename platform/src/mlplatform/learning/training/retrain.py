"""The retraining job as a few plain steps, which a flow's tasks wrap."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.registry.versions import (
    TRAINED_HERE,
    Registry,
    Rejection,
    Version,
    VersionFacts,
)
from mlplatform.learning.search.context import fit_device, last_fit
from mlplatform.learning.search.scores import checked_scores
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.training.candidate import Candidate, fit_dataset, train
from mlplatform.learning.training.evaluate import JudgingInputs, Runnable, gate_report
from mlplatform.learning.training.folder import (
    BASELINE,
    ModelFolder,
    call_baseline,
    has_baseline,
    load_training,
)
from mlplatform.learning.training.labelled_evaluation import (
    judged_classes,
    judged_numbers,
    task_measures,
)
from mlplatform.learning.training.own_gates import own_findings
from mlplatform.learning.training.segment_gates import group_gates, segment_gates
from mlplatform.learning.training_sets import dataset
from mlplatform.learning.training_sets.class_weights import weighted
from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.training_sets.moved_inputs import stability
from mlplatform.learning.training_sets.port import TrainingJoin
from mlplatform.learning.validation.feature_gates import judge_stability
from mlplatform.learning.validation.fold_gate import FoldFinding, judge_folds
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.measures import RANKING, Measure
from mlplatform.learning.validation.replay import Recent
from mlplatform.learning.validation.report import to_dict
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.figures import percent
from mlplatform.runtime.units import DAY_MS

if TYPE_CHECKING:  # imports DuckDB; a fit does without
    from mlplatform.learning.features.offline import OfflineTable

SEED = 20180401
REPLAYED_ROWS: Final = 100_000
"""Most requests that are replayed; units of assignment are taken whole. In a rollout a stop by
alerts allows for the noise of what replay expects, 1.7 % with so many requests and 1.3 % alerts."""

JUDGED: Final[Mapping[str, Callable[[ModelDefinition, JudgingInputs], GateReport]]] = {
    "binary": gate_report,
    "classes": judged_classes,
    "real": judged_numbers,
}
"""Task of a model → the platform's gates."""

log = logging.getLogger(__name__)


def build_dataset(
    folder: ModelFolder,
    offline: OfflineTable,
    *,
    as_of_ms: int,
    champion: Runnable | None,
    join: TrainingJoin,
) -> TrainingSet:
    """The training set as it was known at `as_of_ms`, with the champion's inputs beside the model's
    own.

    Raises:
        InputInvalid: no request has matured, or late rows would falsify the features.
    """
    also = champion.bundle.inputs if champion else ()
    words = champion.bundle.vocabularies if champion else {}
    built = dataset.build_dataset(
        folder.definition,
        folder.views,
        offline,
        as_of_ms=as_of_ms,
        join=join,
        also=also,
        words=words,
    )
    log.info(
        "training set of %s: %d requests (%s of the customers), %d positives, digest %s",
        built.model,
        len(built.rows),
        percent(built.units_share),
        int(built.rows.y.sum()),
        built.digest[:8],
    )
    return built


def recent_requests(
    folder: ModelFolder,
    offline: OfflineTable,
    *,
    as_of_ms: int,
    champion: Runnable | None,
    join: TrainingJoin,
) -> Recent | None:
    """Whole days after the fit's last one, matured or not: no candidate has learned from them.

    Their labels are not needed, because a replay only asks for decisions. None if there are fewer
    than two such days.
    """
    from_ms = dataset.window(folder.definition, as_of_ms).holdout_from_ms
    to_ms = as_of_ms // DAY_MS * DAY_MS
    also = champion.bundle.inputs if champion else ()
    sample = offline.sample_of(from_ms, to_ms, REPLAYED_ROWS, as_of_ms)
    matrix = dataset.requests_between(
        folder.definition,
        folder.views,
        offline,
        from_ms=from_ms,
        to_ms=to_ms,
        as_of_ms=as_of_ms,
        join=join,
        sample=sample,
        also=also,
        words=champion.bundle.vocabularies if champion else {},
    )
    days = len(set((matrix.event_ms // DAY_MS).tolist()))
    if days < 2:
        return None
    whose = "" if sample.share >= 1 else f", {percent(sample.share)} of the customers"
    return Recent(matrix, f"requests of the last {days} days{whose}")


def fit(
    folder: ModelFolder,
    dataset: TrainingSet,
    *,
    bundles: Path,
    recent: Recent | None = None,
    seed: int = SEED,
    studies: Path | None = None,
) -> Candidate:
    """A candidate bundle under `bundles`/<digest>; the same data and seed give the same digest.

    Args:
        studies: folder in which a search stores its trials, so that the next run can continue after
            a crash; None: they are not stored.
    """
    candidate = train(folder, dataset, bundles=bundles, seed=seed, recent=recent, studies=studies)
    log.info("candidate %s of %s", candidate.bundle.digest[:8], dataset.model)
    return replace(candidate, baseline=_beside_baseline(folder.definition, candidate, dataset))


def _beside_baseline(
    definition: ModelDefinition, candidate: Candidate, dataset: TrainingSet
) -> tuple[Measure, ...]:
    """The measures of a candidate beside the folder's `baseline`, fitted to the same rows, on the
    rows on which the gates measure; empty if the folder has none, without what has no value there.

    A baseline is not calibrated, so of two outcomes only measures of ranking are compared.
    """
    training, bundle = load_training(definition.name), candidate.bundle
    if not has_baseline(training):
        return ()
    fitting = dataset.by(dataset.vocabularies).fitting.training_rows
    rows = weighted(fitting, definition.training.class_weight)
    names = bundle.input_names
    context = last_fit({}, len(names), seed=bundle.seed, device=fit_device(definition.accelerator))
    simpler = call_baseline(training, fit_dataset(rows, names, definition.classes), context)
    holdout = dataset.holdout.share(candidate.customers)
    first = holdout.before(dataset.window.gates_from_ms) if definition.task == "binary" else 0
    days = holdout.rows(slice(first, None)).known
    x = days.matrix.of(bundle)
    other = checked_scores(BASELINE, simpler.scores(x), len(days), definition)
    own = bundle.calibrate_many(candidate.model.scores(x))
    found = task_measures(definition, own, days, other, seed=bundle.seed)
    if definition.task == "binary":
        found = tuple(measure for measure in found if measure.name in RANKING)
    return tuple(measure for measure in found if measure.is_known)


def validate(
    folder: ModelFolder,
    candidate: Candidate,
    dataset: TrainingSet,
    *,
    champion: Runnable | None,
    recent: Recent | None = None,
    skew: SkewReport | None = None,
    folds: Sequence[FoldFinding] = (),
    seed: int = SEED,
) -> GateReport:
    """The result of every gate for the candidate: the platform's gates and those of the folder's
    `gates.py`.

    Args:
        skew: result of the last comparison of served features; None if there is none.
        folds: results of fits of earlier days; empty unless model.yaml asks for folds and trains
            the model.
    """
    definition = folder.definition
    inputs = JudgingInputs(candidate, dataset, champion, recent, seed, skew)
    report = JUDGED[definition.task](definition, inputs)
    if definition.training.folds > 1 and candidate.bundle.origin == TRAINED_HERE:
        number, is_beside = definition.decision.scale.number, champion is not None
        unit = "" if number is None else number.unit
        in_time = judge_folds(folds, definition.gates, has_champion=is_beside, unit=unit)
        report = replace(report, gates=(*report.gates, in_time), folds=tuple(folds))
    in_segments = segment_gates(definition, candidate, dataset, champion=champion, seed=seed)
    measured, in_groups = group_gates(definition, candidate, dataset, champion=champion, seed=seed)
    moved = stability(dataset, definition.inputs)
    further = (*in_segments, *in_groups, judge_stability(moved, definition.gates))
    report = replace(report, gates=(*report.gates, *further), stability=moved)
    report = replace(report, group_measures=measured)
    same = champion is not None and _has_same_rows(candidate, champion)
    report = replace(report, search=candidate.search, same_rows=same, baseline=candidate.baseline)
    own = own_findings(folder, candidate, dataset, champion=champion, seed=seed)
    report = replace(
        report, gates=(*report.gates, *own.gates), measures=(*report.measures, *own.measures)
    )
    for gate in report.gates:
        log.info("gate %s %s: %s", gate.name, gate.verdict, gate.reason)
    return report


def _has_same_rows(candidate: Candidate, champion: Runnable) -> bool:
    ours, theirs = candidate.bundle, champion.bundle
    made_here = {ours.origin, theirs.origin} == {TRAINED_HERE}  # others were fitted elsewhere
    return made_here and (ours.data.digest, ours.seed) == (theirs.data.digest, theirs.seed)


def describe(
    folder: ModelFolder,
    candidate: Candidate,
    dataset: TrainingSet,
    report: GateReport,
    *,
    champion: Runnable | None,
    seed: int = SEED,
) -> RunRecord:
    """The record of the run that made a candidate, for MLflow; its model is scored.

    The record is empty if it can't be made, because no decision about a version needs it.
    """
    from mlplatform.learning.training.run_figures import run_record  # imports matplotlib

    definition = folder.definition
    try:
        return run_record(definition, candidate, dataset, report, champion=champion, seed=seed)
    except Exception:
        log.exception("MLflow shows no figures of this run: they could not be made")
        return RunRecord()


def register(
    candidate: Candidate,
    report: GateReport,
    registry: Registry,
    *,
    author: str,
    reason: str = "",
    record: RunRecord | None = None,
) -> Version | Rejection:
    """Register the candidate: as a version if every gate passed, else as a record of the run."""
    facts = version_facts(candidate, report, author=author, reason=reason)
    outcome = registry.register(candidate.folder, facts, record)
    match outcome:
        case Version(model=model, version=number):
            log.info("registered %s version %d", model, number)
        case Rejection(model=model, reasons=reasons):
            log.warning("%s is not deployable: %s", model, "; ".join(reasons))
    return outcome


def metrics(report: GateReport) -> dict[str, float]:
    """The numbers of a report for the registry: those that gates observed, then the measures."""
    gates = {g.name: g.observed for g in report.gates if g.observed is not None}
    values = {m.name: m.candidate.value for m in report.measures}
    return gates | {name: value for name, value in values.items() if math.isfinite(value)}


def version_facts(
    candidate: Candidate, report: GateReport, *, author: str, reason: str = ""
) -> VersionFacts:
    """The facts that the registry stores of a candidate."""
    bundle = candidate.bundle
    return VersionFacts(
        bundle=bundle.digest,
        data_from_ms=bundle.data.from_ms,
        data_to_ms=bundle.data.to_ms,
        data_digest=bundle.data.digest,
        code_version=code_version(),
        metrics=metrics(report),
        report=to_dict(report),
        author=author,
        validated=report.passed and report.bundle == bundle.digest,
        alert_low=bundle.alert_band.low,
        alert_high=bundle.alert_band.high,
        seed=bundle.seed,
        folder=bundle.folder,
        reason=reason,
    )
