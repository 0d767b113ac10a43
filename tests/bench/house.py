"""Counts the code of the package: packages, arrows between them, cycles, lengths, entry points.

    python tests/bench/house.py [ROOT]

Decision record 0061 has its figures, of its own tree and of that of an earlier commit, in a
worktree of it. Generated code is left out; imports in functions and for types count.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

PACKAGE: Final = Path("platform/src")
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
Graph = Mapping[str, set[str]]


class House:
    """The modules of a checkout's package, and what each imports of the others."""

    def __init__(self, root: Path) -> None:
        paths = sorted(p for p in (root / PACKAGE).rglob("*.py") if "_pb2" not in p.stem)
        self.files = {path: path.relative_to(root / PACKAGE) for path in paths}
        self.texts = {_dotted(name): path.read_text() for path, name in self.files.items()}
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}
        self.packages = {_dotted(n) for n in self.files.values() if n.name == "__init__.py"}
        self.arrows = {name: self._imports(name) - {name} for name in self.trees}

    def _imports(self, name: str) -> set[str]:
        found = set()
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {n if n in self.trees else node.module or "" for n in full}
        return found & self.trees.keys()

    def package_of(self, module: str) -> str:
        return module if module in self.packages else module.rpartition(".")[0]

    def package_arrows(self) -> dict[str, set[str]]:
        graph: dict[str, set[str]] = {package: set() for package in self.packages}
        for module, targets in self.arrows.items():
            graph[self.package_of(module)] |= {self.package_of(target) for target in targets}
        return {name: targets - {name} for name, targets in graph.items()}

    def functions(self) -> list[int]:
        """Lines of each, from its `def`."""
        every = (n for tree in self.trees.values() for n in ast.walk(tree))
        return [
            n.end_lineno - n.lineno + 1 for n in every if isinstance(n, FUNCTIONS) and n.end_lineno
        ]

    def own_imports_in_functions(self) -> int:
        found: set[tuple[str, int]] = set()
        for name, tree in self.trees.items():
            for function in (n for n in ast.walk(tree) if isinstance(n, FUNCTIONS)):
                found |= {(name, line) for line in _own_imports(function)}
        return len(found)

    def modules_with(self, pattern: str) -> int:
        return sum(re.search(pattern, text) is not None for text in self.texts.values())

    def count(self, pattern: str) -> int:
        return sum(len(re.findall(pattern, text, re.MULTILINE)) for text in self.texts.values())


def _dotted(name: Path) -> str:
    return ".".join(name.with_suffix("").parts).removesuffix(".__init__")


def _own_imports(function: ast.AST) -> Iterator[int]:
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlplatform"):
            yield node.lineno


def knots(graph: Graph) -> list[int]:
    """The sizes of what needs each other: strongly connected parts of more than one node."""
    reach = {name: _reach(graph, name) for name in graph} if _has_cycle(graph) else {}
    parts = {frozenset(n for n in found if name in reach[n]) for name, found in reach.items()}
    return sorted((len(part) for part in parts if len(part) > 1), reverse=True)


def _has_cycle(graph: Graph) -> bool:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


def _reach(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


def spread(lines: Sequence[int]) -> str:
    """The median, what nine of ten have at most, the most, and how many they are."""
    ninth = statistics.quantiles(lines, n=10, method="inclusive")[-1]
    return f"{statistics.median(lines):.0f}, {ninth:.0f}, {max(lines)} ({len(lines):,})"


def figures(root: Path) -> dict[str, object]:
    house = House(root)
    packages = house.package_arrows()
    files = Counter(path.parent for path in house.files if path.name != "__init__.py")
    modules = [text.count("\n") for text in house.texts.values()]
    return {
        "packages": len(packages),
        "arrows between packages": sum(map(len, packages.values())),
        "cycles of packages (sizes)": knots(packages),
        "cycles of modules (sizes)": knots(house.arrows),
        "files in a package, at most": max(files.values()),
        "lines of a function: median, 90 %, most (functions)": spread(house.functions()),
        "lines of a module: median, 90 %, most (modules)": spread(modules),
        "lines of source": f"{sum(modules):,}",
        "`def main(`": house.count(r"^def main\("),
        "`if __name__`": house.count(r"^if __name__"),
        "places that load settings": house.count(r"(?<!def )\bload\([^)\n]*environ"),
        "modules with `os.environ`": house.modules_with(r"\bos\.environ"),
        "modules with `import argparse`": house.modules_with(r"\bimport argparse"),
        "modules with `TYPE_CHECKING`": house.modules_with(r"\bTYPE_CHECKING"),
        "imports of our own modules in functions": house.own_imports_in_functions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).parents[2])
    for name, value in figures(parser.parse_args().root).items():
        print(f"{name}: {value or 0}")


if __name__ == "__main__":
    main()
