"""The model's inputs in order: one plan that fills a row for serving and a matrix for training."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from mlplatform.model.definition import (
    EVENT_TIME,
    REMAINDER,
    WIDE,
    WORDED,
    FieldType,
    InputSpec,
    ModelDefinition,
    RequestField,
    by_declared,
    declared_names,
    word_inputs,
)
from mlplatform.model.features import transforms
from mlplatform.model.features.views import FeatureSource, FeatureView
from mlplatform.model.policies.segments import RolloutSegment, SegmentPolicy, SegmentSource
from mlplatform.model.policies.values import Rule
from mlplatform.model.tensors.categories import (
    Places,
    Vocabularies,
    column_places,
    place,
    places,
)
from mlplatform.model.tensors.remainders import (
    column_remainders,
    remainder_places,
    remainders,
    whole_column,
)
from mlplatform.model.tensors.tokens import Tokenizer, Tokens, column_name, number_of, text_of
from mlplatform.model.tensors.vectors import Vector, length_of, spans
from mlplatform.model.windows.declaration import by_entity, source_name
from mlplatform.runtime.errors import ConfigInvalid

if TYPE_CHECKING:
    import pyarrow as pa  # a gateway starts without it

    from mlplatform.model.bundle import Bundle

Request = Mapping[str, Any]
ViewValues = Mapping[str, float | None]
_FIELD_TYPES: Final[Mapping[str, FieldType]] = {
    "category": "string",
    "text": "string",
    "vector": "vector",
}
"""Kind of an input → the type of its request field, if that is no number."""
Step = Callable[[Request, int, ViewValues], float]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input by position: its transform, and the names from which it is computed."""

    name: str
    kind: Literal["request", "view"]
    transform: str
    of: str | None = None
    to: str | None = None
    tokens: Tokens | UnsetType = UNSET


