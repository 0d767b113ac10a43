"""Model cards on a terminal: a heading for each section, a line for each field, tables."""

from __future__ import annotations

from mlplatform.commands.terminal.output import (
    print_fields,
    print_heading,
    print_line,
    print_table,
)
from mlplatform.operations.card.card import Card
from mlplatform.operations.card.comparison import Comparison
from mlplatform.operations.card.sections import sections


def print_card(card: Card) -> None:
    """Print every section of a card, in order."""
    print_heading(f"Version {card.identity.version} of {card.identity.model}")
    for section in sections(card):
        print_line("")
        print_heading(section.title)
        if section.fields:
            print_fields(dict(section.fields))
        for line in section.lines:
            print_line(f"- {line}")
        for table in section.tables:
            print_table(table.head, table.rows, title=table.caption, prose=table.head[-1])


def print_comparison(found: Comparison, *, every: bool) -> None:
    """Print where two versions differ, section by section.

    Args:
        every: whether to print what is equal too.
    """
    print_heading(f"Versions {found.first} and {found.second} of {found.model}")
    for note in found.notes:
        print_line(f"- {note}")
    head = ("figure", f"version {found.first}", f"version {found.second}")
    equal = 0
    for section in found.sections:
        shown = section.figures if every else section.differing
        equal += len(section.equal)
        if not shown:
            continue
        print_line("")
        rows = [(f.name, f.first, f.second) for f in shown if not f.is_sentence]
        if rows:
            print_table(head, rows, title=section.title, prose=head[-1])
        else:
            print_heading(section.title)
        for number, sentences in (
            (found.first, section.only_first),
            (found.second, section.only_second),
        ):
            for sentence in sentences:
                print_line(f"- Only version {number}: {sentence}")
        for figure in shown:
            if figure.is_sentence and not figure.differs:
                print_line(f"- Both: {figure.name}")
    if not every:
        print_line("")
        print_line(f"{equal:,} more figures are equal; `--all` shows them")
