"""The values that keys of model.yaml take, in words: kinds, bounds, defaults and examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import inspect as types

from mlplatform.model.findings import NOT_WRITTEN

MOST_EXAMPLE: Final = 60
"""Most characters of an example; a longer value is left out."""
_ENDS: Final = re.compile(r"\\[AZ]")
_NOT_BLANK: Final = r"\S"


def takes(kind: types.Type) -> str:
    """The kind and bounds of a key's values, in words."""
    match kind:
        case types.Metadata(type=types.LiteralType(values=values), extra=extra):
            hidden = (extra or {}).get(NOT_WRITTEN, ())
            return _either(_code(value) for value in values if value not in hidden)
        case types.Metadata():
            return takes(kind.type)
        case types.UnionType():
            return _either(takes(one) for one in kind.types if not is_absent(one))
        case types.LiteralType():
            return _either(_code(value) for value in kind.values)
        case types.IntType():
            return f"a whole number{_bounds(kind)}"
        case types.FloatType():
            return f"a number{_bounds(kind)}"
        case types.BoolType():
            return "true or false"
        case types.StrType():
            return _text(kind)
        case types.VarTupleType():
            size = _size(kind.min_length, kind.max_length, "entries")
            if isinstance(kind.item_type, types.StructType):
                return f"a list of sections, see below{size}"
            return f"a list{size}; each: {takes(kind.item_type)}"
        case types.DictType():
            size = _size(kind.min_length, kind.max_length, "entries")
            if isinstance(kind.value_type, types.StructType):
                return f"a mapping of names to sections, see below{size}; {_name(kind)}"
            return f"a mapping{size}; {_name(kind)}; each value: {takes(kind.value_type)}"
        case types.StructType():
            return "a section, see below"
        case _:
            raise LookupError(f"no words for {kind}")


def is_absent(kind: types.Type) -> bool:
    """Whether a kind of a union only says that the key may be left out."""
    return isinstance(kind, types.NoneType)


def shown(value: object, *, empty: str = "none") -> str:
    """A value as YAML has it; `empty` where there is none, or a section."""
    if value is None or value is msgspec.UNSET or value is msgspec.NODEFAULT:
        return empty
    if isinstance(value, msgspec.Struct | Mapping):
        return empty
    if isinstance(value, tuple) and (not value or isinstance(value[0], msgspec.Struct)):
        return empty
    return _code(value)


def _code(value: object) -> str:
    if isinstance(value, str) and value:
        return f"`{value}`"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{msgspec.json.encode(value).decode().replace(',', ', ')}`"


def _either(texts: Iterable[str]) -> str:
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} or {last}" if first else last


def _name(kind: types.DictType) -> str:
    return f"each name: {takes(kind.key_type)}"


def _text(kind: types.StrType) -> str:
    most = _size(kind.min_length, kind.max_length, "characters")
    if kind.pattern is None:
        return f"a text{most}"
    if kind.pattern == _NOT_BLANK:
        return f"a text that is not blank{most}"
    return f"a text of the form `{_ENDS.sub('', kind.pattern)}`{most}"


def _size(least: int | None, most: int | None, unit: str) -> str:
    if least is not None and most is not None:
        return f", {least:,} to {most:,} {unit}"
    if most is not None:
        return f", {most:,} {unit} at most"
    return f", {least:,} or more {unit}" if least else ""


def _bounds(kind: types.IntType | types.FloatType) -> str:
    bounds = (
        (kind.ge, "{} or more"), (kind.gt, "more than {}"),
        (kind.le, "{} or less"), (kind.lt, "less than {}"),
    )  # fmt: skip
    if kind.ge is not None and kind.le is not None:
        return f", {kind.ge:,} to {kind.le:,}"
    return "".join(f", {text.format(f'{bound:,}')}" for bound, text in bounds if bound is not None)
