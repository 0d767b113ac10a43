"""The errors of a written document, each with its line, key, value and what is wanted.

A document whose form is wrong in some places can still be checked in others: `readable_part` puts
`WRONG` in place of each value of another form, and a check that reads it has no answer.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import msgspec

from mlplatform.runtime.errors import ConfigInvalid, PlatformError
from mlplatform.runtime.shape_words import in_words

Path = tuple[str, ...]
"""Keys from the document's top down; places in a list count from 0."""
MOST_SHOWN: Final = 80
MOST_FINDINGS: Final = 100
NEAR: Final = 0.75
"""Likeness from which on an unknown key may be a misspelt known one."""
NOT_WRITTEN: Final = "not written"
"""In the extra facts of a type: those of its values that no document may have. Nothing offers
them."""
_NO_CHOICE: Final = "Invalid enum value"
_PLACE: Final = re.compile(r" - at `[^`]*`$")
Item = TypeVar("Item")


class WrongValueRead(Exception):
    """A check read a value of another form than its key wants."""


def _refuse(*_: object) -> NoReturn:
    raise WrongValueRead


_READS: Final = (
    *("bool", "eq", "ne", "lt", "le", "gt", "ge", "hash", "iter", "len", "contains", "getitem"),
    *("getattr", "repr", "str", "format", "int", "float", "index", "neg", "abs", "round"),
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod"),
)
WRONG: Final[Any] = type(
    "WrongValue",
    (),
    {f"__{name}__": _refuse for name in _READS} | {"__class__": property(_refuse)},
)()
"""In place of a value of another form than its key wants: what reads it raises WrongValueRead."""


@dataclass(frozen=True, slots=True)
class DocumentFinding:
    """One error: the value at a key, or its absence, and what is wanted."""

    path: Path
    found: str
    wanted: str

    @property
    def key(self) -> str:
        return ".".join(self.path)


class DocumentInvalid(ConfigInvalid):
    """The document has these errors, in the order of its lines."""

    def __init__(
        self, source: str, findings: Sequence[DocumentFinding], lines: Mapping[Path, int]
    ) -> None:
        placed = [(_line(f.path, lines), f) for f in findings[:MOST_FINDINGS]]
        by_line = sorted(placed, key=lambda p: p[0])
        problems = [f"line {line}: {f.key} {f.found}; wanted: {f.wanted}" for line, f in by_line]
        if len(problems) == 1:
            text = f"{source}: {problems[0]}"
        else:
            text = f"{source}: {len(findings)} things are wrong:" + "".join(
                f"\n  {line}" for line in problems
            )
        PlatformError.__init__(self, text)
        self.key = f"{source}: {by_line[0][1].key}"
        self.findings = tuple(finding for _, finding in by_line)

    def __reduce__(self) -> Any:
        return PlatformError, (str(self),)


def valued(path: Path, value: object, wanted: str) -> DocumentFinding:
    """A value that is not what is wanted at its key."""
    text = "missing" if value is None else repr(value)
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return DocumentFinding(path, f"is {shown}", wanted)


def of_shape(
    value: Any, wanted: Any, path: Path = (), refused: Collection[str] = ()
) -> Iterator[DocumentFinding]:
    """Findings where plain values do not fit a type: every key that is unknown, missing, or of
    another type.

    Args:
        wanted: the expected type: a struct that forbids unknown fields, or any type that msgspec
            can convert to.
        refused: keys of the type that the document must not have, with `*` for a place in a list:
            no finding offers them.
    """
    below = list(_below(value, wanted, path, refused))
    yield from below
    if below:
        return
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        yield valued(path or ("document",), value, _wanted_text(wanted, str(error)))


