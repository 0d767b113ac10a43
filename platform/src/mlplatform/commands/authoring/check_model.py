"""The command that finds mistakes in a model folder before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from mlplatform.commands.terminal.output import AsJson, print_json
from mlplatform.learning.onnx.model_files import model_files
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES
from mlplatform.learning.training.external_model import check_memory
from mlplatform.learning.training.folder import read_folder
from mlplatform.learning.training.golden import check_ready
from mlplatform.model import document
from mlplatform.model.definition import ModelDefinition, word_inputs
from mlplatform.model.features.purposes import DeclaredViews
from mlplatform.model.features.views import load_views, read_file
from mlplatform.model.findings import DocumentInvalid, valued
from mlplatform.model.folders import (
    FILE,
    GATES_FILE,
    NAMED_ALIKE,
    READY_FILE,
    TRAINING_FILE,
    folder_alike,
    folder_digest,
    is_ready,
    parse,
    views_refused,
)
from mlplatform.model.inputs import InputPlan, feature_faults
from mlplatform.model.weights.memory import needed_mib
from mlplatform.runtime.configuration.model_roots import VARIABLE
from mlplatform.runtime.errors import ConfigUnusable, PlatformError
from mlplatform.runtime.processes.folder_python import run_error
from mlplatform.runtime.processes.memory import memory_bytes
from mlplatform.runtime.storage import plain_files, private_folder
from mlplatform.runtime.text import shown
from mlplatform.runtime.units import MIB

FIT: Final = "from mlplatform.learning.training.fit_check import main; main()"
SOURCES: Final = "from mlplatform.learning.training.fit_check import read_sources; read_sources()"
GATES: Final = "from mlplatform.learning.training.fit_check import read_gates; read_gates()"
SOURCES_FILE: Final = "sources.py"


def check_model(
    folder: Annotated[Path, typer.Argument(help="A model's folder.")], json: AsJson = False
) -> None:
    """Check a model folder: its files, and what its Python or its ready ONNX file does.

    The folder's Python is imported and fitted to made-up rows; a ready ONNX file scores its golden
    set. Each of these runs in a process of its own.

    Example: mlplatform check-model teams/credit/credit-default
    """
    folder = folder.absolute()
    if not folder.is_dir():
        there = "this is a file" if folder.exists() else "there is no such folder"
        wanted = "a model's folder, as `mlplatform new-model` writes one"
        raise ConfigUnusable(str(folder), there, wanted)
    wrong = list(problems(folder))
    needed = ready_model_mib(folder)
    if json:
        print_json({"folder": str(folder), "problems": wrong, "memory_mib": needed})
    elif not wrong:
        print(f"{folder}: nothing is wrong; content {folder_digest(folder)[:12]}")
        if needed is not None:
            machine_mib = memory_bytes() // MIB
            print(
                f"its predictor needs {needed:,} MiB of memory; this machine has {machine_mib:,} "
                "MiB"
            )
    else:
        for problem in wrong:
            print(shown(problem, lines=True))
    raise typer.Exit(1 if wrong else 0)


def ready_model_mib(folder: Path) -> int | None:
    """Memory (MiB) that a predictor of a ready file and its data files needs; None for a folder
    that trains, or if the file is not accepted."""
    if not is_ready(folder):
        return None
    try:
        files = model_files(folder / READY_FILE, plain_files.Rule(most_bytes=MOST_BYTES))
    except PlatformError:
        return None  # `problems` reports the error
    return needed_mib(len(files.content), [file.size for file in files.data])


def problems(folder: Path) -> Iterator[str]:
    """Yield every mistake of a folder as a text: first those of its files, and if there is none,
    those of its Python code.

    The Python runs as this user, in child processes with the time limit of a check.
    """
    found = list(_of_files(folder))
    yield from found
    if not found:
        if (folder / SOURCES_FILE).is_file():
            yield from _of_a_child(folder, SOURCES, SOURCES_FILE, "its import")
        if (folder / GATES_FILE).is_file():
            yield from _of_a_child(folder, GATES, GATES_FILE, "its run on made-up rows")
        if is_ready(folder):
            yield from _of_a_ready_file(folder)
        else:
            yield from _of_a_child(folder, FIT, TRAINING_FILE, "a fit of made-up rows")


def _of_files(folder: Path) -> Iterator[str]:
    try:
        private_folder.check_content(folder, "FOLDER")
        text = (folder / FILE).read_text()
        definition = parse(text, FILE)
    except (OSError, UnicodeDecodeError) as error:
        yield f"{folder / FILE}: {error}"
        return
    except PlatformError as error:
        yield str(error)
        return
    if definition.name != folder.name:
        finding = valued(("name",), definition.name, f"the folder's, {folder.name!r}")
        yield str(DocumentInvalid(FILE, [finding], document.lines(text)))
    if (other := folder_alike(folder)) is not None:
        yield f"{folder.name}: {other} {NAMED_ALIKE}; wanted: another name for one of them"
    try:
        views = load_views(folder)
        if wrong := [valued(*fault) for fault in feature_faults(definition, views)]:
            yield str(DocumentInvalid(FILE, wrong, document.lines(text)))
        else:
            words = {name: () for name in word_inputs(definition.inputs)}
            InputPlan(definition, views, vocabularies=words)
    except PlatformError as error:
        yield f"{FILE}: {error}"
    try:
        read_folder(definition, folder)
    except PlatformError as error:
        yield str(error)
    yield from _of_entities(definition, folder)
    yield from _of_shared_views(folder)
    if not (folder / TRAINING_FILE).is_file() and not is_ready(folder):
        yield (
            f"{TRAINING_FILE} is missing; wanted: {TRAINING_FILE} with `fit(x, y, *, seed, "
            f"weight=None)`, or {READY_FILE}, a ready model (docs/adding-a-model.md)"
        )


def _of_entities(definition: ModelDefinition, folder: Path) -> Iterator[str]:
    try:
        views = load_views(folder)
    except PlatformError:
        return  # reported above
    for view in views:
        if definition.entities.get(view.entity) != view.join_key:
            wanted = f"a request field {view.join_key} with entity: {view.entity}"
            yield f"{FILE}: view {view.name} finds no key; wanted: {wanted}"


def _of_shared_views(folder: Path) -> Iterator[str]:
    try:
        own = DeclaredViews(folder.name, read_file(folder).purposes, load_views(folder))
    except PlatformError:
        return  # there is none, or it is reported above
    for refused in views_refused(own, beside=folder.parent):
        yield str(refused.error())


def _of_a_ready_file(folder: Path) -> Iterator[str]:
    rule = plain_files.Rule(most_bytes=MOST_BYTES)
    try:
        read = read_folder(parse((folder / FILE).read_text(), FILE), folder)
        files = model_files(folder / READY_FILE, rule)
        check_memory(read.definition, files.content, files.data)
        if read.golden is not None:
            check_ready(files.content, read.definition, read.golden, files.data)
    except PlatformError as error:
        yield f"{READY_FILE}: {error}"


def _of_a_child(folder: Path, program: str, file: str, what: str) -> Iterator[str]:
    try:
        failed = run_error("-c", program, folder.name, settings={VARIABLE: str(folder.parent)})
    except TimeoutError as error:
        yield f"{file}: {what} {error}"
        return
    if failed is not None:
        yield f"{file}: {what} failed:\n  {failed}"
