"""The evidence for the gates: candidate and champion run on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.fairness.outcomes import GroupRows, fairness_of, judge_fairness
from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.onnx_file import OnnxFile, ScoringSession
from mlplatform.learning.rankings.gates import OrderEvidence, judge_order
from mlplatform.learning.rankings.orders import (
    NDCG,
    OrderFigures,
    figures,
    first_changes,
    order_measures,
    requests_of,
)
from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.validation.gate_report import GateReport, ReplayCounts
from mlplatform.learning.validation.gates import (
    MINIMUM_POSITIVES,
    DataEvidence,
    Evidence,
    ModelEvidence,
    QualityEvidence,
    ReplayEvidence,
    SchemaEvidence,
    SmallModelEvidence,
    judge,
)
from mlplatform.learning.validation.group_findings import Fairness
from mlplatform.learning.validation.leakage import leakage_evidence
from mlplatform.learning.validation.measures import Measure, binary_measures, mean_measure
from mlplatform.learning.validation.replay import Recent, flip_share, replay, replay_volume
from mlplatform.learning.validation.statistics import (
    Interval,
    average_precision,
    average_precision_interval,
    calibration_error_interval,
    flip_design_effect,
    paired_design_effect,
)
from mlplatform.model.bundle import MODEL_FILE, Bundle, load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.inputs import fields_read, segment_sources
from mlplatform.model.policies.ranking import RankingPolicy
from mlplatform.model.policies.segments import Flags, SegmentSource
from mlplatform.model.scorecard import SmallScorer
from mlplatform.model.weights.data_files import data_of
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

LATENCY_CALLS = 1000
LATENCY_BUDGET_S = 5.0


@dataclass(frozen=True, slots=True)
class Runnable:
    """A bundle on disk, checked, with its model loaded."""

    bundle: Bundle
    model: ScoringSession

    def raw(self, rows: LabelledRows) -> NDArray[np.float64]:
        return self.model.scores(rows.matrix.of(self.bundle))


def load_runnable(folder: Path) -> Runnable:
    """The bundle of a folder, ready to score; one that was made elsewhere in a confined process.

    Raises:
        BundleCorrupt: a file is not what its digest says.
        InputInvalid: the model cannot be run.
    """
    bundle = load_bundle(folder)
    content = (folder / MODEL_FILE).read_bytes()
    tensors, width, classes = bundle.tensors, len(bundle.inputs), bundle.classes
    data = data_of(folder, bundle.files)
    if bundle.origin == TRAINED_HERE and not data:
        return Runnable(bundle, OnnxFile(content, inputs=width, tensors=tensors, classes=classes))
    confined = ConfinedModel(content, inputs=width, tensors=tensors, data=data, classes=classes)
    return Runnable(bundle, confined)


@dataclass(frozen=True, slots=True)
class JudgingInputs:
    """The inputs by which a candidate is judged.

    Args:
        recent: requests to replay; None means the held-out days.
        skew: result of the last comparison of served features; None if there is none.
    """

    candidate: Candidate
    dataset: TrainingSet
    champion: Runnable | None
    recent: Recent | None
    seed: int
    skew: SkewReport | None = None


def gate_report(definition: ModelDefinition, inputs: JudgingInputs) -> GateReport:
    """The report on a candidate of two outcomes."""
    report = judge(gather(definition, inputs), definition.gates, definition.training)
    found = _fairness(definition, inputs)
    report = replace(report, fairness=found)
    if (in_groups := judge_fairness(found, definition.gates.fairness)) is not None:
        report = replace(report, gates=(*report.gates, in_groups))
    if (policy := definition.ranking) is None:
        return report
    order = order_evidence(inputs, policy)
    gates = (*report.gates, *judge_order(order, policy))
    return replace(report, gates=gates, measures=(*report.measures, *order.measures))


def gather(definition: ModelDefinition, inputs: JudgingInputs) -> Evidence:
    """The evidence from running both bundles. The candidate's folder is read back and checked
    first."""
    candidate, dataset, champion = inputs.candidate, inputs.dataset, inputs.champion
    recent, seed, skew = inputs.recent, inputs.seed, inputs.skew
    written = load_bundle(candidate.folder, candidate.bundle.digest)
    challenger = Runnable(written, candidate.model)
    holdout = dataset.holdout.share(candidate.customers)
    replayed = (recent or Recent(dataset.holdout.matrix, "held-out days")).share(
        candidate.customers
    )
    judging = slice(holdout.before(dataset.window.gates_from_ms), None)
    own = dataset.by(written.vocabularies)
    return Evidence(
        model=definition.name,
        bundle=challenger.bundle.digest,
        champion=champion.bundle.digest if champion else None,
        data=data_evidence(definition, dataset),
        schema=SchemaEvidence(
            candidate=challenger.bundle.inputs,
            champion=champion.bundle.inputs if champion else None,
            declared=definition.inputs,
            protected=definition.protected,
        ),
        quality=_quality(challenger, champion, holdout.known, seed),
        running=running_evidence(challenger, candidate, holdout.rows(judging).known, seed),
        replay=replay_evidence(definition, challenger, champion, replayed),
        small_model=_small_model(written, holdout.rows(judging).known),
        leakage=leakage_evidence(
            definition, written.input_names, own.fitting.known, own.holdout.known
        ),
        skew=skew,
        has_features=bool(written.views or definition.windows),
        measures=_measures(challenger, champion, holdout.rows(judging).known, seed),
    )


def order_evidence(inputs: JudgingInputs, policy: RankingPolicy) -> OrderEvidence:
    """The evidence about the order of items, on the days for the gates and on replayed requests."""
    candidate, champion, seed = inputs.candidate, inputs.champion, inputs.seed
    challenger = Runnable(candidate.bundle, candidate.model)
    holdout = inputs.dataset.holdout.share(candidate.customers)
    days = holdout.rows(slice(holdout.before(inputs.dataset.window.gates_from_ms), None)).known
    recent = inputs.recent or Recent(inputs.dataset.holdout.matrix, "held-out days")
    matrix = recent.share(candidate.customers).matrix
    known, replayed = (requests_of(m.event_ms, m.unit) for m in (days.matrix, matrix))

    def figured(scores: NDArray[np.float64]) -> OrderFigures:
        return figures(scores, days.y, known, top=policy.top, seed=seed)

    own, other = figured(challenger.raw(days)), None
    changes = None if champion is None else math.nan
    if champion is not None:
        with suppress(InputInvalid):  # as in _quality
            other = figured(champion.raw(days))
            raws = [one.model.scores(matrix.of(one.bundle)) for one in (challenger, champion)]
            changes = first_changes(raws[0], raws[1], replayed, seed=seed)
    gained = own.values[NDCG] - own.by_chance
    over_chance = mean_measure(NDCG, gained, own.unit, seed=seed, bounds=(-1.0, 1.0))
    return OrderEvidence(
        requests=len(own.unit),
        units=len(np.unique(own.unit)),
        measures=order_measures(own, other, seed=seed),
        over_chance=over_chance.candidate,
        has_champion=champion is not None,
        replayed=len(matrix),
        changes=changes,
    )


def data_evidence(definition: ModelDefinition, dataset: TrainingSet) -> DataEvidence:
    """The facts of the training set, before anything is fitted to it.

    A text is missing where it has no token: its later places are empty in all shorter texts. An
    input of an optional field is missing where applications left the field out, which is no fault;
    it is among the missing shares only if no row has it, or none of the held-out days.
    """
    names = [i.name for i in definition.inputs]
    x, held_out = (rows.matrix.columns(names) for rows in (dataset.rows, dataset.holdout))
    shares = np.isnan(x).mean(axis=0) if len(x) else np.full(x.shape[1], np.nan)
    if len(held_out):
        shares[np.isnan(held_out).all(axis=0)] = 1.0
    missing: dict[str, float] = {}
    for spec, share in zip(definition.inputs, shares, strict=True):
        if share == 1 or not fields_read(spec, definition.optional):
            missing.setdefault(spec.declared, float(share))
    return DataEvidence(
        rows=len(dataset.rows),
        positives=int(dataset.rows.training_rows.y.sum()),
        missing_shares=missing,
        window_to_ms=dataset.window.to_ms,
        matured_until_ms=dataset.as_of_ms - definition.label.maturity_days * DAY_MS,
        labels_until_ms=dataset.labels_until_ms,
        hidden=dataset.hidden,
        units_share=dataset.units_share,
    )


def _quality(
    challenger: Runnable, champion: Runnable | None, days: LabelledRows, seed: int
) -> QualityEvidence:
    """The quality on all held-out days: calibration does not change who ranks above whom."""
    own = challenger.raw(days)
    unit, positives = days.matrix.unit, int(days.y.sum())
    units = len(np.unique(unit))
    candidate = average_precision_interval(own, days.y, unit, seed=seed)
    if champion is None:
        return QualityEvidence(candidate, None, None, positives, units)
    try:
        other = champion.raw(days)
    except InputInvalid:  # an input of the champion is no longer computed
        nothing = Interval(math.nan, math.nan, math.nan)
        return QualityEvidence(candidate, math.nan, nothing, positives, units)
    difference = average_precision_interval(own, days.y, unit, seed=seed, baseline=other)
    first = days.before(champion.bundle.data.holdout_from_ms)  # only calibrated on its holdout
    unseen = difference if not first else None
    if first and int(days.y[first:].sum()) >= MINIMUM_POSITIVES:
        unseen = average_precision_interval(
            own[first:], days.y[first:], unit[first:], seed=seed, baseline=other[first:]
        )
    return QualityEvidence(
        candidate=candidate,
        champion=average_precision(other, days.y),
        difference=difference,
        positives=positives,
        units=units,
        champion_saw_days=len(np.unique(days.matrix.event_ms[:first] // DAY_MS)),
        unseen=unseen,
    )


def _measures(
    challenger: Runnable, champion: Runnable | None, days: LabelledRows, seed: int
) -> tuple[Measure, ...]:
    """Measures of calibrated scores on days that neither the candidate nor its calibration has
    seen."""
    other = None
    if champion is not None:
        with suppress(InputInvalid):  # as in _quality: the gate reports it
            other = champion.bundle.calibrate_many(champion.raw(days))
    scores = challenger.bundle.calibrate_many(challenger.raw(days))
    return binary_measures(scores, days.y, days.matrix.unit, seed=seed, champion=other)


def _fairness(definition: ModelDefinition, inputs: JudgingInputs) -> Fairness | None:
    """Fairness of a model's decisions; None for a model without protected attributes."""
    candidate, dataset = inputs.candidate, inputs.dataset
    holdout = dataset.holdout.share(candidate.customers)
    days = holdout.rows(slice(holdout.before(dataset.window.gates_from_ms), None))
    if not definition.protected or not len(days):
        return None
    challenger = Runnable(candidate.bundle, candidate.model)
    policy, bundle = definition.gates.fairness, challenger.bundle
    scores = bundle.calibrate_many(challenger.raw(days))
    names = bundle.scale.names
    adverse = (policy.adverse if policy is not None else ()) or names[-1:]
    places = [names.index(name) for name in adverse if name in names]
    hidden = np.zeros(len(days), bool) if days.hidden is None else days.hidden
    return fairness_of(
        GroupRows(
            scores=scores,
            y=days.y,
            adverse=np.isin(bundle.decide_many(scores, days.matrix.of(bundle)), places),
            known=~hidden,
            unit=days.matrix.unit,
        ),
        days.groups,
        {name: definition.request[name].values or () for name in definition.protected},
        adverse=adverse,
        policy=policy,
    )


