"""docs/messages.md and sentences.txt have every message that people see, each easy to read."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from mlplatform.commands.documents import messages
from mlplatform.commands.documents.message_templates import Message
from mlplatform.runtime import errors

ROOT: Final = Path(__file__).parents[2]
FREE: Final = re.compile(r"[a-z]{3,} (?:[a-z]+ )*[a-z]{2,}")
STUMBLES: Final = re.compile(
    r"\b(?:nobody tells|(?:is|are) told|asked no more|is no pass|speaks? for|spoken to|told apart"
    r"|in work|for long\b|has a past|does not read as|(?:say|said) something of"
    r"|asks for no more|(?:by|in) what was counted|fares|those expected"
    r"|nothing is (?:given|known of)|would be taken back|whom nobody"
    r"|(?<!there )(?:is|are) no (?!(?:sign of|longer|more|such|larger|feature yet)\b)\w+)\b"
)
"""Words over which a reader who knows no code stumbled."""


@cache
def found() -> list[Message]:
    return messages.catalogue(ROOT)


def by_module() -> dict[str, str]:
    texts: dict[str, list[str]] = defaultdict(list)
    for message in found():
        texts[message.module].append(message.text)
    return {module: "\n".join(lines) for module, lines in texts.items()}


def words(node: ast.AST) -> list[str]:
    """The literal parts of several words in what an error for people is made of."""
    if "AssertionError" in ast.dump(node):
        return []
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return [text for text in constants if isinstance(text, str) and FREE.search(text)]


def test_the_catalogue_is_what_the_code_says() -> None:
    """`make generate` writes it anew."""
    for name, text in messages.render_files(ROOT).items():
        assert (ROOT / name).read_text() == text, f"{name}: make generate"


def test_each_class_of_errors_says_what_to_do() -> None:
    own = {k.__name__ for k in vars(errors).values() if isinstance(k, type)}
    wanted = own & {k for k in own if issubclass(getattr(errors, k), errors.PlatformError)}
    assert messages.WAYS.keys() == wanted - {"PlatformError", "SettingsInvalid"}


def test_no_message_of_an_error_is_left_out() -> None:
    """Counted in another way than the catalogue is made: by `raise` and its words alone."""
    shown, missed, count = by_module(), [], 0
    for folder, _ in messages.FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if "_pb2" in name or "/commands/documents/" in name:
                continue
            raised = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Raise))
            for node in raised:
                for text in words(node):
                    count += 1
                    if text.strip() not in shown.get(name, ""):
                        missed.append(f"{name}:{node.lineno}: {text}")
    assert count > 700
    assert missed == []


@pytest.mark.parametrize("kind", ["error", "log", "text"])
def test_no_message_has_to_be_read_twice_for_words_that_readers_stumbled_over(kind: str) -> None:
    hits = [f"{m.module}: {m.text}" for m in found() if m.kind == kind and STUMBLES.search(m.text)]
    assert hits == []


def test_no_error_stands_where_a_value_belongs() -> None:
    """`ConfigUnusable` has a problem; `ConfigInvalid` has the value that is wrong."""
    of_error = re.compile(r" is '‹(?:error|problem|why|strerror)›|; wanted: ‹(?:error|problem)›")
    assert [m.text for m in found() if m.kind == "error" and of_error.search(m.text)] == []


def test_a_template_of_the_page_is_read_as_people_see_it() -> None:
    template = "<p>{% if a %}Open since <time>{{ at }}</time>, by {{ who }}.{% endif %}</p><b>x</b>"
    assert messages.page_texts(template) == ["Open since ‹…›, by ‹…›."]
