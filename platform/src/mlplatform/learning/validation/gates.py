"""Whether a candidate may serve: pure gates over measured evidence, each with its reason.

A missing or NaN number is inconclusive, and an inconclusive gate does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlplatform.learning.features.hidden_outcomes import NOTHING_HIDDEN, HiddenOutcomes
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.validation.feature_gates import judge_skew
from mlplatform.learning.validation.gate_report import GateReport, ReplayCounts, VolumeReplay
from mlplatform.learning.validation.gate_result import (
    GateResult,
    Verdict,
    enough_positives,
    floor_gate,
    not_shown,
    too_few_units,
    window_text,
)
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.statistics import QUALITY_LEVEL, Interval, error_bound
from mlplatform.model.bundle import AlertBand
from mlplatform.model.definition import InputSpec
from mlplatform.model.inputs import fields_read
from mlplatform.model.policies.training import GatePolicy, TrainingPolicy
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.times import utc_minute_text
from mlplatform.runtime.units import DAY_MS

MINIMUM_POSITIVES = 10
MINIMUM_CALLS = 100
MINIMUM_REPLAYED = 1000


@dataclass(frozen=True, slots=True)
class DataEvidence:
    """Facts of the training set; `labels_until_ms` is the latest arrival of any label.
    `missing_shares` leaves out inputs of fields that requests may leave out."""

    rows: int
    positives: int
    missing_shares: Mapping[str, float]
    window_to_ms: int
    matured_until_ms: int
    labels_until_ms: int | None
    hidden: HiddenOutcomes = NOTHING_HIDDEN
    units_share: float = 1.0


@dataclass(frozen=True, slots=True)
class SchemaEvidence:
    """Inputs of the candidate, of the champion if there is one, and as model.yaml declares them.

    `protected` are the fields that no input may read.
    """

    candidate: Sequence[InputSpec]
    champion: Sequence[InputSpec] | None
    declared: Sequence[InputSpec]
    protected: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class QualityEvidence:
    """Average precision on the held-out days; differences are candidate less champion.

    `positives` and `units` are numbers of positives, and of the customers of all requests.
    `champion` and `difference` are None for a first version. `champion_saw_days` counts the days to
    which the champion was fitted; on these it looks better than it is. `unseen` is the difference
    on the other days, None if they hold too few positives.
    """

    candidate: Interval
    champion: float | None
    difference: Interval | None
    positives: int
    units: int
    champion_saw_days: int = 0
    unseen: Interval | None = None


@dataclass(frozen=True, slots=True)
class ModelEvidence:
    """The evidence from running the candidate's own file."""

    calibration_error: Interval
    positives: int
    parity_difference: float
    parity_against: str
    golden_difference: float
    golden_tolerance: float
    latency_p99_ms: float
    latency_calls: int


@dataclass(frozen=True, slots=True)
class SmallModelEvidence:
    """Average precision of the bundle's small model on the days for the gates.

    `positive_share` is what guessing reaches there. None for a bundle without a small model.
    """

    average_precision: float | None
    positive_share: float
    positives: int


@dataclass(frozen=True, slots=True)
class ReplayEvidence:
    """The evidence from replaying recent requests.

    `flip_share` and `counts` are None for a first version, `counts` also where the champion can't
    be replayed any more. `volume` is None where model.yaml has no `decision.limit`.
    """

    rows: int
    source: str
    band: AlertBand
    alert_share: float
    flip_share: float | None
    counts: ReplayCounts | None = None
    volume: VolumeReplay | None = None


