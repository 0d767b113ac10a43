"""YAML as a person meant it: a key that stands twice, and a number without an end, are errors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any

import yaml


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value} stands there twice"
                raise yaml.constructor.ConstructorError(
                    problem=problem, problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read(text: str) -> Any:
    """The document in plain values.

    Raises:
        yaml.YAMLError: no YAML, or a mapping in which a key stands twice; names the key and line.
    """
    return yaml.load(text, _UniqueKeys)  # noqa: S506 -- its base is the safe loader


def endless(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Keys with an infinity or NaN, which would switch off whatever they limit."""
    match value:
        case dict():
            for key, part in value.items():
                yield from endless(part, f"{path}.{key}" if path else str(key))
        case list():
            for number, part in enumerate(value):
                yield from endless(part, f"{path}.{number}")
        case float() if not math.isfinite(value):
            yield path, value
