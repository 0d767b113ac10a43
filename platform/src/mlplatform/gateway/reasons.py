"""Which inputs drove a review or decline: what the score would be if each of them were ordinary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlplatform.registry.bundle import Bundle

MOST = 3


def ordinary_row(bundle: Bundle) -> tuple[float, ...]:
    """The reference value of each input, in order; NaN where missing is ordinary."""
    values = (bundle.reference[name] for name in bundle.input_names)
    return tuple(math.nan if value is None else value for value in values)


def without_each(row: Sequence[float], reference: Sequence[float]) -> list[list[float]]:
    """Copies of a row, each with one input at its reference value: what the score would be
    if that input were ordinary."""
    copies = [list(row) for _ in row]
    for position, value in enumerate(reference):
        copies[position][position] = value
    return copies


def strongest(
    names: Sequence[str], raw: float, raw_without: Sequence[float], count: int
) -> list[str]:
    """The inputs whose ordinary value would lower the score most, strongest first.

    Args:
        raw_without: the raw score with each input at its reference value, in input order.
    """
    drops = sorted(
        ((raw - other, name) for name, other in zip(names, raw_without, strict=True)),
        key=lambda drop: -drop[0],
    )
    return [name for drop, name in drops[:count] if drop > 0]
