"""Gathers what the gates look at: runs the candidate and the champion on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined import ConfinedModel
from mlplatform.learning.onnx.onnx_file import OnnxFile, Scoring
from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training_sets.dataset import DAY_MS, Dataset, Labelled
from mlplatform.learning.validation.fairness import Fairness, GroupRows, fairness_of
from mlplatform.learning.validation.gate_report import ReplayCounts
from mlplatform.learning.validation.gates import (
    MINIMUM_POSITIVES,
    DataEvidence,
    Evidence,
    ModelEvidence,
    QualityEvidence,
    ReplayEvidence,
    SchemaEvidence,
    SmallModelEvidence,
)
from mlplatform.learning.validation.leakage import leakage_evidence
from mlplatform.learning.validation.measures import Measure, binary_measures
from mlplatform.learning.validation.replay import Recent, flip_share, strengths
from mlplatform.learning.validation.statistics import (
    Interval,
    average_precision,
    average_precision_interval,
    calibration_error_interval,
)
from mlplatform.model.bundle import MODEL_FILE, Bundle, load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.inputs import segment_sources
from mlplatform.model.policies.segments import Flags, SegmentSource
from mlplatform.model.scorecard import SmallScorer
from mlplatform.runtime.errors import InputInvalid

LATENCY_CALLS = 1000
LATENCY_BUDGET_S = 5.0


@dataclass(frozen=True, slots=True)
class Runnable:
    """A bundle on disk, checked, with its model loaded."""

    bundle: Bundle
    model: Scoring

    def raw(self, rows: Labelled) -> NDArray[np.float64]:
        return self.model.scores(rows.matrix.of(self.bundle))


def load_runnable(folder: Path) -> Runnable:
    """The bundle of a folder, ready to score: in a confined process if it was made elsewhere.

    Raises:
        BundleCorrupt: a file is not what its digest says.
        InputInvalid: the model cannot be run.
    """
    bundle = load_bundle(folder)
    content = (folder / MODEL_FILE).read_bytes()
    load = OnnxFile if bundle.origin == TRAINED_HERE else ConfinedModel
    tensors = bundle.tensors
    return Runnable(bundle, load(content, inputs=len(bundle.inputs), tensors=tensors))


def gather(
    definition: ModelDefinition,
    candidate: Candidate,
    dataset: Dataset,
    *,
    champion: Runnable | None,
    recent: Recent | None,
    seed: int,
    skew: SkewReport | None = None,
) -> Evidence:
    """What running both bundles showed; the candidate's folder is read back and checked first.

    Args:
        recent: requests to replay; the held-out days where it is None.
        skew: what the last look at served features found.
    """
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
        running=_running(challenger, candidate, holdout.rows(judging).known, seed),
        replay=_replay(definition, challenger, champion, replayed),
        small_model=_small_model(written, holdout.rows(judging).known),
        leakage=leakage_evidence(
            definition, written.input_names, own.fitting.known, own.holdout.known
        ),
        skew=skew,
        measures=_measures(challenger, champion, holdout.rows(judging).known, seed),
        fairness=_fairness(definition, challenger, holdout.rows(judging)),
    )


def data_evidence(definition: ModelDefinition, dataset: Dataset) -> DataEvidence:
    """What the training set holds, before anything is fitted to it."""
    x = dataset.rows.matrix.columns([i.name for i in definition.inputs])
    shares = np.isnan(x).mean(axis=0) if len(x) else np.full(x.shape[1], np.nan)
    return DataEvidence(
        rows=len(dataset.rows),
        positives=int(dataset.rows.taught.y.sum()),
        missing_shares={
            i.name: float(share) for i, share in zip(definition.inputs, shares, strict=True)
        },
        window_to_ms=dataset.window.to_ms,
        matured_until_ms=dataset.as_of_ms - definition.label.maturity_days * DAY_MS,
        labels_until_ms=dataset.labels_until_ms,
        hidden=dataset.hidden,
    )


def _quality(
    challenger: Runnable, champion: Runnable | None, days: Labelled, seed: int
) -> QualityEvidence:
    """On all held-out days: calibration does not change who ranks above whom."""
    own = challenger.raw(days)
    unit, positives = days.matrix.unit, int(days.y.sum())
    candidate = average_precision_interval(own, days.y, unit, seed=seed)
    if champion is None:
        return QualityEvidence(candidate, None, None, positives)
    try:
        other = champion.raw(days)
    except InputInvalid:  # an input of the champion that nobody computes any more
        nothing = Interval(math.nan, math.nan, math.nan)
        return QualityEvidence(candidate, math.nan, nothing, positives)
    difference = average_precision_interval(own, days.y, unit, seed=seed, baseline=other)
    first = days.before(champion.bundle.data.holdout_from_ms)  # its own holdout it only calibrated
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
        champion_saw_days=len(np.unique(days.matrix.event_ms[:first] // DAY_MS)),
        unseen=unseen,
    )


def _measures(
    challenger: Runnable, champion: Runnable | None, days: Labelled, seed: int
) -> tuple[Measure, ...]:
    """By calibrated scores, on days that neither the candidate nor its calibration has seen."""
    other = None
    if champion is not None:
        with suppress(InputInvalid):  # as in _quality: told by the gate
            other = champion.bundle.calibrate_many(champion.raw(days))
    scores = challenger.bundle.calibrate_many(challenger.raw(days))
    return binary_measures(scores, days.y, days.matrix.unit, seed=seed, champion=other)


def _fairness(definition: ModelDefinition, challenger: Runnable, days: Labelled) -> Fairness | None:
    """None of a model without protected attributes."""
    if not definition.protected or not len(days):
        return None
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
            adverse=np.isin(bundle.decide_many(scores), places),
            known=~hidden,
            unit=days.matrix.unit,
        ),
        days.groups,
        {name: definition.request[name].values or () for name in definition.protected},
        adverse=adverse,
        policy=policy,
    )


def _running(
    challenger: Runnable, candidate: Candidate, judging: Labelled, seed: int
) -> ModelEvidence:
    bundle, model = challenger.bundle, challenger.model
    y, scores = judging.y, bundle.calibrate_many(challenger.raw(judging))
    golden = np.array(bundle.golden.rows, dtype=np.float32)
    alone = np.concatenate([model.scores(row[None, :]) for row in golden])
    together = model.scores(golden)
    expected = np.array(bundle.golden.scores)
    x = judging.matrix.of(bundle)
    times = model.latencies_ms(
        x if len(x) else golden, calls=LATENCY_CALLS, budget_s=LATENCY_BUDGET_S
    )
    return ModelEvidence(
        calibration_error=calibration_error_interval(scores, y, judging.matrix.unit, seed=seed),
        positives=int(y.sum()),
        parity_difference=candidate.parity.difference,
        parity_against=candidate.parity.against,
        golden_difference=float(np.max(np.abs([alone - expected, together - expected]))),
        golden_tolerance=bundle.golden.tolerance,
        latency_p99_ms=float(np.quantile(times, 0.99)) if len(times) else math.nan,
        latency_calls=len(times),
    )


def _small_model(bundle: Bundle, days: Labelled) -> SmallModelEvidence:
    """As the gateway evaluates it, on days that neither it nor its calibration has seen."""
    small, positives = SmallScorer.of(bundle), int(days.y.sum())
    share = positives / len(days) if len(days) else math.nan
    if small is None:
        return SmallModelEvidence(None, share, positives)
    rows = days.matrix.of(bundle).astype(np.float64).tolist()
    return SmallModelEvidence(
        average_precision(np.array([small.raw(row) for row in rows]), days.y), share, positives
    )


def _counts(own: Flags, other: Flags, inside: Mapping[str, Flags]) -> ReplayCounts:
    return ReplayCounts(
        requests=len(own),
        alerts=int(own.sum()),
        champion_alerts=int(other.sum()),
        both_alerts=int((own & other).sum()),
        segments={name: _counts(own[flags], other[flags], {}) for name, flags in inside.items()},
    )


def _segments(
    definition: ModelDefinition, recent: Recent, defaults: Mapping[str, float]
) -> dict[str, Flags]:
    """Of each of the rollout's segments by an input, which of the replayed rows lie in it.

    A row does not tell a feature's default from a value. In a rollout a missing value lies in no
    segment, so one that rows with a default would be counted in is left out.
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


def _replay(
    definition: ModelDefinition,
    challenger: Runnable,
    champion: Runnable | None,
    recent: Recent,
) -> ReplayEvidence:
    decisions = strengths(challenger.bundle, challenger.model, recent.matrix)
    scale, alerts = challenger.bundle.scale, challenger.bundle.scale.alerting(decisions)
    flips, counts = None, None
    if champion is not None:
        try:
            others = strengths(champion.bundle, champion.model, recent.matrix)
        except InputInvalid:  # as in _quality
            flips = math.nan
        else:
            champions = champion.bundle.scale
            flips = flip_share(decisions, scale.places_of(champions, others))
            inside = _segments(definition, recent, challenger.bundle.defaults)
            counts = _counts(alerts, champions.alerting(others), inside)
    return ReplayEvidence(
        rows=len(recent.matrix),
        source=recent.source,
        band=challenger.bundle.alert_band,
        alert_share=float(np.mean(alerts)) if len(decisions) else math.nan,
        flip_share=flips,
        counts=counts,
    )
