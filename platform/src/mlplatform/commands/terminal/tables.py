"""Tables that can be read at any width: a long text goes below its row where they don't fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from mlplatform.runtime.text import shown

GAP = 2
INDENT = "    "
READABLE = 48
"""Characters a line that sentences are given beside other columns."""
UNBOUNDED = 10_000


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    prose: str | None = None,
) -> None:
    """One table.

    Args:
        prose: the column whose cells are sentences; where the console leaves them little room, they
            stand below their rows.
    """
    texts = [["" if cell is None else shown(str(cell)) for cell in row] for row in rows]
    title = shown(title)
    if prose is not None and not _has_room(console, columns, texts, columns.index(prose)):
        short, sentences = _parted([columns, *texts], columns.index(prose))
        widths = [_width(*column) for column in zip(*short, strict=True)]
        if sum(widths) + GAP * (len(widths) - 1) <= console.width:
            if title:
                console.print(title, style="italic", markup=False, soft_wrap=True)
            _print_below(console, widths, short, sentences)
            return
    console.print(_table(columns, texts, title))


def _parted(rows: Sequence[Sequence[str]], at: int) -> tuple[list[list[str]], list[str]]:
    """Rows without one of their columns, and that column."""
    return [[*row[:at], *row[at + 1 :]] for row in rows], [row[at] for row in rows]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    table = Table(title=escape(title) or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # a cut name could not be typed
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _has_room(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], at: int
) -> bool:
    unbounded = console.options.update_width(UNBOUNDED)
    whole = Measurement.get(console, unbounded, _table(columns, rows)).maximum
    sentences = max(cell_len(text) for text in (columns[at], *(row[at] for row in rows)))
    room = console.width - (whole - sentences)
    return room >= min(sentences, READABLE)


def _print_below(
    console: Console,
    widths: Sequence[int],
    rows: Sequence[Sequence[str]],
    sentences: Sequence[str],
) -> None:
    head, *cells = rows
    named = [textwrap.wrap(name, width) for name, width in zip(head, widths, strict=True)]
    for line in zip_longest(*named, fillvalue=""):
        console.print(_line(line, widths), style="bold", markup=False, soft_wrap=True)
    for row, sentence in zip(cells, sentences[1:], strict=True):
        console.print(_line(row, widths), markup=False, soft_wrap=True)
        for part in wrapped(sentence, console.width - len(INDENT)):
            console.print(INDENT + part, style="dim", markup=False, soft_wrap=True)


def _width(name: str, *cells: str) -> int:
    """The width of a column whose heading may take as many lines as it has words."""
    return max(cell_len(text) for text in (*name.split(), *cells, ""))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        text + " " * (width - cell_len(text)) for text, width in zip(cells, widths, strict=True)
    )
    return (" " * GAP).join(padded).rstrip()


def wrapped(text: str, width: int) -> list[str]:
    """Lines of no more than `width`, but for a word (a path, a digest) that is longer."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