@dataclass(frozen=True, slots=True)
class LeakageEvidence:
    """The evidence of each input by itself.

    Args:
        alone: input → average precision of this input alone: bins get their share of positives on
            the days of the fit, and score the held-out days. A missing value is a bin too.
        identifiers: names of inputs that identify the customer or the request.
        growing: names of inputs that rise or fall with event time.
        positives: number of positives among the held-out requests.
    """

    alone: Mapping[str, float]
    identifiers: tuple[str, ...]
    growing: tuple[str, ...]
    positives: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence for the gates."""

    model: str
    bundle: str
    champion: str | None
    data: DataEvidence
    schema: SchemaEvidence
    quality: QualityEvidence
    running: ModelEvidence
    replay: ReplayEvidence
    small_model: SmallModelEvidence
    leakage: LeakageEvidence
    skew: SkewReport | None = None
    has_features: bool = True
    measures: tuple[Measure, ...] = ()


def judge(evidence: Evidence, gates: GatePolicy, training: TrainingPolicy) -> GateReport:
    """Every gate's result on the evidence."""
    results = (
        *judge_data(evidence.data, gates, training),
        judge_schema(evidence.schema),
        judge_quality(evidence.quality, gates),
        judge_leakage(evidence.leakage, gates),
        judge_calibration(evidence.running, gates),
        judge_parity(evidence.running, gates),
        judge_golden(evidence.running),
        judge_latency(evidence.running, gates),
        judge_small_model(evidence.small_model, gates),
        judge_alerts(evidence.replay, gates),
        judge_flips(evidence.replay, gates),
        *judge_volume(evidence.replay),
        judge_skew(
            evidence.skew, gates, is_first=not evidence.champion, has_features=evidence.has_features
        ),
    )
    return GateReport(
        evidence.model,
        evidence.bundle,
        evidence.champion,
        results,
        evidence.replay.counts,
        evidence.measures,
    )


def judge_data(
    data: DataEvidence, gates: GatePolicy, training: TrainingPolicy
) -> tuple[GateResult, ...]:
    """Checks that there are enough rows and positives, and what `judge_feeds` checks."""
    where = window_text(data.units_share, data.window_to_ms, training.window_days)
    return (
        at_least("rows", data.rows, training.minimum_rows, f"requests {where}"),
        at_least("positives", data.positives, training.minimum_positives, f"positives {where}"),
        *judge_feeds(data, gates),
    )


def judge_feeds(data: DataEvidence, gates: GatePolicy) -> tuple[GateResult, ...]:
    """Checks that inputs are there, that labels come after their time, and hidden outcomes."""
    shares = data.missing_shares
    unknown = [name for name, share in shares.items() if math.isnan(share)]
    worst = max(shares, key=lambda name: shares[name], default=None)
    if not data.rows or unknown:
        missing = GateResult(
            "missing_values", "inconclusive", None, gates.missing_share, "no rows to count"
        )
    else:
        finding, share = "no input is required", 0.0
        if worst is not None:
            share = shares[worst]
            finding = f"{worst}, the worst required input, is missing in {percent(share)} of rows"
        missing = at_most(
            "missing_values", share, gates.missing_share, finding, percent(gates.missing_share)
        )
    return missing, _judge_maturity(data), judge_hidden(data.hidden)


def judge_hidden(hidden: HiddenOutcomes) -> GateResult:
    """Reports the treatment of outcomes that our own decisions hid; it is no reason to refuse.

    A warning does not fail the gate: the version before it saw no more. The report holds it.
    """
    if not hidden.hidden and not hidden.explored:
        reason = "no request's outcome was hidden by a decision of ours"
        return GateResult("hidden_outcomes", "passed", 0.0, None, reason)
    return GateResult("hidden_outcomes", "passed", float(hidden.hidden), None, hidden.sentence)


def judge_schema(schema: SchemaEvidence) -> GateResult:
    """Checks that the inputs are the champion's, or else model.yaml's, and none is protected."""
    reading = sorted(i.name for i in schema.candidate if fields_read(i, schema.protected))
    if reading:
        reason = f"{', '.join(reading)} read what model.yaml calls protected: train without them"
        return GateResult("schema", "failed", float(len(reading)), 0.0, reason)
    found = {_signature(i) for i in schema.candidate}
    wanted = {_signature(i) for i in schema.champion or schema.declared}
    differing = sorted(name for name, *_ in found ^ wanted)
    count = float(len(differing))
    if list(schema.candidate) == list(schema.champion or schema.declared):
        whose = "the champion's" if schema.champion else "as declared in model.yaml"
        return GateResult("schema", "passed", count, 0.0, f"the inputs are {whose}")
    if list(schema.candidate) == list(schema.declared):
        reason = f"a change declared in model.yaml: {', '.join(differing) or 'the order'}"
        return GateResult("schema", "passed", count, None, reason)
    reason = f"a change not declared in model.yaml: {', '.join(differing) or 'the order'}"
    return GateResult("schema", "failed", count, 0.0, reason)


