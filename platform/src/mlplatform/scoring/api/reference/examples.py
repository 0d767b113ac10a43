"""Examples of bodies for the OpenAPI documents, made from a model's definition.

An example is valid except for two placeholders, which no document can know: the present time, and
the id of a decision. `as_sent` replaces them; the reference page and the tests do the same.
"""

from __future__ import annotations

import math
from typing import Any, Final

from mlplatform.model.definition import EVENT_TIME, ModelDefinition, RequestField
from mlplatform.model.policies.ranking import ITEMS
from mlplatform.scoring.pushes.rows import RowsBody

Json = dict[str, Any]

NOW_MS: Final = 1_767_225_600_000
"""Placeholder of the present time, in milliseconds: 2026-01-01."""
DECISION_ID: Final = "0" * 42
"""Placeholder of the id of a decision that the caller was given."""
PLACEHOLDERS: Final = (
    f" In examples, `event_time` {NOW_MS} stands for now, in milliseconds, and the `decision_id` of"
    " zeros for the id in an answer to one of your requests."
)
_NUMBER: Final = 7
_AMOUNT: Final = 31.5
_PART: Final = 0.25


def score(definition: ModelDefinition) -> Json:
    """A request with every field of the model, except those that may be left out."""
    needed = {n: f for n, f in definition.request.items() if n not in definition.optional}
    return {**{name: _value(field) for name, field in needed.items()}, EVENT_TIME: NOW_MS}


def ranking(definition: ModelDefinition) -> Json:
    """A request with two items; one item's fields are those of a request about it alone."""
    own = definition.ranking.items if definition.ranking is not None else ()
    one = score(definition)
    item = {name: value for name, value in one.items() if name in own}
    shared = {name: value for name, value in one.items() if name not in own}
    return {**shared, ITEMS: [item, item]}


def batch(definition: ModelDefinition) -> Json:
    return {"requests": [score(definition), score(definition)]}


def labels(definition: ModelDefinition) -> Json:
    label: Json = {"decision_id": DECISION_ID, "label": 1}
    if definition.classes:
        label |= {"label": definition.classes[0]}
    if definition.decision.scale.number is not None:
        label |= {"label": 12.5, "event_time": NOW_MS}
    return {"labels": [label]}


def void() -> Json:
    return {"decision_id": DECISION_ID, "reason": "sent twice"}


def push(body: RowsBody) -> Json:
    """A row with a value of every feature."""
    view = body.view
    assert view.external is not None
    values = {"float64": _AMOUNT, "int64": _NUMBER, "bool": False}
    row = {view.join_key: _value(body.field), view.external.event_time: NOW_MS}
    return {"rows": [row | {field.name: values[field.dtype] for field in view.fields}]}


def as_sent(text: str, *, now_ms: str, decision_id: str) -> str:
    """An example's text with the present time and a decision's id in place of the placeholders."""
    return text.replace(str(NOW_MS), now_ms).replace(DECISION_ID, decision_id)


def _value(field: RequestField) -> Any:
    match field.type:
        case "int64":
            return int(_within(_NUMBER, field))
        case "float64":
            return float(_within(_AMOUNT, field))
        case "string":
            return field.values[0] if field.values else "text"[: field.max_length]
        case "bool":
            return False
        case "vector":
            return [float(_within(_PART, field))] * (field.length or 0)


def _within(value: float, field: RequestField) -> float:
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum
    return min(max(value, low), high)
