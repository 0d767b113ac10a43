"""Which functions a program can reach, found in the syntax trees of its modules.

A function is reached if reached code names it, or names its class and calls a method of that name.
Where annotations give the class of a value, only this class's method is. A call by a string, or of
a function that a value carries, is found only where somebody names the function.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Node = ast.FunctionDef | ast.AsyncFunctionDef
SPECIAL: Final = "__"
"""Begins the names of methods that Python itself calls."""


class Unit(NamedTuple):
    """A function, `Class.method`, or the body of a module (empty name)."""

    module: str
    name: str


class Access(NamedTuple):
    """An attribute of a value, and the value's class."""

    of: str
    name: str


@dataclass(slots=True)
class Facts:
    """What the code of a unit names.

    Args:
        imports: modules that it imports.
        names: dotted names of functions, classes and values of modules.
        accesses: attributes of values of known classes.
        unknown: attributes of other values, with the last name by which the code has them.
        texts: its strings.
    """

    imports: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    accesses: set[Access] = field(default_factory=set)
    unknown: set[Access] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Class:
    module: str
    node: ast.ClassDef
    bases: list[str] = field(default_factory=list)
    methods: dict[str, Node] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    below: set[str] = field(default_factory=set)


class Code:
    """The units of some modules, and what they name.

    Args:
        trees: dotted name of each module → its tree; a package by its own name.
        known: classes of which every value's class is known, so that a method of that name of some
            other value is none of theirs.
    """

    def __init__(self, trees: Mapping[str, ast.Module], known: Iterable[str] = ()) -> None:
        self.trees = trees
        self.known = frozenset(known)
        self.bound = {m: _bindings(_flat(tree.body, True)) for m, tree in trees.items()}
        self.functions: dict[str, Node] = {}
        self.classes: dict[str, _Class] = {}
        for module, tree in trees.items():
            for node in _flat(tree.body):
                if isinstance(node, Node):
                    self.functions[f"{module}.{node.name}"] = node
                elif isinstance(node, ast.ClassDef):
                    self.classes[f"{module}.{node.name}"] = _Class(module, node)
        for name, one in self.classes.items():
            self._describe(name, one)
        for one in self.classes.values():
            for node in one.methods.values():
                self._own_fields(one, node)
        self.facts: dict[Unit, Facts] = {}
        for module, tree in trees.items():
            self.facts[Unit(module, "")] = self._facts(module, _body(tree), None)
        for name, node in self.functions.items():
            module = name.rpartition(".")[0]
            self.facts[Unit(module, node.name)] = self._facts(module, [node], None)
        for name, one in self.classes.items():
            for method, node in one.methods.items():
                unit = Unit(one.module, f"{one.node.name}.{method}")
                self.facts[unit] = self._facts(one.module, [node], name)

    def reached(
        self, roots: Iterable[Unit], left_out: Iterable[Unit] = ()
    ) -> dict[Unit, Unit | None]:
        """All units that these can reach, each with one that leads to it.

        Args:
            left_out: units that are not followed: other processes run them.
        """
        walk = _Walk(self, set(left_out))
        for unit in roots:
            walk.add(unit, None)
        return walk.run()

    def resolved(self, dotted: str) -> str:
        """The name under which something is defined, followed through imports."""
        for _ in range(8):
            module, _, name = dotted.rpartition(".")
            target = self.bound.get(module, {}).get(name)
            if target is None or target == dotted:
                return dotted
            dotted = target
        return dotted

    def _describe(self, name: str, one: _Class) -> None:
        for base in one.node.bases:
            found = self._class_of(one.module, base)
            if found is not None:
                one.bases.append(found)
                self.classes[found].below.add(name)
        for node in one.node.body:
            if isinstance(node, Node):
                one.methods[node.name] = node
                is_value = any("property" in ast.unparse(d) for d in node.decorator_list)
                if is_value and (of := self._class_of(one.module, node.returns)):
                    one.fields[node.name] = of
            elif (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and (of := self._class_of(one.module, node.annotation))
            ):
                one.fields[node.target.id] = of

    def _own_fields(self, one: _Class, method: Node) -> None:
        """Fields that a method sets, of which the value's class is known."""
        walked = list(ast.walk(method))
        known = self._locals(one.module, walked, f"{one.module}.{one.node.name}")
        for node in walked:
            if (
                isinstance(node, ast.AnnAssign)
                and _parts(node.target)[:1] == ["self"]
                and (of := self._class_of(one.module, node.annotation))
            ):
                one.fields.setdefault(_parts(node.target)[-1], of)
        for target, value in _assigned(walked):
            is_own = len(parts := _parts(target)) == 2 and parts[0] == "self"
            if is_own and (of := self._type(one.module, value, known)):
                one.fields.setdefault(parts[1], of)

    def _class_of(self, module: str, annotation: ast.expr | None) -> str | None:
        """The class of the package that an annotation names, without `None` and `Annotated`."""
        match annotation:
            case ast.Constant(value=str(text)):
                return self._class_of(module, ast.parse(text, mode="eval").body)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._class_of(module, left) or self._class_of(module, right)
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[first, *_])):
                return self._class_of(module, first)
            case ast.Subscript(value=ast.Name(id="Final" | "Iterator"), slice=inner):
                return self._class_of(module, inner)
            case ast.Name() | ast.Attribute():
                found = self._dotted(module, annotation, {})
                return found if found in self.classes else None
        return None

    def _dotted(self, module: str, node: ast.expr, own: Mapping[str, str]) -> str | None:
        """The dotted name of a module's function, class or value."""
        parts = _parts(node)
        if not parts:
            return None
        head, *rest = parts
        target = own.get(head) or self.bound[module].get(head)
        if target is None:
            target = f"{module}.{head}"
        found = self.resolved(target)
        for part in rest:
            found = self.resolved(f"{found}.{part}")
        return found

    def _locals(self, module: str, walked: list[ast.AST], own: str | None) -> dict[str, str]:
        """Local name → its class, of parameters and of what is assigned."""
        known: dict[str, str] = {"self": own} if own else {}
        for node in walked:
            if isinstance(node, ast.arg) and (of := self._class_of(module, node.annotation)):
                known[node.arg] = of
        imported, assigned = _bindings(walked), list(_assigned(walked))
        for _ in range(2):  # a second time, for what is assigned from what stands below it
            for target, value in assigned:
                is_new = isinstance(target, ast.Name) and target.id not in known
                if is_new and (of := self._type(module, value, known, imported)):
                    known[ast.unparse(target)] = of
        return known

    def _type(
        self,
        module: str,
        node: ast.expr,
        known: Mapping[str, str],
        imported: Mapping[str, str] | None = None,
    ) -> str | None:
        """The class of an expression's value, as far as annotations say."""
        own = imported or {}
        match node:
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.Attribute(value=value, attr=attr):
                of = self._type(module, value, known, own)
                return None if of is None else self._field(of, attr)
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if of := self._type(
                module, value, known, own
            ) or self._own_class(module, value, own):
                return self._given(of, attr)
            case ast.Call(func=func, args=args):
                name = self._dotted(module, func, own) or ""
                if name in ("dataclasses.replace", "contextlib.closing") and args:
                    return self._type(module, args[0], known, own)
                if name in self.classes:
                    return name
                if name in self.functions:
                    place = name.rpartition(".")[0]
                    return self._class_of(place, self.functions[name].returns)
            case ast.BoolOp(values=values):
                found = (self._type(module, one, known, own) for one in values)
                return next((one for one in found if one), None)
            case ast.IfExp(body=body, orelse=orelse):
                return self._type(module, body, known, own) or self._type(
                    module, orelse, known, own
                )
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                return self._type(module, value, known, own)
        return None

    def _own_class(self, module: str, value: ast.expr, own: Mapping[str, str]) -> str | None:
        """The class that an expression names."""
        name = self._dotted(module, value, own)
        return name if name in self.classes else None

    def _given(self, of: str, method: str) -> str | None:
        """The class of what a method returns."""
        found = self._method(of, method)
        if found is None:
            return None
        module, node = found
        is_own = node.returns is not None and ast.unparse(node.returns) == "Self"
        return of if is_own else self._class_of(module, node.returns)

    def ancestors(self, name: str) -> Iterator[str]:
        """A class and those that it is derived from."""
        yield name
        for base in self.classes[name].bases:
            yield from self.ancestors(base)

    def descendants(self, name: str) -> Iterator[str]:
        """A class and those derived from it."""
        yield name
        for one in self.classes[name].below:
            yield from self.descendants(one)

    def is_protocol(self, name: str) -> bool:
        bases = self.classes[name].node.bases
        return any("Protocol" in ast.unparse(base) for base in bases)

    def _field(self, of: str, attr: str) -> str | None:
        found = (self.classes[one].fields.get(attr) for one in self.ancestors(of))
        return next((one for one in found if one), None)

    def _method(self, of: str, attr: str) -> tuple[str, Node] | None:
        for one in self.ancestors(of):
            if attr in self.classes[one].methods:
                return self.classes[one].module, self.classes[one].methods[attr]
        return None

    def _facts(self, module: str, nodes: list[ast.AST], own: str | None) -> Facts:
        facts = Facts()
        inner: set[int] = set()
        walked = [n for one in nodes for n in ast.walk(one)]
        known, imported = self._locals(module, walked, own), _bindings(walked)
        local = _local_names(walked) if nodes and isinstance(nodes[0], Node) else set()
        for node in walked:
            match node:
                case ast.ImportFrom(module=str(source), names=names):
                    facts.imports |= {source, *(f"{source}.{one.name}" for one in names)}
                case ast.Import(names=names):
                    facts.imports |= {one.name for one in names}
                case ast.Constant(value=str(text)):
                    facts.texts.add(text)
                case ast.Attribute(value=value, attr="cache_clear"):
                    inner.add(id(value))  # what is forgotten is not called
                case ast.Name(id=name) if name not in local and id(node) not in inner:
                    if (found := self._dotted(module, node, imported)) is not None:
                        facts.names.add(found)
                case ast.Attribute(value=value, attr=attr):
                    of = self._type(module, value, known, imported)
                    if of is not None:
                        facts.accesses.add(Access(of, attr))
                        continue
                    if (of := self._dotted(module, value, imported)) in self.classes:
                        facts.accesses.add(Access(of or "", attr))
                        continue
                    found = self._dotted(module, node, imported)
                    if found is not None and (found in self.functions or found in self.classes):
                        facts.names.add(found)
                    elif not self._is_of_module(module, value, imported):
                        facts.unknown.add(Access((_parts(value) or [""])[-1], attr))
        return facts

    def _is_of_module(self, module: str, value: ast.expr, own: Mapping[str, str]) -> bool:
        """Whether an expression is a module, of this package or another, or one of its classes."""
        head = next(iter(_parts(value)), "")
        return head in own or head in self.bound[module]


