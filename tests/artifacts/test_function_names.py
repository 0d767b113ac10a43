"""A function is no participle, unless it gives its argument changed: CONTRIBUTING.md.

What acts is named by a verb in front: what awaits, writes, starts, locks or waits, and what returns
nothing.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("platform/src/mlplatform", "demo", "flows", "clients", "models", "teams")
PARTICIPLE: Final = re.compile(
    r"_*(?:\w*[a-z](?:(?<!e)ed|ing)|bound|bought|brought|built|caught|chosen|done|drawn|driven|fed"
    r"|found|given|gone|heard|held|hidden|kept|known|laid|led|left|lent|lost|made|met|paid|said"
    r"|seen|sent|shown|sought|spent|stood|taken|taught|thought|thrown|told|won|worn|written)"
)
OTHERS: Final = frozenset(("bring", "everything", "nothing"))
"""Words with such an ending that are no participles."""
TYPE: Final = re.compile(r"[A-Z]\w*[a-z]\w*")
ACTS: Final = frozenset(
    (
        *("Popen", "copyfileobj", "flock", "fsync", "lockf", "mkdir", "rename", "rmtree", "sleep"),
        *("change", "commit", "create", "submit", "unlink", "urlopen", "write"),
        *("write_bytes", "write_text"),
    )
)
"""What a function calls that changes something outside of it, starts something or waits."""


def participles(text: str) -> Iterator[str]:
    """Functions and methods that begin with a participle and act or give nothing; of those that are
    one word also those without an argument, as `stored_plan` is a noun. Those with decorators are
    left out: a context manager is named for the state in which its body runs."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first, *others = node.name.lstrip("_").split("_")
        if first in OTHERS or not PARTICIPLE.fullmatch(first):
            continue
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        takes = others or [one.arg for one in every if one.arg not in ("self", "cls")]
        gives = ast.unparse(node.returns) if node.returns else "None"
        if not node.decorator_list and (not takes or gives == "None" or acts(node)):
            yield node.name


def acts(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    names = {c.attr if isinstance(c, ast.Attribute) else getattr(c, "id", "") for c in calls}
    return isinstance(node, ast.AsyncFunctionDef) or not ACTS.isdisjoint(names)


def requests_named_otherwise(text: str, ours: Container[str]) -> Iterator[str]:
    """Functions and variables that call a request, or another value of our own types, `asked`."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                kinds = (a.annotation for a in every if a.arg == "asked" and a.annotation)
                if any(word in ours for kind in kinds for word in TYPE.findall(ast.unparse(kind))):
                    yield node.name
            case ast.Assign(targets=[ast.Name(id="asked")], value=ast.Call(func=made)):
                if ast.unparse(made) in ours:
                    yield f"asked = {ast.unparse(made)}"


@functools.cache
def own_types() -> frozenset[str]:
    """Names of classes, and of other types, that our code defines."""
    trees = (ast.parse(text) for text in modules().values())
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(classes | {name for name in stored if TYPE.fullmatch(name)})


@functools.cache
def modules() -> dict[str, str]:
    """Path below the root → text, of all code but that of tests."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert {folder for folder in FOLDERS if any((ROOT / folder).rglob("*.py"))} == {*FOLDERS}
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in found}


def test_no_function_is_named_by_a_participle_that_changes_nothing() -> None:
    found = {f"{path}: {n}" for path, text in modules().items() for n in participles(text)}
    assert found == set()


def test_a_participle_is_found_and_a_changed_argument_is_not() -> None:
    text = """
def served(self): ...
def _told(reason: str) -> None: ...
def found(self) -> int: ...
def merged(files: list[str]) -> list[str]: ...
def serve(self): ...
@property
def finished(self) -> bool: ...
async def asked(model: str) -> int: ...
def bound(channel: str) -> None: ...
def copied(source: str, target: Path) -> int:
    return target.write_text(source)
def stored_plan() -> Plan: ...
def _shared_bundles(self) -> None: ...
async def looked_up(key: str) -> str: ...
async def look_up(key: str) -> str: ...
def asking_run(model: str) -> Run:
    time.sleep(1)
"""
    acting = ["_told", "asked", "bound", "copied", "found", "served"]
    longer = ["_shared_bundles", "asking_run", "looked_up"]
    assert sorted(participles(text)) == sorted(acting + longer)


def test_a_request_is_called_a_request() -> None:
    text = """
def a(asked: pb.ScoreRequest): ...
def b(asked: str, request: ScoringInput): ...
def c(*, asked: Sequence[Query] | None): ...
def d():
    asked = Query("a")
    asked = str("a")
"""
    ours = {"ScoreRequest", "ScoringInput", "Query"}
    assert [*requests_named_otherwise(text, ours)] == ["a", "c", "asked = Query"]
    assert {"ScoringInput", "Priority", "TableBatch"} <= own_types()
    ours = own_types() | {"ScoreRequest"}
    named = {
        f"{p}: {n}" for p, text in modules().items() for n in requests_named_otherwise(text, ours)
    }
    assert named == set()
