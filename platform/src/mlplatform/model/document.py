"""YAML in the plain form that people mean: of bounded size and depth, with every key once."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator
from typing import Any, Final

import yaml

from mlplatform.runtime.errors import ConfigUnusable

MOST_CHARACTERS: Final = 256 * 1024
MOST_DEPTH: Final = 32
MOST_VALUES: Final = 20_000
MOST_OF_A_NUMBER: Final = 64
"""Most characters of a number. Some texts that YAML takes for a number cost time by the square of
their length."""
_HALF: Final = re.compile("[\ud800-\udfff]")
"""Half of a pair of UTF-16. An escape can write it, and no file, message or record can hold it."""
_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_KEYS: Final = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int")


class _PlainLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("a key is a list or a mapping, not a text", key.start_mark)
            if key.tag not in _KEYS:
                problem = f"the key {key.value[:100]} is not a text in YAML: write it in quotes"
                raise _wrong(problem, key.start_mark)
            if key.value in seen:
                raise _wrong(f"the key {key.value[:100]} stands there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, AttributeError, KeyError, TypeError) as error:
            # For example a date in a 13th month, or a number of ten thousand digits.
            raise _wrong(
                "a value can't be read as the date or number that it looks like; put it in quotes",
                node.start_mark,
            ) from error


def read(text: str, source: str, wanted: str) -> Any:
    """The document in plain values. Its events are checked before values are made of them.

    Args:
        source: the file's name, for messages. wanted: what belongs there, for messages.

    Raises:
        ConfigUnusable: the text is not YAML, exceeds the limits, or has references, custom tags, a
            repeated key, a key that is not text, or characters that YAML forbids. The message names
            the problem and, if known, the line.
    """
    try:
        return _read(text)
    except yaml.YAMLError as error:
        raise ConfigUnusable(*_place(source, error), wanted) from error


def _read(text: str) -> Any:
    if len(text) > MOST_CHARACTERS:
        problem = f"{len(text)} characters; the limit is {MOST_CHARACTERS}"
        raise _wrong(problem, yaml.Mark("", 0, 0, 0, None, 0))
    _check(text)
    return yaml.load(text, _PlainLoader)  # noqa: S506 -- its base is the safe loader


def lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of every key of a document that `read` takes, by the keys above it; places in a list
    count from 0, as keys do."""
    found: dict[tuple[str, ...], int] = {}
    root = yaml.compose(text, yaml.SafeLoader)
    waiting: list[tuple[tuple[str, ...], yaml.Node | None]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*path, str(key.value))] = key.start_mark.line + 1
                waiting.append(((*path, str(key.value)), value))
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                found[(*path, str(number))] = value.start_mark.line + 1
                waiting.append(((*path, str(number)), value))
    return found


def _place(source: str, error: yaml.YAMLError) -> tuple[str, str]:
    """The place of a document's error, with the line if known, and the error."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark, problem = error.problem_mark, error.problem or error.context or "no YAML"
        return source if mark is None else f"{source}: line {mark.line + 1}", problem
    return source, "a character that YAML forbids"


def non_finite(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Keys with an infinity or NaN, which would switch off the limit that they stand for."""
    match value:
        case dict():
            for key, part in value.items():
                yield from non_finite(part, f"{path}.{key}" if path else str(key))
        case list():
            for number, part in enumerate(value):
                yield from non_finite(part, f"{path}.{number}")
        case float() if not math.isfinite(value):
            yield path, value


def _check(text: str) -> None:
    """Raise for a text beyond the limits while it is parsed: the parser makes events one by one,
    without recursion."""
    depth = 0
    for number, event in enumerate(_events(text)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _wrong("references (& and *) are not taken; write it out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _wrong("tags (!) are not taken", event.start_mark)
        if number > MOST_VALUES:
            raise _wrong(f"more than {MOST_VALUES} values", event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
            problem = f"a number of more than {MOST_OF_A_NUMBER} characters"
            raise _wrong(problem, event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and (half := _HALF.search(event.value)):
            problem = f"half a character, U+{ord(half.group()):04X}; write it as it is, or by \\U"
            raise _wrong(problem, event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise _wrong(f"nested more than {MOST_DEPTH} deep", event.start_mark)


def _events(text: str) -> Iterator[Any]:
    """The parser's events of a text, one by one."""
    loader: Any = yaml.SafeLoader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except (ValueError, OverflowError) as error:
        problem = "an escape or a YAML version has an invalid number"
        raise _wrong(problem, loader.get_mark()) from error
    finally:
        loader.dispose()


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    if len(event.value) <= MOST_OF_A_NUMBER or not event.implicit[0]:
        return False
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers.get(event.value[0], [])
    return any(tag in _NUMBERS and shape.match(event.value) for tag, shape in resolvers)


def _wrong(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
