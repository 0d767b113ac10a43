"""Assembly of a version's card from its records: a pure function that invents nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mlplatform.learning.registry.versions import Version
from mlplatform.learning.validation.report_entries import replayed_of
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.policies.cut_offs import SegmentThresholds
from mlplatform.model.policies.decision_scale import Quantity
from mlplatform.model.routes import Routes
from mlplatform.operations.actions.interim_analyses import InterimAnalysis
from mlplatform.operations.card.card import (
    AlertComparison,
    Card,
    CardDecision,
    CardIncident,
    Data,
    Explanations,
    Identity,
    Input,
    Labels,
    MaturedPerformance,
    NamedEstimate,
    Outcome,
    Stretch,
    ThresholdsOfSegment,
    Validation,
    ValidationGate,
)
from mlplatform.operations.card.inputs import card_inputs
from mlplatform.operations.card.limits import limits
from mlplatform.operations.card.measures import (
    CardFairness,
    CardGroupMeasures,
    CardMeasure,
)
from mlplatform.operations.card.rollouts import (
    Journal,
    approvals,
    card_rollout,
    label_arrivals,
    newest_pairs,
)
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.rollouts.drift.tenure import MaturedTenure
from mlplatform.rollouts.verdicts.outcomes import LABELS
from mlplatform.runtime.errors import Corrupt

ALL_ALERTS = "alerts"


@dataclass(frozen=True, slots=True)
class VersionRecords:
    """Everything on record about a version.

    Args:
        folder: digest of the model's present folder.
        views: feature views of that folder.
        bundle: the version's bundle; None if it is not on this machine.
        journals: journals of the version's rollouts, in the order in which they were opened.
        analyses: rollout → its newest interim analysis, of rollouts that have one.
        incidents: all incidents of the model.
        tenure: matured results as champion that a drift check has stored; None if there are none.
    """

    definition: ModelDefinition
    folder: str
    views: tuple[FeatureView, ...]
    version: Version
    bundle: Bundle | None
    routes: Routes
    journals: tuple[Journal, ...]
    analyses: Mapping[str, InterimAnalysis]
    incidents: tuple[Incident, ...]
    tenure: MaturedTenure | None


class _StabilityEntry(msgspec.Struct, frozen=True):
    indices: Mapping[str, tuple[float | None, ...]] = {}


class _Report(msgspec.Struct, frozen=True):
    """The part of a gate report that a card shows; reports of earlier releases lack some of it."""

    champion: str | None = None
    gates: tuple[ValidationGate, ...] = ()
    replayed: AlertComparison | None = None
    measures: tuple[CardMeasure, ...] = ()
    fairness: CardFairness | None = None
    group_measures: CardGroupMeasures | None = None
    champion_version: int | None = None
    baseline: tuple[CardMeasure, ...] = ()
    stability: _StabilityEntry | None = None


def card(recorded: VersionRecords) -> Card:
    """The card of the version.

    Raises:
        Corrupt: the gate report in the registry can't be read.
        Refused: a journal is empty, or a transition in it can't follow those before it.
    """
    journals, bundle = recorded.journals, recorded.bundle
    made = Card(
        identity=_identity(recorded),
        deciding=_deciding(recorded),
        data=_data(recorded),
        labels=_labels(recorded),
        validation=_validation(recorded.version),
        inputs=_with_stability(recorded, card_inputs(recorded.definition, recorded.views, bundle)),
        explanations=None if bundle is None else _explanations(bundle),
        rollouts=tuple(card_rollout(facts, recorded.analyses) for facts in journals),
        approvals=approvals(journals),
        pairs=newest_pairs(journals),
        matured=None if recorded.tenure is None else _matured(recorded.tenure),
        incidents=_incidents(recorded),
        limits=(),
        replay=_replay(recorded),
    )
    return msgspec.structs.replace(made, limits=limits(made, recorded.definition))


def _identity(recorded: VersionRecords) -> Identity:
    definition, version, bundle = recorded.definition, recorded.version, recorded.bundle
    fitted = version.facts.folder or None
    return Identity(
        model=version.model,
        version=version.version,
        bundle=version.digest,
        purpose=definition.purpose,
        owner=definition.owner,
        team=definition.team,
        tier=definition.tier,
        folder=fitted,
        origin=None if bundle is None else bundle.origin,
        is_of_present_folder=None if fitted is None else fitted == recorded.folder,
        place=_place(recorded.routes, version.digest),
        author=version.facts.author,
        reason=version.facts.reason,
        registered_ms=version.created_at_ms,
        code=version.facts.code_version,
        seed=version.facts.seed,
        run_id=version.run_id or None,
    )


def _place(routes: Routes, bundle: str) -> str:
    named = (
        ("champion", routes.champion),
        (f"challenger ({routes.phase})", routes.challenger),
        ("predecessor of the champion", routes.previous),
    )
    found = (name for name, arm in named if arm is not None and arm.bundle == bundle)
    place = next(found, None)
    if place is None:
        return "answers nobody"
    return f"{place}; the model is switched off, and answers nobody" if routes.killed else place


def _deciding(recorded: VersionRecords) -> CardDecision:
    policy, facts, bundle = recorded.definition.decision, recorded.version.facts, recorded.bundle
    scale = policy.scale if bundle is None else bundle.scale
    begins = {} if bundle is None else bundle.thresholds
    shares = _planned_shares(recorded)
    limit, reviewed = policy.limit, recorded.definition.label.review.reviewed(policy)
    stops = {} if limit is None else {**limit.shares, ALL_ALERTS: limit.alert_share}
    return CardDecision(
        outcomes=tuple(
            Outcome(
                name=name,
                is_alert=name in scale.alerts,
                hides_label=name in policy.hides_outcome,
                from_score=begins.get(name),
                share=shares.get(name),
                is_reviewed=name in reviewed,
            )
            for name in scale.names
        ),
        safe=policy.safe,
        alert_low=facts.alert_low,
        alert_high=facts.alert_high,
        alert_share=None if bundle is None else bundle.alert_band.share,
        alert_how=None if bundle is None else bundle.alert_band.how,
        limits=stops,
        task=scale.task,
        number=None if scale.number is None else _in_words(scale.number),
        segments=() if bundle is None else tuple(map(_segment, bundle.segment_thresholds)),
    )


def _segment(segment: SegmentThresholds) -> ThresholdsOfSegment:
    within = (("at least", segment.at_least), ("below", segment.below))
    bounds = " and ".join(f"{word} {value:g}" for word, value in within if value is not None)
    values = (value if isinstance(value, str) else f"{value:g}" for value in segment.values)
    return ThresholdsOfSegment(
        name=segment.name,
        requests=f"{segment.input} {bounds or ', '.join(values)}",
        from_scores=segment.thresholds,
        rows=segment.rows,
        positives=segment.positives,
    )


def _in_words(number: Quantity) -> str:
    return f"{number.span}, in {number.unit}; up to {number.tolerance:g} apart counts as no change"


def _planned_shares(recorded: VersionRecords) -> dict[str, float]:
    """Outcome → planned share of requests; the first outcome gets the rest."""
    policy = recorded.definition.decision
    shares = dict(policy.thresholds.shares or {})
    if not shares:
        return {}
    return {policy.outcomes[0]: 1.0 - sum(shares.values()), **shares}


def _data(recorded: VersionRecords) -> Data:
    facts = recorded.version.facts
    window = None if recorded.bundle is None else recorded.bundle.data
    return Data(
        digest=facts.data_digest,
        from_ms=facts.data_from_ms,
        to_ms=facts.data_to_ms,
        holdout_from_ms=None if window is None else window.holdout_from_ms,
        gates_from_ms=None if window is None else window.gates_from_ms,
        as_of_ms=None if window is None else window.as_of_ms,
        rows=None if window is None else window.rows,
        units_share=1.0 if window is None else window.units_share,
    )


def _labels(recorded: VersionRecords) -> Labels:
    definition = recorded.definition
    report = _validation(recorded.version)
    treated = [g.reason for g in report.gates if g.name == "hidden_outcomes"]
    counted = [g.observed for g in report.gates if g.name == "positives"]
    come = label_arrivals(recorded.journals)
    exploration = definition.exploration
    return Labels(
        name=definition.label.name,
        maturity_days=definition.label.maturity_days,
        come_share=come.get(f"{LABELS[1]}_labels_share"),
        come_low=come.get(f"{LABELS[1]}_labels_low"),
        come_high=come.get(f"{LABELS[1]}_labels_high"),
        come_days=come.get(f"{LABELS[1]}_labels_within_days"),
        hides=definition.decision.hides_outcome,
        treatment=definition.training.hidden_outcomes,
        class_weight=definition.training.class_weight,
        treated=treated[0] if treated else None,
        exploration_share=None if exploration is None else exploration.share,
        positives=int(counted[0]) if counted and counted[0] is not None else None,
    )


def _with_stability(recorded: VersionRecords, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """The inputs with how much each moved over the days of the training set."""
    found = _report(recorded.version).stability
    largest = {
        name: max((one for one in indices if one is not None), default=None)
        for name, indices in (found.indices if found is not None else {}).items()
    }
    return tuple(msgspec.structs.replace(i, stability=largest.get(i.name)) for i in inputs)


def _report(version: Version) -> _Report:
    try:
        report = _plain(version.facts.report)
        return msgspec.convert(report | {"replayed": replayed_of(report)}, _Report)
    except msgspec.ValidationError as error:
        name = f"version {version.version} of {version.model}"
        raise Corrupt(f"the gate report of {name} in the registry: {error}") from error


def _validation(version: Version) -> Validation:
    report = _report(version)
    return Validation(
        champion=report.champion,
        gates=report.gates,
        compared=report.replayed,
        measures=report.measures,
        fairness=report.fairness,
        group_measures=report.group_measures,
        champion_version=report.champion_version,
        baseline=report.baseline,
    )


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with each interval as the two numbers that a card names."""
    gates = report.get("gates", ())
    if not isinstance(gates, list | tuple) or not all(isinstance(g, Mapping) for g in gates):
        return dict(report)
    ends = [g.get("interval") for g in gates]
    pairs = [e if isinstance(e, list | tuple) and len(e) == 2 else (None, None) for e in ends]
    return {
        **report,
        "gates": [
            {"observed": None, "limit": None, **gate, "low": low, "high": high}
            for gate, (low, high) in zip(gates, pairs, strict=True)
        ],
    }


