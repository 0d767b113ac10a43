"""Messages as the code writes them, with an example number or a name in place of each value.

A message is found by what is made of it: an error of a class of the code, a line of the log, or
another text of several words. Nothing is run: expressions are read, so that a message that no test
meets is found as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Final, Literal

from mlplatform.commands.documents.placeholders import (
    A_NUMBER,
    NUMBER_SPEC,
    has_words,
    is_arithmetic,
    number_of,
    percent_filled,
    placeholder,
)
from mlplatform.commands.documents.python_modules import (
    Function,
    Module,
    last_name,
    parameters,
)

Kind = Literal["error", "log", "text"]

MOST_FORMS: Final = 4
"""Most forms of one message whose parts can differ."""
_DEEPEST: Final = 5
_LEVELS: Final = frozenset(("debug", "info", "warning", "error", "exception", "critical"))
_BUILT_IN: Final = frozenset(("Exception", "ValueError", "OSError", "RuntimeError"))
_MEASURED: Final = {"duration_text": "‹duration›"}
"""Function that writes a number with one of several units → its placeholder."""
_BARE: Final = re.compile(r"-?\d+(?:\.\d+)?|True|False")
_CODE: Final = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WITH|PRAGMA|BEGIN|COPY|LOCK|WHERE|FROM"
    r"|ORDER BY|VALUES|COALESCE|CASE|local)\b(?!:)|\s*[<{#(^]"
    r"|.*(?:%Y|default-src|\bAS\b|PARTITION BY|LEFT JOIN|\$__|\bunless on\b|=~|\(\?|HTTP/1\.1 )"
    r"|.*(?:import \w+; |\bby \(|slo:|\{t: |redis\.call)|[a-z_0-9]+(?:, [a-z_0-9.*]+){2,}$",
    re.DOTALL,
)
"""Texts for machines: SQL, Lua, PromQL, formats, policies."""


@dataclass(frozen=True, slots=True)
class Message:
    """One form of a message.

    Args:
        module: path of its file, as the caller gave it.
        name: class of an error, or level of a log line; "" for other texts.
    """

    module: str
    kind: Kind
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Scope:
    """The context of an expression: its module, its function, and the known texts of names."""

    module: Module
    function: Function | None
    bound: Mapping[str, tuple[str, ...]]
    depth: int = 0


class Catalogue:
    """All messages of some Python files."""

    def __init__(self, files: Mapping[str, tuple[str, str]]) -> None:
        """
        Args:
            files: path to show → (name of the module, its source text).
        """
        read = (Module(path, name, ast.parse(text)) for path, (name, text) in files.items())
        self._modules = {module.name: module for module in read}
        self._used: set[ast.AST] = set()

    @cached_property
    def errors(self) -> dict[str, tuple[Module, ast.ClassDef]]:
        """Name → module and definition of every error class that the files define."""
        found: dict[str, tuple[Module, ast.ClassDef]] = {}
        classes = [(m, c) for m in self._modules.values() for c in m.classes.values()]
        while more := [
            (m, c)
            for m, c in classes
            if c.name not in found
            and any(last_name(base) in found.keys() | _BUILT_IN for base in c.bases)
        ]:
            found |= {c.name: (m, c) for m, c in more}
        return found

    def nearest(self, name: str, known: Collection[str]) -> str:
        """The class itself or the nearest class above it that is known; the class itself where
        none is."""
        above = name
        while above in self.errors and above not in known:
            above = next(iter(map(last_name, self.errors[above][1].bases)), "")
        return above if above in known else name

    def messages(self) -> list[Message]:
        """All messages, sorted. Errors and log lines are read first, so that their texts are not
        listed again as other texts."""
        self._used.clear()
        found = {m for module in self._modules.values() for m in self._messages_of(module)}
        found |= {m for module in self._modules.values() for m in self._texts(module)}
        return sorted(found, key=lambda m: (m.module, m.kind, m.name, m.text))

    def _messages_of(self, module: Module) -> Iterator[Message]:
        for node in module.nodes:
            if not isinstance(node, ast.Call):
                continue
            scope = Scope(module, module.owners[node], {})
            if (name := self._error_of(node, scope)) is not None:
                kind: Kind = "error"
                texts = self.texts(node, scope)
                name += _status(node)
            elif (level := _level(node)) is not None:
                kind, name, texts = "log", level, self._logged(node, scope)
            else:
                continue
            yield from (
                Message(module.path, kind, name, _with_subject(text))
                for text in texts
                if has_words(text, 1)
            )

    def _texts(self, module: Module) -> Iterator[Message]:
        inner = {
            part
            for node in module.nodes
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        } | set(_documentation(module.nodes))
        for node in module.nodes:
            is_text = isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
            if not is_text or node in inner or node in self._used:
                continue
            assert isinstance(node, ast.expr)
            for text in self.texts(node, Scope(module, module.owners[node], {})):
                if has_words(text, 3) and not _CODE.match(text):
                    yield Message(module.path, "text", "", text)

    def _error_of(self, call: ast.Call, scope: Scope) -> str | None:
        """The error class that a call creates, directly or by a function that returns it; None if
        it creates none."""
        name = last_name(call.func)
        if name in self.errors or name in _BUILT_IN:
            return name
        found = self._function(call, scope)
        returned = last_name(found[1].returns) if found and found[1].returns else ""
        return returned if returned in self.errors else None

    def _function(self, call: ast.Call, scope: Scope) -> tuple[Module, Function] | None:
        name = last_name(call.func)
        own = isinstance(call.func, ast.Name) or (
            isinstance(call.func, ast.Attribute) and last_name(call.func.value) in ("self", "cls")
        )
        if own and name in scope.module.functions:
            return scope.module, scope.module.functions[name]
        there, named = self._place(call.func, scope)
        if there is not None and named in there.functions:
            return there, there.functions[named]
        return None

    def _place(self, node: ast.expr, scope: Scope) -> tuple[Module | None, str]:
        """The platform's module from which a name or attribute is imported, and its name there."""
        if isinstance(node, ast.Name) and node.id in scope.module.imports:
            module, name = scope.module.imports[node.id]
            return self._modules.get(module), name
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = scope.module.imports.get(node.value.id, ("", ""))
            return self._modules.get(f"{module}.{name}"), node.attr
        return None, ""

    def _logged(self, call: ast.Call, scope: Scope) -> tuple[str, ...]:
        if not call.args:
            return ()
        values = [self.texts(argument, scope)[0] for argument in call.args[1:]]
        return tuple(percent_filled(form, values) for form in self.texts(call.args[0], scope))

    def texts(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        """Possible texts of an expression: at least one form, at most MOST_FORMS."""
        forms = tuple(dict.fromkeys(islice(self._forms(node, scope), MOST_FORMS)))
        return forms or (placeholder(node),)

    def _forms(self, node: ast.expr, scope: Scope) -> Iterable[str]:
        self._used.add(node)
        match node:
            case ast.Constant():
                return (str(node.value),)
            case ast.JoinedStr():
                return self._joined([self.texts(part, scope) for part in node.values])
            case ast.FormattedValue():
                return self._formatted(node, scope)
            case ast.BinOp() if (number := self._number(node, scope)) is not None:
                return (str(number),)
            case ast.BinOp(op=ast.Add()) if not is_arithmetic(node):
                return self._joined([self.texts(n, scope) for n in (node.left, node.right)])
            case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(form))):
                return (percent_filled(form, ()),)
            case ast.IfExp():
                chosen = _branches(node, scope)
                return [text for branch in chosen for text in self.texts(branch, scope)]
            case ast.BoolOp(op=ast.Or()):
                return [text for part in node.values for text in self.texts(part, scope)]
            case ast.Await() | ast.NamedExpr() | ast.Starred() | ast.Subscript(slice=ast.Slice()):
                return self.texts(node.value, scope)
            case ast.Name():
                return self._name(node, scope)
            case ast.Attribute():
                there, name = self._place(node, scope)
                if there is not None and name in there.constants:
                    return self.texts(
                        there.constants[name], Scope(there, None, {}, scope.depth + 1)
                    )
            case ast.Call():
                return self._call(node, scope)
        return (placeholder(node),)

    def _number(self, node: ast.expr, scope: Scope) -> int | float | None:
        """The value of an expression of numbers and of modules' constants, such as 4 * MIB."""

        def constant(named: ast.expr) -> int | float | None:
            if isinstance(named, ast.Name) and named.id in scope.module.constants:
                there, name = scope.module, named.id
            else:
                place, name = self._place(named, scope)
                if place is None or name not in place.constants:
                    return None
                there = place
            if scope.depth > _DEEPEST:
                return None
            return self._number(there.constants[name], Scope(there, None, {}, scope.depth + 1))

        return number_of(node, constant)

    def _joined(self, parts: Sequence[tuple[str, ...]]) -> Iterator[str]:
        return ("".join(chosen) for chosen in product(*parts))

    def _formatted(self, node: ast.FormattedValue, scope: Scope) -> Iterable[str]:
        spec = "".join(
            str(part.value) if isinstance(part, ast.Constant) else "1"
            for part in getattr(node.format_spec, "values", ())
        )
        if NUMBER_SPEC.fullmatch(spec):
            return (f"{A_NUMBER}%" if spec.endswith("%") else A_NUMBER,)
        texts = self._shown(node.value, scope)
        return tuple(map(_quoted, texts)) if node.conversion == ord("r") else texts

    def _shown(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        """The texts of a value inside a message, which shows no None: code asks for it first."""
        texts = tuple(text for text in self.texts(node, scope) if text != "None")
        return texts or (placeholder(node),)

    def _name(self, node: ast.Name, scope: Scope) -> Iterable[str]:
        if node.id in scope.bound:
            return scope.bound[node.id]
        if scope.depth > _DEEPEST:
            return (placeholder(node),)
        deeper = replace(scope, depth=scope.depth + 1)
        if scope.function is not None:
            local = scope.module.values_of(scope.function, node)
            if local:
                return tuple(text for value in local for text in self.texts(value, deeper))
            if node.id in parameters(scope.function):
                return (placeholder(node),)
        if node.id in scope.module.constants:
            return self.texts(scope.module.constants[node.id], replace(deeper, function=None))
        there, name = self._place(node, scope)
        if there is not None and name in there.constants:
            return self.texts(there.constants[name], Scope(there, None, {}, deeper.depth))
        return (placeholder(node),)

    def _call(self, call: ast.Call, scope: Scope) -> Iterable[str]:
        name = last_name(call.func)
        if name == "repr" and call.args:
            return tuple(map(_quoted, self._shown(call.args[0], scope)))
        if name == "str" and call.args:
            return self.texts(call.args[0], scope)
        message = next((k.value for k in call.keywords if k.arg == "message"), None)
        if message is not None:
            return self.texts(message, scope)
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Constant(value="")),
                args=[ast.GeneratorExp(generators=[letters])],
            ):
                return self.texts(letters.iter, scope)
        if name in _MEASURED:
            return (_MEASURED[name],)
        if name == "join" and call.args:
            return (placeholder(call.args[0]),)
        if scope.depth > _DEEPEST:
            return (placeholder(call),)
        if name in self.errors:
            return self._error(name, call, scope)
        if name in _BUILT_IN:
            return self.texts(call.args[0], scope) if call.args else ()
        found = self._function(call, scope)
        if found is not None:
            module, function = found
            inner = Scope(module, function, self._bound(call, function, scope), scope.depth + 1)
            returned = [
                node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Return) and node.value is not None
            ]
            texts = [text for value in returned for text in self.texts(value, inner)]
            if any(has_words(text, 1) for text in texts):
                return texts
        return (placeholder(call),)

    def _error(self, name: str, call: ast.Call, scope: Scope) -> Iterable[str]:
        """Texts that an error class, or a class it is derived from, passes to `Exception`."""
        module, kind = self.errors[name]
        made = next(
            (f for f in kind.body if isinstance(f, Function) and f.name == "__init__"), None
        )
        if made is None:
            bases = [last_name(base) for base in kind.bases]
            known = next((base for base in bases if base in self.errors), None)
            if known is not None:
                return self._error(known, call, scope)
            return self.texts(call.args[0], scope) if call.args else ()
        inner = Scope(module, made, self._bound(call, made, scope), scope.depth + 1)
        passed = (
            node.args[-1]
            for node in ast.walk(made)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "__init__"
            and node.args
        )
        text = next(passed, None)
        return self.texts(text, inner) if text is not None else ()

    def _bound(
        self, call: ast.Call, function: Function, scope: Scope
    ) -> dict[str, tuple[str, ...]]:
        names = [name for name in parameters(function) if name not in ("self", "cls")]
        return {
            **{n: self.texts(a, scope) for n, a in zip(names, call.args, strict=False)},
            **{k.arg: self.texts(k.value, scope) for k in call.keywords if k.arg},
        }


