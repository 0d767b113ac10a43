"""Windows that are the ratio of two others of their entity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlplatform.model.windows.declaration import Window


class Ratio(NamedTuple):
    """The names of a window, and of the two windows that it divides."""

    name: str
    of: str
    to: str

    def of_values(self, values: dict[str, float | None]) -> float | None:
        """The ratio of two windows' values; None if either has no value, or if the divisor is 0."""
        above, below = values[self.of], values[self.to]
        return above / below if above is not None and below else None


def ratios_of(windows: Sequence[Window]) -> tuple[Ratio, ...]:
    """The ratios among some windows, in their order."""
    return tuple(Ratio(w.name, w.of or "", w.to or "") for w in windows if w.aggregate == "ratio")
