"""Sentences that tests of other legs expect: `make test` runs none of them, and reads them here.

CI failed three times on a test that expected a reworded sentence, of a real broker, of Argo, of
Terraform's plan or of a late writer, and that only ran on CI.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
CATALOGUE = (ROOT / "docs/messages.md", ROOT / "tests/artifacts/sentences.txt")
LEGS = re.compile(r'mark\.(postgres|redis|s3|kafka|dex)\b|mark\.skipif|pytest\.skip\(|"kserve"')
"""Of test files that need a server or a program which `make test` does not start."""
FOLDERS = ("cluster", "observability", "terraform")
ACCEPTED: Final = {
    "Insufficient nvidia": "Kubernetes' scheduler",
    "exceeded quota": "Kubernetes' admission",
    "payments allows": "a team's name before the verb",
    "image mlplatform": "an image's name after the noun",
    "claim mlplatform": "a claim's name after the noun",
    "server dry run": "kubectl",
    "Refs is": "the condition ResolvedRefs of the Gateway API",
    "only grows": "a trigger's name in SQL",
    "is shadow": "a phase after the verb",
    "invalid username": "Redis",
    "async first": "a heading of the API reference's page",
    "conflict with": "Kubernetes' server-side apply",
    "to destroy": "Terraform",
    "payloads erased": "the name of a line of `log erase`",
    "ask bureau": "an owner's name after the verb",
    "of is after known": "as_of and known_at, names of columns, about the verb",
}
"""Words of others, and those between which a value stands."""


def expected(text: str) -> Iterator[str]:
    """The longest run of plain words in each `match=` and each string that is looked for; of an
    f-string in each part between two values."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            found = [k.value for k in node.keywords if k.arg == "match"]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            found = [node.left]
        else:
            continue
        parts = (v.values if isinstance(v, ast.JoinedStr) else [v] for v in found)
        for part in itertools.chain.from_iterable(parts):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                runs = re.findall(r"[A-Za-z][a-z]+(?: [a-z]+)+", part.value)
                yield from [max(runs, key=len)] if runs else []


def is_said(words: str, catalogue: str) -> bool:
    """Whether two of the words stand beside each other in a sentence of the catalogue.

    All of them need not: the catalogue has a placeholder where a test expects a value.
    """
    each = words.casefold().split()
    return any(f"{a} {b}" in catalogue for a, b in itertools.pairwise(each))


def files_of_other_legs() -> list[Path]:
    return [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path.relative_to(ROOT).parts[1] in FOLDERS or LEGS.search(path.read_text())
    ]


def catalogue() -> str:
    return " ".join(" ".join(path.read_text() for path in CATALOGUE).split()).casefold()


def test_tests_of_other_legs_expect_sentences_that_are_said() -> None:
    said = catalogue()
    missing = {
        f"{path.relative_to(ROOT)}: {words}"
        for path in files_of_other_legs()
        for words in expected(path.read_text())
        if words not in ACCEPTED and not is_said(words, said)
    }
    assert missing == set()


def test_what_is_accepted_is_expected_somewhere() -> None:
    everywhere = {w for path in files_of_other_legs() for w in expected(path.read_text())}
    assert set(ACCEPTED) - everywhere == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [("used once", False), ("a name of its own", True), ("each job needs", True)],
)
def test_a_reworded_sentence_is_found(words: str, said: bool) -> None:
    catalogue = "there is another job '{name}'; each job needs a name of its own"
    text = f'with pytest.raises(Refused, match="{words}"): ...'
    assert [is_said(found, catalogue) for found in expected(text)] == [said]
