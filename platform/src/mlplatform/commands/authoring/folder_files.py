"""Everything that is wrong in the files of a model folder, before any of its Python runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlplatform.learning.training.folder import (
    ARGUMENTS,
    DeclaredNames,
    names_of,
    read_reasons,
    read_rules,
    read_views,
)
from mlplatform.learning.training.golden import GOLDEN_FILE, golden_set
from mlplatform.model import document
from mlplatform.model.definition import WIDE, WORDED, word_inputs
from mlplatform.model.features.purposes import DeclaredViews
from mlplatform.model.features.views import FeatureView, load_views, read_file
from mlplatform.model.findings import (
    WRONG,
    DocumentFinding,
    DocumentInvalid,
    valued,
    while_readable,
)
from mlplatform.model.folders import (
    FILE,
    GATES_FILE,
    NAMED_ALIKE,
    READY_FILE,
    TRAINING_FILE,
    WrittenModel,
    folder_alike,
    is_ready,
    parse,
    views_refused,
    written_model,
)
from mlplatform.model.inputs import InputPlan, feature_faults
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.storage import private_folder

SOURCES_FILE: Final = "sources.py"
FUNCTIONS: Final = ("fit", "baseline")
"""Functions of training.py that are called with a data set and a context."""


def data_problems(folder: Path) -> Iterator[str]:
    """Yield every mistake of a folder's data: model.yaml, views, rules, reasons and golden set.

    A file is checked also where another one is wrong, as far as that one says what belongs there.
    """
    try:
        private_folder.check_content(folder, "FOLDER")
    except PlatformError as error:
        yield str(error)
        return
    if (other := folder_alike(folder)) is not None:
        yield f"{folder.name}: {other} {NAMED_ALIKE}; wanted: another name for one of them"
    names = DeclaredNames()
    try:
        text = (folder / FILE).read_text()
        written = written_model(text, FILE)
    except (OSError, UnicodeDecodeError) as error:
        yield f"{folder / FILE}: {error}"
    except PlatformError as error:
        yield str(error)
    else:
        yield from _of_model_yaml(folder, text, written)
        names = names_of(parse(text, FILE)) if not written.findings else _plain_names(written.plain)
    for read in (read_rules, read_reasons):
        try:
            read(folder, names)
        except PlatformError as error:
            yield str(error)
    yield from _of_shared_views(folder)


def _of_model_yaml(folder: Path, text: str, written: WrittenModel) -> Iterator[str]:
    """The errors of model.yaml, by itself and beside the folder's views."""
    found, views, of_views = list(written.findings), tuple[FeatureView, ...](), list[str]()
    name = written.plain.get("name") if isinstance(written.plain, dict) else None
    if isinstance(name, str) and name != folder.name:
        found.append(valued(("name",), name, f"the folder's, {folder.name!r}"))
    definition = written.definition
    try:
        views = load_views(folder)
        if not written.findings:
            read_views(parse(text, FILE), folder)
    except PlatformError as error:
        of_views.append(str(error))
    else:
        if definition is not WRONG:
            faults = feature_faults(definition, views)
            is_whole = not written.findings
            found += [valued(*fault) for fault in while_readable(faults, is_whole=is_whole)]
    if found:
        yield str(DocumentInvalid(FILE, _once(found), document.lines(text)))
    yield from of_views
    if not written.findings:
        yield from _of_entities(definition, views)
    if not found and not of_views:
        yield from _of_the_whole(parse(text, FILE), folder, views)


def _once(found: list[DocumentFinding]) -> list[DocumentFinding]:
    return list({(finding.path, finding.found): finding for finding in found}.values())


def _of_the_whole(definition: Any, folder: Path, views: tuple[FeatureView, ...]) -> Iterator[str]:
    try:
        words = {name: () for name in word_inputs(definition.inputs)}
        InputPlan(definition, views, vocabularies=words)
    except PlatformError as error:
        yield f"{FILE}: {error}"
    if is_ready(folder):
        try:
            golden_set(folder / GOLDEN_FILE, definition)
        except PlatformError as error:
            yield str(error)