class InputPlan:
    """Ordered model inputs, checked against the request schema and the feature views.

    Args:
        definition: the model's request fields and, if `inputs` is None, its inputs.
        inputs: the inputs of a bundle, which may be older than the model folder; None: those of
            `definition`.
        defaults: feature → value for a missing one, as the bundle was trained; None: those of the
            views.
        vocabularies: category or text → its words; a row holds the position of a word.

    Raises:
        ConfigInvalid: an input names an unknown request field or feature, or its words are missing.
    """

    def __init__(
        self,
        definition: ModelDefinition,
        views: Sequence[FeatureView],
        inputs: Sequence[InputSpec] | None = None,
        defaults: Mapping[str, float] | None = None,
        vocabularies: Vocabularies | None = None,
    ) -> None:
        self._vectors = {
            name: f.length for name, f in definition.request.items() if f.type == "vector"
        }
        self._of_fields = fields_by_kind(definition.request)
        self._words = vocabularies or {}
        of_entities = by_entity(definition.windows, definition.entities)
        sources: tuple[FeatureSource, ...] = (*views, *of_entities)
        self._features = {f: v.name for v in sources for f in v.feature_names}
        if sum(len(v.feature_names) for v in sources) > len(self._features):
            names = sorted({w.name for w in definition.windows} & {*feature_names(views)})
            raise ConfigInvalid("windows", names, "names that no feature view uses")
        specs = definition.inputs if inputs is None else inputs
        self.inputs = tuple(self._checked(spec) for spec in specs)
        self.names = tuple(i.name for i in self.inputs)
        used = {n for i in self.inputs for n in (i.name, i.to) if n in self._features}
        self.features = tuple(f for v in sources for f in v.feature_names if f in used)
        self.views = tuple(v for v in views if used.intersection(v.feature_names))
        self.sources = tuple(v for v in sources if used.intersection(v.feature_names))
        self._defaults = view_defaults(sources) if defaults is None else defaults
        self.texts = frozenset(i.of or "" for i in self.inputs if i.transform in WORDED)
        self.vectors = {
            i.of or "": length_of(i.name) for i in self.inputs if i.transform == "vector"
        }
        self.words = frozenset(word_inputs(specs))
        categories = [i.name for i in self.inputs if i.transform == "category"]
        self._places = {name: places(self._words[name]) for name in categories}
        self._steps = tuple(self._step(i) for i in self.inputs if i.transform not in WIDE)
        self._wide: tuple[_Wide, ...] = (*_texts(self.inputs, self._words), *_vectors(self.inputs))
        self._exact = tuple(_exact(self.inputs))
        self.exact = frozenset(of for of, *_ in self._exact if of is not None)
        self._order = _order(self.inputs, self._wide)

    def row(self, request: Request, event_ms: int, view_values: ViewValues) -> list[float]:
        """The inputs of one request, in order; NaN where a value is missing."""
        found = [step(request, event_ms, view_values) for step in self._steps]
        if not self._order:
            return found
        for wide in self._wide:
            found += wide.reader.places(request.get(wide.of))
        for of, head, _ in self._exact:
            found += remainders(found[head] if of is None else request.get(of))
        return [found[place] for place in self._order]

    def matrix(self, table: pa.Table) -> NDArray[np.float32]:
        """The inputs of a table with `event_time`, the request fields and the features."""
        import pyarrow as pa  # only training needs it; the gateway fills rows

        times = table.column(EVENT_TIME).cast(pa.timestamp("ms"), safe=False)
        event_ms = times.cast(pa.int64()).to_numpy()
        result = np.empty((table.num_rows, len(self.inputs)), dtype=np.float32)
        exact = remainder_places(self.names)
        for position, spec in enumerate(self.inputs):
            if spec.transform == "category":
                texts = table.column(spec.of or "")
                result[:, position] = column_places(texts, self._places[spec.name])
            elif spec.transform not in WIDE:
                values = _values(spec, table, event_ms, self._defaults)
                result[:, position] = values
                if spec.name in exact:
                    result[:, exact[spec.name]] = _column_remainders(spec, table, values)
        for wide in self._wide:
            found = wide.reader.column(table.column(wide.of))
            result[:, wide.positions] = found[:, wide.places]
        return result

    def _step(self, spec: ModelInput) -> Step:
        if spec.transform == "category":
            return _category(spec.of or "", self._places[spec.name])
        return _step(spec, self._features, self._defaults)

    def _checked(self, spec: InputSpec) -> ModelInput:
        if spec.kind == REMAINDER:
            return ModelInput(spec.name, "request", spec.kind)
        for part, found, why in reference_faults(spec, self._of_fields, self._features):
            raise ConfigInvalid(f"inputs: {spec.name}: {part}", found, why)
        match spec.kind:
            case "view" | "window":
                return ModelInput(spec.name, "view", "view", spec.of)
            case "category" | "text" if spec.declared not in self._words:
                wanted = "the words of this input, from the bundle or learned"
                raise ConfigInvalid(f"inputs: {spec.name}: vocabulary", None, wanted)
            case "vector":
                length, read = self._vectors[spec.of or ""], length_of(spec.name)
                if length != read:
                    wanted = f"{read}, as this bundle reads; another length needs a new field"
                    raise ConfigInvalid(f"length of request field {spec.of}", length, wanted)
        if spec.kind in transforms.TIME_SCALAR:
            return ModelInput(spec.name, "request", spec.kind)
        return ModelInput(spec.name, "request", spec.kind, spec.of, spec.to, tokens=spec.tokens)


def fields_by_kind(fields: Mapping[str, RequestField]) -> dict[FieldType, tuple[str, ...]]:
    """Type of a request field → the fields that an input may read; `float64` stands for all types
    whose values are one number."""
    found: dict[FieldType, tuple[str, ...]] = {"float64": (), "string": (), "vector": ()}
    for name, field in fields.items():
        if not field.pseudonymous:
            kind: FieldType = field.type if field.type in found else "float64"
            found[kind] += (name,)
    return found


