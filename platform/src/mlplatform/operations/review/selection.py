"""A part of the review queue, and its order: which decisions a person wants to see first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

Order = Literal["oldest", "newest", "highest score", "lowest score", "largest", "smallest"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
OF_FIELD: Final[frozenset[Order]] = frozenset({"largest", "smallest"})
"""Orders by the value of a request's field."""
_SIGNS: Final[Mapping[Order, int]] = MappingProxyType(
    {"oldest": 1, "newest": -1, "highest score": -1, "lowest score": 1, "largest": -1,
     "smallest": 1}
)  # fmt: skip
"""Order → sign of the number that rises from page to page."""
_VALUE: Final = (
    "(SELECT json_extract(f.value, '$[1]') FROM json_each(waiting.shown, '$.fields') f"
    " WHERE json_extract(f.value, '$[0]') = ?)"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The decisions of the queue that a person wants to see, and in which order.

    Args:
        decision: what was decided; empty for any.
        reason: code of a reason; empty for any.
        from_score, to_score: bounds of the score, both included; None for none.
        field: the number of the request that `from_value`, `to_value` and an order are about;
            empty for none.
    """

    decision: str = ""
    reason: str = ""
    from_score: float | None = None
    to_score: float | None = None
    field: str = ""
    from_value: float | None = None
    to_value: float | None = None
    order: Order = "oldest"

    @property
    def is_narrow(self) -> bool:
        """Whether it leaves decisions out."""
        bounds = (self.from_score, self.to_score, self.from_value, self.to_value)
        return bool(self.decision or self.reason) or any(b is not None for b in bounds)

    def condition(self) -> tuple[str, tuple[Any, ...]]:
        """An SQL condition on the table `waiting`, with its values."""
        found: list[str] = ["1"]
        values: list[Any] = []
        if self.decision:
            found.append("decision = ?")
            values.append(self.decision)
        if self.reason:
            found.append("EXISTS (SELECT 1 FROM json_each(shown, '$.reasons') r WHERE r.value = ?)")
            values.append(self.reason)
        for bound, sign in ((self.from_score, ">="), (self.to_score, "<=")):
            if bound is not None:
                found.append(f"score {sign} ?")
                values.append(bound)
        for bound, sign in ((self.from_value, ">="), (self.to_value, "<=")):
            if bound is not None:
                found.append(f"{_VALUE} {sign} ?")
                values += [self.field, bound]
        return " AND ".join(found), tuple(values)

    def key(self) -> tuple[str, tuple[Any, ...]]:
        """An SQL expression that rises in this order, with its values; what has none comes last."""
        sign = _SIGNS[self.order]
        if self.order in OF_FIELD:
            return f"coalesce({sign} * {_VALUE}, 9e99)", (self.field,)
        if self.order in ("oldest", "newest"):
            return ("event_ms" if sign == 1 else "-event_ms"), ()
        return f"coalesce({sign} * score, 9e99)", ()


EVERYTHING: Final = Selection()