def judge_quality(quality: QualityEvidence, gates: GatePolicy) -> GateResult:
    """Judges a loss to the champion by what is tolerated, a first version by fixed limits.

    The whole interval must be on the good side. Where the limit lies within it, the data cannot
    say: inconclusive. A loss within that limit is refused too once it is proven: where even the
    high end is worse than `average_precision_loss`, on days that the champion was not fitted to.
    """
    name = "quality"
    if quality.positives < MINIMUM_POSITIVES:
        return GateResult(name, "inconclusive", None, None, _too_few_positives(quality.positives))
    if (few := too_few_units(quality.units)) is not None:
        return GateResult(name, "inconclusive", None, None, few)
    if quality.champion is None or quality.difference is None:
        text = f"average precision {quality.candidate.value:.3f} on {quality.positives:,} positives"
        least = gates.minimum_average_precision
        enough = enough_positives(quality.positives, quality.candidate, least)
        more = not_shown(quality.units, "gates.minimum_average_precision", positives=enough)
        return floor_gate(name, quality.candidate, least, text, "{:.3f}", more)
    text = (
        f"average precision {quality.candidate.value:.3f}, the champion's {quality.champion:.3f} "
        f"on the same {quality.positives:,} positives"
    )
    if quality.champion_saw_days:
        text += f" (it was fitted to {_days(quality.champion_saw_days)} of these, and so flattered)"
    text += f"; difference {quality.difference.value:+.3f}"
    if quality.unseen is not None and quality.unseen.high < -gates.average_precision_loss:
        lost = quality.unseen
        limit = -gates.average_precision_loss
        reason = (
            f"{text}. The loss is proven: the whole {100 * QUALITY_LEVEL:g} % interval, "
            f"{lost.low:+.3f} to {lost.high:+.3f}, lies below the tolerated {limit:+.3f}"
        )
        return GateResult(name, "failed", lost.value, limit, reason, (lost.low, lost.high))
    limit = -gates.average_precision_drop
    enough = enough_positives(quality.positives, quality.difference, limit)
    more = not_shown(quality.units, "gates.average_precision_drop", positives=enough)
    return floor_gate(name, quality.difference, limit, text, "{:+.3f}", more)


def judge_leakage(leakage: LeakageEvidence, gates: GatePolicy) -> GateResult:
    """Checks that no input knows the outcome, the future, or whose request it is."""
    name, limit = "leakage", gates.single_input_average_precision
    if leakage.identifiers or leakage.growing:
        problems = [f"{n} identifies a row's customer or request" for n in leakage.identifiers]
        problems += [
            f"{n} grows with time, so live values lie beyond all that was learned"
            for n in leakage.growing
        ]
        reason = f"{'; '.join(problems)}: take it out of the inputs"
        return GateResult(name, "failed", None, limit, reason)
    if leakage.positives < MINIMUM_POSITIVES:
        reason = _too_few_positives(leakage.positives)
        return GateResult(name, "inconclusive", None, limit, reason)
    best = max(leakage.alone, key=lambda n: _number(leakage.alone[n]) or 0.0, default=None)
    if best is None or math.isnan(leakage.alone[best]):
        return GateResult(name, "inconclusive", None, limit, "no input could be measured by itself")
    value = leakage.alone[best]
    finding = (
        f"{best}, the strongest single input, has an average precision of {value:.3f} by "
        f"itself on {leakage.positives:,} positives"
    )
    if value < limit:
        reason = f"{finding} (less than {limit:.3f} wanted; more may mean it holds the outcome)"
        return GateResult(name, "passed", value, limit, reason)
    reason = (
        f"{finding}, {limit:.3f} or more: it may hold the outcome, or what is known only after it; "
        "take it out of the inputs, or compute it from what was known at the request; if it is, "
        "raise gates.single_input_average_precision"
    )
    return GateResult(name, "failed", value, limit, reason)


