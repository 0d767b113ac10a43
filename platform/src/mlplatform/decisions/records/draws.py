"""Draws of the exploration slice in records: who was let through, and with which chance."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import pyarrow as pa
from msgspec import Meta

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt


class LoggedDraw(msgspec.Struct, frozen=True):
    """The draw for a request whose outcome the model's decision hides, if a slice is explored.

    Args:
        propensity: chance (0-1) with which the request was let through; None means that the record
            has no draw.
        explored: whether the request was let through.
        explored_instead_of: the model's own decision; None if the request was not let through.
    """

    propensity: Annotated[float, Meta(ge=0, le=1)] | None = None
    explored: bool = False
    explored_instead_of: str | None = None


_MARK: Final = '"propensity":'
"""Text that marks a payload with a draw. Few records have one; the others are not parsed."""

_decode = msgspec.json.Decoder(LoggedDraw).decode


def logged_draws(decisions: pa.Table) -> dict[str, LoggedDraw]:
    """Draws by decision, in the order of the records; decisions without a draw are left out.

    Args:
        decisions: table with the columns decision_id and payload.

    Raises:
        Corrupt: a payload holds an invalid draw; the error names the decision.
    """
    columns = (decisions.column(name).to_pylist() for name in ("decision_id", "payload"))
    found: dict[str, LoggedDraw] = {}
    for decision_id, payload in zip(*columns, strict=True):
        if payload is None or _MARK not in payload:
            continue
        try:
            draw = _decode(payload)
        except NOT_JSON as error:
            raise Corrupt(f"decision {decision_id}: propensity: {error}") from error
        if draw.propensity is not None:
            found[str(decision_id)] = draw
    return found
