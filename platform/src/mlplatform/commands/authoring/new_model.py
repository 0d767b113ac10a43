"""The command that writes a model folder from a template."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from mlplatform.commands.terminal.output import AsJson, print_json
from mlplatform.model.definition import NAME_PATTERN
from mlplatform.runtime.errors import ConfigInvalid, Refused

Template = Literal["sklearn"]
NAME = "@NAME@"


def new_model(
    name: Annotated[str, typer.Argument(help="The model's name, for example: credit-default")],
    template: Annotated[
        str, typer.Option(help=f"What it is fitted with: {', '.join(get_args(Template))}.")
    ] = "sklearn",
    into: Annotated[
        Path, typer.Option(help="Gets the folder; MLPLATFORM_MODELS names it.")
    ] = Path(),
    json: AsJson = False,
) -> None:
    """Write a model folder that can be trained as it is; lines marked CHANGE are yours.

    Example: mlplatform new-model credit-default --into models
    """
    if re.search(NAME_PATTERN, name) is None:
        raise ConfigInvalid("NAME", name, "a letter and at most 27 of a-z, 0-9, - and _")
    if template not in get_args(Template):
        raise ConfigInvalid("--template", template, "one of " + ", ".join(get_args(Template)))
    folder = into.absolute() / name
    written = write(folder, name, template)
    if json:
        print_json({"folder": str(folder), "files": written})
        return
    print(f"wrote {folder}: {', '.join(written)}")
    print(f"next: change the lines marked CHANGE, then `mlplatform check-model {folder}`")
    print(f"then: export MLPLATFORM_MODELS={folder.parent}")


def write(folder: Path, name: str, template: str) -> list[str]:
    """Write a template's files into a folder that is made for them; returns their names.

    Raises:
        Refused: there is something in the folder's place.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise Refused(f"{folder} is there already: name another, or remove it") from error
    source = resources.files("mlplatform.commands.authoring").joinpath("templates", template)
    written = []
    for file in sorted(source.iterdir(), key=lambda f: f.name):
        target = file.name.removesuffix(".txt")
        (folder / target).write_text(file.read_text().replace(NAME, name))
        written.append(target)
    return written
