"""Model cards on a terminal: a heading for each section, a line for each field, tables."""

from __future__ import annotations

from mlplatform.commands.terminal.output import (
    print_fields,
    print_heading,
    print_line,
    print_table,
)
from mlplatform.operations.card.card import Card
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
