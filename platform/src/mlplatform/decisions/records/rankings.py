"""Places of items in records: which items of one request were put in which order, and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlplatform.model.policies.ranking import OrderedBy
from mlplatform.runtime.errors import Corrupt


class LoggedPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The place of an item among those of one request.

    Args:
        id: decision id of the first place, which all of them name.
        place: from 1.
        item: number of the item in the request, from 0.
        of: number of items.
        by: whether scores or the request gave the order.
        withheld: whether the item was beyond those that were answered.
    """

    id: str
    place: Annotated[int, Meta(ge=1)]
    item: Annotated[int, Meta(ge=0)]
    of: Annotated[int, Meta(ge=1)]
    by: OrderedBy
    withheld: bool = False

    @property
    def sentence(self) -> str:
        """The place in words."""
        how = "by score" if self.by == "score" else "as the request had them"
        seen = "; nobody was shown it" if self.withheld else ""
        return f"place {self.place} of {self.of} items {how}, in ranking {self.id}{seen}"


def place_of(payload: Mapping[str, Any] | None) -> LoggedPlace | None:
    """The place that a record's payload holds; None for a request without items, and for an erased
    payload.

    Raises:
        Corrupt: it is none.
    """
    if payload is None or "ranking" not in payload:
        return None
    try:
        return msgspec.convert(payload["ranking"], LoggedPlace)
    except msgspec.ValidationError as error:
        raise Corrupt(f"ranking: {error}") from error
