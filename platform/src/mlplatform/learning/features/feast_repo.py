"""Feast definitions rendered to features.json: development only, the one importer of Feast.

Importing Feast takes seconds and sets PROMETHEUS_MULTIPROCESS_DIR for the whole process and its
children, so no serving or training process may load this module.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import feast
import msgspec

from mlplatform.model.feature_views import FILE, FeatureField, FeatureView, check
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition, model_folder, model_names
from mlplatform.runtime.errors import ConfigInvalid

DTYPES = {"Float64": "float64"}


def feast_objects(model: str) -> list[Any]:
    """The entities, sources and feature views that a model's features.py defines."""
    module = load_module(model, "features")
    entities = [o for o in vars(module).values() if isinstance(o, feast.Entity)]
    return [*entities, *module.FEATURE_VIEWS]


def views(model: str) -> tuple[FeatureView, ...]:
    """The platform's own form of a model's Feast feature views.

    Raises:
        ConfigInvalid: a definition that cannot be compiled to SQL, named by view or feature.
    """
    objects = feast_objects(model)
    entities = {o.name: o for o in objects if isinstance(o, feast.Entity)}
    found = tuple(_view(o, entities) for o in objects if isinstance(o, feast.FeatureView))
    check(found)
    known = load_definition(model).entities
    for view in found:
        if known.get(view.entity) != view.join_key:
            raise ConfigInvalid(f"view {view.name}: join key", view.join_key, f"one of {known}")
    return found


def render(model: str) -> str:
    """The text of a model's features.json; the same definitions give the same text."""
    generated = "by python -m mlplatform.learning.features.feast_repo from features.py; do not edit"
    body = {"model": model, "views": msgspec.to_builtins(views(model))}
    return f'{{"generated": "{generated}",{json.dumps(body, indent=1)[1:]}\n'


def main() -> None:
    """Write features.json of every model whose folder defines features."""
    for model in model_names():
        folder = model_folder(model)
        if (folder / "features.py").is_file():
            (folder / FILE).write_text(render(model))


def _view(view: Any, entities: dict[str, Any]) -> FeatureView:
    if len(view.entities) != 1:
        raise ConfigInvalid(f"view {view.name}: entities", view.entities, "exactly one")
    ttl: timedelta | None = view.ttl
    if not ttl:
        raise ConfigInvalid(f"view {view.name}: ttl", ttl, "more than 0")
    (entity,) = view.entities
    content = {
        "name": view.name,
        "entity": entity,
        "join_key": entities[entity].join_key,
        "ttl_ms": ttl // timedelta(milliseconds=1),
        "fields": tuple(msgspec.to_builtins(_field(f)) for f in view.features),
        **view.tags,
    }
    try:
        return msgspec.convert(content, FeatureView)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"view {view.name}: tags", view.tags, str(error)) from error


def _field(field: Any) -> FeatureField:
    if str(field.dtype) not in DTYPES:
        raise ConfigInvalid(f"feature {field.name}: dtype", field.dtype, "Float64")
    tags = {"column": None, "default": None, **field.tags}
    for key in ("window_days", "delay_days"):
        if str(tags.get(key)).isdigit():
            tags[key] = int(tags[key])
    if tags["default"] is not None:
        tags["default"] = _number(field.name, tags["default"])
    content = {"name": field.name, "dtype": DTYPES[str(field.dtype)], **tags}
    try:
        return msgspec.convert(content, FeatureField)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"feature {field.name}: tags", tags, str(error)) from error


def _number(feature: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigInvalid(f"feature {feature}: default", text, "a number") from error


if __name__ == "__main__":
    main()