def _plain_names(plain: Any) -> DeclaredNames:
    """The names of a model.yaml that has errors, as far as they are written."""
    if not isinstance(plain, dict):
        return DeclaredNames()
    inputs, decision, protected = (plain.get(key) for key in ("inputs", "decision", "protected"))
    outcomes = decision.get("outcomes") if isinstance(decision, dict) else None
    specs = [spec for spec in inputs if isinstance(spec, dict)] if isinstance(inputs, list) else []
    numbers = [spec for spec in specs if spec.get("kind") not in (*WORDED, *WIDE)]
    return DeclaredNames(
        [str(spec.get("name")) for spec in numbers] if specs else None,
        [str(spec.get("name")) for spec in specs] if specs else None,
        [str(outcome) for outcome in outcomes] if isinstance(outcomes, list) else None,
        [str(name) for name in protected] if isinstance(protected, list) else (),
    )


def _of_entities(definition: Any, views: tuple[FeatureView, ...]) -> Iterator[str]:
    for view in views:
        if definition.entities.get(view.entity) != view.join_key:
            wanted = f"a request field {view.join_key} with entity: {view.entity}"
            yield f"{FILE}: view {view.name} finds no key; wanted: {wanted}"


def _of_shared_views(folder: Path) -> Iterator[str]:
    try:
        own = DeclaredViews(folder.name, read_file(folder).purposes, load_views(folder))
    except PlatformError:
        return  # there is none, or it is reported with model.yaml
    for refused in views_refused(own, beside=folder.parent):
        yield str(refused.error())


def python_problems(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files of a folder's Python that can't be what they have to be, each with the
    problem; none of them is run."""
    if not (folder / TRAINING_FILE).is_file() and not is_ready(folder):
        wanted = f"{TRAINING_FILE} with `fit(dataset, context)`, or {READY_FILE}, a ready model"
        yield (
            TRAINING_FILE,
            f"{TRAINING_FILE} is missing; wanted: {wanted} (docs/adding-a-model.md)",
        )
    for name in (TRAINING_FILE, SOURCES_FILE, GATES_FILE):
        if not (folder / name).is_file():
            continue
        try:
            tree = ast.parse((folder / name).read_bytes())
        except SyntaxError as error:
            yield name, f"{name}: line {error.lineno}: SyntaxError: {error.msg}; wanted: Python"
        except (OSError, ValueError) as error:
            yield name, f"{name}: {error}; wanted: Python"
        else:
            if name == TRAINING_FILE and (found := _of_training(tree)):
                yield name, "\n".join(found)


def _of_training(tree: ast.Module) -> list[str]:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = [
        f"{TRAINING_FILE}: line {node.lineno}: {node.name} is"
        f" {node.name}({ast.unparse(node.args)}); wanted: {node.name}{ARGUMENTS}"
        for node in functions
        if node.name in FUNCTIONS and not _takes_both(node.args)
    ]
    if not any(_binds(node, FUNCTIONS[0]) for node in ast.walk(tree)):
        wanted = f"a function fit{ARGUMENTS}"
        found.append(f"{TRAINING_FILE}: fit: there is no such function; wanted: {wanted}")
    return found


def _takes_both(arguments: ast.arguments) -> bool:
    """Whether a function can be called with `dataset` and `context` alone, by name."""
    optional = len(arguments.defaults)
    plain = [*arguments.posonlyargs, *arguments.args]
    needed = {one.arg for one in plain[: len(plain) - optional]}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    needed |= {one.arg for one, default in pairs if default is None}
    by_name = {one.arg for one in (*arguments.args, *arguments.kwonlyargs)}
    wanted = {"dataset", "context"}
    return needed <= wanted and (wanted <= by_name or arguments.kwarg is not None)


def _binds(node: ast.AST, name: str) -> bool:
    """Whether a statement may give something this name."""
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return node.name == name
        case ast.alias():
            return (node.asname or node.name) in (name, "*")
        case ast.Name(ctx=ast.Store()):
            return node.id == name
        case _:
            return False
