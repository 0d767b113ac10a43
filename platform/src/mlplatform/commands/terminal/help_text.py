"""Help texts of commands, for a terminal of any width: their paragraphs have no lines of their own.

A docstring's lines are as wide as code may be. In a narrower terminal each of them would break once
more, into a line of one or two words.
"""

from __future__ import annotations

import inspect
import re
from typing import Final, Protocol

_LIST: Final = re.compile(r"^(?:\s|[-*] |\d+\. )", re.MULTILINE)
"""A line that is an item of a list, or is indented."""


class _Help(Protocol):
    help: str | None
    epilog: str | None


def join_lines(text: str) -> str:
    """The text with each paragraph on one line; paragraphs with lists or indented lines stay."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if _LIST.search(one) else one.replace("\n", " ") for one in paragraphs)


def join_help(command: _Help) -> None:
    """Join the lines of a command's help, and of its subcommands' help."""
    command.help = command.help and join_lines(command.help)
    command.epilog = command.epilog and join_lines(command.epilog)
    for sub in getattr(command, "commands", {}).values():
        join_help(sub)
