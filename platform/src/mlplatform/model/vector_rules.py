"""Whether a request, a row and a record can hold the vectors that a model.yaml declares."""

from __future__ import annotations

from collections.abc import Iterator

from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.model.policies.values import Rule
from mlplatform.model.tensors.vectors import FLOAT32_MOST, length_of


def vector_rules(model: ModelDefinition) -> Iterator[Rule]:
    """The rules about vectors: whether each holds, the key, its value, and what is wanted."""
    for name, field in model.request.items():
        yield from _field(f"request.{name}", name, field, model)
    vectors = {name for name, field in model.request.items() if field.type == "vector"}
    listed = ", ".join(sorted(vectors)) or "none"
    for number, spec in enumerate(model.inputs):
        key = f"inputs.{number}"
        if spec.kind == "vector":
            wanted = f"a request field of type vector: one of {listed}"
            yield spec.of in vectors, f"{key}.of", spec.of, wanted
        else:
            wanted = "a number of the request: a vector takes an input of kind vector"
            for part in ("of", "to"):
                of = getattr(spec, part)
                is_feature = spec.kind in ("view", "window")
                yield is_feature or of not in vectors, f"{key}.{part}", of, wanted
        wanted = "a name that does not end like `.v64.3`, as the numbers of a vector do"
        yield not length_of(spec.name), f"{key}.name", spec.name, wanted
    shown = [name for name in model.label.review.shows if name in vectors]
    wanted = "request fields that a person can read: no vector"
    yield not shown, "label.review.shows", shown, wanted
    yield from _unwatched(model, vectors)


def _field(key: str, name: str, field: RequestField, model: ModelDefinition) -> Iterator[Rule]:
    if field.type != "vector":
        yield field.length is None, f"{key}.length", field.length, "nothing: only vectors have it"
        return
    wanted = "how many numbers the vector has: 1 to 1024"
    yield field.length is not None, f"{key}.length", field.length, wanted
    wanted = "a field that is not an entity, a pseudonym or assignment_unit: a vector names nobody"
    is_key = field.entity is not None or field.pseudonymous or name == model.assignment_unit
    yield not is_key, key, name, wanted
    for part in ("minimum", "maximum"):
        bound = getattr(field, part)
        wanted = f"a bound of each number, within ±{FLOAT32_MOST:.4g}: rows are float32"
        yield bound is None or abs(bound) <= FLOAT32_MOST, f"{key}.{part}", bound, wanted


def _unwatched(model: ModelDefinition, vectors: set[str]) -> Iterator[Rule]:
    """Rules of what reads one number of a request: a vector has none of its own."""
    inputs = {spec.name for spec in model.inputs if spec.kind == "vector"}
    for number, name in enumerate(model.drift.inputs):
        wanted = "an input that is a number or a category: numbers of a vector are not watched"
        yield name not in inputs, f"drift.inputs.{number}", name, wanted
    for number, segment in enumerate(model.drift.segments):
        key, wanted = f"drift.segments.{number}.input", "an input that is a number, no vector"
        yield segment.input not in inputs, key, segment.input, wanted
    of_rollout = model.rollout.segments
    for number, group in enumerate(of_rollout.groups if of_rollout is not None else ()):
        key = f"rollout.segments.groups.{number}"
        wanted = "a number or a text, no vector"
        yield group.input not in inputs, f"{key}.input", group.input, wanted
        yield group.field not in vectors, f"{key}.field", group.field, wanted
    for number, window in enumerate(model.windows):
        for part in ("where", "matching"):
            chosen = getattr(window, part)
            wanted = "a field that is a number, a text or a boolean, no vector"
            of = None if chosen is None else chosen.field
            yield of not in vectors, f"windows.{number}.{part}.field", of, wanted
