"""The root group of commands: an error of an option or argument names the value that was typed, or
what is wanted of one that is missing, and help texts fit a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from mlplatform.commands.terminal.help_text import join_help

WANTED: Final[Mapping[str, str]] = {
    "int_parsing": "a whole number, such as 7",
    "int_from_float": "a whole number, such as 7",
    "float_parsing": "a number, such as 0.5",
    "bool_parsing": "true or false",
}
"""Type of pydantic's error → what is wanted, for errors whose text says how it is parsed."""
_DAYS: Final = "the formats '%Y-%m-%d'"
_BEGINS: Final = "Input should be "
_OF: Final = re.compile(r"Value error, '.*' is not one of (.*?)\.?", re.DOTALL)
"""How the text about a value of a fixed list ends."""


class CommandGroup(TyperGroup):
    """A group whose commands name the wrong value, beside the option that has it."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        join_help(self)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if not error.message and error.param is not None:  # it is missing
                error.message = f"Wanted: {getattr(error.param, 'help', '') or 'a value'}"
            if isinstance(error.__cause__, ValidationError):
                error.message = named_value(error.__cause__)
            raise


def named_value(error: ValidationError) -> str:
    """The first problem of a value, as the value and what is wanted."""
    first = error.errors()[0]
    value, message = first["input"], first["msg"]
    if _DAYS in message:
        return f"{value!r} is not a day; wanted: one such as 2026-03-01"
    if listed := _OF.fullmatch(message):
        return f"{value!r}; wanted: one of {listed[1]}"
    wanted = WANTED.get(first["type"]) or message.removeprefix(_BEGINS)
    return f"{value!r}; wanted: {wanted}"
