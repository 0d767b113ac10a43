"""An answer in the shape of each version of the API: the only place where versions differ.

An answer is stored once, as `ScoreBody`, whichever version was asked: so a retry through another
version gets the same decision. v1 shows it as it is stored. v2 groups what belongs together, so
that no version can come without its bundle, and no degradation without its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from mlplatform.learning.features.policy import FeatureGaps
from mlplatform.model.policies.classes import ClassProbability
from mlplatform.scoring.api.versions import VersionName
from mlplatform.scoring.arms.routing import AssignedArm
from mlplatform.scoring.request.answers import (
    AnsweredBy,
    Degradation,
    ModelInfo,
    ReasonInfo,
    ScoreBody,
    encode,
)

Shape = Callable[[bytes], bytes]
"""The stored answer → the body of one version."""


class RouteInfo(msgspec.Struct, frozen=True):
    """The arm that the request belongs to (`named`: none, as the request named the version that
    answered), and the routes that said so."""

    arm: AssignedArm
    generation: int


class AnswerV2(msgspec.Struct, frozen=True, kw_only=True):
    """One decision.

    `decision` is an outcome of the model. `score` is a probability, or the number of a model of
    numbers; null where no model answered. `model` is null for the safe default. `degraded` is null
    where everything was there that the decision needs. `reasons` are for every alert, strongest
    first; `reasons_omitted` says why they are missing. `feature_gaps` names the feature views
    without a valid row, by cause, also where that is ordinary. `top` are the most probable classes
    of a model of classes, the decided one first; other models have none.
    """

    decision_id: str
    decision: str
    score: float | None
    reasons: list[ReasonInfo]
    reasons_omitted: str | None
    answered_by: AnsweredBy
    model: ModelInfo | None
    route: RouteInfo
    degraded: Degradation | None
    feature_gaps: FeatureGaps | None
    top: list[ClassProbability] | msgspec.UnsetType = msgspec.UNSET


stored_answer: Final = msgspec.json.Decoder(ScoreBody).decode


def second(answer: ScoreBody) -> AnswerV2:
    """The answer as v2 tells it."""
    version, bundle = answer.model_version, answer.bundle
    has_model = version is not None and bundle is not None
    reason = answer.degraded_reason if answer.degraded else None
    return AnswerV2(
        decision_id=answer.decision_id,
        decision=answer.decision,
        score=answer.score,
        reasons=answer.reasons,
        reasons_omitted=answer.reasons_omitted,
        answered_by=answer.answered_by,
        model=ModelInfo(version or 0, bundle or "") if has_model else None,
        route=RouteInfo(answer.route, answer.generation),
        degraded=None if reason is None else Degradation(reason),
        feature_gaps=answer.feature_gaps,
        top=answer.top,
    )


def _as_stored(body: bytes) -> bytes:
    return body


def _as_second(body: bytes) -> bytes:
    shaped: bytes = encode(second(stored_answer(body)))
    return shaped


SHAPES: Final[Mapping[VersionName, Shape]] = {"v1": _as_stored, "v2": _as_second}
TYPES: Final[Mapping[VersionName, type[msgspec.Struct]]] = {"v1": ScoreBody, "v2": AnswerV2}
