"""A document or a file that somebody is sent to is in the repository."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "platform" / "src" / "mlplatform"
ARCHITECTURE: Final = ROOT / "docs" / "architecture.md"
TEXTS: Final = frozenset(
    (
        *(".Dockerfile", ".css", ".hcl", ".html", ".http", ".ipynb", ".j2", ".md", ".proto"),
        *(".py", ".sh", ".tf", ".toml", ".yaml", ".yml", ""),
    )
)
DOCUMENT: Final = re.compile(r"(?<![\w./:-])[\w.-]+(?:/[\w.-]+)*\.(?:md|rst)\b")
"""What stands behind a `://` or a `/` is an address, and no file of this repository."""
FOLDER: Final = re.compile(r"(?<![\w./:-])docs/[\w/-]*\w(?![\w.]*[<{*\u2039])")
"""A place among the documents, with or without what a file's name ends in."""
KERNEL: Final = "Documentation/"
"""Where documents of Linux lie."""
DECISION: Final = re.compile(r"(?:docs/decisions/|\bdecision (?:record )?)(\d{2,})\b")
UNNAMED: Final = re.compile(
    r"\b(?:design|style|spec) (?:section|document)\b|\bsection \d+ of the (?:design|style|spec)\b"
    r"|\b(?:design|words|style|spec)\b[^.\n]{0,20}\bsection \d",
    re.IGNORECASE,
)
"""A document of which a reader learns no more than that there is one."""
SPAN: Final = re.compile(r"`([^`\n]+)`")
NAMED: Final = re.compile(r"`([\w/.-]+\.py)` \(`([^`]+)`((?:, `[^`]+`)*)")
"""A module with names of things in it: `file` (`name`, `name`)."""
NAME_IN: Final = re.compile(r"`([\w.]+)` in `([\w/.-]+\.py)`")
TEST: Final = re.compile(r"(?<![\w./-])tests/[\w/-]+\.(?:py|txt)\b")
"""A file of these tests."""
PATH: Final = re.compile(r"(?:[\w.-]|<\w+>)+(?:/(?:[\w.-]|<\w+>)+)*/?")


@functools.cache
def names() -> frozenset[str]:
    """Every file of the repository, as Git spells it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return frozenset(name for name in listed.split("\0") if name)


@functools.cache
def places() -> frozenset[str]:
    """Every file below `docs/` with its suffix and without, every folder, and a decision's
    number."""
    found = {PurePosixPath(name) for name in names() if name.startswith("docs/")}
    whole = {f"{path.parent}/{part}" for path in found for part in (path.name, path.stem)}
    folders = {parent.as_posix() for path in found for parent in path.parents}
    return frozenset(whole | folders | {name[: len("docs/decisions/0000")] for name in whole})


@functools.cache
def texts() -> dict[Path, str]:
    """Every file that people write text into."""
    found = (ROOT / name for name in sorted(names()))
    own = (p for p in found if p.suffix in TEXTS and p.is_file() and p != Path(__file__))
    return {p: p.read_text() for p in own}


def lines(text: str, cited: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each citation."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in cited.finditer(line):
            yield number, found[found.re.groups]


def missing_documents(path: Path, text: str) -> list[str]:
    """The citations of a file that lead nowhere."""
    own = path.relative_to(ROOT)
    bases = ("", "docs", own.parent.as_posix())
    documents = [
        (number, name)
        for number, name in lines(text, DOCUMENT)
        if not name.startswith(KERNEL)
        and not any(os.path.normpath(os.path.join(base, name)) in names() for base in bases)
    ]
    strays = [found for found in lines(text, FOLDER) if found[1] not in places()]
    return [f"{own}:{number}: {name}" for number, name in (*documents, *strays)]


def paths(document: str) -> list[str]:
    """Files and folders that a document names in backticks, but for those that a run makes."""
    made = ("var/", "var-demo/")
    spans = (s for s in SPAN.findall(document) if PATH.fullmatch(s) and not s.startswith(made))
    return [s for s in spans if "/" in s or s.endswith((".py", ".md"))]


def is_there(path: str) -> bool:
    """Below the repository or the package; `<name>` stands for any, a bare name for any folder."""
    pattern = re.sub(r"<\w+>", "*", path.rstrip("/"))
    if "/" not in path:
        return any(PACKAGE.rglob(pattern)) or (ROOT / path).is_file()
    return any(ROOT.glob(pattern)) or any(PACKAGE.glob(pattern))


def test_every_document_that_is_cited_is_in_the_repository() -> None:
    assert len(texts()) > 500
    assert [m for path, text in texts().items() for m in missing_documents(path, text)] == []


def test_every_decision_that_is_cited_is_in_the_repository() -> None:
    known = {path.name[:4] for path in (ROOT / "docs" / "decisions").glob("*.md")}
    cited = [(p, *found) for p, text in texts().items() for found in lines(text, DECISION)]
    assert len(cited) > 20
    assert [found for found in cited if found[2] not in known] == []


def test_every_test_that_is_cited_is_in_the_repository() -> None:
    """In text, in a Makefile and in CI's scripts alike; `test_x.py` stands for any."""
    cited = [(p, *found) for p, text in texts().items() for found in lines(text, TEST)]
    assert len(cited) > 20
    assert [f for f in cited if not (ROOT / f[2]).is_file() and "test_x." not in f[2]] == []


