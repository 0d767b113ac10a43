"""The form that narrows and orders a review queue: its fields, and the link that keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.review.selection import OF_FIELD, ORDERS, Order, Selection
from mlplatform.runtime.errors import InputInvalid

NAMES: Final = (
    *("decided", "reason", "from_score", "to_score", "field", "from_value", "to_value", "sort"),
)
MOST_TYPED: Final = 64
"""Most characters of a field."""


def numbers(definition: ModelDefinition) -> tuple[str, ...]:
    """The request's numbers that the queue shows and that name no entity."""
    shown = definition.label.review.shows
    fields = {name: definition.request[name] for name in shown if name in definition.request}
    return tuple(
        name
        for name, of in fields.items()
        if of.type in ("int64", "float64") and of.entity is None and not of.pseudonymous
    )


def orders(definition: ModelDefinition) -> tuple[Order, ...]:
    """The orders that a model's queue has: those by a number need one that it shows."""
    has_numbers = bool(numbers(definition))
    return tuple(one for one in ORDERS if has_numbers or one not in OF_FIELD)


def typed(fields: Mapping[str, str]) -> dict[str, str]:
    """The form's fields as they were typed; empty where nothing was."""
    return {name: fields.get(name, "").strip()[:MOST_TYPED] for name in NAMES}


def selection(fields: Mapping[str, str], definition: ModelDefinition) -> Selection:
    """The selection that a form or a link asks for.

    Raises:
        InputInvalid: a field is wrong; the message names it, its value and what is wanted.
    """
    filled = typed(fields)
    decided = definition.label.review.reviewed(definition.decision)
    able, orderly = numbers(definition), orders(definition)
    _check("Decided", filled["decided"], decided)
    _check("Field", filled["field"], able)
    _check("Sort", filled["sort"], orderly)
    field = filled["field"] or (able[0] if able else "")
    order: Order = next((one for one in orderly if one == filled["sort"]), "oldest")
    found = Selection(
        decision=filled["decided"],
        reason=filled["reason"],
        from_score=_number("Score from", filled["from_score"]),
        to_score=_number("Score to", filled["to_score"]),
        field=field,
        from_value=_number(f"{field} from", filled["from_value"]) if field else None,
        to_value=_number(f"{field} to", filled["to_value"]) if field else None,
        order=order,
    )
    _check_bounds("Score", found.from_score, found.to_score)
    _check_bounds(field, found.from_value, found.to_value)
    return found


def link(fields: Mapping[str, str]) -> str:
    """The query of a link with what was typed; empty if nothing was."""
    filled = {name: value for name, value in typed(fields).items() if value}
    if set(filled) <= {"field"} or filled == {"sort": "oldest"}:
        return ""
    return f"?{urlencode(filled)}"


def _check(name: str, value: str, able: tuple[str, ...]) -> None:
    if value and value not in able:
        wanted = f"one of {', '.join(able)}" if able else "nothing"
        raise InputInvalid("the filter", None, f"{name} is {value!a}; wanted: {wanted}")


def _check_bounds(name: str, least: float | None, most: float | None) -> None:
    if least is not None and most is not None and least > most:
        why = f"{name} from is {least:g}, above {name} to, {most:g}; wanted: the smaller one first"
        raise InputInvalid("the filter", None, why)


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputInvalid("the filter", None, f"{name} is {text!a}; wanted: a number, such as 0.5")
    return found
