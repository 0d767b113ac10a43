"""The definitions and imports of one Python file, for readers of its expressions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """The definitions and imports of one file."""

    def __init__(self, path: str, name: str, tree: ast.Module) -> None:
        self.path, self.name, self.tree = path, name, tree
        self._assigned: dict[Function, dict[str, list[ast.expr]]] = {}

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> dict[str, Function]:
        nodes = (node for node in self.nodes if isinstance(node, Function))
        return {node.name: node for node in nodes}

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        nodes = (node for node in self.nodes if isinstance(node, ast.ClassDef))
        return {node.name: node for node in nodes}

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        return {name: value for name, value in assignments(self.tree.body)}

    def values_of(self, function: Function, used: ast.Name) -> list[ast.expr]:
        """The values that a name may have where a function uses it: not those that every way to
        this place replaces."""
        values = self.assigned(function).get(used.id, [])
        first = _last_certain(function.body, used)
        return [v for v in values if first <= v.lineno <= used.lineno] if first else values

    def assigned(self, function: Function) -> dict[str, list[ast.expr]]:
        """Name → all values that a function assigns to it."""
        if function not in self._assigned:
            found = self._assigned.setdefault(function, {})
            for name, value in assignments(ast.walk(function)):
                found.setdefault(name, []).append(value)
        return self._assigned[function]

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Local name → module and name from which it is imported."""
        found: dict[str, tuple[str, str]] = {}
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    found[alias.asname or alias.name] = (node.module, alias.name)
        return found

    @cached_property
    def owners(self) -> dict[ast.AST, Function | None]:
        """Node → the innermost function that contains it."""
        found: dict[ast.AST, Function | None] = {}
        waiting: list[tuple[ast.AST, Function | None]] = [(self.tree, None)]
        while waiting:
            node, owner = waiting.pop()
            found[node] = owner
            inner = node if isinstance(node, Function) else owner
            waiting += ((below, inner) for below in ast.iter_child_nodes(node))
        return found


def assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                yield name, value


def _last_certain(block: Sequence[ast.stmt], used: ast.Name) -> int:
    """The line of the last assignment to a name that is on every way to its use; 0 if none is."""
    found = 0
    for statement in block:
        if statement.lineno > used.lineno:
            break
        if (statement.end_lineno or 0) < used.lineno:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)]) if name == used.id:
                    found = statement.lineno
            continue
        for part in ("body", "orelse", "finalbody"):
            inner = getattr(statement, part, None)
            if isinstance(inner, list) and any(_holds(one, used) for one in inner):
                return max(found, _last_certain(inner, used))
        return found
    return found


def _holds(statement: ast.stmt, used: ast.Name) -> bool:
    return statement.lineno <= used.lineno <= (statement.end_lineno or statement.lineno)


def parameters(function: Function) -> list[str]:
    arguments = function.args
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def last_name(node: ast.expr | None) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Constant(value=str(name)):
            return name
    return ""
