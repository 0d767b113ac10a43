"""Markdown on a terminal: reports of flow runs and evidence of rollouts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from mlplatform.commands.terminal.tables import print_table
from mlplatform.runtime.text import shown

PROSE = frozenset({"reason", "seen", "why"})
"""Columns of the platform's reports that hold sentences."""

_CELL_END = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_RULE = re.compile(r"\|[\s|:-]*-[\s|:-]*")
_MARKS = re.compile(r"(?<!\\)(?:\*\*|`)")


def print_markdown(console: Console, text: str) -> None:
    """Print headings, tables and paragraphs, none wider than the console."""
    for kind, lines in _blocks(shown(text, lines=True)):
        match kind:
            case "table":
                _print_table(console, lines)
            case "heading":
                for line in lines:
                    console.print(Text(_plain(line.lstrip("# ")), style="bold"))
            case _:
                # a link would be a control sequence: the address is shown beside the text instead
                console.print(Markdown("\n".join(lines), hyperlinks=False))
    console.print()


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    for kind, lines in groupby(text.strip().splitlines(), key=_kind):
        yield kind, list(lines)


def _kind(line: str) -> str:
    if line.startswith("|"):
        return "table"
    return "heading" if line.startswith("#") else "text"


def _print_table(console: Console, lines: Sequence[str]) -> None:
    head, *rows = [_cells(line) for line in lines if not _RULE.fullmatch(line)]
    prose = next((name for name in head if name in PROSE), None)
    print_table(console, head, rows, prose=prose)


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [_plain(cell.strip()) for cell in _CELL_END.split(inner)]


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", _MARKS.sub("", text))
