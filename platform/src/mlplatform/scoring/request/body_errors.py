"""Errors of a body in words: the field, its required type, and the known fields."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mlplatform.model.definition import EVENT_TIME
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.shape_words import in_words

MOST_FIELDS: Final = 40
MOST_NAME: Final = 64
NO_TIME: Final = "Invalid RFC3339 encoded datetime"
A_TIME: Final = (
    "a count of milliseconds since 1970, or a time with its offset: 2026-11-28T09:30:00Z"
)
A_WHOLE_NUMBER: Final = "Expected `int`"
"""How msgspec's messages about the label of a model of two outcomes begin, and of no other one."""
_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_NAMED: Final = re.compile(r"(?:unknown|missing required) field `(.*?)`")


def body_problem(message: str, shape: Any) -> Problem:
    """The problem for msgspec's message about a body. It leaves out the values sent, which may be
    about a person.

    Args:
        shape: the struct or other type that the body should have.
    """
    named, path = _NAMED.search(message), _PATH.search(message)
    place = path.group(1) if path else ""
    parts = [place, named.group(1) if named else ""]
    path_named = ".".join(part for part in parts if part)
    field = path_named or None
    problem = _PATH.sub("", message)
    if named is None:
        is_time = problem == NO_TIME or (place == EVENT_TIME and "got" in problem)
        wanted = A_TIME if is_time else in_words(problem)
        if place.rpartition(".")[2] == "label" and problem.startswith(A_WHOLE_NUMBER):
            wanted = "0 or 1"
        return Problem(
            422, "invalid-field", f"{path_named or 'the body'} must be {wanted}", field=field
        )
    names = [] if place else _fields(shape)
    known = f"; wanted: {', '.join(names[:MOST_FIELDS])}" if names else ""
    if "unknown" in problem:
        near = difflib.get_close_matches(named.group(1)[:MOST_NAME], names, n=1)
        nearest = f"; the nearest is {near[0]}" if near else ""
        detail = f"there is no field {named.group(1)[:MOST_NAME]}{known}{nearest}"
        return Problem(422, "unknown-field", detail, field=field)
    detail = f"the field {named.group(1)} is missing{known}"
    return Problem(422, "missing-field", detail, field=field)


def _fields(shape: Any) -> Sequence[str]:
    is_struct = isinstance(shape, type) and issubclass(shape, msgspec.Struct)
    return [f.encode_name for f in msgspec.structs.fields(shape)] if is_struct else []
