"""The document says of every listener what the code does."""

from __future__ import annotations

import ast
from pathlib import Path

import mlplatform
from mlplatform.operations.supervisor.listener_table import LISTENERS, render
from mlplatform.runtime.configuration.declarations import PORTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
PACKAGE = Path(mlplatform.__file__).parent


def test_the_document_holds_the_table_as_the_code_has_it() -> None:
    assert f"\n\n{render()}\n\n" in DOCUMENT.read_text()


def test_every_listener_says_what_it_asks_for_and_what_it_takes() -> None:
    for one in LISTENERS:
        assert one.asks
        assert one.is_open
        assert one.limits
        assert bool(one.variable) == one.variable.startswith("MLPLATFORM_")


def test_a_default_port_stands_in_the_declarations_alone() -> None:
    defaults = {int(port.default) for port in PORTS} - {0}
    assert len(defaults) > 3
    again = {
        f"{path.name}:{node.lineno}"
        for path in (PACKAGE / "operations").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and str(node.value) in map(str, defaults)
    }
    assert again == set()
