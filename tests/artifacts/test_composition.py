"""Adapters of storage are made where processes are composed; no string is an arrow upwards."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "platform" / "src" / "mlplatform"
ADAPTER: Final = re.compile(r"(Sqlite|Postgres|Redis|Feast|Kafka)[A-Z]\w+")
DRIVERS: Final = "runtime/storage/"
OPENED_IN: Final = {
    "scoring/backends.py": "for gateways, workers, the exporter, flows, commands and the page",
    "decisions/replication/copies.py": "for what carries a log elsewhere, which lies below scoring",
    "decisions/topics/choice.py": "for workers and what publishes the log",
    "decisions/topics/kafka.py": "a subscription of its own topics",
    "learning/features/feast_folder/online_store.py": "what Feast makes, in its own process",
}


UP: Final = {"runtime/processes/commands.py": {"mlplatform.process"}}
"""A process is started by the command line of the entry, which is above all areas."""


def trees() -> dict[str, ast.Module]:
    found = PACKAGE.rglob("*.py")
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in found}


def adapters(parsed: dict[str, ast.Module]) -> dict[str, str]:
    """Class → its module, of each that is named for the system behind a port."""
    return {
        node.name: name
        for name, tree in parsed.items()
        if not name.startswith(DRIVERS)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and ADAPTER.fullmatch(node.name)
    }


def constructed(tree: ast.Module, classes: set[str]) -> set[str]:
    """Which of the classes the module makes one of, or hands to who does."""
    types = {id(n) for node in ast.walk(tree) for n in _annotations(node)}
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in classes and id(node) not in types
    }


def _annotations(node: ast.AST) -> list[ast.AST]:
    parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [inner for part in parts if part is not None for inner in ast.walk(part)]


def test_adapters_are_made_in_one_place() -> None:
    parsed = trees()
    classes = adapters(parsed)
    assert {"SqliteDecisionLog", "PostgresKeys", "FeastRedis", "KafkaTopics"} <= classes.keys()
    used = {
        name: found
        for name, tree in parsed.items()
        if (found := constructed(tree, {c for c, home in classes.items() if home != name}))
    }
    assert used.keys() == OPENED_IN.keys(), used
    assert used["decisions/replication/copies.py"] == {"SqliteDecisionLog"}
    assert used["decisions/topics/kafka.py"] == {"KafkaSubscription"}


def test_one_place_chooses_between_the_clocks() -> None:
    makes = {name for name, tree in trees().items() if constructed(tree, {"ReplayClock"})}
    assert makes == {"scoring/backends.py"}


def test_what_makes_one_is_found() -> None:
    text = "def f(log: SqliteLog) -> SqliteLog:\n    return "
    assert constructed(ast.parse(f"{text}SqliteLog(1)"), {"SqliteLog"}) == {"SqliteLog"}
    assert constructed(ast.parse(f"{text}partial(SqliteLog, 1)"), {"SqliteLog"}) == {"SqliteLog"}
    assert constructed(ast.parse(f"{text}log"), {"SqliteLog"}) == set()


def ranks() -> dict[str, int]:
    """Area → its layer, from the ground up."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (areas,) = (c for c in contracts["contracts"] if c.get("containers") == ["mlplatform"])
    return {area: rank for rank, area in enumerate(reversed(areas["layers"]))}


def named_modules(tree: ast.Module, known: set[str]) -> set[str]:
    """Modules that strings begin with: `a.b`, `a.b:name`, `a.b --option`."""
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return {
        re.split(r"[:\s]", text, maxsplit=1)[0] for text in texts if isinstance(text, str)
    } & known


def test_a_string_that_begins_with_a_module_is_found() -> None:
    tree = ast.parse("f('a.b', 'a.c:name', 'a.d --option', 'see a.e', 'a.f.name', 1)")
    known = {f"a.{letter}" for letter in "bcdef"}
    assert named_modules(tree, known) == {"a.b", "a.c", "a.d"}


def test_no_string_names_a_module_above() -> None:
    parsed, areas = trees(), ranks()
    known = {
        "mlplatform." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in parsed
    }
    above = {
        name: found
        for name, tree in parsed.items()
        if (area := name.partition("/")[0]) in areas
        if (found := {m for m in named_modules(tree, known) if _rank(m, areas) > areas[area]})
    }
    assert above == UP


def _rank(module: str, areas: dict[str, int]) -> int:
    return areas.get(module.split(".")[1], len(areas))