def running_evidence(
    challenger: Runnable, candidate: Candidate, judging: LabelledRows, seed: int
) -> ModelEvidence:
    """The evidence from running the candidate's file on the days for the gates; of classes, also
    how probable the decided one is beside how often it is right."""
    bundle, model = challenger.bundle, challenger.model
    golden = np.array(bundle.golden.rows, dtype=np.float32)
    alone = np.concatenate([model.scores(row[None, :]) for row in golden])
    together = model.scores(golden)
    expected = np.array(bundle.golden.scores)
    x = judging.matrix.of(bundle)
    error, positives = _calibration(challenger, judging, seed)
    times = model.latencies_ms(
        x if len(x) else golden, calls=LATENCY_CALLS, budget_s=LATENCY_BUDGET_S
    )
    return ModelEvidence(
        calibration_error=error,
        positives=positives,
        parity_difference=candidate.parity.difference,
        parity_against=candidate.parity.against,
        golden_difference=float(np.max(np.abs([alone - expected, together - expected]))),
        golden_tolerance=bundle.golden.tolerance,
        latency_p99_ms=float(np.quantile(times, 0.99)) if len(times) else math.nan,
        latency_calls=len(times),
    )


def _calibration(challenger: Runnable, judging: LabelledRows, seed: int) -> tuple[Interval, int]:
    """The calibration error, and the number of positives, or of right classes, behind it. A number
    is not a probability."""
    bundle, y = challenger.bundle, judging.y
    if bundle.scale.task == "real":
        return Interval(math.nan, math.nan, math.nan), 0
    scores = bundle.calibrate_many(challenger.raw(judging))
    if bundle.scale.task == "classes":
        y = (bundle.decide_many(scores, judging.matrix.of(bundle)) == y).astype(np.int8)
        scores = bundle.decider.certainty(scores)
    unit = judging.matrix.unit
    return calibration_error_interval(scores, y, unit, seed=seed), int(y.sum())


