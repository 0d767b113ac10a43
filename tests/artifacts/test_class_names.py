"""A class is named by a noun: `ReceivedMessage`, not `Received`.

The last word of a name is what the thing is, so it is no participle. Two kinds of classes say what
happened instead, as the field does: facts of the journals (`Promoted`), which are events in event
sourcing, and exceptions (`DeadlineExceeded` as in gRPC, `TrialStopped` beside Optuna's
`TrialPruned`).
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("platform/src", "clients", "flows", "models", "teams", "demo", "tests")
NOUNS: Final[Mapping[str, str]] = {
    "Drawing": "a picture",
    "Finding": "what a check found",
    "Fitted": "an API of teams' `training.py`: decision record 0175",
    "HeldOut": "an API of teams' `gates.py`: decision record 0100 renames nothing of it",
    "Keyring": "the keys that a process holds",
    "Ranking": "an order by score",
    "Reading": "what an instrument shows",
    "Recording": "what was recorded, to play again",
    "Scoring": "the work of a gateway: gRPC's service has that name",
    "Setting": "an environment variable",
    "Sibling": "another of the same kind",
    "Timing": "how long something took",
    "Training": "the work: `model.yaml` has a section of that name",
}
"""Last words, or whole names, that look like participles and are nouns of the field."""
IRREGULAR: Final = frozenset(
    (
        *("begun", "broken", "brought", "built", "caught", "chosen", "done", "drawn"),
        *("fed", "forgotten", "found", "given", "gone", "got", "grown", "heard", "held", "hidden"),
        *("kept", "known", "laid", "led", "left", "lost", "made", "meant", "met", "paid", "proven"),
        *("seen", "sent", "shed", "shown", "sold", "spent", "stuck", "taken", "taught", "thought"),
        *("told", "torn", "understood", "unknown", "unread", "unseen", "unsent", "won", "written"),
        *("agreed", "over", "away", "late"),
    )
)
PARTICIPLE: Final = re.compile(r"\w*[a-z](?:(?<!e)ed|ing)")
WORD: Final = re.compile(r"[A-Z][a-z0-9]*")
CAP_WORDS: Final = re.compile(r"_?(?:[A-Z][a-z0-9]+)+")
"""The name of a class, or of another name for a type."""
EVENTS: Final = frozenset(("_Fact",))
ERRORS: Final = frozenset(("Exception", "BaseException"))


@dataclass(frozen=True)
class NamedClass:
    path: str
    name: str
    bases: tuple[str, ...]


def classes(path: str, text: str) -> Iterator[NamedClass]:
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ClassDef(name=name):
                bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                yield NamedClass(path, name, bases)
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name))
            ) if CAP_WORDS.fullmatch(name):
                yield NamedClass(path, name, ())


@functools.cache
def every_class() -> list[NamedClass]:
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    written = (path for path in paths if not path.stem.endswith(("_pb2", "_pb2_grpc")))
    return [
        one
        for path in written
        for one in classes(path.relative_to(ROOT).as_posix(), path.read_text())
    ]


def is_participle(name: str) -> bool:
    words = WORD.findall(name)
    last = words[-1] if words else ""
    if last in NOUNS or name in NOUNS:
        return False
    return last.lower() in IRREGULAR or PARTICIPLE.fullmatch(last) is not None


def below(found: list[NamedClass], roots: frozenset[str]) -> set[str]:
    """Names of classes whose bases, or theirs in turn, are among these."""
    known = {*roots}
    while more := {one.name for one in found if known & {*one.bases}} - known:
        known |= more
    return known


def participles(found: list[NamedClass]) -> list[str]:
    says_what_happened = below(found, EVENTS | ERRORS)
    return [
        f"{one.path}: {one.name}"
        for one in found
        if is_participle(one.name) and one.name not in says_what_happened
    ]


def test_a_class_is_named_by_a_noun() -> None:
    assert participles(every_class()) == []


def test_every_noun_that_looks_like_a_participle_is_still_in_use() -> None:
    names = {one.name for one in every_class()}
    last = {words[-1] for name in names if (words := WORD.findall(name))}
    assert NOUNS.keys() - (names | last) == set()


def test_a_participle_is_found_and_what_happened_is_not() -> None:
    text = """
class Received: ...
class _Unread: ...
class TrafficSeen(NamedTuple): ...
class MessageFinding: ...
class Speed: ...
class _Fact: ...
class Promoted(_Fact): ...
class CallFailed(Exception): ...
class NotAllowed(CallFailed): ...
Moving = Promoted
Staying: TypeAlias = Promoted
Speed = int
SAID = 1
"""
    found = [*classes("a.py", text)]
    assert sorted(participles(found)) == [
        *("a.py: Moving", "a.py: Received", "a.py: Staying"),
        *("a.py: TrafficSeen", "a.py: _Unread"),
    ]
