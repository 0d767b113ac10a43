"""The scopes that groups of an identity provider have here, and the names that its people have here
already.

The declared mapping, a YAML file:

    groups:
      ml-approvers: ["*:approve"]        # group at the provider: scopes of people
      analysts: ["*:review"]
    people:                              # may be left out
      248289761001: ana                  # subject at the provider: name on this platform
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.model import document
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.scoring.admission.clients import PERSONAL, Scope, check_client, parse_scope

VARIABLE: Final = f"{PREFIX}SIGN_IN_ROLES"
MOST_GROUPS: Final = 500
MOST_PEOPLE: Final = 5_000
MOST_CHARACTERS: Final = 256
SUBJECT: Final = re.compile(r"[\x20-\x7e]{1,255}")
"""Pattern of a subject: a person's identifier at the provider."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The content of the file of roles.

    Args:
        groups: a group's name at the provider → its scopes here.
        people: a subject at the provider → the name that this person has on the platform.
    """

    groups: Mapping[str, frozenset[Scope]]
    people: Mapping[str, str]


def read(file: Path) -> Roles:
    """The roles of a file.

    Raises:
        ConfigInvalid: for the reasons given in `parse`, or because the file can't be read.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(VARIABLE, str(file), "a file of roles that can be read") from error
    return parse(text, file)


def parse(text: str, file: Path) -> Roles:
    """The roles of a file's text.

    Raises:
        ConfigInvalid: something is wrong; the message has a line for each wrong key, with its value
            and what is wanted.
    """
    found = document.read(text, f"{VARIABLE}: {file}", "YAML as docs/security.md shows it")
    if not isinstance(found, dict) or not {"groups"} <= found.keys() <= {"groups", "people"}:
        raise ConfigInvalid(VARIABLE, str(file), "keys groups and people (docs/security.md)")
    groups, people = found["groups"], found.get("people", {})
    if not isinstance(groups, dict) or not 1 <= len(groups) <= MOST_GROUPS:
        raise ConfigInvalid(VARIABLE, str(file), f"1 to {MOST_GROUPS} groups in it")
    if not isinstance(people, dict) or len(people) > MOST_PEOPLE:
        raise ConfigInvalid(VARIABLE, str(file), f"at most {MOST_PEOPLE} people in it")
    problems = [*_of_groups(groups), *_of_people(people)]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigInvalid(VARIABLE, str(file), f"a file without these mistakes:{lines}")
    return Roles(
        {str(name): frozenset(map(parse_scope, scopes)) for name, scopes in groups.items()},
        {str(subject): name for subject, name in people.items()},
    )


def _of_groups(groups: Mapping[object, object]) -> Iterator[str]:
    wanted = f"a list of scopes of people: model:operation, one of {', '.join(sorted(PERSONAL))}"
    for name, scopes in groups.items():
        if not 1 <= len(str(name)) <= MOST_CHARACTERS:
            yield f"groups has {str(name)[:40]!r}; wanted: names of at most {MOST_CHARACTERS}"
        if not isinstance(scopes, list) or not scopes or not all(map(_is_of_people, scopes)):
            yield f"groups.{name} is {scopes!r}; wanted: {wanted}"


def _is_of_people(scope: object) -> bool:
    try:
        return isinstance(scope, str) and parse_scope(scope).operation in PERSONAL
    except ConfigInvalid:
        return False


def _of_people(people: Mapping[object, object]) -> Iterator[str]:
    for subject, name in people.items():
        if not SUBJECT.fullmatch(str(subject)):
            yield f"people has {str(subject)[:40]!r}; wanted: a subject, 1 to 255 of ASCII"
        try:
            check_client(name, f"people.{subject}")
        except ConfigInvalid as error:
            yield str(error)
    names = [name for name in people.values() if isinstance(name, str)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"people has {name!r} for several subjects; wanted: each name for one person"