def _small_model(bundle: Bundle, days: LabelledRows) -> SmallModelEvidence:
    """The small model's quality as gateways evaluate it, on days to which it was neither fitted nor
    calibrated."""
    small, positives = SmallScorer.of(bundle), int(days.y.sum())
    share = positives / len(days) if len(days) else math.nan
    if small is None:
        return SmallModelEvidence(None, share, positives)
    rows = days.matrix.of(bundle).astype(np.float64).tolist()
    return SmallModelEvidence(
        average_precision(np.array([small.raw(row) for row in rows]), days.y), share, positives
    )


def _counts(
    own: Flags,
    other: Flags,
    changed: Flags,
    unit: NDArray[np.int64],
    inside: Mapping[str, Flags],
    *,
    by_pair: bool,
) -> ReplayCounts:
    """Args: changed: requests with another decision. by_pair: all of them count, and not only those
    with an alert."""
    among = own | other | by_pair
    differ = changed & among
    return ReplayCounts(
        flips=int(differ.sum()) if by_pair else None,
        differing=None if by_pair else int(differ.sum()),
        requests=len(own),
        alerts=int(own.sum()),
        champion_alerts=int(other.sum()),
        both_alerts=int((own & other).sum()),
        design_effect=paired_design_effect(own, other, unit),
        flip_design_effect=flip_design_effect(differ, among, unit),
        segments={
            name: _counts(own[flags], other[flags], changed[flags], unit[flags], {}, by_pair=False)
            for name, flags in inside.items()
        },
    )


