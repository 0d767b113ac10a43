"""docs/model-yaml.md has every key that the loader of model.yaml accepts, no other, and what each
means."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
import pytest
import yaml
from msgspec import Meta, inspect

from mlplatform.commands.documents import key_values, model_keys
from mlplatform.model.definition import DEFINITIONS
from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import parse
from mlplatform.model.policies.values import Section

TASKS: Final = tuple(DEFINITIONS)
STRANGE: Final = "strange"
"""A key that no section has; the loader answers it with those that the section has."""
_HEADING: Final = re.compile(r"`([^`]+)`")


class WholeSection(Section, frozen=True):
    """A section.

    Args:
        first: what it means, over
            two lines.
        second, third: another.
    """

    first: int
    second: int
    third: int


class ExtendedSection(WholeSection, frozen=True, kw_only=True):
    """A section that extends another.

    Args:
        second: its own meaning.
        fourth: one more.
    """

    fourth: int


class LackingSection(Section, frozen=True):
    """A section.

    Args:
        first: what it means.
        third: nothing has this name.
    """

    first: int
    second: int


def sections(task: str) -> dict[str, tuple[str, set[str]]]:
    """Path of each section of the page that a task may have → what its keys are of (`list`,
    `mapping`, or empty), and its keys."""
    (text,) = model_keys.render_files().values()
    pages: dict[str, tuple[str, set[str]]] = {}
    for part in text.split("\n## ")[1:]:
        heading, _, rest = part.partition("\n")
        if heading == model_keys.REFUSED_KEYS:
            continue
        opening = " ".join(rest.partition("|")[0].split())
        each = re.search(r"The keys of each entry of the (list|mapping):", opening)
        keys = {cells[0].strip("`") for cells in rows(rest) if task in of_tasks(cells)}
        for name in _HEADING.findall(heading) or [""]:
            pages[name] = (each[1] if each else "", keys)
    return {name: found for name, found in pages.items() if reached(name, pages)}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def of_tasks(cells: list[str]) -> tuple[str, ...]:
    if len(cells) == 5 or cells[1] == "all":
        return TASKS
    return tuple(cells[1].split(", "))


def reached(name: str, pages: dict[str, tuple[str, set[str]]]) -> bool:
    """Whether the keys above a section lead to it."""
    above, _, key = name.rpartition(".")
    return not name or (key in pages[above][1] and reached(above, pages))


def accepted(path: str, task: str, found: dict[str, tuple[str, set[str]]]) -> set[str]:
    """The keys that the loader names where a section has one that it does not know."""
    value: Any = {STRANGE: 1}
    parts = path.split(".") if path else []
    for number in range(len(parts), 0, -1):
        each, _ = found[".".join(parts[:number])]
        value = {"list": [value], "mapping": {"one": value}, "": value}[each]
        value = {parts[number - 1]: value}
    with pytest.raises(DocumentInvalid) as refused:
        parse(yaml.safe_dump(value | {"task": task}), "model.yaml")
    (wanted,) = [f.wanted for f in refused.value.findings if f.path[-1] == STRANGE]
    return set(wanted.removeprefix("one of ").split("; ")[0].split(", "))


@pytest.mark.parametrize("task", TASKS)
def test_the_page_has_the_keys_that_the_loader_accepts_and_no_other(task: str) -> None:
    found = sections(task)
    assert len(found) > 20
    assert {name: keys for name, (_, keys) in found.items()} == {
        name: accepted(name, task, found) for name in found
    }


def test_each_key_that_is_a_section_has_one_on_the_page() -> None:
    names = set(sections("binary")) | set(sections("classes")) | set(sections("real"))
    (text,) = model_keys.render_files().values()
    for part in text.split("\n## ")[1:-1]:
        heading, _, rest = part.partition("\n")
        for above in _HEADING.findall(heading) or [""]:
            for cells in rows(rest):
                path = f"{above}.{cells[0].strip('`')}".removeprefix(".")
                assert any("see below" in cell for cell in cells) == (path in names), path


def test_a_meaning_is_the_text_of_its_key_on_one_line() -> None:
    assert model_keys.meanings(WholeSection) == {
        "first": "what it means, over two lines.",
        "second": "another.",
        "third": "another.",
    }


def test_a_section_that_extends_another_has_its_meanings_and_its_own() -> None:
    assert model_keys.meanings(ExtendedSection) == {
        "first": "what it means, over two lines.",
        "second": "its own meaning.",
        "third": "another.",
        "fourth": "one more.",
    }


def test_a_key_without_a_meaning_and_a_meaning_without_a_key_are_named() -> None:
    with pytest.raises(LookupError, match="LackingSection and its keys differ in second, third"):
        model_keys.meanings(LackingSection)


@pytest.mark.parametrize(
    ("expected", "kind"),
    [
        ("a whole number, 1 to 1,000", Annotated[int, Meta(ge=1, le=1000)]),
        ("a number, more than 0, less than 1", Annotated[float, Meta(gt=0, lt=1)]),
        ("a number, 0.5 or more", Annotated[float, Meta(ge=0.5)] | None),
        ("true or false", bool),
        ("`fast` or `slow`", Literal["fast", "slow"]),
        ("a text that is not blank, 9 characters at most",
         Annotated[str, Meta(pattern=r"\S", max_length=9)]),
        ("a text of the form `[a-z]+`", Annotated[str, Meta(pattern=r"\A[a-z]+\Z")]),
        ("a list, 1 or more entries; each: a text",
         Annotated[tuple[str, ...], Meta(min_length=1)]),
        ("a mapping; each name: a text; each value: a number", dict[str, float]),
        ("a mapping of names to sections, see below; each name: a text", dict[str, WholeSection]),
        ("a list of sections, see below", tuple[WholeSection, ...]),
        ("a section, see below", WholeSection | None),
    ],
)  # fmt: skip
def test_what_a_key_takes_is_said_with_its_bounds(expected: str, kind: Any) -> None:
    assert expected == key_values.takes(inspect.type_info(kind))


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        ("`5`", 5.0),
        ("`0.25`", 0.25),
        ("`false`", False),
        ('`["a", "b"]`', ("a", "b")),
        ('`""`', ""),
        ("none", ()),
        ("none", None),
        ("none", {}),
        ("none", msgspec.UNSET),
        ("none", WholeSection(first=1, second=2, third=3)),
    ],
)
def test_a_default_is_shown_as_yaml_has_it(expected: str, value: object) -> None:
    assert expected == key_values.shown(value)
