"""docs/serving-keys.md has every key of model.yaml's sections on serving, with what it means."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, inspect

from mlplatform.commands.documents import serving_keys
from mlplatform.model.policies import serving
from mlplatform.model.policies.values import Section

SECTIONS = [
    kind
    for kind in vars(serving).values()
    if isinstance(kind, type) and issubclass(kind, Section) and kind is not Section
]


class WholeSection(Section, frozen=True):
    """A section.

    Args:
        first: what it means, over
            two lines.
        second: another.
    """

    first: int
    second: int


class LackingSection(Section, frozen=True):
    """A section.

    Args:
        first: what it means.
        third: nothing has this name.
    """

    first: int
    second: int


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_the_document_has_every_key_with_its_meaning(kind: type[msgspec.Struct]) -> None:
    """A section that is added to the module has to be added to the document."""
    (text,) = serving_keys.render_files().values()
    for key, meaning in serving_keys.meanings(kind).items():
        assert f"| `{key}` | " in text
        assert f" | {meaning} |" in text


def test_a_meaning_is_the_text_of_its_key_on_one_line() -> None:
    assert serving_keys.meanings(WholeSection) == {
        "first": "what it means, over two lines.",
        "second": "another.",
    }


def test_a_key_without_a_meaning_and_a_meaning_without_a_key_are_named() -> None:
    with pytest.raises(LookupError, match="LackingSection and its keys differ in second, third"):
        serving_keys.meanings(LackingSection)


@pytest.mark.parametrize(
    ("expected", "kind"),
    [
        ("a whole number, 1 to 1,000", Annotated[int, Meta(ge=1, le=1000)]),
        ("a number, more than 0, less than 1", Annotated[float, Meta(gt=0, lt=1)]),
        ("a number, 0.5 or more", Annotated[float, Meta(ge=0.5)] | None),
        ("true or false", bool),
        ("a section, see below", WholeSection | None),
    ],
)
def test_what_a_key_takes_is_said_with_its_bounds(expected: str, kind: type) -> None:
    assert expected == serving_keys.takes(inspect.type_info(kind))
