"""Fields that every request of a person has, such as name and reason, and their lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlplatform.runtime import text as texts
from mlplatform.runtime.errors import InputInvalid

SHOWN = 40


@dataclass(frozen=True, slots=True)
class Length:
    """The allowed length of a text in characters, without surrounding white space.

    Args:
        form: returns the stored form of a text, or raises `InputInvalid`
            (`mlplatform.runtime.text`).
    """

    least: int
    most: int
    form: Callable[[str, str], str]

    def checked(self, name: str, text: str) -> str:
        """The text in its stored form.

        Raises:
            InputInvalid: the text is too short, too long or has a character that is not allowed;
                the message names the limits or the character.
        """
        stripped = self.form(name, text) if text.strip() else ""
        if self.least <= len(stripped) <= self.most:
            return stripped
        shown = texts.shown(stripped if len(stripped) <= SHOWN else f"{stripped[:SHOWN]}…")
        count = f"{len(stripped)} character{'' if len(stripped) == 1 else 's'}"
        problem = f"{shown!r} has {count}; wanted: {self.least} to {self.most}"
        raise InputInvalid(name, None, problem)


ACTOR = Length(2, 80, texts.name)
REASON = Length(5, 500, texts.cleaned)
