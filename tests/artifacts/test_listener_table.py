"""The document says of every listener what the code does."""

from __future__ import annotations

from pathlib import Path

from mlplatform.operations.supervisor.listener_table import LISTENERS, render

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


def test_the_document_holds_the_table_as_the_code_has_it() -> None:
    assert f"\n\n{render()}\n\n" in DOCUMENT.read_text()


def test_every_listener_says_what_it_asks_for_and_what_it_takes() -> None:
    for one in LISTENERS:
        assert one.asks
        assert one.is_open
        assert one.limits
        assert bool(one.variable) == one.variable.startswith("MLPLATFORM_")
