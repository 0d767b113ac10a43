"""Inputs of a version: their sources, and what happens if one is missing."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import assert_never

from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import InputSpec, ModelDefinition, by_declared
from mlplatform.model.features.views import (
    Feature,
    FeatureField,
    FeatureSource,
    FeatureView,
    MissingPolicy,
    StalePolicy,
)
from mlplatform.model.tensors.vectors import length_of
from mlplatform.model.windows.declaration import Window, by_entity
from mlplatform.operations.card.card import Input

SENT = "the application has to send it: a request without it is refused"
OPTIONAL = "the application may leave it out: then it is missing to the model"
TIMES: Mapping[str, str] = {
    "hour_of_day": "the hour of event time",
    "day_of_week": "the weekday of event time",
    "is_weekend": "whether event time is on a weekend",
    "is_night": "whether event time is at night",
}
AGGREGATES: Mapping[str, str] = {
    "count": "number of requests",
    "sum": "sum",
    "mean": "mean",
    "std": "standard deviation",
    "min": "least",
    "max": "greatest",
    "label_share": "share of requests labelled positive",
    "seconds_since": "seconds since the last request",
    "rate": "number of requests",
    "share": "share of requests that match",
    "first": "first value",
    "last": "last value",
    "distinct": "estimated number of distinct values",
}


def card_inputs(
    definition: ModelDefinition, views: Sequence[FeatureView], bundle: Bundle | None
) -> tuple[Input, ...]:
    """The inputs in the model's order: those of the bundle, or else those that model.yaml declares.

    Args:
        views: views of the model's folder, which declare what happens if a feature is missing or
            stale.
    """
    specs = definition.inputs if bundle is None else bundle.inputs
    windows = definition.windows if bundle is None else bundle.windows
    known = definition.entities
    entities = by_entity([w for w in windows if w.entity in known], known)
    sources: tuple[FeatureSource, ...] = (*views, *entities)
    features = {f.name: (source, f) for source in sources for f in source.fields}
    defaults = _defaults(features) if bundle is None else bundle.defaults
    usual = {} if bundle is None else bundle.reference
    return tuple(
        Input(
            name=spec.declared,
            kind=spec.kind,
            made_of=_origin(spec, features, bundle),
            missing=_missing_text(spec, features, defaults, definition.optional),
            stale=_stale(spec, features),
            usual=usual.get(spec.declared),
        )
        for spec in by_declared(specs).values()
    )


_Features = Mapping[str, tuple[FeatureSource, Feature]]


def _defaults(features: _Features) -> dict[str, float]:
    return {name: f.default for name, (_, f) in features.items() if f.default is not None}


def _origin(spec: InputSpec, features: _Features, bundle: Bundle | None) -> str:
    match spec.kind:
        case "field":
            return f"request field {spec.of}"
        case "category" | "text":
            words = None if bundle is None else bundle.vocabularies.get(spec.declared)
            known = "" if words is None else f", of which {len(words):,} words are known"
            return f"request field {spec.of}{known}"
        case "vector":
            return f"request field {spec.of}, a vector of {length_of(spec.name)} numbers"
        case "ratio":
            return f"{spec.of} divided by {spec.to}"
        case "view" | "window":
            found = features.get(spec.name)
            if found is None:
                return f"{spec.kind} {spec.of}, which the model's folder no longer declares"
            return _aggregate(*found)
        case "hour_of_day" | "day_of_week" | "is_weekend" | "is_night":
            return TIMES[spec.kind]
        case "remainder":
            return f"the part of {spec.of} that float32 does not hold"
        case _:
            assert_never(spec.kind)


def _aggregate(source: FeatureSource, feature: Feature) -> str:
    match feature:
        case FeatureField(aggregate=None):
            return f"view {source.name}: column {feature.name} of a table of the bank"
        case FeatureField(aggregate=str() as aggregate):
            of = "" if feature.column is None else f" of {feature.column}"
            until = f", {feature.delay_days} days before the snapshot" if feature.delay_days else ""
            what, days = AGGREGATES[aggregate], feature.window_days
            over = "1 day" if days == 1 else f"{days} days"
            return f"view {source.name}: {what}{of} over {over}{until}"
        case Window(aggregate="ratio"):
            return f"{feature.of} divided by {feature.to}, by {feature.entity}"
        case Window():
            of = "" if feature.of is None else f" of {feature.of}"
            which = "" if feature.where is None else ", of the requests that its filter counts"
            what = AGGREGATES[feature.aggregate]
            if feature.matching is not None:
                what += f" {feature.matching.field} {feature.matching.op} {feature.matching.value}"
            what += f" in {feature.per}" if feature.per else ""
            return f"{what}{of} over {feature.window} by {feature.entity}{which}"
        case _:
            return f"view {source.name}"


def _missing_text(
    spec: InputSpec, features: _Features, defaults: Mapping[str, float], optional: Container[str]
) -> str:
    sent = OPTIONAL if spec.of in optional else SENT
    match spec.kind:
        case "field" | "vector":
            return sent
        case "text":
            return (
                f"{sent}; an empty text has no tokens, and a token outside the vocabulary "
                "counts as unknown"
            )
        case "category":
            return (
                f"{sent}; an empty text is a missing value, and a word outside the vocabulary "
                "counts as unknown"
            )
        case "ratio":
            when = (
                "the model gets no value where either is missing, or where the divisor is nearly 0"
            )
            if spec.to not in features:
                return when
            return f"{when}; {spec.to}: {_without(spec.to or '', features, defaults)}"
        case "view" | "window":
            return _without(spec.name, features, defaults)
        case "hour_of_day" | "day_of_week" | "is_weekend" | "is_night":
            return "never: each request has a time"
        case "remainder":
            return f"as {spec.of}"
        case _:
            assert_never(spec.kind)


def _without(name: str, features: _Features, defaults: Mapping[str, float]) -> str:
    default = defaults.get(name)
    stands = (
        "the model gets no value" if default is None else f"the model gets {default:g} in its place"
    )
    found = features.get(name)
    if found is None:
        return f"{stands}; what the answer says is not recorded"
    return f"{stands}, and {_answer_text(found[1].missing)}"


def _answer_text(policy: MissingPolicy) -> str:
    match policy:
        case "default":
            return "the answer names the view"
        case "degrade":
            return "the answer is degraded"
        case "refuse":
            return "there is no answer"
        case _:
            assert_never(policy)


def _stale(spec: InputSpec, features: _Features) -> str | None:
    found = features.get(spec.name) or features.get(spec.to or "")
    return None if found is None else _when_stale(found[0].stale)


def _when_stale(policy: StalePolicy) -> str:
    match policy:
        case "fallback":
            return (
                "no model is asked: the small model, the rules or the safe default decide, degraded"
            )
        case "degrade":
            return "the model is asked without it, and the answer is degraded"
        case "refuse":
            return "there is no answer"
        case _:
            assert_never(policy)
