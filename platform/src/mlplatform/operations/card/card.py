"""The model card of a version as one value; a fact that is not on record is None.

Shares lie between 0 and 1, times are epoch milliseconds. `--json` prints it as it is.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mlplatform.model.policies.decision_scale import SCORE_WORDS, Task
from mlplatform.operations.card.measures import (
    CardFairness,
    CardGroupMeasures,
    CardMeasure,
)

_KEYS: Final = {"is_of_present_folder": "is_folders"}
"""Names of fields in a card's JSON."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename=_KEYS):
    """A part of a card."""


class Identity(_Part, frozen=True):
    """The identity of the version, and the names of those who answer for it.

    Args:
        bundle: digest of the bundle, which holds everything that decides.
        folder: digest of the model folder that fitted the version; None for a model from outside.
        origin: where the model comes from; None if its bundle is not on this machine.
        is_of_present_folder: whether model.yaml is still as it was when the folder fitted the
            version; None if that is not known.
        place: present role of the version: champion, challenger, predecessor of the champion, or
            none; and whether a person has switched the model off.
        run_id: id of its run in MLflow; None if it has none.
        author, registered_ms, code: who registered it, when (wall time), and with which version of
            the code.
        reason: why it was asked for; empty if not recorded.
    """

    model: str
    version: int
    bundle: str
    purpose: str
    owner: str
    team: str | None
    tier: int
    folder: str | None
    origin: str | None
    is_of_present_folder: bool | None
    place: str
    author: str
    registered_ms: int
    code: str
    seed: int
    run_id: str | None = None
    reason: str = ""


class Outcome(_Part, frozen=True):
    """One possible outcome of the version's decisions.

    Args:
        from_score: calibrated score at which it begins; None for the first outcome, or if not
            recorded.
        share: share of requests that model.yaml plans for it; None if it plans by scores or costs.
        hides_label: whether no label comes after it by itself.
        is_reviewed: whether people are asked for its label.
    """

    name: str
    is_alert: bool
    hides_label: bool
    from_score: float | None
    share: float | None
    is_reviewed: bool = False


class ThresholdsOfSegment(_Part, frozen=True):
    """A segment with thresholds of its own.

    Args:
        requests: the requests in it, in words.
        from_scores: outcome → calibrated score at which it begins.
        rows, positives: number of held-out requests in it from which the thresholds were found, and
            of those known to be positive.
    """

    name: str
    requests: str
    from_scores: dict[str, float]
    rows: int
    positives: int


class CardDecision(_Part, frozen=True):
    """The version's decision: outcomes from the lowest score or number to the highest, or classes
    in the order of their probabilities.

    Args:
        task: the kind of labels.
        number: description of a model's number; None for other models.
        safe: the outcome if nothing can decide.
        alert_low, alert_high: ends of the predicted share of alerts in live traffic.
        alert_share, alert_how: share of alerts on the days of the prediction, and how it was
            predicted.
        limits: outcome → share of customers at which a gateway no longer asks the bundle; "alerts"
            is for all alerts together.
        segments: segments with thresholds of their own, of which the first that a request lies in
            counts.
    """

    outcomes: tuple[Outcome, ...]
    safe: str
    alert_low: float
    alert_high: float
    alert_share: float | None
    alert_how: str | None
    limits: dict[str, float]
    task: Task = "binary"
    number: str | None = None
    segments: tuple[ThresholdsOfSegment, ...] = ()

    @property
    def score_word(self) -> str:
        """How people call what it gives beside its decision."""
        return SCORE_WORDS[self.task]


class Data(_Part, frozen=True):
    """The data that the version was made from, by event time: fitted on [from, holdout), held out
    up to `to`.

    Args:
        gates_from_ms: event time from which on the gates judge; earlier held-out days are for
            calibration and thresholds.
        as_of_ms: event time at which the data was as it is used here.
        units_share: share (0-1) of the customers whose requests were read.
    """

    digest: str
    from_ms: int
    to_ms: int
    holdout_from_ms: int | None
    gates_from_ms: int | None
    as_of_ms: int | None
    rows: int | None
    units_share: float = 1.0


class Labels(_Part, frozen=True):
    """The labels of the model: which outcomes they report, and when.

    Args:
        positives: number of positive labels in the version's data; None if it is not recorded.
        maturity_days: days after which a request without a label counts as negative; for classes
            and numbers, as unknown.
        come_share, come_low, come_high: share, with its interval, of the positive labels of
            `come_days` that had arrived when they were last judged.
        hides: decisions after which no label can come.
        treatment: what training does with a request whose label is hidden, as model.yaml declares.
        class_weight: how rare classes are weighted in a fit, as model.yaml declares.
        treated: what was done in this version's training set; None if it is not recorded.
        exploration_share: share of such requests that are let through to learn their outcomes;
            None: there is no exploration.
    """

    name: str
    maturity_days: int
    come_share: float | None
    come_low: float | None
    come_high: float | None
    come_days: float | None
    hides: tuple[str, ...]
    treatment: str
    class_weight: str
    treated: str | None
    exploration_share: float | None
    positives: int | None = None


class ValidationGate(_Part, frozen=True):
    """One gate of validation.

    Args:
        low, high: ends of the interval of the observed value; the reason states its level.
    """

    name: str
    verdict: str
    observed: float | None
    low: float | None
    high: float | None
    limit: float | None
    reason: str