class _Walk:
    def __init__(self, code: Code, left_out: set[Unit]) -> None:
        self._code = code
        self._left_out = left_out
        self._found: dict[Unit, Unit | None] = {}
        self._waiting: list[Unit] = []
        self._classes: set[str] = set()
        self._called: set[str] = set()
        self._by_method: dict[str, set[Unit]] = defaultdict(set)

    def add(self, unit: Unit, of: Unit | None) -> None:
        if unit in self._code.facts and unit not in self._found and unit not in self._left_out:
            self._found[unit] = of
            self._waiting.append(unit)
            self._import(unit.module, unit)

    def run(self) -> dict[Unit, Unit | None]:
        while self._waiting:
            unit = self._waiting.pop()
            facts = self._code.facts[unit]
            for name in facts.imports:
                self._import(name, unit)
            for name in facts.names:
                self._name(name, unit)
            for access in facts.accesses:
                self._access(access, unit)
            for access in facts.unknown:
                self._call(access.name, unit)
        return self._found

    def _import(self, name: str, of: Unit) -> None:
        """Run the body of a module, and of the packages that it is in."""
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            self.add(Unit(".".join(parts[:length]), ""), of)

    def _name(self, name: str, of: Unit) -> None:
        if name in self._code.functions:
            module, _, function = name.rpartition(".")
            self.add(Unit(module, function), of)
        elif name in self._code.classes:
            self._class(name, of)

    def _class(self, name: str, of: Unit) -> None:
        if name in self._classes:
            return
        self._classes.add(name)
        one = self._code.classes[name]
        for base in one.bases:
            self._class(base, of)
        for method in one.methods:
            unit = Unit(one.module, f"{one.node.name}.{method}")
            if name not in self._code.known:
                self._by_method[method].add(unit)
            is_called = method in self._called and name not in self._code.known
            if method.startswith(SPECIAL) or is_called:
                self.add(unit, of)

    def _call(self, method: str, of: Unit) -> None:
        if method not in self._called:
            self._called.add(method)
            for unit in self._by_method[method]:
                self.add(unit, of)

    def _access(self, access: Access, of: Unit) -> None:
        code = self._code
        if code.is_protocol(access.of):
            self._call(access.name, of)
            return
        for name in {*code.ancestors(access.of), *code.descendants(access.of)}:
            one = code.classes[name]
            if access.name in one.methods:
                self.add(Unit(one.module, f"{one.node.name}.{access.name}"), of)


