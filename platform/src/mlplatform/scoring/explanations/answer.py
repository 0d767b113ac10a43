"""The explanation of a decision as an application gets it, or why there is none."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from mlplatform.scoring.request.answers import AnsweredBy, Degradation, ModelInfo, ReasonInfo

NOTHING: Final = msgspec.Raw(b"null")


class ExplanationRequest(msgspec.Struct, frozen=True):
    """A decision whose client asks why.

    Args:
        from_ms, to_ms: event times that enclose the decision, `to_ms` exclusive; None: not known.
    """

    model: str
    decision_id: str
    from_ms: int | None = None
    to_ms: int | None = None


class Contribution(msgspec.Struct, frozen=True):
    """One input's part in the score.

    `value` is the input as the model read it, `ordinary` its usual value: a number, the word of a
    category, the length and norm of a vector; null is missing.
    """

    input: str
    value: float | str | None
    ordinary: float | str | None
    contribution: float


class RuleValues(msgspec.Struct, frozen=True):
    """A rule that decided, with the inputs that it read; a missing value is null."""

    code: str
    text: str
    values: dict[str, float | None]


class ExplanationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why a decision came out as it did, computed again from its record and its bundle.

    `decision`, `score`, `answered_by`, `model`, `degraded` and `reasons` are those of the decision.
    `thresholds` says from which score on each outcome but the first is given, in the segment of the
    request if it has thresholds of its own; null for classes, and where rules decided.
    By `tree_shap`, `baseline` and all `contributions` add up to the margin, which the link and the
    calibration make the score. By `reference_values`, a contribution is the fall of the raw score
    with the input at its `ordinary` value, and `baseline` is null. Where rules decided, `method` is
    null, and `rules` has those that held. `note` says what happened besides.
    """

    decision_id: str
    decision: str
    score: float | None
    thresholds: dict[str, float] | None
    answered_by: AnsweredBy
    model: ModelInfo
    degraded: Degradation | None
    method: Literal["tree_shap", "reference_values"] | None
    baseline: float | None
    contributions: list[Contribution]
    rules: list[RuleValues]
    reasons: list[ReasonInfo]
    note: str | None


class NoExplanation(msgspec.Struct, frozen=True):
    """The reason that there is no explanation: a problem's name, with its details."""

    name: str
    detail: str
    status: int = 422
    retry_after_s: int | None = None


class ExplanationReply(msgspec.Struct, frozen=True):
    """An `ExplanationAnswer` as JSON, or the problem in its place."""

    answer: msgspec.Raw = NOTHING
    problem: NoExplanation | None = None
