"""Decision records name each other in pairs: what changes or extends another is named there too.

A reader who opens one record by a link sees in its status line which later record to read on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

RECORDS: Final = Path(__file__).parents[2] / "docs" / "decisions"
NUMBER: Final = re.compile(r"\b0\d{3}\b")
CHANGES: Final = r"extends|replaces|supersedes|changes|completes|adds to"
CLAIM: Final = re.compile(rf"\b(?:{CHANGES})\b[^.;:()]*?\b(0\d{{3}})\b", re.IGNORECASE)
"""A sentence of a record's text that says what it does to another."""
LATER: Final = re.compile(
    r"\b(?:changed|extended|completed|replaced|superseded) by ([^.;]*)", re.IGNORECASE
)


@dataclass(frozen=True)
class DecisionRecord:
    number: str
    status: str
    text: str

    @property
    def later(self) -> set[str]:
        """Records that this one says it is changed, extended or replaced by."""
        return {number for said in LATER.findall(self.status) for number in NUMBER.findall(said)}

    @property
    def earlier(self) -> set[str]:
        """Records that this one says it changes, extends or replaces."""
        return {*NUMBER.findall(self.status)} - self.later


def decision_record(number: str, written: str) -> DecisionRecord:
    _, status, *text = written.split("\n\n")
    return DecisionRecord(number, " ".join(status.split()), " ".join(" ".join(text).split()))


def unpaired(records: dict[str, DecisionRecord]) -> list[str]:
    found = []
    for number, record in records.items():
        for other in sorted(record.earlier):
            if other >= number or number not in records[other].later:
                found.append(f"{number} changes {other}, whose status does not say so")
        for other in sorted(record.later):
            if other <= number or number not in records[other].earlier:
                found.append(f"{number} is changed by {other}, whose status does not say so")
        claimed = {*CLAIM.findall(record.text)} - record.earlier
        found += [f"the status of {number} does not name {other}" for other in sorted(claimed)]
    return found


def test_what_a_record_changes_names_it_and_the_other_way_round() -> None:
    records = {
        path.name[:4]: decision_record(path.name[:4], path.read_text())
        for path in sorted(RECORDS.glob("0*.md"))
    }
    assert len(records) > 100
    assert unpaired(records) == []


@pytest.mark.parametrize(
    ("first", "second", "defect"),
    [
        ("accepted.", "accepted. Extends 0001.", "0002 changes 0001, whose status does not say so"),
        (
            "accepted. Changed by 0002.",
            "accepted.",
            "0001 is changed by 0002, whose status does not say so",
        ),
        (
            "accepted. Extends 0002.",
            "accepted. Changed by 0001.",
            "0001 changes 0002, whose status does not say so",
        ),
    ],
)
def test_one_that_stays_silent_is_found(first: str, second: str, defect: str) -> None:
    records = {
        number: decision_record(number, f"# One\n\nStatus: {status}\n\nText.")
        for number, status in (("0001", first), ("0002", second))
    }
    assert defect in unpaired(records)


def test_a_change_that_only_the_text_says_is_found() -> None:
    record = decision_record("0002", "# Two\n\nStatus: accepted.\n\nThis replaces what 0001 has.")
    assert unpaired({"0002": record}) == ["the status of 0002 does not name 0001"]
