"""Refusals at a surface of the platform that a person should know of: a log line and a file.

One line of JSON a refusal, appended by any process of the home; a full file becomes the old one, so
that nobody fills the disk by asking. Callers who proved nothing have a file and a quota of their
own: however many they are, they push out no line about somebody who is known.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage.files import append_lines
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.retention import Retention, is_full, rotate
from mlplatform.runtime.text import shown
from mlplatform.runtime.units import DAY_MS, MIB

KEPT: Final = Retention(4 * MIB, 2)
MOST_CHARACTERS: Final = 200
"""Most characters of each field, because the request comes from outside."""
MOST_OF_A_PROOF: Final = 600
"""Most characters of a proof; a subject has 255 at most."""
FILE: Final = "refusals.jsonl"
STRANGERS: Final = "refusals-unknown.jsonl"
"""File of callers who proved nothing, except at the surfaces of `REPORTED_AT_ONCE`."""
UNKNOWN: Final = "unknown"
REPORTED_AT_ONCE: Final = ("approval", "flow run")
"""Surfaces at which a single refusal is an event, because nobody comes to them by mistyping an
address."""
AGAIN_S: Final = 60.0
"""Seconds in which each process stores the same refusal once, so that repeats hide no other."""
MOST_IN_A_WHILE: Final = 240
"""Most different refusals of one identity at one surface that a process stores in that time."""

REFUSED: Final = "refused at %s, %s: %s (%s)"
"""Form of the log line of a refusal."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class Refusal(msgspec.Struct, frozen=True):
    """One refusal.

    Args:
        wall_ms: when it was refused, epoch milliseconds.
        door: the listener or command: prefect, page, approval, labels, candidate, ...
        who: the proven identity; `unknown` if nobody was proven.
        asked: the request, in a few words.
        why: the rule that refused it.
        proof: subject and issuer at an identity provider that proved the identity; empty without
            one.
    """

    wall_ms: int
    door: str
    who: str
    asked: str
    why: str
    proof: str = ""


def is_no_refusal(line: logging.LogRecord) -> bool:
    """Whether a log line is another one than that of a refusal."""
    return line.name != __name__ or line.msg != REFUSED


class Refusals:
    """The refusals of one home. Storing one never fails, although a disk may be full or a home
    read-only.

    Args:
        folder: the folder `Home.audit`.
    """

    def __init__(self, folder: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock_s = clock_s
        self._kept: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self._since_s = float("-inf")

    def keep(self, refusal: Refusal) -> None:
        """Write a refusal to the log and to the file."""
        short = _shortened(refusal)
        if self._was_kept(short):
            return
        log.warning(REFUSED, short.door, short.who, short.asked, short.why)
        file = self._folder / (STRANGERS if _is_strangers(short) else FILE)
        try:
            _append(file, msgspec.json.encode(short) + b"\n")
        except OSError as error:
            log.warning("refusals are not written to %s: %s", file, error.strerror)

    def since(self, wall_ms: int) -> Iterator[Refusal]:
        """The stored refusals from then on, oldest first."""
        found = [
            refusal
            for name in (STRANGERS, FILE)
            for path in (self._folder / f"{name}.1", self._folder / name)
            for refusal in _read(path)
            if refusal.wall_ms >= wall_ms
        ]
        return iter(sorted(found, key=lambda refusal: refusal.wall_ms))

    def _was_kept(self, refusal: Refusal) -> bool:
        now_s = self._clock_s()
        if now_s - self._since_s >= AGAIN_S:
            self._kept.clear()
            self._since_s = now_s
        kept = self._kept.setdefault((refusal.door, refusal.who), set())
        same = (refusal.asked, refusal.why)
        if same in kept or len(kept) >= MOST_IN_A_WHILE:
            return True
        kept.add(same)
        return False


def counts(refusals: Iterator[Refusal]) -> Mapping[str, int]:
    """Surface → number of these refusals."""
    found: dict[str, int] = {}
    for refusal in refusals:
        found[refusal.door] = found.get(refusal.door, 0) + 1
    return found


def of_the_last_day(home: Home) -> Mapping[str, int]:
    """Surface → number of a home's refusals in the last day."""
    return counts(Refusals(home.audit).since(time.time_ns() // 1_000_000 - DAY_MS))


def _is_strangers(refusal: Refusal) -> bool:
    return refusal.who == UNKNOWN and refusal.door not in REPORTED_AT_ONCE


def _append(file: Path, line: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_full(file, KEPT):
        rotate(file, KEPT)
    append_lines(file, line)


def _read(path: Path) -> Iterator[Refusal]:
    for line in _lines(path):
        try:
            yield msgspec.json.decode(line, type=Refusal)
        except NOT_JSON:
            continue  # a part of a line that a full disk cut


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []


def _shortened(refusal: Refusal) -> Refusal:
    return Refusal(
        refusal.wall_ms,
        _plain(refusal.door),
        _plain(refusal.who),
        _plain(refusal.asked),
        _plain(refusal.why),
        _plain(refusal.proof, MOST_OF_A_PROOF),
    )


def _plain(text: str, most: int = MOST_CHARACTERS) -> str:
    plain = shown(text[:most])
    return plain if len(text) <= most else f"{plain}…"
