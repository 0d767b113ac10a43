"""How far the demo has come, on disk: what `--resume` goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from demo.traffic import Counts
from mlplatform.runtime.storage.files import write_atomically


class DiaryEntry(msgspec.Struct, frozen=True):
    """One line of the timeline."""

    event_ms: int
    elapsed_s: float
    text: str


class DemoState(msgspec.Struct):
    """Everything that a resumed demo can't find out from the platform itself.

    Args:
        position: rows before it are answered.
        labelled: labels before it (in arrival order) are reported.
        next_midnight_ms: the end of the event day that is being played.
        change_ms: event time at which the pattern changes; of a team's model, once it is known.
        stale_version: the version that was validated before the pattern changed.
        is_back: a promoted version was taken back, as the story wants it.
        changed_row: of a team's model, the first row of the changed pattern; None before it.
        drift: what the drift of a team's model led to (`demo.drift.figures`).
        elapsed_s: wall time spent before the last stop.
    """

    model: str
    source: str
    seed: int
    go_live_ms: int
    change_ms: int
    position: int = 0
    labelled: int = 0
    next_midnight_ms: int = 0
    degraded: int = 0
    retries: int = 0
    first_version: int | None = None
    stale_version: int | None = None
    learned_version: int | None = None
    slow_version: int | None = None
    is_back: bool = False
    changed_row: int | None = None
    drift: dict[str, Any] | None = None
    elapsed_s: float = 0.0
    entries: list[DiaryEntry] = msgspec.field(name="moments", default_factory=list)


class Diary:
    """The state, its file, and the timeline that is printed as it grows."""

    def __init__(self, path: Path, state: DemoState, show: Callable[[DiaryEntry], None]) -> None:
        self.state = state
        self._path = path
        self._show = show
        self._began = time.monotonic() - state.elapsed_s
        self._shown = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def silent_s(self) -> float:
        """Seconds since a line was shown last."""
        return time.monotonic() - self._shown

    def show(self, event_ms: int, text: str) -> DiaryEntry:
        """Show a line that is not part of the timeline."""
        entry = DiaryEntry(event_ms, round(self.elapsed_s, 1), text)
        self._shown = time.monotonic()
        self._show(entry)
        return entry

    def tell(self, event_ms: int, text: str) -> None:
        """Add a line to the timeline, print it and save."""
        self.state.entries.append(self.show(event_ms, text))
        self.save()

    def save_counts(self, position: int, labelled: int, counts: Counts) -> None:
        """Save how far traffic has come, and what became of it."""
        self.state.position, self.state.labelled = position, labelled
        self.state.degraded, self.state.retries = counts.degraded, counts.retries
        self.save()

    def save(self) -> None:
        self.state.elapsed_s = self.elapsed_s
        write_atomically(self._path, msgspec.json.encode(self.state))


def load_state(path: Path) -> DemoState | None:
    """The saved state, or None where no demo has begun."""
    if not path.exists():
        return None
    return msgspec.json.decode(path.read_bytes(), type=DemoState)
