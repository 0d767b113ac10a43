"""What the gateway answers: decisions, their explanations, receipts of labels and voids.

Fields that a later release of the API adds are left out of these types and do no harm. Words that
it may add (who answers, which arm) are plain texts for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mlplatform_client.errors import CallFailed


class Reason(msgspec.Struct, frozen=True):
    """One thing that drove an alert: a code of the model's reasons.yaml, and its sentence."""

    code: str
    text: str


class ModelVersion(msgspec.Struct, frozen=True):
    """The version that decided, and the digest of its bundle."""

    version: int
    bundle: str


class Route(msgspec.Struct, frozen=True):
    """The arm of the request (`champion`, `challenger`, `variant` in an A/B/n test, or `named`
    where it named its version), and the generation of the routes."""

    arm: str
    generation: int


class Degradation(msgspec.Struct, frozen=True):
    """What was missing, so that another than the assigned arm decided, or with less."""

    reason: str


class FeatureGaps(msgspec.Struct, frozen=True):
    """Feature views without a valid row, by cause: `missing` may be ordinary, others are not."""

    missing: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()


class ClassProbability(msgspec.Struct, frozen=True):
    """One class and its probability, 0 to 1."""

    class_: str = msgspec.field(name="class")
    probability: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, which is on record.

    Args:
        decision_id: names it for labels and voids.
        decision: an outcome of the model.
        score: 0 to 1, or of a model of numbers the number; None where no model gave one.
        reasons: of an alert, strongest first.
        reasons_omitted: why an alert comes without them.
        answered_by: champion, challenger, previous, variant, small_model, rules or default.
        model: None where no version decided.
        degraded: None where everything was there that the decision needs.
        feature_gaps: None where every view had a valid row.
        top: of a model of classes the most probable ones, the decided one first; else empty.
        replayed: whether the key had this answer already.
    """

    decision_id: str
    decision: str
    score: float | None
    reasons: tuple[Reason, ...]
    reasons_omitted: str | None
    answered_by: str
    model: ModelVersion | None
    route: Route
    degraded: Degradation | None
    feature_gaps: FeatureGaps | None
    replayed: bool = False
    top: tuple[ClassProbability, ...] = ()


class RankedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item at its place.

    Args:
        place: 1 for the best.
        item: its number among the items of the request, from 0.
        decision_id: names it for labels, voids and explanations.
        decision: an outcome of the model, of the item by itself.
        score: 0 to 1; None where no model gave one.
        reasons: of an alert, strongest first.
        reasons_omitted: why an alert comes without them.
    """

    place: int
    item: int
    decision_id: str
    decision: str
    score: float | None
    reasons: tuple[Reason, ...]
    reasons_omitted: str | None


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The best items of one request, in order; all of its items are on record.

    Args:
        ranking_id: decision id of the first place.
        items: the first places, the best first.
        of: how many items the request had.
        ordered_by: `score`, or `request` where some item had no score: items are then in the order
            in which they were sent.
        answered_by: who scored the first place, as of `Answer`.
        model: None where no version decided.
        degraded: None where everything was there that the decisions need.
        replayed: whether the key had this answer already.
    """

    ranking_id: str
    items: tuple[RankedItem, ...]
    of: int
    ordered_by: str
    answered_by: str
    model: ModelVersion | None
    route: Route
    degraded: Degradation | None
    replayed: bool = False


class Contribution(msgspec.Struct, frozen=True):
    """One input's part in a score.

    Args:
        value: of the input as the model read it: a number, the word of a category, the length and
            norm of a vector; None where it was missing.
        ordinary: its usual value.
    """

    input: str
    value: float | str | None
    ordinary: float | str | None
    contribution: float


class DecidingRule(msgspec.Struct, frozen=True):
    """A rule that decided, with the inputs that it read; None where one was missing."""

    code: str
    text: str
    values: Mapping[str, float | None]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a decision came out as it did, computed again from its record and its bundle.

    Args:
        decision, score, answered_by, model, degraded, reasons: of the decision, as its answer had
            them.
        thresholds: outcome → score from which on it is given, rising, for this request; None for
            classes, where rules decided, and from a platform that does not tell it.
        method: `tree_shap`: `baseline` and all contributions add up to the margin, which becomes
            the score. `reference_values`: a contribution is the fall of the raw score with the
            input at its ordinary value. None where rules decided.
        baseline: the mean margin; None but for `tree_shap`.
        contributions: of every input of the model, in their order; empty where rules decided.
        rules: those that decided; empty where a model did.
        note: what happened besides, such as an arm that failed before.
    """

    decision_id: str
    decision: str
    score: float | None
    answered_by: str
    model: ModelVersion
    degraded: Degradation | None
    method: str | None
    baseline: float | None
    contributions: tuple[Contribution, ...]
    rules: tuple[DecidingRule, ...]
    reasons: tuple[Reason, ...]
    note: str | None
    thresholds: Mapping[str, float] | None = None


class PendingDecision(msgspec.Struct, frozen=True):
    """A request that is on record and decided later, under this id."""

    decision_id: str


class BatchResult(msgspec.Struct, frozen=True):
    """One item of a batch: an answer, or the error that kept it from one.

    Args:
        key: the item's idempotency key.
    """

    key: str
    answer: Answer | None
    error: CallFailed | None

    def get(self) -> Answer:
        """The answer.

        Raises:
            CallFailed: what kept the item from one.
        """
        if self.answer is None:
            assert self.error is not None
            raise self.error
        return self.answer


class LabelReceipt(msgspec.Struct, frozen=True):
    """How many labels are new records, and how many were on record before."""

    stored: int
    repeated: int


class PushReceipt(msgspec.Struct, frozen=True):
    """Rows of an external view are durable, and what requests read.

    Args:
        rows: how many were sent.
        available_time: when they arrived, or were served if that was more than a second later;
            milliseconds since 1970; training joins them from then.
    """

    view: str
    rows: int
    available_time: int


class VoidReceipt(msgspec.Struct, frozen=True):
    """The decision is void; `repeated` where it was before."""

    decision_id: str
    repeated: bool
