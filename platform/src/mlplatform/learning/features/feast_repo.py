"""Feast definitions rendered to features.json, which every process reads in place of Feast.

Importing Feast takes seconds and sets PROMETHEUS_MULTIPROCESS_DIR for the whole process and its
children, so no serving or training process may load this module.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import feast
import msgspec

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.purposes import DeclaredViews
from mlplatform.model.features.views import (
    FILE,
    SOURCE,
    FeatureField,
    FeatureView,
    check,
    check_purposes,
    source_digest,
)
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import (
    check_shared_views,
    load_definition,
    model_folder,
    model_names,
)
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, PlatformError

DTYPES = {"Float64": "float64", "Int64": "int64", "Bool": "bool"}
_WANTED_TAGS = "tags as docs/features.md has them"
KEYS = {feast.ValueType.INT64: "int64", feast.ValueType.STRING: "string"}
EXTERNAL = "external"
"""Tag of a view whose values come from a table of the bank instead of from requests."""


def feast_objects(model: str) -> list[Any]:
    """The entities, sources and feature views that a model's features.py defines."""
    module = load_module(model, "features")
    entities = [o for o in vars(module).values() if isinstance(o, feast.Entity)]
    return [*entities, *module.FEATURE_VIEWS]


def views(model: str) -> tuple[FeatureView, ...]:
    """The platform's own form of a model's Feast feature views.

    Raises:
        ConfigInvalid: a definition cannot be compiled to SQL; the message names the view or the
            feature.
    """
    objects = feast_objects(model)
    entities = {o.name: o for o in objects if isinstance(o, feast.Entity)}
    found = tuple(_view(o, entities) for o in objects if isinstance(o, feast.FeatureView))
    check(found)
    check_purposes(found, purposes(model))
    definition = load_definition(model)
    known = definition.entities
    for view in found:
        if known.get(view.entity) != view.join_key:
            raise ConfigInvalid(f"view {view.name}: join key", view.join_key, f"one of {known}")
        _check_key(view, definition)
    return found


def purposes(model: str) -> tuple[str, ...]:
    """The purposes for which a model uses features, by `PURPOSES` of its features.py."""
    return tuple(getattr(load_module(model, "features"), "PURPOSES", ()))


def render(model: str) -> str:
    """The text of a model's features.json; the same features.py gives the same text."""
    generated = "by python -m mlplatform.learning.features.feast_repo from features.py; do not edit"
    listed = [_listed(msgspec.to_builtins(view)) for view in views(model)]
    body = {"model": model, "source": source_digest(model_folder(model)), "views": listed}
    if known := purposes(model):
        body["purposes"] = list(known)
    return f'{{"generated": "{generated}",{json.dumps(body, indent=1)[1:]}\n'


def _listed(view: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in view.items() if (name, value) != (EXTERNAL, None)}


def write(models: Iterable[str]) -> None:
    """Write features.json of each of these models whose folder defines features.

    Raises:
        ConfigInvalid: for the same reasons as in `views`, or another folder does not let the model
            use a view as it would.
    """
    for model in models:
        folder = model_folder(model)
        if (folder / SOURCE).is_file():
            check_shared_views(DeclaredViews(model, purposes(model), views(model)))
            (folder / FILE).write_text(render(model))


def main() -> None:
    """Write that of the models that are named, of all where none is."""
    try:
        write(sys.argv[1:] or model_names())
    except PlatformError as error:
        sys.exit(str(error))


def _view(view: Any, entities: dict[str, Any]) -> FeatureView:
    if len(view.entities) != 1:
        raise ConfigInvalid(f"view {view.name}: entities", view.entities, "exactly one")
    ttl: timedelta | None = view.ttl
    if not ttl:
        raise ConfigInvalid(f"view {view.name}: ttl", ttl, "more than 0")
    (entity,) = view.entities
    tags = dict(view.tags)
    source = _external(view, entities[entity], tags)
    content = {
        "name": view.name,
        "entity": entity,
        "join_key": entities[entity].join_key,
        "ttl_ms": ttl // timedelta(milliseconds=1),
        "fields": tuple(msgspec.to_builtins(_field(f, source is not None)) for f in view.features),
        EXTERNAL: source,
        **tags,
    }
    try:
        return msgspec.convert(content, FeatureView)
    except msgspec.ValidationError as error:
        raise ConfigUnusable(f"view {view.name}: tags", str(error), _WANTED_TAGS) from error


def _external(view: Any, entity: Any, tags: dict[str, str]) -> dict[str, Any] | None:
    """The source of a view with the tag `external`; its own tags are removed from the others."""
    tag = tags.pop(EXTERNAL, None)
    if tag is None:
        return None
    if tag != "true":
        raise ConfigInvalid(f"view {view.name}: tag {EXTERNAL}", tag, "true, or no such tag")
    if entity.value_type not in KEYS:
        wanted = "ValueType.INT64 or ValueType.STRING"
        raise ConfigInvalid(f"entity {entity.name}: value_type", entity.value_type, wanted)
    allowed = [word.strip() for word in tags.pop("purposes", "").split(",")]
    optional: dict[str, Any] = {"topic": tags.pop("topic")} if "topic" in tags else {}
    if (kept := tags.pop("keep_days", None)) is not None:
        if not kept.isdigit():
            raise ConfigInvalid(f"view {view.name}: tag keep_days", kept, "whole days, 1 or more")
        optional["keep_days"] = int(kept)
    return optional | {
        "key": KEYS[entity.value_type],
        "event_time": view.batch_source.timestamp_field or "",
        "available_time": view.batch_source.created_timestamp_column or "",
        "owner": view.owner,
        "purposes": [word for word in allowed if word],
    }


def _check_key(view: FeatureView, definition: ModelDefinition) -> None:
    key_type = definition.request[view.join_key].type
    if view.external is not None and view.external.key != key_type:
        wanted = f"{key_type}, as request.{view.join_key} in model.yaml"
        raise ConfigInvalid(f"view {view.name}: key", view.external.key, wanted)


def _field(field: Any, is_external: bool) -> FeatureField:
    if str(field.dtype) not in DTYPES:
        raise ConfigInvalid(f"feature {field.name}: dtype", field.dtype, " or ".join(DTYPES))
    tags = {"column": None, "default": None, **field.tags}
    if is_external:
        tags = {"aggregate": None, "window_days": 0, "delay_days": 0, **tags}
    for key in ("window_days", "delay_days"):
        if str(tags.get(key)).isdigit():
            tags[key] = int(tags[key])
    if tags["default"] is not None:
        tags["default"] = _number(field.name, tags["default"])
    content = {"name": field.name, "dtype": DTYPES[str(field.dtype)], **tags}
    try:
        return msgspec.convert(content, FeatureField)
    except msgspec.ValidationError as error:
        raise ConfigUnusable(f"feature {field.name}: tags", str(error), _WANTED_TAGS) from error


def _number(feature: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigInvalid(f"feature {feature}: default", text, "a number") from error


if __name__ == "__main__":
    main()
