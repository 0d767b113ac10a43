"""What records say of the exploration slice: who was let through, and with which chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa


class LoggedDraw(msgspec.Struct, frozen=True):
    """Of a payment whose outcome the model's decision hides, where a slice is explored.

    Args:
        propensity: chance (0-1) with which it was let through; None: the record is of no draw.
        explored: it was. explored_instead_of: the model's decision, where it was.
    """

    propensity: float | None = None
    explored: bool = False
    explored_instead_of: str | None = None


_MARK: Final = '"propensity":'
"""Few records are of a draw: the others are not parsed."""

_decode = msgspec.json.Decoder(LoggedDraw).decode


def logged_draws(decisions: pa.Table) -> dict[str, LoggedDraw]:
    """By decision, in the order of the records; those of no draw are left out.

    Args:
        decisions: decision_id and payload.
    """
    columns = (decisions.column(name).to_pylist() for name in ("decision_id", "payload"))
    found = {
        str(decision_id): _decode(payload)
        for decision_id, payload in zip(*columns, strict=True)
        if payload is not None and _MARK in payload
    }
    return {i: draw for i, draw in found.items() if draw.propensity is not None}
