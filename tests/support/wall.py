"""A wall clock for tests of what ends by time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Wall:
    """A wall clock that stands until it is moved; epoch milliseconds."""

    ms: int

    def __call__(self) -> int:
        return self.ms