class AlertComparison(_Part, frozen=True):
    """Counts of the requests that validation replayed, and of the alerts of this version and of the
    champion at that time.

    Args:
        flips: for classes, number of requests for which the two decided different classes; None for
            others.
        differing: of the requests with an alert of either, number decided differently; None for
            classes and numbers, and where the report does not say.
    """

    requests: int
    alerts: int
    champion_alerts: int
    both_alerts: int
    flips: int | None = None
    differing: int | None = None


class Validation(_Part, frozen=True):
    """The findings of validation; `champion` is the bundle compared with, None if there was none.

    Args:
        champion_version: the version of that bundle; None if it is not recorded.
        baseline: measures beside the folder's simpler model, which stands in them in the champion's
            place; empty if there was none.
        fairness: of a model of two outcomes; None if no attribute was protected at that time.
        group_measures: the same of a model of classes or of numbers.
    """

    champion: str | None
    gates: tuple[ValidationGate, ...]
    compared: AlertComparison | None
    measures: tuple[CardMeasure, ...] = ()
    fairness: CardFairness | None = None
    group_measures: CardGroupMeasures | None = None
    champion_version: int | None = None
    baseline: tuple[CardMeasure, ...] = ()


class Input(_Part, frozen=True):
    """One input of the model.

    Args:
        made_of: source of its value.
        missing: what happens if the entity or the request has no value.
        stale: what happens if the feature is too old, or its store does not answer; None if it is
            no feature.
        usual: the ordinary value, with which reasons compare.
        stability: largest population stability index over the days of the training set; None where
            it is not recorded.
    """

    name: str
    kind: str
    made_of: str
    missing: str
    stale: str | None
    usual: float | None
    stability: float | None = None


class Approval(_Part, frozen=True):
    """A person's answer to a rollout's question.

    Args:
        proven_by: how the person was proven; None if it is not recorded.
        bound_to: digest of the evidence that the person was shown.
        at_ms: when the person answered, wall time.
    """

    rollout: str
    approver: str
    answer: str
    proven_by: str | None
    bound_to: str
    at_ms: int
    reason: str


class TrafficGate(_Part, frozen=True):
    """One gate in traffic: its verdict, and a sentence about it."""

    name: str
    verdict: str
    holds: bool
    headline: str


class CardEvent(_Part, frozen=True):
    """One event of a rollout, and the gates judged before it.

    Args:
        what: "shadow began", "canary of 5 % began" and so on.
        verdict, records, evidence: verdict, number of records and digest of the evidence of the
            judged traffic; None if no traffic was judged.
    """

    what: str
    event_ms: int
    wall_ms: int
    actor: str
    reason: str
    verdict: str | None
    records: int | None
    evidence: str | None
    gates: tuple[TrafficGate, ...]


class CardAnalysis(_Part, frozen=True):
    """An interim analysis of a rollout: the time (event time), the verdict of all gates together,
    and the number of records that it counted."""

    event_ms: int
    verdict: str
    records: int


class Rollout(_Part, frozen=True):
    """One rollout of the version.

    Args:
        analysis: the newest interim analysis; None if none is kept.
        approval: what model.yaml required when the rollout was opened; None if it is not recorded.
        planned: why the plan could not decide in time, or why there was none; empty if it could;
            None if it is not recorded.
        promoted_ms, ended_ms: event times; None if it has not happened.
    """

    id: str
    phase: str
    opened_by: str
    author: str
    emergency: bool
    first: bool
    approval: str | None
    planned: str | None
    promoted_ms: int | None
    ended_ms: int | None
    steps: tuple[CardEvent, ...]
    analysis: CardAnalysis | None = None


class NamedEstimate(_Part, frozen=True):
    """A named share or ratio with its interval."""

    name: str
    value: float | None
    low: float | None
    high: float | None


class Pairs(_Part, frozen=True):
    """Matured outcomes of the requests that this version and its champion both scored."""

    rollout: str
    event_ms: int
    headline: str
    positives: int
    hidden: int
    challenger: tuple[NamedEstimate, ...]
    champion: tuple[NamedEstimate, ...]


class Stretch(_Part, frozen=True):
    """A range of matured days during which this version was champion."""

    from_ms: int
    to_ms: int
    days: int
    requests: int
    hidden: int
    metrics: tuple[NamedEstimate, ...]


class MaturedPerformance(_Part, frozen=True):
    """The version's performance since its promotion, as its last drift check saw it."""

    since_ms: int
    seen_ms: int
    stretches: tuple[Stretch, ...]
    gaps: tuple[str, ...]


class CardIncident(_Part, frozen=True):
    """An incident about this version, or one that this version answers."""

    id: str
    kind: str
    state: str
    opened_ms: int
    relation: str
    note: str


class Explanations(_Part, frozen=True):
    """The method that finds reasons; `why` says what prevents Shapley values, if anything does."""

    method: str
    link: str
    why: str


class Card(_Part, frozen=True):
    """Everything on record about one version.

    Args:
        explanations, matured, pairs: None if nothing is recorded.
        replay: commands that compute the card's figures again.
        limits: sentences about what was not shown, and about what can't be known.
    """

    identity: Identity
    deciding: CardDecision
    data: Data
    labels: Labels
    validation: Validation
    inputs: tuple[Input, ...]
    explanations: Explanations | None
    rollouts: tuple[Rollout, ...]
    approvals: tuple[Approval, ...]
    pairs: Pairs | None
    matured: MaturedPerformance | None
    incidents: tuple[CardIncident, ...]
    limits: tuple[str, ...]
    replay: tuple[tuple[str, str], ...]
