"""Refusal of JSON with a repeated key, because two readers may see two requests in it.

Some decoders silently take the last of the values, others the first. A system that checks a request
before it gets here may have read another amount than the one that is scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlplatform.runtime.http.problems import Problem

QUOTE, BACKSLASH = b'"', b"\\"


def refuse_repeats(body: bytes) -> None:
    """Refuse repeated keys anywhere in a body that is known to be JSON.

    Raises:
        Problem: 422 if a member stands twice in its object, with the name of the first such member;
            400 if an unknown part of the body is nested too deeply or is not text.
    """
    try:
        json.loads(body, object_pairs_hook=_once, parse_int=str, parse_float=str, strict=False)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "malformed-json", f"the body is not JSON: {error}") from error


def refuse_repeats_of(name: str, body: bytes, items: Sequence[bytes]) -> None:
    """Refuse repeats in a list, the only member of its object; `items` are its bytes as sent.

    Raises:
        Problem: 422 with the name of the list.
    """
    if body.count(QUOTE) != 2 + sum(item.count(QUOTE) for item in items):
        raise _repeated_field(name)


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise _repeated_field(name)
        found[name] = value
    return found


def _repeated_field(name: str) -> Problem:
    detail = f"Object contains field `{name}` more than once"
    return Problem(422, "repeated-field", detail, field=name)
