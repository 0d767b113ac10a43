"""Requests as editors send them from a `.http` file: titles, variables, bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_VARIABLE: Final = re.compile(r"\{\{(.+?)\}\}")
_NAME: Final = "# @name "


@dataclass(frozen=True)
class Call:
    """One request; `{{…}}` still stands in its texts.

    Args:
        name: by which later ones mean its answer; empty where it has none.
    """

    title: str
    name: str
    method: str
    address: str
    headers: dict[str, str]
    body: str

    def path(self) -> str:
        return self.address.removeprefix("{{gateway}}")


def calls(text: str) -> list[Call]:
    return [_call(part) for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]]


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its variables' values.

    Raises:
        KeyError: of one that has none.
    """
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def _call(part: str) -> Call:
    head, _, body = part.partition("\n\n")
    title, *lines = head.splitlines()
    name = next((line.removeprefix(_NAME) for line in lines if line.startswith(_NAME)), "")
    asked, *headers = [line for line in lines if not line.startswith("#")]
    method, _, address = asked.partition(" ")
    pairs = (line.partition(": ") for line in headers)
    return Call(title, name, method, address, {n: value for n, _, value in pairs}, body.strip())
