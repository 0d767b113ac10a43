"""The model folders of this installation, and what their model.yaml declares."""

from __future__ import annotations

import functools
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import yaml

from mlplatform.model import document
from mlplatform.model.consistency import check
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, NotFound
from mlplatform.runtime.text import cleaned


def parse(text: str, source: str) -> ModelDefinition:
    """The definition in a model.yaml.

    Raises:
        ConfigInvalid: an unknown, missing, repeated, mistyped or impossible field, by its key.
    """
    try:
        written = document.read(text)
        definition = msgspec.convert(_with_dates_as_text(written), ModelDefinition)
    except yaml.YAMLError as error:
        where, problem = document.place(source, error)
        raise ConfigInvalid(where, problem, "a model.yaml as documented") from error
    except msgspec.ValidationError as error:
        raise ConfigInvalid(source, str(error), "a model.yaml as documented") from error
    definition = _with_clean_text(definition, source)
    check(definition, source)
    for key, value in document.endless(written):
        raise ConfigInvalid(f"{source}: {key}", value, "a finite number")
    return definition


def model_names() -> list[str]:
    """Names of the model folders of this installation."""
    root = resources.files("mlplatform.models")
    return sorted(f.name for f in root.iterdir() if f.joinpath("model.yaml").is_file())


def model_folder(name: str) -> Path:
    """The folder of a model.

    Raises:
        NotFound: lists the models that exist.
    """
    if name not in model_names():
        raise NotFound(f"no model {name!r}; there are: {', '.join(model_names())}")
    return Path(str(resources.files("mlplatform.models").joinpath(name)))


@functools.cache
def load_definition(name: str) -> ModelDefinition:
    """The definition of a model of this installation, by name.

    Raises:
        NotFound: lists the models that exist.
        ConfigInvalid: its model.yaml is wrong, or is that of another model.
    """
    path = model_folder(name) / "model.yaml"
    definition = parse(path.read_text(), str(path.name))
    if definition.name != name:
        raise ConfigInvalid(f"{path.name}: name", definition.name, f"the folder's name, {name!r}")
    return definition


def _with_dates_as_text(value: Any) -> Any:
    """A document in which a date is the text that was written: YAML makes values of some."""
    if isinstance(value, dict):
        return {key: _with_dates_as_text(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_with_dates_as_text(held) for held in value]
    return str(value) if isinstance(value, date) else value


def _with_clean_text(model: ModelDefinition, source: str) -> ModelDefinition:
    """What a person reads of the model, as it is kept."""
    try:
        return msgspec.structs.replace(
            model,
            owner=cleaned(f"{source}: owner", model.owner),
            purpose=cleaned(f"{source}: purpose", model.purpose, lines=True),
        )
    except InputInvalid as error:
        raise ConfigInvalid(error.source, "a text", str(error)) from error
