"""Settings are loaded at the entry of a process, once: other modules that load them, or a part of
them, are listed with reasons."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "platform" / "src" / "mlplatform"
CONFIGURATION: Final = "mlplatform.runtime.configuration"
WHOLE: Final = f"{CONFIGURATION}.settings.load"
OF_COMMAND: Final = "mlplatform.operations.wiring.settings"
PARTS: Final = frozenset(
    (
        f"{CONFIGURATION}.settings.home_of",
        f"{CONFIGURATION}.settings.log_level",
        f"{CONFIGURATION}.model_roots.model_roots",
        f"{CONFIGURATION}.neighbours.has_neighbours",
        f"{CONFIGURATION}.variables.value",
        f"{CONFIGURATION}.variables.parse",
    )
)
"""Functions that parse some variables."""

LOADS: Final = {
    "process.py": "the entry of every process",
    "observing/dashboards/links.py": "the defaults alone, of no environment: files are generated",
    "operations/wiring.py": "a command's own, and those of a platform that is to start",
    "operations/prefect_server/flow_processes.py": "a fork of the process `flows` has no entry",
    "runtime/processes/last_settings.py": "checks what a start stored, and keeps nothing of it",
    "commands/terminal/hints.py": "a hint after an error, also where no command has loaded its own",
}
"""Modules that load settings."""

LOADS_A_PART: Final = {
    "process.py": "the log level of a process without settings",
    "commands/first_hour/doctor.py": "says what is wrong where settings can't be loaded",
    "commands/platform.py": "`down` ends a platform whatever the other variables say",
    "commands/terminal/hints.py": "a hint after an error, also one of settings",
    "model/folders.py": "finds models, also in processes without settings",
    "runtime/configuration/model_roots.py": "the parser of one variable",
    "runtime/configuration/settings.py": "the parser of all",
    "runtime/configuration/variables.py": "the parser of each",
    "runtime/processes/last_settings.py": "the home, before its settings are known",
}
"""Modules that parse a part of the settings."""

COMMANDS: Final = ("commands/", "operations/wiring.py")
"""Where the settings of a command may be asked for: code below is given them."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    found = PACKAGE.rglob("*.py")
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in found}


def names(module: str, tree: ast.Module) -> dict[str, str]:
    """Local name → the dotted name that it stands for: imports anywhere, own functions."""
    own = "mlplatform." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    found = {n.name: f"{own}.{n.name}" for n in tree.body if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            found |= {one.asname: one.name for one in node.names if one.asname}
            found |= {one.name.partition(".")[0]: one.name.partition(".")[0] for one in node.names}
    return found


def references(module: str, tree: ast.Module) -> set[str]:
    """Dotted names of what a module refers to, imports themselves apart."""
    known = names(module, tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            head, _, rest = ast.unparse(node).partition(".")
            if head in known:
                found.add(f"{known[head]}.{rest}".removesuffix("."))
    return found


@functools.cache
def referenced() -> dict[str, set[str]]:
    return {name: references(name, tree) for name, tree in trees().items()}


def users(wanted: frozenset[str]) -> set[str]:
    return {name for name, found in referenced().items() if found & wanted}


def test_settings_are_loaded_where_a_process_begins() -> None:
    assert users(frozenset({WHOLE})) == LOADS.keys()


def test_a_part_of_the_settings_is_parsed_where_the_whole_can_not_be() -> None:
    assert users(PARTS) == LOADS_A_PART.keys()


def test_commands_alone_ask_for_the_settings_of_a_command() -> None:
    found = users(frozenset({OF_COMMAND}))
    assert "commands/log.py" in found
    assert {name for name in found if not name.startswith(COMMANDS)} == set()


@pytest.mark.parametrize(
    "text",
    [
        "from mlplatform.runtime.configuration.settings import load\nload(x)",
        "from mlplatform.runtime.configuration.settings import load as read\nread(x)",
        "from mlplatform.runtime.configuration import settings as s\ns.load(x)",
        "import mlplatform.runtime.configuration.settings\n"
        "mlplatform.runtime.configuration.settings.load(x)",
        "def f():\n    from mlplatform.runtime.configuration.settings import load\n    g(load)",
    ],
)
def test_what_loads_settings_is_found(text: str) -> None:
    assert WHOLE in references("model/one.py", ast.parse(text))
