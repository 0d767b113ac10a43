"""Keys of model.yaml that a model's task does not allow, and why: one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlplatform.model.policies.classes import NOT_OF_CLASSES
from mlplatform.model.policies.real import NOT_OF_NUMBERS

NOT_OF_TWO: Final[Mapping[str, str]] = {
    "rollout.stop.accuracy": "recall compares versions",
    "rollout.stop.error": "recall compares versions",
    "rollout.confirm_accuracy_drop": "confirm_recall_drop compares versions",
    "rollout.confirm_error_rise": "confirm_recall_drop compares versions",
}
"""Keys that a model of two outcomes must not have."""
REFUSED: Final[Mapping[str, Mapping[str, str]]] = {
    "binary": NOT_OF_TWO,
    "classes": NOT_OF_CLASSES,
    "real": NOT_OF_NUMBERS,
}
"""Task → its keys and the reasons; `*` stands for each place of a list."""


def refused_keys(plain: Any, task: str) -> Iterator[tuple[tuple[str, ...], object, str]]:
    """The keys of a model.yaml that its task does not allow: path, value and what is wanted."""
    for key, why in REFUSED[task].items():
        for path, value in _at(plain, key.split(".")):
            yield path, value, f"nothing, where task is {task}: {why}"


def _at(plain: Any, path: Sequence[str]) -> Iterator[tuple[tuple[str, ...], object]]:
    """The values at a path, each with its own path."""
    if not path:
        if plain is not None:
            yield (), plain
        return
    first, *rest = path
    inside: list[tuple[str, Any]] = []
    if first == "*" and isinstance(plain, list):
        inside = [(str(number), value) for number, value in enumerate(plain)]
    elif isinstance(plain, dict):
        inside = [(first, plain.get(first))]
    for name, value in inside:
        yield from (((name, *below), found) for below, found in _at(value, rest))
