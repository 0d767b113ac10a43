"""A search as a file: what a spreadsheet would compute is text, and nobody is named in it."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from mlplatform.observing.page import exports
from mlplatform.observing.page.queries.search import READ, Query, SearchCursor, SearchResult, query
from rollout_world import table


def rows(*given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Rows as a search finds them; their reasons are none unless they are given."""
    records = [{k: v for k, v in row.items() if k != "reasons"} for row in given]
    found = table(records).select(list(READ)).to_pylist()
    return tuple(
        {**row, "reasons": told.get("reasons", ())} for row, told in zip(found, given, strict=True)
    )


def read(made: exports.Export) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(made.text, newline="")))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_text_is_a_formula(text: str) -> None:
    row = {"degraded_reason": text, "decision": text, "reasons": (text,)}
    made = exports.export(SearchResult(rows(row)))
    (one,) = read(made)
    assert one["decision"] == one["degraded_reason"] == one["reasons"] == f"'{text}"


def test_a_file_has_the_rows_of_the_search_with_pseudonyms() -> None:
    given = rows(
        {"unit": -(2**62) - 1, "event_ms": 1_700_000_000_123, "score": 0.25, "degraded": True,
         "reasons": ("HOUR", "NIGHT")},
        {"unit": None, "score": None, "decision": 'a,"b"', "version": None},
    )  # fmt: skip
    made = exports.export(SearchResult(given))
    first, second = read(made)
    assert first["customer_pseudonym"] == f"u{-(2**62) - 1}", "no spreadsheet rounds it"
    assert first["event_time"] == "2023-11-14T22:13:20.123+00:00"
    assert (first["score"], first["degraded"], second["degraded"]) == ("0.25", "yes", "no")
    assert (second["decision"], second["customer_pseudonym"], second["score"]) == ('a,"b"', "", "")
    assert (first["reasons"], second["reasons"]) == ("HOUR, NIGHT", "")
    assert made.text.count("\r\n") == 3
    assert not {"payload", "unit"} & set(first)


def test_its_name_says_whether_there_is_more() -> None:
    assert exports.export(SearchResult(())).name == "decisions.csv"
    assert exports.export(SearchResult((), older=SearchCursor(5))).name == "decisions-part.csv"


def test_the_link_asks_for_the_same_search_from_the_same_place() -> None:
    asked = Query(model="fraud", unit=-5, outcome="review", before=SearchCursor(7, "a", 3))
    path, _, text = asked.export_link().partition("?")
    fields = dict(csv_field.split("=") for csv_field in text.replace("%3A", ":").split("&"))
    assert path == "/decisions.csv"
    assert query(fields) == asked
    assert Query().export_link() == "/decisions.csv"
