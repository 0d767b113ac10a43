"""Definitions of models of classes and of numbers, from their templates, under any name."""

from __future__ import annotations

from importlib import resources

from mlplatform.model.definition import ClassesDefinition, RealDefinition
from mlplatform.model.folders import parse

CLASSES = ("small", "usual", "large")


def template(name: str, kind: str = "classes") -> str:
    """The template's model.yaml."""
    folder = resources.files("mlplatform.commands.authoring").joinpath(f"templates/{kind}")
    return folder.joinpath("model.yaml").read_text().replace("@NAME@", name)


def class_definition(name: str = "fraud") -> ClassesDefinition:
    found = parse(template(name), "model.yaml")
    assert isinstance(found, ClassesDefinition)
    return found


def real_definition(name: str = "fraud") -> RealDefinition:
    found = parse(template(name, "real"), "model.yaml")
    assert isinstance(found, RealDefinition)
    return found