def _explanations(bundle: Bundle) -> Explanations:
    found = bundle.attribution
    return Explanations(method=found.method, link=found.link, why=found.why)


def _matured(tenure: MaturedTenure) -> MaturedPerformance:
    return MaturedPerformance(
        since_ms=tenure.since_ms,
        seen_ms=tenure.seen_ms,
        stretches=tuple(
            Stretch(
                from_ms=stretch.from_ms,
                to_ms=stretch.to_ms,
                days=stretch.days,
                requests=stretch.requests,
                hidden=stretch.hidden,
                metrics=tuple(
                    NamedEstimate(name=m.name, value=m.value, low=m.low, high=m.high)
                    for m in stretch.metrics
                ),
            )
            for stretch in tenure.stretches
        ),
        gaps=tenure.gaps,
    )


def _incidents(recorded: VersionRecords) -> tuple[CardIncident, ...]:
    number = recorded.version.version
    return tuple(
        CardIncident(
            id=incident.id,
            kind=incident.found.kind,
            state=incident.state,
            opened_ms=incident.found.opened_ms,
            relation=relation,
            note=incident.note,
        )
        for incident in recorded.incidents
        for relation, of in (
            ("found of this version", incident.found.champion),
            ("this version was trained for it", incident.answer),
        )
        if of == number
    )


def _replay(recorded: VersionRecords) -> tuple[tuple[str, str], ...]:
    version = recorded.version
    name, number = version.model, version.version
    verdicts = tuple(
        (f"mlplatform rollouts replay {facts[0].rollout_id}", "every verdict again, from the log")
        for facts in recorded.journals
        if facts
    )
    return (
        *verdicts,
        (
            f"mlplatform replay {name} --version {number} --days 7",
            "what it would have decided of the last days, through its own bundle",
        ),
        ("mlplatform log explain DECISION_ID", "one decision again, with what drove it"),
        ("mlplatform log verify", "that log and journal are whole"),
    )
