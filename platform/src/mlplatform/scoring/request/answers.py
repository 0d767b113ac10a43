"""The bodies of answers, which also tell an application that a fallback decided."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mlplatform.learning.features.policy import FeatureGaps
from mlplatform.model.policies.classes import ClassProbability
from mlplatform.runtime.http.problems import Problem, ProblemDetails
from mlplatform.scoring.arms.routing import AssignedArm
from mlplatform.scoring.arms.states import ModelState

AnsweredBy = Literal[
    "champion", "challenger", "previous", "variant", "small_model", "rules", "default"
]


class ReasonInfo(msgspec.Struct, frozen=True):
    """One thing that drove an alert, strongest first."""

    code: str
    text: str


class ModelInfo(msgspec.Struct, frozen=True):
    """The version that decided."""

    version: int
    bundle: str


class Degradation(msgspec.Struct, frozen=True):
    """The reason that another than the assigned arm decided, or that it decided with less."""

    reason: str


class ScoreBody(msgspec.Struct, frozen=True, kw_only=True):
    """One decision.

    `decision` is an outcome of the model. `score` is a probability, null where no model answered.
    `route` is the arm that the request belongs to, `answered_by` who answered in the end; where
    they differ, `degraded` is true, but for `named`: the request named the version that answered.
    `reasons_omitted` says why an alert comes without the reasons it should have.
    `feature_gaps` names the feature views that had no valid row, by cause; null where all had one.
    `top` are the most probable classes of a model of classes, the decided one first.
    """

    decision: str
    score: float | None
    reasons: list[ReasonInfo]
    model_version: int | None
    bundle: str | None
    route: AssignedArm
    answered_by: AnsweredBy
    generation: int
    decision_id: str
    degraded: bool
    degraded_reason: str | None
    reasons_omitted: str | None
    feature_gaps: FeatureGaps | None = None
    top: list[ClassProbability] | msgspec.UnsetType = msgspec.UNSET


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of a batch: an answer, or the problem that kept it from one."""

    answer: msgspec.Raw | None = None
    problem: ProblemDetails | None = None
    replayed: bool = False


class BatchAnswer(msgspec.Struct, frozen=True):
    """Results in the order of the requests."""

    results: list[BatchResult]


class LabelsAnswer(msgspec.Struct, frozen=True):
    """How many labels are records now, and how many were before."""

    stored: int
    repeated: int


class VoidAnswer(msgspec.Struct, frozen=True):
    """The decision is void; `repeated` where it was before."""

    decision_id: str
    repeated: bool


class PendingAnswer(msgspec.Struct, frozen=True):
    """The request is accepted; ask for the decision by its id."""

    decision_id: str
    status: Literal["pending"] = "pending"


class ModelsAnswer(msgspec.Struct, frozen=True):
    models: list[ModelState]


encode: Any = msgspec.json.Encoder().encode


class ScoreResponse(msgspec.Struct, frozen=True):
    """An answer as bytes: a new one, or the stored one of an earlier request with the same key."""

    body: bytes
    replayed: bool


def replay(answer: bytes, *, same_body: bool) -> ScoreResponse:
    """A stored answer, given again.

    Raises:
        Problem: 422 if the key was given to another request.
    """
    if not same_body:
        detail = "this Idempotency-Key was used with another request; a new one takes a new key"
        raise Problem(422, "idempotency-key-reused", detail, field="Idempotency-Key")
    return ScoreResponse(answer, replayed=True)
