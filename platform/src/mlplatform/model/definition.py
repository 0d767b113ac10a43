"""What model.yaml declares: the one home of a model's numbers, as types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mlplatform.model.policies.decision_scale import DecisionPolicy, ReviewPolicy
from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.policies.serving import (
    AdmissionPolicy,
    AsyncPolicy,
    BreakerPolicy,
    CachePolicy,
    ChainPolicy,
    FeaturesPolicy,
    ServingPolicy,
)
from mlplatform.model.policies.training import (
    ExplorationPolicy,
    GatePolicy,
    GpuPolicy,
    TrainingPolicy,
)
from mlplatform.model.policies.values import Count, FieldName, Name, Section, Team, Text, Words
from mlplatform.model.policies.watching import DriftPolicy, RetentionPolicy
from mlplatform.model.tensors.signature import Signature
from mlplatform.model.windows.declaration import Window

REQUEST_UNIT = "request"
EVENT_TIME = "event_time"
"""The field of every request that no model.yaml declares: when the request was made."""
MIN_DEADLINE_MS, MAX_DEADLINE_MS = 5, 10_000
"""Of what an application may ask for, and of what a model.yaml may give it by default."""
CALL_ROWS = 128
"""The most rows that a gateway sends in one call of a predictor."""


def dns_name(model: str) -> str:
    """A model's name where no `_` is taken: services, workflows and their templates. Two models of
    one installation never have the same (`model.folders`)."""
    return model.replace("_", "-")


class RequestField(Section, frozen=True):
    """One field that an application sends with each request.

    Args:
        max_length: characters of a text; None: 1024.
        values: the texts that are taken, and no other; an empty one is a missing value.
    """

    type: Literal["int64", "float64", "string", "bool"]
    entity: str | None = None
    pseudonymous: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_length: Annotated[int, Meta(ge=1, le=1024)] | None = None
    values: Words | None = None


InputKind = Literal[
    "field",
    "category",
    "hour_of_day",
    "day_of_week",
    "is_weekend",
    "is_night",
    "ratio",
    "view",
    "window",
]


class InputSpec(Section, frozen=True):
    """One input of the model, by position: a transform of the request, a feature of a view, or a
    window of an entity."""

    name: str
    kind: InputKind
    of: str | None = None
    to: str | None = None


class Label(Section, frozen=True):
    name: str
    maturity_days: Annotated[int, Meta(ge=0)]
    review: ReviewPolicy = ReviewPolicy()


class ModelDefinition(Section, frozen=True):
    """Everything that the platform knows about a model before any version of it exists."""

    name: Name
    owner: Text
    purpose: Text
    tier: Literal[1, 2, 3]
    accelerator: Literal["cpu", "cuda", "tensorrt"]
    assignment_unit: str
    latency_slo_ms: float
    deadline_ms: Annotated[float, Meta(ge=MIN_DEADLINE_MS, le=MAX_DEADLINE_MS)]
    idempotency_keep_h: Count
    when_unrecordable: Literal["refuse", "answer_unlogged"]
    request: Annotated[dict[FieldName, RequestField], Meta(min_length=1)]
    inputs: tuple[InputSpec, ...]
    label: Label
    training: TrainingPolicy
    decision: DecisionPolicy
    gates: GatePolicy
    serving: ServingPolicy
    admission: AdmissionPolicy
    chain: ChainPolicy
    breaker: BreakerPolicy
    rollout: RolloutPolicy
    drift: DriftPolicy
    protected: tuple[FieldName, ...] = ()
    """Request fields whose groups are compared, and that nothing decides by; they may be absent."""
    features: FeaturesPolicy = FeaturesPolicy()
    windows: tuple[Window, ...] = ()
    """Of the request's entities, as fresh as the last request (docs/features.md)."""
    exploration: ExplorationPolicy | None = None
    retention: RetentionPolicy | None = None
    """None: payloads are kept until somebody erases them."""
    vocabularies: dict[str, Words] = msgspec.field(default_factory=dict)
    """The words of category inputs that are not learned, in the order of their places."""
    signature: Signature | None = None
    gpu: GpuPolicy | None = None
    team: Team | None = None
    """Whose quota of a cluster the model's pods count against; None: that of all such models."""
    cache: CachePolicy | None = None
    asynchronous: AsyncPolicy | None = msgspec.field(default=None, name="async")

    @property
    def takes_async(self) -> bool:
        """Whether requests may be left to be scored later."""
        return self.asynchronous is not None and self.asynchronous.enabled

    @property
    def personal(self) -> frozenset[str]:
        """Request fields and inputs made of them: no log, span or metric may hold such a value."""
        made = (i.name for i in self.inputs if i.of is not None)
        return frozenset((*self.request, *made))

    @property
    def entities(self) -> dict[str, str]:
        """Entity name → the request field that holds its key."""
        return {f.entity: name for name, f in self.request.items() if f.entity is not None}
