"""Placeholders in messages for values that only a run knows: a name or an example."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_PERCENT: Final = re.compile(r"%(?:\((\w+)\))?[-+ #0]*[\d.]*([srdfgx%])")
NUMBER_SPEC: Final = re.compile(r"[,_.+\d]*[dfg%]|,|,?\.\d+")
_COUNTED: Final = re.compile(
    r"_(?:ms|s|h|mib|bytes|days|rows|percent)$|^(?:number|count|days|rows)$"
)
_PLACE: Final = re.compile("‹[^›]*›")
_OF_TEXT: Final = frozenset(
    (
        "replace",
        "strip",
        "rstrip",
        "lower",
        "get",
        "as_posix",
        "isoformat",
        "decode",
        "removesuffix",
    )
)
_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], int | float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
A_NUMBER: Final = "‹number›"
_WORD: Final = re.compile(r"(?<![\w./`-])[A-Za-z][a-z']*(?![\w/`=(-])")


def number_of(
    node: ast.expr, constant: Callable[[ast.expr], int | float | None] = lambda node: None
) -> int | float | None:
    """The value of an expression that has only numbers, such as 4 * 1024; None for any other.

    Args:
        constant: the number behind a name or an attribute, if the code defines one.
    """
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name() | ast.Attribute():
            return constant(node)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            one, other = number_of(left, constant), number_of(right, constant)
            if one is not None and other is not None:
                return _OPERATORS[type(op)](one, other)
    return None


def is_arithmetic(node: ast.BinOp) -> bool:
    """Whether an addition adds numbers and not texts."""
    return any(number_of(side) is not None for side in (node.left, node.right))


def placeholder(node: ast.expr) -> str:
    """The name of a value, or "a number" for one that is a count: an example could break no limit
    that is told beside it, or all of them."""
    match node:
        case ast.Call(func=ast.Name(id="len")):
            return A_NUMBER
        case ast.Call(func=ast.Attribute(value=value, attr=method)) if (
            method in _OF_TEXT or not isinstance(value, ast.Name)
        ):
            return placeholder(value)
        case ast.Call(func=ast.Name(), args=[first, *_]):
            return placeholder(first)
        case ast.Call(func=func):
            return placeholder(func)
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return f"‹{name}›"
        case ast.Subscript(value=value) | ast.Starred(value=value) | ast.Await(value=value):
            return placeholder(value)
        case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
            return placeholder(element)
        case ast.BinOp(left=left, right=right):
            return placeholder(right if isinstance(left, ast.Constant) else left)
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(body=first):
            return placeholder(first)
        case (
            ast.DictComp(key=element) | ast.SetComp(elt=element) | ast.FormattedValue(value=element)
        ):
            return placeholder(element)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return A_NUMBER if _COUNTED.search(name) else f"‹{name.strip('_').replace('_', ' ')}›"
    return "‹value›"


def percent_filled(form: str, values: Sequence[str]) -> str:
    left = iter(values)

    def filled(found: re.Match[str]) -> str:
        if found[2] == "%":
            return "%"
        return next(left, f"‹{found[1] or 'value'}›")

    return _PERCENT.sub(filled, form)


def has_words(text: str, words: int) -> bool:
    """Whether a text has at least so many words; an id, a path or a format has none."""
    bare = _PLACE.sub("", text)
    if len(_WORD.findall(bare)) < words:
        return False
    return words == 1 or " " in bare.strip()
