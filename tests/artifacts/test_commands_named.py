"""Every `mlplatform …` that a document shows is a command that can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from mlplatform import commands
from mlplatform.runtime.configuration.declarations import PORTS

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND: Final = typer.main.get_command(commands.app)
LINE: Final = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*mlplatform (.+)$", re.MULTILINE)
SHELL: Final = re.compile(r"[|&>;]|\d>")
"""What ends a command's own words."""
OPENS: Final = "\u2039"
"""Before the name of a value, in documents that are generated of templates."""
SPAN: Final = re.compile(r"`mlplatform\s([^`]+)`")
OF_TEAMS: Final = frozenset(("credit-default", "credit_default", "limits"))
"""Models that a document lets its reader make; here the one that there is stands for them."""
VALUES: Final = {"$as_of": "2026-11-28"}
"""What a shell's variables hold that stand for one value."""
LOCAL: Final = re.compile(r"(?:127\.0\.0\.1|localhost):(\d+)")
OPEN: Final = {port.default for port in PORTS} - {"0"}
"""Ports that a start opens where no setting names another."""
OF_A_DECISION: Final = "decisions/"
"""Decisions are as they were written, and may name what was changed by a later one."""


def blocks(text: str) -> Iterator[str]:
    """Fenced and indented parts of a document."""
    parts = re.split(r"^\s*```.*$", text, flags=re.MULTILINE)
    yield from parts[1::2]
    for part in parts[::2]:
        yield "\n".join(line for line in part.splitlines() if line.startswith("    "))


def typed(text: str) -> list[str]:
    """Commands that stand on lines of their own."""
    lines = (block.replace("\\\n", " ") for block in blocks(text))
    return [found[1] for block in lines for found in LINE.finditer(block)]


def mentioned(text: str) -> list[str]:
    """Commands in the middle of a sentence, which may lack what the sentence is not about; but
    those in which names of values stand for the values."""
    return [" ".join(found.split()) for found in SPAN.findall(text) if OPENS not in found]


def found(line: str) -> tuple[Any, str, list[str]]:
    """The command of a line, its name, and the words behind it.

    Raises:
        KeyError: of a command that is not there.
    """
    words, command, name = shlex.split(line, comments=True), COMMAND, "mlplatform"
    words = [
        word for word in takewhile(lambda word: not SHELL.match(word), words) if word != "$columns"
    ]
    words = [VALUES.get(word, "fraud" if word in OF_TEAMS else word) for word in words]
    while words and isinstance(command, TyperGroup) and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.commands[name]
    return command, name, words


def fault(line: str, *, whole: bool) -> str | None:
    """What is wrong with a line; None: it can be typed.

    Args:
        whole: whether what the command needs must stand there.
    """
    try:
        command, name, words = found(line)
    except (KeyError, ValueError) as error:
        return f"{line}: {error}"
    if words == ["--help"] or (isinstance(command, TyperGroup) and not whole and not words):
        return None
    options = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts)}
    strange = [w for w in words if w.startswith("--") and w.partition("=")[0] not in options]
    if strange or not whole:
        return f"{line}: no option {strange}" if strange else None
    try:
        command.make_context(name, words)
    except TyperException as error:
        return None if "does not exist" in error.message else f"{line}: {error.message}"
    return None


def is_current(path: Path) -> bool:
    return OF_A_DECISION not in path.as_posix()


def test_a_command_on_a_line_of_its_own_can_be_typed() -> None:
    lines = {(p.name, line) for p in PAGES for line in typed(p.read_text())}
    assert len(lines) > 80
    assert [f"{n}: {why}" for n, line in sorted(lines) if (why := fault(line, whole=True))] == []


def test_a_command_in_a_sentence_is_one_that_there_is() -> None:
    lines = {(p.name, line) for p in PAGES if is_current(p) for line in mentioned(p.read_text())}
    assert len(lines) > 60
    assert [f"{n}: {why}" for n, line in sorted(lines) if (why := fault(line, whole=False))] == []


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("rollouts aprove x", False),
        ("rollouts approve --faster", False),
        ("retrain --actor ana", True),
        ("keys create --name", True),
    ],
)
def test_a_wrong_command_is_found(line: str, whole: bool) -> None:
    assert fault(line, whole=whole)


def unopened(text: str) -> list[str]:
    """Ports of this machine that commands of a document ask, though no start opens them: neither by
    itself, nor by a command above."""
    found, above = [], ""
    for block in blocks(text):
        for asked in LOCAL.finditer(block):
            named = re.search(rf"[= :]{asked[1]}\b", above)
            if asked[1] not in OPEN and named is None:
                found.append(asked[1])
        above += block
    return found


def test_no_command_asks_a_port_that_nothing_has_opened() -> None:
    """gRPC is off until a setting names its port."""
    pages = {p.name: unopened(p.read_text()) for p in PAGES if is_current(p)}
    assert {name: ports for name, ports in pages.items() if ports} == {}


def test_a_port_that_nothing_has_opened_is_found() -> None:
    asks, opens = "```\ncurl 127.0.0.1:8081\n```\n", "```\nX_PORT=8081 mlplatform up\n```\n"
    assert unopened(asks) == ["8081"]
    assert unopened(opens + asks) == []


def test_commands_are_found_where_they_stand() -> None:
    text = "Ask `mlplatform\nstatus`.\n\n```sh\n$ A=b mlplatform up\n```\n\n    mlplatform down\n"
    assert typed(text) == ["up", "down"]
    assert mentioned(text) == ["status"]
