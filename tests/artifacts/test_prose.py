"""Documents are easy to read: 120 columns, decimals with their zero, plain words."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
COLUMNS: Final = 120
ITEM: Final = re.compile(r"(?:\d+\.|[-*]) ")
LINK: Final = re.compile(r"https?://\S+|\]\([^)]*\)")
CODE: Final = re.compile(r"`+[^`\n]+`+")
BARE_DECIMAL: Final = re.compile(r"(?<![\w.])[-+]?\.\d+")
HABITS: Final = re.compile(
    r"\b(?:(?:is|are) told (?:at once|as|by|of)|is no pass|is stood for by"
    r"|(?:asks?|asked|scores?|says?) (?:\w+ ){0,2}no more\b(?! than))"
)
"""Clauses over which readers stumbled: `report`, `no longer` and a subject in front do better."""


def documents() -> list[Path]:
    """Every document that people write; decision records keep the words of their time."""
    named = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(named, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines outside of code blocks. What is indented is code, but in an item
    of a list."""
    fenced = is_item = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith(" "):
            is_item = ITEM.match(line) is not None
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and (is_item or not line.startswith("    ")):
            yield number, line


def too_wide(text: str) -> list[int]:
    """Lines outside of tables, code and what holds a link that are wider than a reader's window."""
    return [
        number
        for number, line in prose(text)
        if len(line) > COLUMNS and not line.lstrip().startswith("|") and not LINK.search(line)
    ]


def stumbles(text: str) -> list[tuple[int, str]]:
    """Line and words of each number without its zero, and of each clause that misleads."""
    plain = ((number, CODE.sub("", line)) for number, line in prose(text))
    return [
        (number, found[0])
        for number, line in plain
        for pattern in (BARE_DECIMAL, HABITS)
        for found in pattern.finditer(line)
    ]


def test_documents_wrap() -> None:
    wide = {p.relative_to(ROOT).as_posix(): too_wide(p.read_text()) for p in documents()}
    assert len(wide) > 150
    assert {name: found for name, found in wide.items() if found} == {}


def test_numbers_and_clauses_read_at_a_glance() -> None:
    living = [p for p in documents() if p.parent.name != "decisions" and p.name != "CHANGELOG.md"]
    found = {p.relative_to(ROOT).as_posix(): stumbles(p.read_text()) for p in living}
    assert {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("within .1 s", [".1"]),
        ("(-.164)", ["-.164"]),
        ("0.5 of v1.2, and `.5` is no number", []),
        ("all errors are told at once", ["are told at once"]),
        ("a gateway asks an arm no more", ["asks an arm no more"]),
        ("it says no more than this", []),
        ("```\n.1\n```\n", []),
    ],
)
def test_what_is_looked_for_is_found(text: str, expected: list[str]) -> None:
    assert [words for _, words in stumbles(text)] == expected


def test_a_wide_line_is_found_but_for_tables_code_and_links() -> None:
    wide = "word " * 30
    lines = (wide, f"| {wide} |", f"    {wide}", f"{wide} https://example.org", "```", wide, "```")
    assert too_wide("\n".join(lines)) == [1]