def reference_faults(
    spec: InputSpec,
    of_fields: Mapping[FieldType, Collection[str]],
    features: Mapping[str, str] | None,
) -> Iterator[tuple[str, str | None, str]]:
    """The key, value and what is wanted, of each reference of an input that leads nowhere.

    Args:
        of_fields: as `fields_by_kind` gives them.
        features: feature → its view, or the source of its entity's windows; None: not known, and
            no reference to a feature is judged.
    """
    if spec.kind in ("view", "window"):
        of, wanted = spec.of, "the view that has this feature"
        if spec.kind == "window":
            of, wanted = source_name(spec.of or ""), "the entity of a window so named"
        if features is not None and features.get(spec.name) != of:
            yield "of", spec.of, wanted
    elif spec.kind not in transforms.TIME_SCALAR:
        known = of_fields[_FIELD_TYPES.get(spec.kind, "float64")]
        if spec.of not in known:
            yield "of", spec.of, _one_of(known, spec.of)
        if spec.kind == "ratio" and features is not None:
            known = {*known, *features}
            if spec.to not in known:
                yield "to", spec.to, _one_of(known, spec.to)


def reference_rules(model: ModelDefinition) -> Iterator[Rule]:
    """The rules of inputs that read a request field, before any feature is known: whether each
    holds, the key, its value, and what is wanted."""
    of_fields = fields_by_kind(model.request)
    for number, spec in enumerate(model.inputs):
        if spec.kind != "vector" and spec.of not in of_fields["vector"]:  # `vector_rules` has these
            for part, value, wanted in reference_faults(spec, of_fields, None):
                yield False, f"inputs.{number}.{part}", value, wanted


def feature_faults(
    model: ModelDefinition, views: Sequence[FeatureView]
) -> Iterator[tuple[tuple[str, str, str], str | None, str]]:
    """The key of model.yaml, value and what is wanted, of each reference of an input that leads
    nowhere, when the features are known."""
    sources: tuple[FeatureSource, ...] = (*views, *by_entity(model.windows, model.entities))
    features = {name: source.name for source in sources for name in source.feature_names}
    of_fields, places = fields_by_kind(model.request), declared_names(model.inputs)
    for spec in by_declared(model.inputs).values():
        for part, value, wanted in reference_faults(spec, of_fields, features):
            yield ("inputs", str(places.index(spec.declared)), part), value, wanted


def _one_of(known: Collection[str], value: str | None) -> str:
    near = difflib.get_close_matches(value or "", known, n=1)
    return f"one of {', '.join(sorted(known)) or 'none'}" + "".join(
        f"; the nearest is {name}" for name in near
    )


def recorded_plan(
    definition: ModelDefinition, views: Sequence[FeatureView], bundle: Bundle
) -> InputPlan:
    """The plan of a bundle's inputs, also where model.yaml has lost request fields that they read.

    Raises:
        ConfigInvalid: model.yaml no longer has a feature of the bundle.
    """
    recorded = as_recorded(definition, views, bundle.inputs)
    return InputPlan(recorded, views, bundle.inputs, bundle.defaults, bundle.vocabularies)


def as_recorded(
    definition: ModelDefinition, views: Sequence[FeatureSource], inputs: Sequence[InputSpec]
) -> ModelDefinition:
    """The definition with the request fields that a bundle's inputs read and model.yaml has lost:
    records have their values still."""
    features = {*feature_names(views), *(window.name for window in definition.windows)}
    lost: dict[str, RequestField] = {}
    for spec in inputs:
        if spec.kind in ("view", "window", REMAINDER):
            continue
        kind: FieldType = _FIELD_TYPES.get(spec.kind, "float64")
        for name in (spec.of, spec.to):
            if name is not None and name not in features and name not in definition.request:
                length = length_of(spec.name) or None
                lost[name] = RequestField(type=kind, length=length, optional=True)
    return msgspec.structs.replace(definition, request={**definition.request, **lost})