def _segments(
    definition: ModelDefinition, recent: Recent, defaults: Mapping[str, float]
) -> dict[str, Flags]:
    """The replayed rows in each of the rollout's segments by an input.

    A row does not show whether a number is a feature's default or a value. In a rollout a missing
    value lies in no segment, so a segment that would count rows with a default is left out.
    """
    policy, matrix = definition.rollout.segments, recent.matrix
    inputs = {s.name: s.input for s in policy.groups} if policy is not None else {}
    return {
        source.name: source.holds(matrix.columns([name])[:, 0])
        for source in segment_sources(policy, definition.inputs)
        if (name := inputs[source.name]) is not None
        and name in matrix.names
        and not _holds_a_default(source, defaults)
    }


def _holds_a_default(source: SegmentSource, defaults: Mapping[str, float]) -> bool:
    if source.kind == "ratio":
        return source.to in defaults
    default = defaults.get(source.of or "") if source.kind == "view" else None
    return default is not None and bool(source.holds([default])[0])


def replay_evidence(
    definition: ModelDefinition,
    challenger: Runnable,
    champion: Runnable | None,
    recent: Recent,
) -> ReplayEvidence:
    """The decisions of both bundles about recent requests."""
    own = replay(challenger.bundle, challenger.model, recent.matrix)
    limit = definition.decision.limit
    flips, counts = None, None
    if champion is not None:
        flips = math.nan
        with suppress(InputInvalid):  # as in _quality
            other = replay(champion.bundle, champion.model, recent.matrix)
            if (changed := own.changed(other)) is not None:
                flips = flip_share(changed)
                inside = _segments(definition, recent, challenger.bundle.defaults)
                unit = recent.matrix.unit
                by_pair = own.scale.task != "binary"  # for a binary task alerts are compared
                counts = _counts(own.alerts, other.alerts, changed, unit, inside, by_pair=by_pair)
    return ReplayEvidence(
        rows=len(recent.matrix),
        source=recent.source,
        band=challenger.bundle.alert_band,
        alert_share=float(np.mean(own.alerts)) if len(own.decisions) else math.nan,
        flip_share=flips,
        counts=counts,
        volume=None if limit is None else replay_volume(limit, own, recent.matrix),
    )
