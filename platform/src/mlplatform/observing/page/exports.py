"""A search for decisions as a CSV file that a spreadsheet opens without running anything in it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.observing.page.queries.search import SearchResult
from mlplatform.runtime.times import iso_millisecond_text, text_of_any

MOST_ROWS: Final = 5_000
"""Most rows of one file; a narrower search, or one of older decisions, gives the rest."""
BUDGET_S: Final = 3.0
"""Seconds for the search of one file, for which a person waits longer than for a page."""
COLUMNS: Final = (
    *("decision_id", "model", "kind", "event_time", "customer_pseudonym", "version", "arm"),
    *("answered_by", "score", "decision", "degraded", "degraded_reason", "latency_us"),
    *("generation", "reasons"),
)
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters by which a spreadsheet recognises a formula."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file.

    Args:
        name: the file's name, which says whether the file holds everything that the search finds.
    """

    name: str
    text: str


def export(found: SearchResult) -> Export:
    """The rows of a search in the form of RFC 4180, newest event first."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in found.rows:
        own = {
            "event_time": text_of_any(row["event_ms"], iso_millisecond_text),
            # As text: a spreadsheet keeps 15 digits of a number, so two customers could become one.
            "customer_pseudonym": "" if row["unit"] is None else f"u{row['unit']}",
            "reasons": ", ".join(row["reasons"]),
        }
        writer.writerow([cell(own[name] if name in own else row[name]) for name in COLUMNS])
    name = "decisions.csv" if found.older is None else "decisions-part.csv"
    return Export(name, written.getvalue())


def cell(value: Any) -> Any:
    """A value that a spreadsheet shows without computing it: a text that could be a formula begins
    with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