def feature_names(sources: Sequence[FeatureSource]) -> tuple[str, ...]:
    """The features of some sources, in order."""
    return tuple(name for source in sources for name in source.feature_names)


def view_defaults(views: Sequence[FeatureSource]) -> dict[str, float]:
    """Feature → the number in place of a missing value, for features that have one."""
    return {f.name: f.default for v in views for f in v.fields if f.default is not None}


def declared_words(definition: ModelDefinition) -> dict[str, tuple[str, ...]]:
    """Category or text → the words that model.yaml gives it: its own, or for a category the closed
    list of its field."""
    found = {}
    for spec in definition.inputs:
        if spec.kind == "category":
            field = definition.request.get(spec.of or "")
            of_field = field.values if field is not None else None
            words = definition.vocabularies.get(spec.name, of_field)
            if words is not None:
                found[spec.name] = tuple(word for word in words if word)
        elif spec.kind == "text" and spec.declared in definition.vocabularies:
            found[spec.declared] = definition.vocabularies[spec.declared]
    return found


def fields_read(spec: InputSpec, among: Collection[str]) -> tuple[str, ...]:
    """The request fields among some that an input itself reads."""
    if spec.kind in ("view", "window", REMAINDER):
        return ()  # these read columns that their own declaration names
    return tuple(name for name in among if name in (spec.of, spec.to))


def segment_sources(
    policy: SegmentPolicy | None, inputs: Sequence[InputSpec]
) -> tuple[SegmentSource, ...]:
    """The sources of the values of a model's segments, in the order of model.yaml; empty without
    segments."""
    declared = {spec.name: spec for spec in inputs}

    def source(segment: RolloutSegment) -> SegmentSource:
        kind, of, to = "field", segment.field, None
        if segment.input is not None:
            spec = declared[segment.input]
            is_read = spec.kind in ("view", "window")  # a record holds both as features
            kind, of, to = ("view", spec.name, None) if is_read else (spec.kind, spec.of, spec.to)
        return SegmentSource(
            segment.name, kind, of, to, segment.at_least, segment.below, segment.values
        )

    return () if policy is None else tuple(source(segment) for segment in policy.groups)


def _step(spec: ModelInput, features: Mapping[str, str], defaults: Mapping[str, float]) -> Step:
    of, to, number = spec.of or "", spec.to or "", transforms.number
    match spec.transform:
        case "view":
            return _feature(spec.name, defaults)
        case "field":
            return lambda request, event_ms, values: number(request.get(of))
        case "ratio":
            ratio = transforms.ratio
            if to in features:
                below = _feature(to, defaults)
                return lambda request, event_ms, values: ratio(
                    number(request.get(of)), below(request, event_ms, values)
                )
            return lambda request, event_ms, values: ratio(
                number(request.get(of)), number(request.get(to))
            )
        case _:
            function = transforms.TIME_SCALAR[spec.transform]
            return lambda request, event_ms, values: function(event_ms)


class _Reader(Protocol):
    """Reads all numbers of a text or a vector."""

    def places(self, value: Any) -> Sequence[float]: ...
    def column(self, values: pa.ChunkedArray[Any]) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class _Wide:
    """One text or vector of a request, with the places that a row holds and their positions.

    Args:
        places: numbers of the tokens, or of the vector's numbers, from 0.
        positions: position in a row of each of these.
    """

    of: str
    reader: _Reader
    length: int
    places: list[int]
    positions: list[int]


def _texts(inputs: Sequence[ModelInput], words: Vocabularies) -> tuple[_Wide, ...]:
    found: dict[str, _Wide] = {}
    for position, spec in enumerate(inputs):
        if spec.transform == "text" and isinstance(spec.tokens, Tokens):
            text, tokens = text_of(spec.name) or "", spec.tokens
            key = column_name(text, tokens, 1)
            if key not in found:
                tokenizer = Tokenizer(tokens, words[text])
                found[key] = _Wide(spec.of or "", tokenizer, tokens.length, [], [])
            found[key].places.append(number_of(spec.name) - 1)
            found[key].positions.append(position)
    return tuple(found.values())