def readable_part(value: Any, wanted: Any, wrong: Collection[Path], path: Path = ()) -> Any:
    """Plain values as their type, with `WRONG` where a finding is, and without unknown keys.

    Args:
        wrong: the keys of all findings of `of_shape`.
    """
    if not any(place[: len(path)] == path for place in wrong):
        return msgspec.convert(value, wanted)
    kind, arguments = _bare(wanted), get_args(_bare(wanted))
    if path in wrong:
        return WRONG
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        return kind(
            **{
                f.name: readable_part(
                    value.get(f.encode_name), f.type, wrong, (*path, f.encode_name)
                )
                for f in msgspec.structs.fields(kind)
                if f.encode_name in value or (*path, f.encode_name) in wrong
            }
        )
    if get_origin(kind) is dict and isinstance(value, dict):
        return {
            name: readable_part(part, arguments[1], wrong, (*path, str(name)))
            for name, part in value.items()
        }
    if get_origin(kind) in (tuple, list) and isinstance(value, list):
        return tuple(
            readable_part(part, arguments[0], wrong, (*path, str(number)))
            for number, part in enumerate(value)
        )
    return WRONG


def while_readable(found: Iterator[Item], *, is_whole: bool = False) -> Iterator[Item]:
    """Items up to the first one whose computation reads `WRONG`.

    Args:
        is_whole: whether no value is `WRONG`: then any error is the check's own.
    """
    if is_whole:
        yield from found
        return
    try:
        yield from found
    except (WrongValueRead, TypeError):  # functions written in C refuse such a value by its type
        return


def _below(
    value: Any, wanted: Any, path: Path, refused: Collection[str]
) -> Iterator[DocumentFinding]:
    kind = _bare(wanted)
    arguments = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        yield from _of_struct(value, kind, path, refused)
    elif get_origin(kind) is dict and isinstance(value, dict):
        for name, part in value.items():
            yield from of_shape(name, arguments[0], (*path, str(name)))
            yield from of_shape(part, arguments[1], (*path, str(name)), refused)
    elif get_origin(kind) in (tuple, list) and isinstance(value, list):
        for number, part in enumerate(value):
            yield from of_shape(part, arguments[0], (*path, str(number)), refused)


def _of_struct(
    value: dict[Any, Any], kind: type[msgspec.Struct], path: Path, refused: Collection[str]
) -> Iterator[DocumentFinding]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    above = "".join(f"{'*' if key.isdigit() else key}." for key in path)
    offered = [name for name in fields if f"{above}{name}" not in refused]
    for name, part in value.items():
        if name in fields:
            yield from of_shape(part, fields[name].type, (*path, str(name)), refused)
        else:
            near = difflib.get_close_matches(str(name), offered, n=1, cutoff=NEAR)
            nearest = f"; the nearest is {near[0]}" if near else ""
            wanted = f"one of {', '.join(offered)}{nearest}"
            yield DocumentFinding((*path, str(name)), "is an unknown key", wanted)
    for name, field in fields.items():
        if field.required and name not in value:
            yield DocumentFinding((*path, name), "is missing", _described(field.type))


def _bare(wanted: Any) -> Any:
    """A type without its limits, and without the alternatives that stand for nothing."""
    if get_origin(wanted) is Annotated:
        return _bare(get_args(wanted)[0])
    if get_origin(wanted) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(wanted) if kind not in (type(None), msgspec.UnsetType)]
        return _bare(kinds[0]) if len(kinds) == 1 else wanted
    return wanted


def _wanted_text(wanted: Any, message: str) -> str:
    kind = _bare(wanted)
    if get_origin(kind) is Literal or message.startswith(_NO_CHOICE):
        return _described(wanted)
    return in_words(_PLACE.sub("", message))


def _described(wanted: Any) -> str:
    kind = _bare(wanted)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, _choices(wanted)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_described, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "a mapping with " + ", ".join(f.encode_name for f in msgspec.structs.fields(kind))
    names = {dict: "a mapping", tuple: "a list", list: "a list"}
    named = names.get(get_origin(kind) or kind)
    return named or in_words(f"`{getattr(kind, '__name__', kind)}`")


def _choices(wanted: Any) -> list[object]:
    """The values of a type that a document may have."""
    metadata = get_args(wanted)[1:] if get_origin(wanted) is Annotated else ()
    extras = [meta.extra or {} for meta in metadata if isinstance(meta, msgspec.Meta)]
    hidden = {value for extra in extras for value in extra.get(NOT_WRITTEN, ())}
    return [value for value in get_args(_bare(wanted)) if value not in hidden]


def _line(path: Path, lines: Mapping[Path, int]) -> int:
    """The line of a key, or of the section that it would be in."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)
