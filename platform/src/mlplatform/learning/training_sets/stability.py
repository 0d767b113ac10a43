"""How much each input of a training set moved over its days: the values of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stability:
    """The population stability index of inputs, over stretches of whole days.

    Args:
        from_ms: midnights at which the stretches begin; the last ends with the days for the gates.
        indices: input → its index in each stretch after the first, of which the shares are those
            to compare with.
    """

    from_ms: tuple[int, ...]
    indices: Mapping[str, tuple[float, ...]]

    @property
    def largest(self) -> dict[str, float]:
        """Input → its largest index, the inputs that moved most first."""
        found = {name: max(values) for name, values in self.indices.items()}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))
