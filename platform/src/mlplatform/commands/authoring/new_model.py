"""The command that writes a model folder from a template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final, Literal, cast, get_args

import numpy as np
import typer

from mlplatform.commands.authoring.ready_file import ReadyGraph, folder_files, with_memory
from mlplatform.commands.terminal.output import AsJson, print_json
from mlplatform.learning.onnx.confined_model import ConfinedModel, graph_tensors
from mlplatform.learning.onnx.model_files import ModelFiles, model_files
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES, ModelRefused
from mlplatform.model.definition import BINARY, ModelDefinition, word_inputs
from mlplatform.model.folders import FILE, NAMED_ALIKE, READY_FILE, folder_alike, parse
from mlplatform.model.policies.decision_scale import Task
from mlplatform.model.policies.values import NAME_PATTERN
from mlplatform.model.tensors.signature import Tensors
from mlplatform.model.weights.memory import needed_mib
from mlplatform.runtime.errors import ConfigInvalid, Refused
from mlplatform.runtime.storage.large_files import copy
from mlplatform.runtime.storage.plain_files import Rule

Template = Literal[
    "sklearn", "classes", "real", "ranking", "xgboost", "lightgbm", "catboost", "torch", "onnx"
]
SHARED: Final = "sklearn"
"""The template whose files other templates use if they have none of their own."""
TEMPLATES: Final[Mapping[Task, str]] = {"binary": SHARED, "classes": "classes", "real": "real"}
"""What a ready file gives → the template whose model.yaml its folder starts from."""
NAME = "@NAME@"


def new_model(
    name: Annotated[str, typer.Argument(help="The model's name, for example: credit-default")],
    template: Annotated[
        str, typer.Option(help=f"What to start from: {', '.join(get_args(Template))}.")
    ] = "sklearn",
    file: Annotated[
        Path | None, typer.Option(help="With --template onnx, the ready ONNX file.")
    ] = None,
    column: Annotated[
        int | None,
        typer.Option(
            help="With --template onnx, the output's column that is the score, from 0; needed if "
            "it has three or more."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="With --template onnx, what the file gives: binary (a probability, which is "
            "usual), classes (one for each class) or real (a number)."
        ),
    ] = None,
    into: Annotated[
        Path, typer.Option(help="The folder to write into; MLPLATFORM_MODELS names it.")
    ] = Path(),
    json: AsJson = False,
) -> None:
    """Write a model folder that can be trained as it is, or one around a ready ONNX file.

    Lines marked CHANGE are for you to change. For a model that decides a class, use --template
    classes; for one that gives a number, --template real; for one that puts items in order,
    --template ranking (all scikit-learn).

    For a model that is an ONNX file already: --template onnx --file limits.onnx. Files beside it
    that hold its weights are copied too.

    Example: mlplatform new-model credit-default --into models
    """
    if re.search(NAME_PATTERN, name) is None:
        raise ConfigInvalid("NAME", name, "a letter a-z and at most 27 of a-z, 0-9, - and _")
    if template not in get_args(Template):
        raise ConfigInvalid("--template", template, "one of " + ", ".join(get_args(Template)))
    if (file is not None) is not (template == "onnx"):
        wanted = "an ONNX file with --template onnx, and with no other template"
        raise ConfigInvalid("--file", None if file is None else str(file), wanted)
    for option, value in (("--column", column), ("--task", task)):
        if file is None and value is not None:
            raise ConfigInvalid(option, value, "no such option without --template onnx")
    kind = BINARY if task is None else task
    if kind not in TEMPLATES:
        raise ConfigInvalid("--task", kind, f"one of {', '.join(TEMPLATES)}")
    folder = into.absolute() / name
    if (other := folder_alike(folder)) is not None:
        raise Refused(f"{other} is there already and {NAMED_ALIKE}; choose another name")
    if file is None:
        written = write(folder, name, template)
    else:
        written = write_ready(folder, name, file, column=column, task=cast(Task, kind))
    if json:
        print_json({"folder": str(folder), "files": written})
        return
    print(f"wrote {folder}: {', '.join(written)}")
    print(f"next: change the lines marked CHANGE, then `mlplatform check-model {folder}`")
    print(f"then: export MLPLATFORM_MODELS={folder.parent}")


def write_ready(
    folder: Path, name: str, file: Path, *, column: int | None = None, task: Task = BINARY
) -> list[str]:
    """Write a folder around a ready ONNX file, which a confined process reads; returns the names of
    the written files.

    Args:
        column: the column of the output that is the score; None: of two, the second.
        task: what the file gives.

    Raises:
        InputInvalid: the file is refused, a signature cannot describe its inputs or outputs, or its
            output has three or more columns and none is named. Nothing is written then.
        Refused: something with the name of the folder exists already.
    """
    model = model_files(file, Rule(most_bytes=MOST_BYTES))
    shared = _templates().joinpath(TEMPLATES[task], FILE).read_text().replace(NAME, name)
    ready = ReadyGraph(graph_tensors(model.content, model.data), column, task)
    texts = folder_files(ready, shared)
    if ready.may_take_missing and not _takes_missing(model, parse(texts[FILE], FILE)):
        texts = folder_files(replace(ready, takes_missing=False), shared)
    if taken := [data.name for data in model.data if data.name in texts]:
        raise ConfigInvalid("--file", str(file), f"weights in a file that is not {taken[0]}")
    if model.data:
        needed = needed_mib(len(model.content), [data.size for data in model.data])
        texts[FILE] = with_memory(texts[FILE], needed)
    written = write(folder, name, "onnx")
    for target, text in texts.items():
        (folder / target).write_text(text)
    (folder / READY_FILE).write_bytes(model.content)
    for data in model.data:
        with data.path.open("rb", buffering=0) as source:
            copy(source.fileno(), folder / data.name, 0o600)
    return sorted([*written, *texts, READY_FILE, *(data.name for data in model.data)])


def _takes_missing(model: ModelFiles, definition: ModelDefinition) -> bool:
    """Whether a ready file gives a number for a row of NaN. Weights beside the graph are not loaded
    for that: models of that size are no trees, and take none."""
    if model.data or definition.signature is None:
        return False
    names = [spec.name for spec in definition.inputs]
    words = {name: () for name in word_inputs(definition.inputs)}
    classes = len(definition.classes)
    tensors = Tensors(definition.signature, names, words, classes=classes)
    running = ConfinedModel(model.content, inputs=len(names), tensors=tensors, classes=classes)
    try:
        running.scores(np.full((1, len(names)), np.nan, np.float32))
    except ModelRefused:
        return False
    finally:
        running.close()
    return True


def write(folder: Path, name: str, template: str) -> list[str]:
    """Write a template's files into a new folder; returns their names.

    Raises:
        Refused: something with the name of the folder exists already.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise Refused(f"{folder} is there already: name another, or remove it") from error
    sources = [template] if template == "onnx" else [SHARED, template]
    files = {
        file.name: file for source in sources for file in _templates().joinpath(source).iterdir()
    }
    written = []
    for file in sorted(files.values(), key=lambda f: f.name):
        target = file.name.removesuffix(".txt")
        (folder / target).write_text(file.read_text().replace(NAME, name))
        written.append(target)
    return written


def _templates() -> Traversable:
    return resources.files("mlplatform.commands.authoring").joinpath("templates")