def judge_calibration(running: ModelEvidence, gates: GatePolicy) -> GateResult:
    """Checks that probabilities are not shown to be wrong, on days that calibration did not see.

    The platform fitted the calibration itself, on the days just before; the gate checks that this
    did not go wrong. The low end of the interval must be within the limit (decision 0040).
    """
    name, limit = "calibration", gates.calibration_error
    if running.positives < MINIMUM_POSITIVES:
        return GateResult(name, "inconclusive", None, limit, _too_few_positives(running.positives))
    value, low, high = (getattr(running.calibration_error, end) for end in ("value", "low", "high"))
    if any(math.isnan(v) for v in (value, low, high)):
        return GateResult(name, "inconclusive", None, limit, "the error is not a number")
    reason = (
        f"predicted and actual shares of positives lie {100 * value:.2f} percentage points apart "
        f"on average (expected calibration error) over {running.positives:,} positives; "
        f"{error_bound(running.calibration_error, limit)}"
    )
    verdict: Verdict = "passed" if low <= limit else "failed"
    return GateResult(name, verdict, value, limit, reason, (low, high))


def judge_parity(running: ModelEvidence, gates: GatePolicy) -> GateResult:
    """Checks that the ONNX file gives the scores that it should."""
    finding = (
        f"scores differ from those of {running.parity_against} by {running.parity_difference:.1g} "
        "or less"
    )
    limit = gates.onnx_difference
    return at_most("onnx_parity", running.parity_difference, limit, finding, f"{limit:g}")


def judge_golden(running: ModelEvidence) -> GateResult:
    """Checks that the written bundle repeats its own examples."""
    value, limit = running.golden_difference, running.golden_tolerance
    finding = f"the bundle's own examples differ from their recorded scores by {value:.1g}"
    return at_most("golden", value, limit, finding, f"{limit:g}")


def judge_latency(running: ModelEvidence, gates: GatePolicy) -> GateResult:
    """Checks that one row on one thread is fast enough."""
    name, value, limit = "latency", running.latency_p99_ms, gates.latency_p99_ms
    calls = running.latency_calls
    if calls < MINIMUM_CALLS:
        reason = f"only {calls:,} calls could be timed (at least {MINIMUM_CALLS:,} wanted)"
        if value > limit:
            return GateResult(name, "failed", value, limit, reason)
        return GateResult(name, "inconclusive", _number(value), limit, reason)
    finding = f"one request on one thread takes {value:.3g} ms (p99 of {calls:,} calls)"
    return at_most(name, value, limit, finding, f"{limit:g} ms")


def judge_small_model(small: SmallModelEvidence, gates: GatePolicy) -> GateResult:
    """Checks that the fallback that answers when no predictor does is far better than guessing."""
    name, value = "small_model", small.average_precision
    if value is None:
        return GateResult(name, "failed", None, None, "the bundle has no small model")
    limit = gates.small_model_lift * small.positive_share
    if small.positives < MINIMUM_POSITIVES:
        reason = _too_few_positives(small.positives)
        return GateResult(name, "inconclusive", _number(value), limit, reason)
    if math.isnan(value):
        return GateResult(name, "inconclusive", None, limit, "average precision is not a number")
    reason = (
        f"the small model in the gateway reaches an average precision of {value:.3f} on "
        f"{small.positives:,} positives (at least {limit:.3f} wanted, {gates.small_model_lift:g} "
        "times that of guessing)"
    )
    return GateResult(name, "passed" if value >= limit else "failed", value, limit, reason)


def judge_alerts(replay: ReplayEvidence, gates: GatePolicy) -> GateResult:
    """Checks that people can work with the predicted share of alerts, and that it has a band."""
    name, share = "alert_share", replay.alert_share
    low, high = gates.alert_share_minimum, gates.alert_share_maximum
    if replay.rows < MINIMUM_REPLAYED or math.isnan(share):
        reason = _too_few_replayed(replay)
        return GateResult(name, "inconclusive", None, high, reason)
    band = replay.band
    reason = (
        f"{percent(share)} of {replay.rows:,} requests ({replay.source}) would raise an alert "
        f"({span(low, high)} wanted); in live traffic {span(band.low, band.high)} is expected"
    )
    inside = low <= share <= high and band.low <= share <= band.high
    limit = low if share < low else high
    return GateResult(name, "passed" if inside else "failed", share, limit, reason)


