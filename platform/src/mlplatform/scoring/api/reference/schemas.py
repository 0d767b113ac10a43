"""A schema of an OpenAPI document in words and as HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

Schema = Mapping[str, Any]

_CODE: Final = re.compile(r"`([^`]+)`")
_BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "{} characters or more",
    "maxLength": "at most {} characters",
    "minItems": "{} or more",
    "maxItems": "at most {}",
    "pattern": "matches {}",
}


def prose(text: str) -> str:
    """A description as HTML, with text in backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def code(value: object) -> str:
    """A value as in JSON; a text without its quotes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<code>{escape(text)}</code>"


def words(schema: Schema | bool) -> str:
    """The values that a schema takes, as one phrase."""
    if isinstance(schema, bool):
        return "anything" if schema else "nothing"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(
            "an empty text" if value == "" else code(value) for value in schema["enum"]
        )
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(map(words, schema[choice]))
    return _typed(schema) + _bounded(schema)


def properties(schema: Schema, caption: str) -> str:
    """The fields of an object as a table; empty if it has none."""
    found = _fields(schema)
    if not found:
        return ""
    rows = (
        (code(path), words(one), "yes" if is_required else _default(one), _described(one))
        for path, one, is_required in found
    )
    return table(caption, ("field", "takes", "required", "meaning"), rows)


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; the first cell of a row is its head.

    Args:
        caption: the caption; empty if a heading above is enough.
    """
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest) + "</tr>"
        for first, *rest in rows
    )
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _typed(schema: Schema) -> str:
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(map(escape, kind))
    if kind == "array":
        if "prefixItems" in schema:
            return "list of " + ", ".join(map(words, schema["prefixItems"]))
        return f"list of {words(schema.get('items', True))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object, each field {words(schema['additionalProperties'])}"
    shown = schema.get("format")
    return escape(kind) + (f" ({escape(shown)})" if shown else "")


def _bounded(schema: Schema) -> str:
    found = [form.format(code(schema[key])) for key, form in _BOUNDS.items() if key in schema]
    return "".join(f", {one}" for one in found)


def _fields(schema: Schema, above: str = "") -> list[tuple[str, Schema, bool]]:
    """Path, schema, and whether it is required, of each field, those of unnamed objects
    included."""
    found: list[tuple[str, Schema, bool]] = []
    for name, one in schema.get("properties", {}).items():
        path = f"{above}{name}"
        found.append((path, one, name in schema.get("required", ())))
        items = one.get("items")
        if isinstance(items, dict):
            found += _fields(items, f"{path}[].")
        found += _fields(one, f"{path}.")
    return found


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "no"
    return f"no: {code(schema['default'])}"


def _described(schema: Schema) -> str:
    return prose(schema.get("description", ""))
