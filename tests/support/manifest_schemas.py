"""Manifests held to the classes that the installed Kubernetes and KServe packages have for them."""

from __future__ import annotations

import re
from typing import Any

import kserve.models
import kubernetes.client.models

FREE = ("object", "dict(str, object)", "dict(str, str)")


def unknown(data: Any, type_name: str, path: str) -> list[str]:
    """What in a YAML value the model class of that name does not have, or has as another type."""
    if type_name in FREE or type_name == "V1ObjectMeta":
        return []
    if type_name == "dict(str, Quantity)" or type_name.startswith("dict("):
        return [] if isinstance(data, dict) else [f"{path} is no mapping"]
    if match := re.fullmatch(r"list\[(.*)\]", type_name):
        if not isinstance(data, list):
            return [f"{path} is no list"]
        return [e for i, item in enumerate(data) for e in unknown(item, match[1], f"{path}[{i}]")]
    scalar = {"str": str, "int": int, "bool": bool, "float": (int, float)}.get(type_name)
    if scalar is not None:
        return [] if isinstance(data, scalar) else [f"{path} is no {type_name}"]
    cls = getattr(kserve.models, type_name, None) or getattr(
        kubernetes.client.models, type_name, None
    )
    if cls is None:
        return []
    if not isinstance(data, dict):
        return [f"{path} is no mapping"]
    by_json = {json_name: name for name, json_name in cls.attribute_map.items()}
    errors = [f"{path}.{key} is unknown to {type_name}" for key in data if key not in by_json]
    for key in data.keys() & by_json.keys():
        errors += unknown(data[key], cls.openapi_types[by_json[key]], f"{path}.{key}")
    cls(**{by_json[key]: data[key] for key in data.keys() & by_json.keys()})
    return errors