def judge_flips(replay: ReplayEvidence, gates: GatePolicy) -> GateResult:
    """Limits the share of recent requests that would be decided differently from the champion."""
    name, limit = "decision_flips", gates.decision_flip_share
    if replay.flip_share is None:
        return GateResult(name, "passed", None, limit, "a first version has nothing to differ from")
    if replay.rows < MINIMUM_REPLAYED:
        reason = _too_few_replayed(replay)
        return GateResult(name, "inconclusive", _number(replay.flip_share), limit, reason)
    finding = (
        f"{percent(replay.flip_share)} of {replay.rows:,} requests ({replay.source}) would be "
        "decided otherwise than by the champion"
    )
    return at_most(name, replay.flip_share, limit, finding, percent(limit))


def judge_volume(replay: ReplayEvidence) -> tuple[GateResult, ...]:
    """Checks that no gateway would have stopped it on recent requests; empty without a limit."""
    if replay.volume is None:
        return ()
    name, stop = "volume_limit", replay.volume.stop
    if stop is not None:
        reason = (
            f"a gateway would have stopped this bundle at {utc_minute_text(replay.volume.at_ms)}: "
            f"{stop.reason}; set decision.limit above what ordinary hours reach, or alert less"
        )
        return (GateResult(name, "failed", stop.share, stop.limit, reason),)
    if replay.rows < MINIMUM_REPLAYED:
        return (GateResult(name, "inconclusive", None, None, _too_few_replayed(replay)),)
    replayed = f"{replay.rows:,} requests ({replay.source})"
    reason = f"no gateway would have stopped this bundle in {replayed}"
    return (GateResult(name, "passed", None, None, reason),)


def _judge_maturity(data: DataEvidence) -> GateResult:
    name = "label_maturity"
    early_days = (data.window_to_ms - data.matured_until_ms) / DAY_MS
    if early_days > 0:
        reason = f"labels of the window's last {_days(early_days)} have not matured"
        return GateResult(name, "failed", early_days, 0.0, reason)
    if data.labels_until_ms is None:
        return GateResult(name, "inconclusive", None, 0.0, "no label has ever arrived")
    silent_days = (data.window_to_ms - data.labels_until_ms) / DAY_MS
    if silent_days <= 0:
        return GateResult(name, "passed", silent_days, 0.0, "labels came until the window's end")
    reason = f"the last label came {silent_days:.1f} days before the window's end"
    return GateResult(name, "failed", silent_days, 0.0, reason)


def at_most(name: str, value: float, limit: float, finding: str, allowed: str) -> GateResult:
    """A gate that passes if a measured value is at or below the limit."""
    if math.isnan(value):
        return GateResult(name, "inconclusive", None, limit, f"not measured (limit {allowed})")
    reason = f"{finding} (at most {allowed} allowed)"
    return GateResult(name, "passed" if value <= limit else "failed", value, limit, reason)


def at_least(name: str, value: int, limit: int, what: str) -> GateResult:
    """A gate that passes if there are at least this many."""
    reason = f"{value:,} {what} (at least {limit:,} wanted)"
    return GateResult(name, "passed" if value >= limit else "failed", value, limit, reason)


def _too_few_positives(positives: int) -> str:
    wanted = f"at least {MINIMUM_POSITIVES:,} wanted: more labels, or more training.holdout_days"
    return f"only {positives:,} positives to judge by ({wanted})"


def _too_few_replayed(replay: ReplayEvidence) -> str:
    return f"only {replay.rows:,} requests replayed (at least {MINIMUM_REPLAYED:,} wanted)"


def _days(days: float) -> str:
    return "1 day" if days == 1 else f"{days:.3g} days"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _signature(spec: InputSpec) -> tuple[str, str, str, str]:
    return spec.name, spec.kind, spec.of or "", spec.to or ""
