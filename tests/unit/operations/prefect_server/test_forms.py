"""A form of Prefect is described for the person before it, not for a reader of the flow's code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

from mlplatform.operations.prefect_server.forms import description

FLOWS: Final = sorted((Path(__file__).parents[4] / "flows").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_a_description_is_sentences_without_sections(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    (flow,) = [one for one in functions if one.name == path.stem]
    said = description(ast.get_docstring(flow) or "")
    assert said.endswith(".")
    assert not any(section in said for section in ("Args:", "Raises:", "Returns:"))
