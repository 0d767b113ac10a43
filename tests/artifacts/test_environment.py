"""Every variable that the package reads or sets is declared: a setting, or another program's."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mlplatform.runtime.configuration.declarations import CONSTANTS, EVERY, SETTINGS
from mlplatform.runtime.configuration.other_programs import OTHERS
from mlplatform.runtime.configuration.variables import HANDED_DOWN

PACKAGE: Final = Path(__file__).parents[2] / "platform" / "src" / "mlplatform"
WHOLE: Final = {
    "commands/first_hour/doctor.py": "the home, where settings can't be loaded",
    "commands/platform.py": "the home of `down`; `up --clock` sets what its children inherit",
    "commands/terminal/hints.py": "the home, after an error",
    "commands/worker.py": "sets the settings of the running platform, for a process's entry",
    "model/folders.py": "folders of models, also in processes without settings",
    "operations/backup/servers.py": "PostgreSQL's programs inherit it",
    "operations/compute/pool.py": "items inherit it",
    "operations/compute/private_pool.py": "a pool inherits it",
    "operations/prefect_server/flow_processes.py": "names a forked run, and loads its settings",
    "operations/prefect_server/prefect_server.py": "sets Prefect's variables before its import",
    "operations/supervisor/child.py": "children inherit it",
    "operations/supervisor/mlflow_server.py": "sets MLflow's variables before its import",
    "operations/wiring.py": "loads settings",
    "process.py": "loads settings",
    "runtime/processes/folder_python.py": "a folder's Python gets all but the settings",
    "runtime/sandbox/probe_work.py": "reports what confined work has of it",
    "scoring/explanations/process.py": "the explainer inherits it",
}
"""Modules that use an environment as a whole, with the reason."""
CONSTANT: Final = re.compile(r"_?[A-Z][A-Z0-9]+(_+[A-Z0-9]+)+|PG[A-Z]+")
"""Texts that look like a variable's name."""
NO_VARIABLE: Final = re.compile(r"RLIMIT_\w+")
"""Keys of mappings that look like one: limits of a process."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    found = PACKAGE.rglob("*.py")
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in found}


def uses(tree: ast.Module) -> Iterator[ast.expr | None]:
    """The expression of each variable that code reads or sets in `os.environ`; None for a use of
    all of it."""
    above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or ast.unparse(node) != "os.environ":
            continue
        match above[node]:
            case ast.Subscript(slice=name) | ast.Compare(left=name):
                yield name
            case ast.Attribute(attr="get" | "pop" | "setdefault") as method:
                call = above[method]
                assert isinstance(call, ast.Call)
                yield call.args[0]
            case _:
                yield None


def values(module: str, tree: ast.Module, node: ast.expr) -> list[str]:
    """The texts that an expression may have: a constant, or each of a loop over constants."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    name = "mlplatform." + module.removesuffix(".py").replace("/", ".")
    known: dict[str, Any] = vars(importlib.import_module(name))
    for loops in (n for n in ast.walk(tree) if isinstance(n, ast.DictComp)):
        (loop,) = loops.generators
        if node in ast.walk(loops) and ast.unparse(loop.target) == ast.unparse(node):
            return list(known[ast.unparse(loop.iter)])
    return [str(eval(ast.unparse(node), known))]


def is_declared(name: str) -> bool:
    ours = {setting.variable for setting in SETTINGS} | HANDED_DOWN
    return name in ours or name in CONSTANTS or any(other.covers(name) for other in OTHERS)


def single() -> set[str]:
    """The names of variables that modules read or set by name."""
    return {
        value
        for module, tree in trees().items()
        for node in uses(tree)
        if node is not None
        for value in values(module, tree, node)
    }


def test_a_variable_that_is_read_or_set_is_declared() -> None:
    found = single()
    assert {"KUBECONFIG", "PGPASSFILE", "LD_LIBRARY_PATH", "PREFECT_API_AUTH_STRING"} <= found
    assert {name for name in found if not is_declared(name)} == set()


def test_a_variable_that_a_child_gets_is_declared() -> None:
    """Keys of mappings, as of an environment that is handed to a process."""
    keys = {
        key.value
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    found = {key for key in keys if CONSTANT.fullmatch(key)}
    assert {"PGHOST", "PREFECT_HOME", "_MLFLOW_SERVER_FILE_STORE"} <= found
    assert {
        name for name in found if not NO_VARIABLE.fullmatch(name) if not is_declared(name)
    } == set()


def test_a_whole_environment_is_used_where_the_list_says() -> None:
    found = {name for name, tree in trees().items() if any(node is None for node in uses(tree))}
    assert found == WHOLE.keys()


def test_nothing_reads_an_environment_by_another_way() -> None:
    ways = re.compile(r"\bos\.(getenv|environb|putenv|unsetenv)\b|from os import .*\benviron")
    texts = {name: (PACKAGE / name).read_text() for name in trees()}
    assert {name for name, text in texts.items() if ways.search(text)} == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("os.environ['A']", ["'A'"]),
        ("os.environ.get('A', '')", ["'A'"]),
        ("'A' in os.environ", ["'A'"]),
        ("f(os.environ)", [None]),
        ("{**os.environ}", [None]),
        ("os.environ[NAME] = '1'", ["NAME"]),
    ],
)
def test_uses_of_an_environment_are_found(text: str, expected: list[str | None]) -> None:
    found = uses(ast.parse(text))
    assert [None if node is None else ast.unparse(node) for node in found] == expected


def test_a_name_of_nobody_is_not_declared() -> None:
    assert not is_declared("MLPLATFORM_GATEWAY_PRT")
    assert not is_declared("GOOGLE_APPLICATION_CREDENTIALS")
    assert is_declared("AWS_SECRET_ACCESS_KEY")


def test_each_row_names_who_reads_or_sets_it() -> None:
    assert [other.names for other in OTHERS if not (other.read_by or other.set_by)] == []
    every = [(other.read_by, other.set_by) for other in OTHERS]
    assert all(EVERY[0] not in who or who == EVERY for pair in every for who in pair)
