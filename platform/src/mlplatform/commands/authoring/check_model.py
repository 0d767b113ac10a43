"""The command that finds mistakes in a model folder before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from mlplatform.commands.authoring.folder_files import SOURCES_FILE, data_problems, python_problems
from mlplatform.commands.terminal.output import AsJson, print_json
from mlplatform.learning.onnx.model_files import model_files
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES
from mlplatform.learning.training.external_model import check_memory
from mlplatform.learning.training.folder import read_folder
from mlplatform.learning.training.golden import check_ready
from mlplatform.model.folders import (
    FILE,
    GATES_FILE,
    READY_FILE,
    TRAINING_FILE,
    folder_digest,
    is_ready,
    parse,
)
from mlplatform.model.weights.memory import needed_mib
from mlplatform.runtime.configuration.model_roots import VARIABLE
from mlplatform.runtime.errors import ConfigUnusable, PlatformError
from mlplatform.runtime.processes.folder_python import run_error
from mlplatform.runtime.processes.memory import memory_bytes
from mlplatform.runtime.storage import plain_files
from mlplatform.runtime.text import shown
from mlplatform.runtime.units import MIB

FIT: Final = "from mlplatform.learning.training.fit_check import main; main()"
SOURCES: Final = "from mlplatform.learning.training.fit_check import read_sources; read_sources()"
GATES: Final = "from mlplatform.learning.training.fit_check import read_gates; read_gates()"


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
    """Yield every mistake of a folder as a text: those of its files, and if its data is right,
    those that its Python shows when it runs.

    The Python runs as this user, in child processes with the time limit of a check.
    """
    of_data = list(data_problems(folder))
    yield from of_data
    of_python = dict(python_problems(folder))
    yield from of_python.values()
    if of_data:
        return
    if (folder / SOURCES_FILE).is_file() and SOURCES_FILE not in of_python:
        yield from _of_a_child(folder, SOURCES, SOURCES_FILE, "its import")
    if (folder / GATES_FILE).is_file() and GATES_FILE not in of_python:
        yield from _of_a_child(folder, GATES, GATES_FILE, "its run on made-up rows")
    if is_ready(folder):
        yield from _of_a_ready_file(folder)
    elif TRAINING_FILE not in of_python:
        yield from _of_a_child(folder, FIT, TRAINING_FILE, "a fit of made-up rows")


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
