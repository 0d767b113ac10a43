"""The declarations of model.yaml as types: the only home of a model's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mlplatform.model.findings import NOT_WRITTEN
from mlplatform.model.policies.classes import (
    ClassDecision,
    ClassGates,
    ClassRollout,
    ClassTraining,
)
from mlplatform.model.policies.decision_scale import DecisionPolicy, ReviewPolicy, Task
from mlplatform.model.policies.monitoring import DriftPolicy, RetentionPolicy
from mlplatform.model.policies.ranking import RankingPolicy
from mlplatform.model.policies.real import RealDecision, RealGates, RealRollout, RealTraining
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
from mlplatform.model.tensors.categories import Vocabularies, vocabulary_problems
from mlplatform.model.tensors.named_tensors import WHOLE_MOST
from mlplatform.model.tensors.remainders import remainder_columns
from mlplatform.model.tensors.signature import Signature
from mlplatform.model.tensors.tokens import Tokens, column_name, text_of, token_problems
from mlplatform.model.tensors.vectors import MOST_LENGTH, length_of, vector_columns, vector_of
from mlplatform.model.windows.declaration import Window

REQUEST_UNIT = "request"
EVENT_TIME = "event_time"
"""The field of every request that model.yaml does not declare: when the request was made."""
MIN_DEADLINE_MS, MAX_DEADLINE_MS = 5, 10_000
"""Bounds of deadlines in milliseconds, those that applications ask for and those of model.yaml."""
CALL_ROWS = 128
"""Most rows that a gateway sends in one call of a predictor."""


def dns_name(model: str) -> str:
    """A model's name where `_` is not allowed: services, workflows and their templates."""
    return model.replace("_", "-")


FieldType = Literal["int64", "float64", "string", "bool", "vector"]


class RequestField(Section, frozen=True):
    """One field that an application sends with each request.

    Args:
        type: what the field holds; a vector is a list of numbers.
        entity: name of the entity whose key the field holds, for views and windows; None: no
            entity's key.
        pseudonymous: whether the value tells a person apart: a keyed hash of it is recorded and
            learned from in its place.
        minimum: least number that a request may hold; None: no bound.
        maximum: largest number that a request may hold; None: no bound.
        max_length: largest number of characters of a text; None means 1024.
        values: the only texts that are allowed, an empty one only if it is listed. None: any text.
        length: how many numbers a vector has; None for every other type. Its bounds are those of
            each number.
        optional: whether requests may leave the field out, or send null: a missing value. So a
            field is added while applications don't send it yet, and taken away while some still do.
    """

    type: FieldType
    entity: str | None = None
    pseudonymous: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_length: Annotated[int, Meta(ge=1, le=1024)] | None = None
    values: Words | None = None
    length: Annotated[int, Meta(ge=1, le=MOST_LENGTH)] | None = None
    optional: bool = False

    @property
    def identifies(self) -> bool:
        """Whether its values tell entities or persons apart; an empty text then is none."""
        return self.entity is not None or self.pseudonymous


InputKind = Literal[
    "field",
    "category",
    "text",
    "vector",
    "hour_of_day",
    "day_of_week",
    "is_weekend",
    "is_night",
    "ratio",
    "view",
    "window",
    "remainder",
]


WrittenKind = Annotated[InputKind, Meta(extra={NOT_WRITTEN: ("remainder",)})]
"""A kind of which the platform alone writes some values: no error and no document offers them."""
WORDED: Final = ("category", "text")
"""Kinds of inputs whose values are places of words."""
WIDE: Final = ("text", "vector", "remainder")
"""Kinds of inputs that take several places of a row. Only the model reads these places: no rule,
segment, drift or small model does."""
REMAINDER: Final = "remainder"
"""Kind of the columns beside an input whose tensor is int64 or float64. The platform writes them;
`of` is the input's name."""
EXACT: Final = ("int64", "float64")
"""Types of a graph's tensors that hold numbers which float32 does not."""


