"""Who asks and why: what every request of a person is signed with, and how long it may be."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.errors import InputInvalid

SHOWN = 40


@dataclass(frozen=True, slots=True)
class Length:
    """How many characters a text may have, without the white space around it."""

    least: int
    most: int

    def checked(self, name: str, text: str) -> str:
        """The text without the white space around it.

        Raises:
            InputInvalid: names what is too short or too long, and the limits.
        """
        stripped = text.strip()
        if self.least <= len(stripped) <= self.most:
            return stripped
        shown = stripped if len(stripped) <= SHOWN else f"{stripped[:SHOWN]}…"
        problem = f"{shown!r} has {len(stripped)} characters; wanted: {self.least} to {self.most}"
        raise InputInvalid(name, None, problem)


ACTOR = Length(2, 80)
REASON = Length(5, 500)