def files_below(root: Path, folder: Path, package: str) -> dict[str, tuple[str, str]]:
    """Path below the repository's root → module name and source of each file of a package."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        name = ".".join(part for part in parts if part and part != "__init__")
        found[path.relative_to(root).as_posix()] = (name, path.read_text())
    return found


def _branches(node: ast.IfExp, scope: Scope) -> tuple[ast.expr, ...]:
    """The possible branches of a conditional expression: one if it compares with None a name that
    is known to be None, or not to be; else two."""
    match node.test:
        case ast.Compare(
            left=ast.Name(id=name),
            ops=[ast.Is() | ast.IsNot() as asked],
            comparators=[ast.Constant(None)],
        ) if name in scope.bound:
            is_none = scope.bound[name] == ("None",)
            if not is_none and "None" in scope.bound[name]:
                return node.body, node.orelse
            return (node.body if is_none == isinstance(asked, ast.Is) else node.orelse,)
    return node.body, node.orelse


def _with_subject(text: str) -> str:
    """A message of a file whose name the caller puts before it."""
    return f"‹file›{text}" if text.startswith(": ") else text


def _quoted(text: str) -> str:
    """A text as `repr` shows the value that it stands for: only texts have quotes."""
    return text if _BARE.fullmatch(text) else repr(text)


def _status(call: ast.Call) -> str:
    """The kind of an HTTP answer: its status, and the last part of the problem's type."""
    match call.args:
        case [ast.Constant(value=int(status)), ast.Constant(value=str(name)), _, *_]:
            return f" {status} {name}"
        case [ast.Constant(value=int(status)), _, *_]:
            return f" {status}"
    return ""


def _level(call: ast.Call) -> str | None:
    match call.func:
        case ast.Attribute(value=ast.Name(id="log"), attr=level) if level in _LEVELS:
            return level
    return None


def _documentation(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Expressions that are statements: docstrings, and texts below constants."""
    return (n.value for n in nodes if isinstance(n, ast.Expr))