def test_a_document_is_cited_by_its_name() -> None:
    assert [(p, *found) for p, text in texts().items() for found in lines(text, UNNAMED)] == []
    assert UNNAMED.search("as words.md, section 3, says") is None
    assert UNNAMED.search("as the words, section 3, say")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("as docs/no-such.md says", ["docs/no-such.md", "docs/no-such"]),
        ("docs/no-such/, docs/runbooks/ and docs/decisions/0038", ["docs/no-such"]),
        (
            "../../../main/README.md, docs/Glossary.md",
            ["../../../main/README.md", "docs/Glossary.md", "docs/Glossary"],
        ),
        ("See (style.md).", ["style.md"]),
        ("[there](../no/such.md)", ["../no/such.md"]),
        ("docs/glossary.md, security.md and README.md", []),
        ("https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md", []),
        ('f"{name}.md" and "/RoutesDiverge.md"', []),
    ],
)
def test_a_document_that_is_not_there_is_found(text: str, named: list[str]) -> None:
    found = missing_documents(Path(__file__), text)
    assert [line.rpartition(" ")[2] for line in found] == named


@pytest.mark.parametrize("document", [ARCHITECTURE, ROOT / "README.md"], ids=lambda p: p.name)
def test_every_path_that_is_named_exists(document: Path) -> None:
    named = paths(document.read_text())
    assert len(named) > 15
    assert [path for path in named if not is_there(path)] == []


def names_beside_files(document: str) -> list[tuple[str, str]]:
    """Each module and each name that a document says is in it."""
    text = " ".join(document.split())
    behind = (
        (file, name)
        for file, first, others in NAMED.findall(text)
        for name in (first, *SPAN.findall(others))
    )
    before = ((file, name) for name, file in NAME_IN.findall(text))
    return [
        (file, name)
        for file, name in (*behind, *before)
        if re.fullmatch(r"[\w.]+", name) and not name.endswith((".py", ".md", ".yaml"))
    ]


def test_every_name_beside_a_file_is_in_it() -> None:
    named = names_beside_files(ARCHITECTURE.read_text())
    assert len(named) > 10
    assert [(f, n) for f, n in named if not is_in(f, n)] == []
    assert names_beside_files("`a/b.py` (`no_such`,\n`One.more`) ") == [
        ("a/b.py", "no_such"),
        ("a/b.py", "One.more"),
    ]
    assert not is_in("rollouts/passes/next_step.py", "no_such_function")


def is_in(file: str, name: str) -> bool:
    """Whether each part of a dotted name is a word of that module."""
    found = [ROOT / file, PACKAGE / file]
    text = next((path.read_text() for path in found if path.is_file()), "")
    return all(re.search(rf"\b{part}\b", text) for part in name.split("."))


def test_every_package_is_said_to_answer_a_question() -> None:
    text = ARCHITECTURE.read_text()
    areas = text.partition("## The areas")[2].partition("Models lie")[0]
    packages = {
        path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*/__init__.py")
    }
    of_models = {name for name in packages if name.split("/")[0] == "models"}
    assert packages - of_models == set(re.findall(r"`([\w/]+)/`", areas))