def _vectors(inputs: Sequence[ModelInput]) -> Iterator[_Wide]:
    for _, at in spans([i.name for i in inputs]):
        spec, positions = inputs[at.start], [*range(at.start, at.stop)]
        if spec.transform == "vector":
            of, length = spec.of or "", len(positions)
            yield _Wide(of, Vector(of, length), length, [*range(length)], positions)


def _exact(inputs: Sequence[ModelInput]) -> Iterator[tuple[str | None, int, tuple[int, int]]]:
    """The inputs with remainders: the request field that one is, or None if it is made of others,
    the index of its number among the inputs that have one place, and the remainders' positions."""
    places = remainder_places([spec.name for spec in inputs])
    single = (spec for spec in inputs if spec.transform not in WIDE)
    for index, spec in enumerate(single):
        if spec.name in places:
            yield spec.of if spec.transform == "field" else None, index, places[spec.name]


def _order(inputs: Sequence[ModelInput], wide: Sequence[_Wide]) -> list[int]:
    """The index of each input's value when the other inputs' values come first, then all places of
    each text and vector, then the remainders; empty for a plan without them."""
    exact = tuple(_exact(inputs))
    if not wide and not exact:
        return []
    others = (p for p, spec in enumerate(inputs) if spec.transform not in WIDE)
    order = {position: place for place, position in enumerate(others)}
    start = len(order)
    for one in wide:
        order |= {p: start + n for p, n in zip(one.positions, one.places, strict=True)}
        start += one.length
    order |= {p: start + n for n, p in enumerate(p for *_, pair in exact for p in pair)}
    return [order[position] for position in range(len(inputs))]


def _category(of: str, known: Places) -> Step:
    return lambda request, event_ms, values: place(request.get(of), known)


def _feature(name: str, defaults: Mapping[str, float]) -> Step:
    number, default = transforms.number, defaults.get(name)
    if default is None:
        return lambda request, event_ms, values: number(values.get(name))
    instead: float = default

    def value(request: Request, event_ms: int, values: ViewValues) -> float:
        found = number(values.get(name))
        return instead if found != found else found

    return value


def _values(
    spec: ModelInput, table: pa.Table, event_ms: transforms.Times, defaults: Mapping[str, float]
) -> transforms.Column:
    match spec.transform:
        case "view":
            return _column(table, spec.name, defaults)
        case "field":
            return _column(table, spec.of or "", {})
        case "ratio":
            below = _column(table, spec.to or "", defaults)
            return transforms.ratios(_column(table, spec.of or "", {}), below)
        case _:
            return transforms.TIME_VECTOR[spec.transform](event_ms)


def _column(table: pa.Table, name: str, defaults: Mapping[str, float]) -> transforms.Column:
    import pyarrow as pa

    column = table.column(name).cast(pa.float64(), safe=False)  # as Python rounds a large one
    values = column.to_numpy(zero_copy_only=False)
    numbers = transforms.numbers(values.astype(np.float64))
    if name in defaults:
        return np.where(np.isnan(numbers), defaults[name], numbers)
    return numbers


def _column_remainders(
    spec: ModelInput, table: pa.Table, values: transforms.Column
) -> NDArray[np.float32]:
    """The remainders of an input's numbers; whole numbers of a request are read as such."""
    import pyarrow as pa

    if spec.transform != "field" or not pa.types.is_integer(table.column(spec.of or "").type):
        return column_remainders(values)
    whole, missing = whole_column(table.column(spec.of or ""))
    return np.where(missing[:, None], np.float32(np.nan), column_remainders(whole))
