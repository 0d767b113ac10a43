"""Whether the segments that a model.yaml declares have a source, and values that can occur."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mlplatform.model.definition import WIDE, ModelDefinition, RequestField, word_inputs
from mlplatform.model.inputs import declared_words
from mlplatform.model.policies.cut_offs import RowSegment
from mlplatform.model.policies.segments import Segment
from mlplatform.model.policies.values import Rule


def segment_rules(model: ModelDefinition) -> Iterator[Rule]:
    """The rules: whether each holds, the key, its value, and what is wanted."""
    if (policy := model.rollout.segments) is not None:
        for name in ("alerts", "disagreement"):
            value, limit = getattr(policy.tolerance, name), getattr(policy.stop, name)
            wanted = f"rollout.segments.stop.{name} ({limit:g}) or more"
            yield value >= limit, f"rollout.segments.tolerance.{name}", value, wanted
        yield from _groups("rollout.segments.groups", policy.groups, model)
    if (gates := model.gates.segments) is not None:
        yield from _groups("gates.segments.groups", gates.groups, model)
        yield from _held_out("gates.segments.groups", gates.groups, model)
    whole, segments = "decision.thresholds.segments", model.decision.thresholds.segments
    yield from _groups(whole, segments, model)
    yield from _held_out(whole, segments, model, decide=True)
    yield from _words(whole, segments, model)


def threshold_segments(model: ModelDefinition) -> tuple[RowSegment, ...]:
    """The segments that have thresholds of their own, by the inputs of a row."""
    inputs = readable(model)
    return tuple(
        RowSegment(
            name=segment.name,
            input=segment.input or inputs[segment.field or ""],
            at_least=segment.at_least,
            below=segment.below,
            values=tuple(v if isinstance(v, str) else float(v) for v in segment.values),
        )
        for segment in model.decision.thresholds.segments
    )


def readable(model: ModelDefinition) -> dict[str, str]:
    """Request field → the input that reads it as it is."""
    return {i.of: i.name for i in model.inputs if i.kind in ("field", "category") and i.of}


def _held_out(
    whole: str, groups: Sequence[Segment], model: ModelDefinition, *, decide: bool = False
) -> Iterator[Rule]:
    """Rules of what held-out rows hold: inputs and protected fields, and no others.

    Args:
        decide: whether decisions depend on these segments, and so on no protected field.
    """
    kept, also = {*readable(model)}, ""
    if not decide:
        kept, also = kept | {*model.protected}, ", or a protected one"
    inputs = {i.name for i in model.inputs if i.kind not in WIDE} - {*word_inputs(model.inputs)}
    for number, segment in enumerate(groups):
        wanted = f"a field that an input reads as it is{also}: {_listed(kept)}"
        is_kept = segment.field is None or segment.field in kept
        yield is_kept, f"{whole}.{number}.field", segment.field, wanted
        wanted = "an input that is one number; a text by its `field`"
        is_one = segment.input is None or segment.input in inputs
        yield is_one, f"{whole}.{number}.input", segment.input, wanted


def _words(whole: str, groups: Sequence[Segment], model: ModelDefinition) -> Iterator[Rule]:
    """Rules of texts by which thresholds are chosen: a learned vocabulary may lack them."""
    inputs, words = readable(model), declared_words(model)
    for number, segment in enumerate(groups):
        name, field = inputs.get(segment.field or ""), model.request.get(segment.field or "")
        if name is None or field is None or field.type != "string":
            continue
        known = words.get(name, ())
        lacking = [value for value in segment.values if value not in known]
        wanted = f"words that vocabularies.{name} or request.{segment.field}.values declare"
        yield not lacking, f"{whole}.{number}.values", lacking, wanted


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "there is none"


def _groups(whole: str, groups: Sequence[Segment], model: ModelDefinition) -> Iterator[Rule]:
    """Rules of each segment: it has one source, and values that its source can have."""
    names = [segment.name for segment in groups]
    yield len(set(names)) == len(names), whole, names, "names that differ"
    inputs = {i.name for i in model.inputs}
    for number, segment in enumerate(groups):
        key = f"{whole}.{number}"
        one = (segment.input is None) != (segment.field is None)
        yield one, key, segment.name, "input or field, one of the two"
        known = segment.input is None or segment.input in inputs
        yield known, f"{key}.input", segment.input, "the name of an input"
        field = model.request.get(segment.field or "")
        known = segment.field is None or field is not None
        yield known, f"{key}.field", segment.field, "the name of a request field"
        spelled = field is None or not field.pseudonymous
        wanted = "a field that is not pseudonymous: its values are not what was sent"
        yield spelled, f"{key}.field", segment.field, wanted
        bounds = (segment.at_least, segment.below)
        some = bool(segment.values) != (bounds != (None, None))
        yield some, key, segment.name, "at_least, below or both; or else values"
        at_least, below = (-math.inf if bounds[0] is None else bounds[0],
                           math.inf if bounds[1] is None else bounds[1])  # fmt: skip
        yield at_least < below, f"{key}.below", segment.below, "more than at_least"
        if field is not None or segment.input in inputs:
            yield from _segment_values(f"{key}.values", segment, field)


def _segment_values(key: str, segment: Segment, field: RequestField | None) -> Iterator[Rule]:
    """Rules of a segment's values: without a possible value, a rollout would wait for a segment
    that never occurs."""
    is_text, values = field is not None and field.type == "string", segment.values
    fits = bool(values) if is_text else not any(isinstance(value, str) for value in values)
    wanted = "texts of a field of type string, which has no bounds" if is_text else "numbers"
    yield fits and (not is_text or all(isinstance(v, str) for v in values)), key, values, wanted
    if field is not None and field.values is not None:
        yield set(values) <= set(field.values), key, values, f"of {', '.join(field.values)}"