def _bindings(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Local name → the dotted name of what is imported under it."""
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            for one in node.names:
                head = one.name.partition(".")[0]
                found |= {one.asname: one.name} if one.asname else {head: head}
    return found


def _local_names(walked: Iterable[ast.AST]) -> set[str]:
    """Parameters of a function, and names that it assigns."""
    found = set()
    for node in walked:
        if isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _parts(node: ast.expr) -> list[str]:
    """The names of a dotted expression; empty if it is another one."""
    found: list[str] = []
    while isinstance(node, ast.Attribute):
        found.append(node.attr)
        node = node.value
    return [node.id, *reversed(found)] if isinstance(node, ast.Name) else []


def _flat(body: Iterable[ast.stmt], with_types: bool = False) -> Iterator[ast.stmt]:
    """Statements of a module, also those below `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            if with_types or "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _flat(node.body, with_types)
            yield from _flat(node.orelse, with_types)
        elif isinstance(node, ast.Try):
            yield from _flat([*node.body, *node.orelse, *node.finalbody], with_types)


def _body(tree: ast.Module) -> list[ast.AST]:
    """What an import runs: all but the bodies of functions and methods; decorated functions are
    named by their decorator, which may keep them."""
    found: list[ast.AST] = []
    for node in _flat(tree.body):
        if isinstance(node, ast.If | ast.Try):
            continue
        if isinstance(node, Node):
            found += node.decorator_list
            if any(isinstance(one, ast.Call) for one in node.decorator_list):
                found.append(ast.Name(id=node.name, ctx=ast.Load()))
        elif isinstance(node, ast.ClassDef):
            found += [*node.decorator_list, *node.bases]
            found += [one for one in node.body if not isinstance(one, Node)]
        else:
            found.append(node)
    return found


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                        yield from zip(target.elts, value.elts, strict=False)
                    else:
                        yield target, value
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value
            case ast.NamedExpr(target=target, value=value):
                yield target, value
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                yield target, value