class InputSpec(Section, frozen=True):
    """One input of the model, by position: a transform of the request, a feature of a view, or a
    window of an entity.

    Args:
        name: name of the input; for a view or a window, the name of its feature.
        kind: the source of the input's number: a request field (`field`, `category`, `text`,
            `vector`), the time of the request (`hour_of_day`, `day_of_week`, `is_weekend`,
            `is_night`), one number divided by another (`ratio`), or a feature (`view`, `window`).
        of: the request field that is read, for `ratio` the one that is divided; for `view` the
            view, for `window` the entity that has the feature.
        to: for `ratio`, the request field or feature by which `of` is divided.
        tokens: how the text becomes tokens, for an input of kind `text`. model.yaml declares the
            text once; a row has one input for each token. A vector is declared once, too; a row has
            one input for each number.
    """

    name: str
    kind: WrittenKind
    of: str | None = None
    to: str | None = None
    tokens: Tokens | UnsetType = UNSET

    @property
    def declared(self) -> str:
        """The input's name in model.yaml."""
        match self.kind:
            case "text":
                return text_of(self.name) or self.name
            case "vector":
                return vector_of(self.name) or self.name
            case "remainder":
                return self.of or self.name
            case _:
                return self.name


def row_inputs(
    declared: Sequence[InputSpec],
    fields: Mapping[str, RequestField],
    signature: Signature | None = None,
) -> tuple[InputSpec, ...]:
    """The inputs that have a number in a row, for those that model.yaml declares.

    Args:
        fields: the request fields, which say how long a vector is.
        signature: the graph's tensors, which say whose remainders a row has; None: nobody's.
    """
    tensors = () if signature is None else signature.inputs
    exact = {name for tensor in tensors if tensor.dtype in EXACT for name in tensor.of}
    found: list[InputSpec] = []
    for spec in declared:
        names = _row_names(spec, _length(spec, fields))
        found += [msgspec.structs.replace(spec, name=name) for name in names]
        if spec.name in exact and _is_beyond_float32(spec, fields):
            found += _remainders(spec.name)
    return tuple(found)


def _remainders(name: str) -> list[InputSpec]:
    return [InputSpec(name=n, kind=REMAINDER, of=name) for n in remainder_columns(name)]


def _is_beyond_float32(spec: InputSpec, fields: Mapping[str, RequestField]) -> bool:
    """Whether float32 may not hold what an input of this kind is."""
    if spec.kind == "field":
        field = fields.get(spec.of or "")
        if field is None or field.type != "int64":
            return field is not None and field.type == "float64"
        bounds = (field.minimum, field.maximum)
        return not all(bound is not None and abs(bound) <= WHOLE_MOST for bound in bounds)
    return spec.kind in ("ratio", "view", "window")


def row_signature(
    signature: Signature, declared: Sequence[InputSpec], fields: Mapping[str, RequestField]
) -> Signature:
    """The signature of a row's inputs, for one of inputs that model.yaml declares."""
    names = {spec.name: _row_names(spec, _length(spec, fields)) for spec in declared}
    return msgspec.structs.replace(
        signature,
        inputs=tuple(
            msgspec.structs.replace(t, of=tuple(n for o in t.of for n in names.get(o, (o,))))
            for t in signature.inputs
        ),
    )


