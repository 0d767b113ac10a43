"""Output of commands: tables or JSON on standard output, errors and progress on standard error.

What comes from outside (names, reasons, error texts) steers no terminal: control characters are
written out, and rich's markup in it is text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mlplatform.commands.terminal import markdown, tables
from mlplatform.runtime import errors
from mlplatform.runtime.telemetry.refusals import is_no_refusal
from mlplatform.runtime.text import shown

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_error(error: errors.PlatformError) -> None:
    """Print an error and its cause on standard error; a cause that the error's text contains is not
    repeated."""
    text = str(error)
    ERR.print(f"[red]error:[/] {escape(_indented(text))}", soft_wrap=True)
    if error.__cause__ is not None and (cause := _message(error.__cause__)) not in text:
        ERR.print(f"  cause: {escape(_indented(cause))}", soft_wrap=True)


def _indented(text: str) -> str:
    """A text with indented further lines, none of which can be taken for another error."""
    return shown(text, lines=True).replace("\n", "\n  ")


def _message(cause: BaseException) -> str:
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str = "",
    *,
    prose: str | None = None,
) -> None:
    """Print a table; cells of the column `prose` stand below their rows if the table would be too
    wide."""
    tables.print_table(OUT, columns, rows, title=title, prose=prose)


def print_heading(text: str) -> None:
    OUT.print(shown(text), style="bold underline", markup=False)


def print_line(text: str) -> None:
    """Print one line on standard output, without wrapping."""
    OUT.print(shown(text), soft_wrap=True, markup=False)


def print_markdown(text: str) -> None:
    markdown.print_markdown(OUT, text)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one line for each field; on a terminal, long texts continue below their beginning."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        text = "none" if value is None else shown(str(value))
        if OUT.is_terminal and OUT.width > 2 * width:
            text = f"\n{' ' * (width + 2)}".join(tables.wrapped(text, OUT.width - width - 2))
        OUT.print(f"[bold]{escape(shown(name)):<{width}}[/]  {escape(text)}", soft_wrap=True)


def say_refusals_once() -> None:
    """Leave refusals out of the log lines on a terminal: there a refusal is the command's error."""
    if logging.lastResort is not None:
        logging.lastResort.addFilter(is_no_refusal)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show a status line on standard error while the block runs."""
    with ERR.status(text):
        yield
