"""The programs that start outside the one entry of processes: the list of them, with reasons."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "platform" / "src" / "mlplatform"
PROGRAMS: Final = {
    "process.py": "the entry",
    "commands/__main__.py": "the command line, of which `mlplatform up` is a command",
    "commands/generate.py": "renders files of this repository from others",
    "learning/features/feast_repo.py": "renders the definitions of a model's folder for Feast",
    "runtime/sandbox/child.py": "confined work, which must find an empty environment",
}
"""Modules that Python can run, with what each is. Documents refer to this list."""
STARTERS: Final = {
    "commands/authoring/check_model.py": "`-c`: a folder's Python for `check-model`, no settings",
    "commands/features/definitions.py": "`feast_repo`, as above",
    "commands/first_hour/quickstart.py": "`mlplatform up`",
    "decisions/log/file_checks.py": "spawned: readers of files for `log verify`, one a core",
    "operations/prefect_server/flow_processes.py": "forked by `flows`: flow runs of this machine",
    "runtime/processes/commands.py": "the command line of the entry, for all others",
    "runtime/sandbox/process.py": "`runtime/sandbox/child.py`, as above",
}
"""Modules that start a Python process, with what it is."""


def trees() -> dict[str, ast.Module]:
    found = PACKAGE.rglob("*.py")
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in found}


def is_program(tree: ast.Module) -> bool:
    tests = (ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If))
    return "__name__ == '__main__'" in tests


def starts_python(tree: ast.Module) -> bool:
    """Whether code has Python's option for what to run, or makes processes without words."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value="-m" | "-c"):
                return True
            case ast.Import(names=names) if any(n.name == "multiprocessing" for n in names):
                return True
            case ast.ImportFrom(module="multiprocessing"):
                return True
    return False


def test_every_process_but_those_of_the_lists_starts_by_one_entry() -> None:
    found = trees()
    assert {name for name, tree in found.items() if is_program(tree)} == PROGRAMS.keys()
    assert {name for name, tree in found.items() if starts_python(tree)} == STARTERS.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run('-c', program)", (False, True)),
        ("def f():\n    from multiprocessing import Pool", (False, True)),
        ("run(*command)", (False, False)),
        ('if __name__ == "__main__":\n    main()', (True, False)),
    ],
)
def test_a_program_and_what_starts_one_are_found(text: str, expected: tuple[bool, bool]) -> None:
    tree = ast.parse(text)
    assert (is_program(tree), starts_python(tree)) == expected
