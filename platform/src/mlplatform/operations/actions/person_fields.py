"""Who asks and why: what every request of a person is signed with, and how long it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlplatform.runtime import text as texts
from mlplatform.runtime.errors import InputInvalid

SHOWN = 40


@dataclass(frozen=True, slots=True)
class Length:
    """How many characters a text may have, without the white space around it.

    Args:
        form: the text as it is kept, or `InputInvalid` (`mlplatform.runtime.text`).
    """

    least: int
    most: int
    form: Callable[[str, str], str]

    def checked(self, name: str, text: str) -> str:
        """The text as it is kept.

        Raises:
            InputInvalid: names what is too short or too long, and the limits, or the character that
                no such text holds.
        """
        stripped = self.form(name, text) if text.strip() else ""
        if self.least <= len(stripped) <= self.most:
            return stripped
        shown = texts.shown(stripped if len(stripped) <= SHOWN else f"{stripped[:SHOWN]}…")
        problem = f"{shown!r} has {len(stripped)} characters; wanted: {self.least} to {self.most}"
        raise InputInvalid(name, None, problem)


ACTOR = Length(2, 80, texts.name)
REASON = Length(5, 500, texts.cleaned)
