"""Tables that can be read at any width, with every name in one piece.

A long text goes below its row where it has no room; where not even names fit beside each other, a
row is a list of its cells.
"""

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
PADDING = 1
"""Blanks on each side of a cell in a table with lines."""
INDENT = "    "
READABLE = 48
"""Least characters of a line that sentences need beside other columns."""
UNBOUNDED = 10_000


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    prose: str | None = None,
) -> None:
    """Print one table.

    Args:
        prose: name of the column whose cells are sentences. In a narrow console, each sentence
            stands below its row. None means that no column has sentences.
    """
    columns = [shown(column) for column in columns]
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
    fitted = _fitted([columns, *texts], console.width)
    if fitted is None:
        _print_records(console, columns, texts, title)
    else:
        console.print(_table(columns, texts, title, fitted))


def _parted(rows: Sequence[Sequence[str]], at: int) -> tuple[list[list[str]], list[str]]:
    """The rows without one of their columns, and that column."""
    return [[*row[:at], *row[at + 1 :]] for row in rows], [row[at] for row in rows]


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    widths: Sequence[int] | None = None,
) -> Table:
    table = Table(title=escape(title) or None, title_justify="left", header_style="bold")
    for at, column in enumerate(columns):
        width = None if widths is None else widths[at]
        table.add_column(escape(column), overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Widths of columns that break cells between words only; None where the words have no room."""
    columns = list(zip(*rows, strict=True))
    widths = [
        max(cell_len(word) for text in column for word in text.split() or [""])
        for column in columns
    ]
    wanted = [max(map(cell_len, column)) for column in columns]
    room = width - len(columns) * (2 * PADDING + 1) - 1 - sum(widths)
    if room < 0:
        return None
    for at in sorted(range(len(columns)), key=lambda at: wanted[at] - widths[at]):
        more = min(room, wanted[at] - widths[at])
        widths[at] += more
        room -= more
    return widths


def _print_records(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str
) -> None:
    if title:
        console.print(title, style="italic", markup=False, soft_wrap=True)
    for number, row in enumerate(rows):
        if number:
            console.print()
        for name, text in zip(columns, row, strict=True):
            _print_cell(console, name, text)


def _print_cell(console: Console, name: str, text: str) -> None:
    line = f"{name}: {text}" if name else text
    if cell_len(line) <= console.width:
        console.print(line, markup=False, soft_wrap=True)
        return
    console.print(f"{name}:", markup=False, soft_wrap=True)
    for part in wrapped(text, console.width - len(INDENT)):
        console.print(INDENT + part, markup=False, soft_wrap=True)


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
    """The width of a column whose heading may wrap at its words."""
    return max(cell_len(text) for text in (*name.split(), *cells, ""))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        text + " " * (width - cell_len(text)) for text, width in zip(cells, widths, strict=True)
    )
    return (" " * GAP).join(padded).rstrip()


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; a longer word (a path, a digest) has a line of its
    own."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
