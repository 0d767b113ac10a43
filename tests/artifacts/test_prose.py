"""Documents are easy to read: 120 columns, short sentences, numbers one way, plain words.

Comments of configurations use plain words too.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
COLUMNS: Final = 120
ITEM: Final = re.compile(r"(?:\d+\.|[-*]) ")
LINK: Final = re.compile(r"https?://\S+|\]\([^)]*\)")
CODE: Final = re.compile(r"`+[^`\n]+`+")
WORDS: Final = 45
"""Most words of a sentence: of a longer one, a reader who learned English from documents loses the
subject."""
GENERATED: Final = "<!-- Generated"
SENTENCE_END: Final = re.compile(r"(?<=[.?!])[\"')*]*\s+")
WORD: Final = re.compile(r"\S*\w\S*")
SPACED_NUMBER: Final = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3})+(?!\w)")
BARE_DECIMAL: Final = re.compile(r"(?<![\w.])[-+]?\.\d+")
HABITS: Final = re.compile(
    r"\b(?:(?:is|are) told (?:at once|as|by|of)|is no pass|is stood for by"
    r"|(?:asks?|asked|scores?|says?) (?:\w+ ){0,2}no more\b(?! than)"
    r"|(?:[Ss]o|[Nn]or|[Nn]either) (?:do|does|is|are|has|have|was|were)\b"
    r"|(?:Left (?:out|empty)|Given),)"
)
"""Clauses over which readers stumbled: `report`, `no longer`, `too` and a subject in front do
better."""
VERB: Final = "(?:is|are|was|were|lies?|stands?|comes?|goes?|belongs?|hangs?|follows?|remains?)"
INVERSION: Final = re.compile(
    rf"(?:(?:Below|Above|Beside|Outside|Behind|Beneath|Inside|Among)(?: [^\s,.]+){{0,4}} {VERB}\b"
    rf"|(?:In|On|At|To|With|From|By|Under) (?:it|them|this|these|that|each|all)(?: too)? {VERB}\b"
    rf"|(?:Alike|Also|Different|Gone|Kept|Least|Left|Missing|Most|New|Not|Same|Such) {VERB}\b"
    r"|(?:Only (?:then|there|here|so|after|when)|Never|Not (?:only|until))\b[^,;]* do(?:es)?\b"
    r"|Of(?: [^\s:]+){5}\s)"
)
"""A sentence that begins with where something lies, what it is or what it is taken from, with its
subject after that: "Below are the processes". A cell such as "Of a trace: its spans" says for which
thing a word has this meaning."""
LATE_SUBJECT: Final = re.compile(
    r"[;:] of (?:[^\s.;:,]+,? ){1,8}?(?:the (?:first|last|next|newest|oldest)|only|none)\b"
)
"""The same after a semicolon or a colon."""
RETIRED: Final = re.compile(r"\b(?:tells?|told|telling|whence)\b", re.IGNORECASE)
"""Words of comments for which there are plainer ones: who gets what, what names or shows it."""
COMMENT: Final = re.compile(
    r"(?:^|(?<=\s))#+ (.*)|\b(?:description|error_message)\s*=\s*\"(.*)\"$", re.MULTILINE
)
"""A comment of YAML or of Terraform; and what Terraform says of a value, or of a wrong one."""
SECTION: Final = re.compile(r"^(?:Args|Raises|Returns|Source|Example):", re.MULTILINE)
"""The head of a docstring's list."""
LEAD: Final = re.compile(r"(?:[-*]|\d+\.) +|\*\*[^*]*\*\*:? *")
"""What stands before the first word of a sentence: the sign of an item, a term in bold."""


def documents() -> list[Path]:
    """Every document that people write; decision records keep the words of their time."""
    return listed("*.md")