def declared_names(inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """The names in model.yaml of some inputs of a row, in order."""
    return tuple(by_declared(inputs))


def by_declared(inputs: Sequence[InputSpec]) -> dict[str, InputSpec]:
    """Name in model.yaml → the first of its inputs of a row, in order."""
    found: dict[str, InputSpec] = {}
    for spec in inputs:
        found.setdefault(spec.declared, spec)
    return found


def word_inputs(inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Names of the vocabularies of some inputs, categories and texts."""
    return tuple(dict.fromkeys(i.declared for i in inputs if i.kind in WORDED))


def are_whole(inputs: Sequence[InputSpec]) -> bool:
    """Whether each text, each vector and each number with remainders among a row's inputs has all
    of its places, side by side and in order."""
    whole: list[InputSpec] = []
    for spec in inputs:
        if spec.kind == REMAINDER:
            if whole and whole[-1].name == spec.of:
                whole += _remainders(spec.of)
            continue
        names = _row_names(_declared(spec), length_of(spec.name))
        if spec.kind not in WIDE or spec.name == names[0]:
            whole += [msgspec.structs.replace(spec, name=name) for name in names]
    return list(inputs) == whole


def word_problems(
    vocabularies: Vocabularies, inputs: Sequence[InputSpec]
) -> Iterator[tuple[str, str]]:
    """Input and the problem of its words; for a text, of its tokens."""
    texts = {i.declared for i in inputs if i.kind == "text"}
    yield from token_problems({n: words for n, words in vocabularies.items() if n in texts})
    yield from vocabulary_problems({n: w for n, w in vocabularies.items() if n not in texts})


def _declared(spec: InputSpec) -> InputSpec:
    return msgspec.structs.replace(spec, name=spec.declared)


def _length(spec: InputSpec, fields: Mapping[str, RequestField]) -> int:
    field = fields.get(spec.of or "") if spec.kind == "vector" else None
    return (field.length or 0) if field is not None else 0


def _row_names(spec: InputSpec, length: int) -> tuple[str, ...]:
    """
    Args:
        length: how many numbers a vector has; 0 for every other input, and for a vector of a field
            that is none, which `vector_rules` refuses.
    """
    if spec.kind == "vector" and length:
        return vector_columns(spec.name, length)
    if spec.kind != "text" or isinstance(spec.tokens, UnsetType):
        return (spec.name,)
    tokens = spec.tokens
    return tuple(column_name(spec.name, tokens, n) for n in range(1, tokens.length + 1))


class Label(Section, frozen=True):
    """The label of a request, and the time after which it is known.

    Args:
        name: name of what a positive label stands for, or of what is known later.
        maturity_days: days of event time after which a request without a label counts as negative;
            of classes and numbers, after which it is unknown.
        review: which decisions analysts look at, and when their opinions are a label.
    """

    name: FieldName
    maturity_days: Annotated[int, Meta(ge=0)]
    review: ReviewPolicy = ReviewPolicy()


class ModelDefinition(Section, frozen=True):
    """The declarations about a model before any version of it exists.

    Args:
        name: name of the model, which its folder has too.
        owner: who is responsible for the model: a person, a team or an address.
        purpose: what the model is for.
        tier: how much depends on the model, 1 the most; objectives and alerts are those of the tier
            (`observability/slo.yaml`).
        accelerator: what the model computes on: the processor, a GPU by CUDA or TensorRT, or with
            `gpu` one by CUDA where there is one, else the processor.
        assignment_unit: the request field by whose value requests keep to one version; `request`:
            each request by itself.
        latency_slo_ms: milliseconds within which answers should be given; at most `deadline_ms`.
        deadline_ms: milliseconds within which every request is answered, if need be without the
            model.
        idempotency_keep_h: hours for which a repeated request with the same idempotency key gets
            the first answer.
        when_unrecordable: what happens if a decision can't be recorded: the request is refused
            (`refuse`, status 503), or answered as degraded without a record (`answer_unlogged`).
        request: the fields that applications send besides `event_time`, by name.
        inputs: the inputs of the model, in order.
        label: what is known later of a request, and from when on.
        training: the training data of the model, and the resources of its fit.
        decision: the outcomes of the model, and where each begins.
        gates: the limits of a candidate before it becomes a version.
        serving: how predictors compute, and their resources.
        admission: limits of all clients of the model together.
        chain: the parts of a request's deadline.
        breaker: when a predictor is no longer called, and when it is tried again.
        rollout: how a new version gets traffic, and what stops it.
        drift: the limits beyond which traffic has drifted, and the reactions.
        task: the kind of labels: 0 and 1 (`binary`), a class (`classes`) or a number (`real`).
        protected: request fields whose groups are compared, and by which nothing decides; they may
            be absent.
        features: the freshness of features that the model requires.
        windows: real-time windows of the request's entities, as fresh as the last request
            (docs/features.md).
        exploration: requests whose hidden outcome is explored; None: none.
        ranking: the items that a request puts in order; None: a request is one item.
        retention: how long payloads are kept; None until somebody erases them.
        vocabularies: the words of category and text inputs that are not learned, in the order of
            their places.
        signature: the tensors of the graph; None: one float32 matrix.
        gpu: the GPU of each pod of a predictor, where `accelerator` is no processor; None: a whole
            one.
        team: the team on whose quota of a cluster the model's pods count; None for the quota of all
            models without a team.
        cache: limits of the cache of scores; None: no score is cached.
        asynchronous: `async` in model.yaml: how requests are scored later; None: such requests are
            refused.
    """

    name: Name
    owner: Text
    purpose: Text
    tier: Literal[1, 2, 3]
    accelerator: Literal["cpu", "gpu", "cuda", "tensorrt"]
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
    task: Task = "binary"
    protected: tuple[FieldName, ...] = ()
    features: FeaturesPolicy = FeaturesPolicy()
    windows: tuple[Window, ...] = ()
    exploration: ExplorationPolicy | None = None
    ranking: RankingPolicy | None = None
    retention: RetentionPolicy | None = None
    vocabularies: dict[str, Words] = msgspec.field(default_factory=dict)
    signature: Signature | None = None
    gpu: GpuPolicy | None = None
    team: Team | None = None
    cache: CachePolicy | None = None
    asynchronous: AsyncPolicy | None = msgspec.field(default=None, name="async")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of labels and outcomes, in the order of their places; empty for other
        tasks."""
        return self.decision.outcomes if self.decision.by_class else ()

    @property
    def takes_async(self) -> bool:
        """Whether gateways accept requests to be scored later."""
        return self.asynchronous is not None and self.asynchronous.enabled

    @property
    def personal(self) -> frozenset[str]:
        """Personal request fields, and inputs made of them; no log, span or metric may hold their
        values."""
        made = (i.name for i in self.inputs if i.of is not None)
        return frozenset((*self.request, *made))

    @property
    def optional(self) -> frozenset[str]:
        """Request fields that a request may leave out: those declared so, and protected ones."""
        return self.declared_optional.union(self.protected)

    @property
    def declared_optional(self) -> frozenset[str]:
        """Request fields with `optional: true`; earlier requests and histories may lack them."""
        return frozenset(name for name, field in self.request.items() if field.optional)

    @property
    def keys(self) -> frozenset[str]:
        """Request fields that tell entities, persons or units of assignment apart. Every request
        has them, and none as an empty text."""
        fields = self.request.items()
        return frozenset(n for n, f in fields if f.identifies or n == self.assignment_unit)

    @property
    def entities(self) -> dict[str, str]:
        """Entity name → the request field that holds its key."""
        return {f.entity: name for name, f in self.request.items() if f.entity is not None}


class ClassesDefinition(ModelDefinition, frozen=True, kw_only=True):
    """The declarations about a model whose labels are classes, and whose outcome is the most
    probable class."""

    decision: ClassDecision
    training: ClassTraining
    gates: ClassGates
    rollout: ClassRollout


class RealDefinition(ModelDefinition, frozen=True, kw_only=True):
    """The declarations about a model whose labels are numbers, and that answers with a number."""

    decision: RealDecision
    training: RealTraining
    gates: RealGates
    rollout: RealRollout


BINARY: Final = "binary"
DEFINITIONS: Final[Mapping[str, type[ModelDefinition]]] = {
    BINARY: ModelDefinition,
    "classes": ClassesDefinition,
    "real": RealDefinition,
}
"""By task, the type of its model.yaml."""
