"""Request bodies for a load test, made from what a model.yaml declares of its request."""

from __future__ import annotations

import math
from random import Random
from typing import Any, Final

from mlplatform.model.definition import ModelDefinition, RequestField

MEDIAN: Final = 30.0
"""Of numbers without limits of their own."""
LARGEST: Final = 1e6


def rows(
    model: ModelDefinition, count: int, *, entities: int, seed: int
) -> list[dict[str, int | float | str | bool]]:
    """Bodies that the model takes, without the time of the event, which is that of sending.

    Args:
        entities: how many customers, terminals and the like there are, numbered from 1.
    """
    random = Random(seed)
    needed = {n: f for n, f in model.request.items() if n not in model.protected}
    return [{n: _value(f, entities, random) for n, f in needed.items()} for _ in range(count)]


def _value(field: RequestField, entities: int, random: Random) -> Any:
    match field.type:
        case "int64":
            return _whole(field, entities, random)
        case "float64":
            return _number(field, random)
        case "bool":
            return random.random() < 0.5
        case "string":
            if field.values:
                return random.choice(field.values)
            return f"text {random.randint(1, entities)}"[: field.max_length]


def _whole(field: RequestField, entities: int, random: Random) -> int:
    low = 1 if field.minimum is None else math.ceil(field.minimum)
    high = low + entities - 1
    if field.maximum is not None:
        most = math.floor(field.maximum)
        low, high = min(low, most), min(high, most)
    return random.randint(low, high)


def _number(field: RequestField, random: Random) -> float:
    """Uniform between two limits; else lognormal, as amounts are, within the one that there is."""
    if field.minimum is not None and field.maximum is not None:
        return round(random.uniform(field.minimum, field.maximum), 2)
    value = min(random.lognormvariate(math.log(MEDIAN), 1.0), LARGEST)
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum
    return min(max(round(value, 2), low), high)
