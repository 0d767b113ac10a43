"""Which inputs drove a review or decline: what the score would be if each of them were ordinary."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 3


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