def listed(*patterns: str) -> list[Path]:
    """The files of the repository whose names fit one of these patterns."""
    named = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(named, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines outside of code blocks. What is indented is code, but in an item
    of a list."""
    fenced = is_item = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith(" "):
            is_item = ITEM.match(line) is not None
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and (is_item or not line.startswith("    ")):
            yield number, line


def too_wide(text: str) -> list[int]:
    """Lines outside of tables, code and what holds a link that are wider than a reader's window."""
    return [
        number
        for number, line in prose(text)
        if len(line) > COLUMNS and not line.lstrip().startswith("|") and not LINK.search(line)
    ]


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Number of the first line, and text, of each paragraph, item of a list and cell of a table."""
    begun, parts, last = 0, list[str](), 0
    for number, line in [*prose(text), (0, "")]:
        is_row = line.lstrip().startswith("|")
        begins = ITEM.match(line.lstrip()) or line.startswith("#") or is_row or number != last + 1
        if parts and (begins or not line.strip()):
            yield begun, " ".join(parts)
            parts = []
        last = number
        if is_row:
            yield from ((number, cell.strip()) for cell in line.strip().strip("|").split("|"))
        elif line.strip() and not line.startswith("#"):
            begun = begun if parts else number
            parts.append(line.strip())


def long_sentences(text: str) -> list[tuple[int, int]]:
    """Line of the paragraph, and words, of each sentence that is too long; code is one word."""
    return [
        (number, words)
        for number, paragraph in paragraphs(text)
        for sentence in SENTENCE_END.split(CODE.sub("code", paragraph))
        if (words := len(WORD.findall(sentence))) > WORDS
    ]


def inversions(text: str) -> list[tuple[int, str]]:
    """Line of the paragraph, and first words, of what a reader must read to its end to know what it
    is about."""
    found = []
    for number, paragraph in paragraphs(text):
        plain = CODE.sub("code", paragraph)
        starts = (INVERSION.match(LEAD.sub("", one)) for one in SENTENCE_END.split(plain))
        hits = [*(one for one in starts if one), *LATE_SUBJECT.finditer(plain)]
        found += [(number, one[0]) for one in hits]
    return found


def stumbles(text: str) -> list[tuple[int, str]]:
    """Words of each number without its zero or with a space in it, with its line, and of each
    clause that misleads, with the first line of its paragraph."""
    numbers = [
        (number, found[0])
        for number, line in prose(text)
        for pattern in (BARE_DECIMAL, SPACED_NUMBER)
        for found in pattern.finditer(CODE.sub("", line))
    ]
    clauses = [
        (number, found[0])
        for number, paragraph in paragraphs(text)
        for found in HABITS.finditer(CODE.sub("code", paragraph))
    ]
    return numbers + clauses


def retired_in_comments(text: str) -> list[tuple[int, str]]:
    """Line and word of what a comment of YAML or Terraform says in words that are not used."""
    return [
        (text.count("\n", 0, found.start()) + 1, word)
        for found in COMMENT.finditer(text)
        for word in RETIRED.findall(found[1] or found[2] or "")
    ]


def test_documents_wrap() -> None:
    wide = {p.relative_to(ROOT).as_posix(): too_wide(p.read_text()) for p in documents()}
    assert len(wide) > 150
    assert {name: found for name, found in wide.items() if found} == {}


def test_numbers_and_clauses_read_at_a_glance() -> None:
    living = [p for p in documents() if p.parent.name != "decisions" and p.name != "CHANGELOG.md"]
    found = {p.relative_to(ROOT).as_posix(): stumbles(p.read_text()) for p in living}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_a_sentence_begins_with_what_it_is_about() -> None:
    living = [p for p in documents() if p.parent.name != "decisions"]
    found = {p.relative_to(ROOT).as_posix(): inversions(p.read_text()) for p in living}
    assert len(found) > 60
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_comments_of_configurations_use_plain_words() -> None:
    files = listed("*.yaml", "*.yml", "*.tf", "*.hcl")
    found = {p.relative_to(ROOT).as_posix(): retired_in_comments(p.read_text()) for p in files}
    assert {Path(name).suffix for name in found} >= {".yaml", ".tf", ".hcl"}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_sentences_are_short() -> None:
    living = [p for p in documents() if p.parent.name != "decisions" and p.name != "CHANGELOG.md"]
    texts = {p.relative_to(ROOT).as_posix(): p.read_text() for p in living}
    written = {name: text for name, text in texts.items() if not text.startswith(GENERATED)}
    assert {"README.md", "infra/terraform/cloud/README.md"} <= written.keys()
    assert {name.rpartition("/")[0] for name in written} >= {"docs", "docs/runbooks"}
    found = {name: long_sentences(text) for name, text in written.items()}
    assert {name: long for name, long in found.items() if long} == {}


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """First line and text of each docstring, those below constants and fields too. What follows a
    heading such as `Args:` is a list, and a drawn tree is no sentence."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(said))):
                prose = SECTION.split(inspect.cleandoc(said), maxsplit=1)[0]
                yield node.lineno, re.sub(r"^.*[├│└].*$", "", prose, flags=re.M)


def test_sentences_of_docstrings_are_short() -> None:
    folders = ("platform/src/mlplatform", "clients", "demo", "flows", "models", "teams")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    tops = {path.relative_to(ROOT).parts[0] for path in paths}
    assert tops == {folder.partition("/")[0] for folder in folders}
    found = {
        f"{path.relative_to(ROOT)}:{line}": long
        for path in paths
        if not path.stem.endswith("_pb2")
        for line, said in docstrings(path.read_text())
        if (long := [words for _, words in long_sentences(said)])
    }
    assert found == {}


def test_a_docstring_is_read_without_its_lists_and_trees() -> None:
    text = (
        'A = 1\n"""One."""\ndef f():\n    """Two.\n\n    Args:\n        a: three.\n    """\n'
        '    return """four"""\nclass B:\n    """Five\n    ├── six\n    └── seven"""\n'
    )
    assert [(line, said.split()) for line, said in sorted(docstrings(text))] == [
        *((2, ["One."]), (4, ["Two."]), (11, ["Five"])),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("word " * 46, [(1, 46)]),
        ("word " * 30 + "end. " + "word " * 30, []),
        ("# A title\n\n" + "word\n" * 46, [(3, 46)]),
        ("- " + "word " * 30 + "\n- " + "word " * 30, []),
        ("| " + "word " * 30 + "| " + "word " * 46 + "|", [(1, 46)]),
        ("`two words` " * 45, []),
        ("```\n" + "word " * 46 + "\n```", []),
    ],
)
def test_a_long_sentence_is_found(text: str, expected: list[tuple[int, int]]) -> None:
    assert long_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("within .1 s", [".1"]),
        ("(-.164)", ["-.164"]),
        ("0.5 of v1.2, and `.5` is no number", []),
        ("all errors are told at once", ["are told at once"]),
        ("a gateway asks an arm no more", ["asks an arm no more"]),
        ("it says no more than this", []),
        ("rows stay, and so\ndoes the key", ["so does"]),
        ("ids are not kept, nor are names", ["nor are"]),
        ("Neither are\nnames", ["Neither are"]),
        ("neither ids nor names are kept, so `is` is code", []),
        ("rows stay. Left out, all do", ["Left out,"]),
        ("What is left out stays. Given a key, it is found", []),
        ("20 000 rows of 1,000,000", ["20 000"]),
        ("```\n.1\n```\n", []),
    ],
)
def test_what_is_looked_for_is_found(text: str, expected: list[str]) -> None:
    assert [words for _, words in stumbles(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rows stay. Below are\nthe processes.", ["Below are"]),
        ("- Outside of the home these are tables.", ["Outside of the home these are"]),
        ("**Cost.** Behind it stands a number.", ["Behind it stands"]),
        ("In it are rows. With it the rows are whole.", ["In it are"]),
        ("Such are the limits. Such limits are few.", ["Such are"]),
        ("Not until the day ends does it count.", ["Not until the day ends does"]),
        ("Of several labels of a decision the last counts.", ["Of several labels of a decision "]),
        ("| Of a trace: its spans are stored. |", []),
        ("rows stay; of two with one name the first counts", ["; of two with one name the first"]),
        ("a push of rows; of a batch, a day; below 1 it is in the unit", []),
        ("Beside the log, a file takes what waits. Outside, nothing changes.", []),
        ("The processes come below. There are two.", []),
    ],
)
def test_a_sentence_with_its_subject_at_the_end_is_found(text: str, expected: list[str]) -> None:
    assert [words for _, words in inversions(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\n# Who is told\nb: 2  # tell nobody", [(2, "told"), (3, "tell")]),
        ('  description = "Who is told."', [(1, "told")]),
        ("skew: tell\nurl: http://a/#told\n# a storyteller", []),
    ],
)
def test_a_retired_word_of_a_comment_is_found(text: str, expected: list[tuple[int, str]]) -> None:
    assert retired_in_comments(text) == expected


def test_a_wide_line_is_found_but_for_tables_code_and_links() -> None:
    wide = "word " * 30
    lines = (wide, f"| {wide} |", f"    {wide}", f"{wide} https://example.org", "```", wide, "```")
    assert too_wide("\n".join(lines)) == [1]
