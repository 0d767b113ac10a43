"""A function is no bare participle, unless it gives its argument changed: CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "platform" / "src" / "mlplatform"
PARTICIPLE: Final = re.compile(
    r"_*(?:\w*[a-z](?:(?<!e)ed|ing)|drawn|found|given|held|kept|known|left|made|said|seen|sent|shown"
    r"|taken|told)"
)
NOUNS: Final = frozenset(("everything", "nothing"))


def bare_participles(text: str) -> Iterator[str]:
    """Functions and methods without an argument or a result; those with decorators apart."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        bare = node.name.lstrip("_")
        if "_" in bare or bare in NOUNS or not PARTICIPLE.fullmatch(bare):
            continue
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        takes = [one.arg for one in every if one.arg not in ("self", "cls")]
        gives = ast.unparse(node.returns) if node.returns else "None"
        if not node.decorator_list and (not takes or gives == "None"):
            yield node.name


def found() -> set[str]:
    return {
        f"{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in bare_participles(path.read_text())
    }


def test_no_function_is_named_by_a_participle_that_changes_nothing() -> None:
    assert found() == set()


def test_a_bare_participle_is_found_and_a_changed_argument_is_not() -> None:
    text = """
def served(self): ...
def _told(reason: str) -> None: ...
def found(self) -> int: ...
def merged(files: list[str]) -> list[str]: ...
def serve(self): ...
@property
def finished(self) -> bool: ...
"""
    assert sorted(bare_participles(text)) == ["_told", "found", "served"]
